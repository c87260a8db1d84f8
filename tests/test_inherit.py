"""From a supernet to its network: the weights it inherits, their statistics, a teacher, and `dnas train` with them."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas import load_genotype
from dnas.algorithms.distillation import supernet_teacher
from dnas.algorithms.supervised import Recipe, trained_in, trainer
from dnas.api.supernet import load_supernet as supernet
from dnas.data import train_indices
from dnas.engine.compile import compile_evaluation, on_device, recalibrate_batch_norm
from dnas.engine.train import train
from dnas.runs.checkpoint import restore
from dnas.shared_options import SharedOptions, shared_options
from dnas.task import classification, regression
from dnas.types import Batch, Group
from launch.main import main
from search_spaces.darts import darts
from search_spaces.flax_space import flax_space
from search_spaces.nasbench201 import nasbench201
from tests.test_search import contents, same, tiny
from tests.test_spaces import Stack
from tests.test_train import network
from tests.test_train_command import refused
from tests.toy_frameworks import toy_pure
from tests.toy_space import toy

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
QUICK = ["--cache", "off", "--no-progress"]
IMAGE = (8, 8, 1)


def in_part(make):
    with shared_options(SharedOptions(partial_channels=2, drop_path=0.3)):
        return make()


def stack():
    return flax_space("stack", Stack(), {"g": Group(((0, 1),), ("skip", "conv"))}, image=IMAGE)


MAKERS = {"toy": lambda: toy(IMAGE, 3), "toy, pure": lambda: toy_pure(IMAGE, 3), "cells in a loop": lambda: in_part(stack),
          "nasbench201": lambda: in_part(lambda: nasbench201(IMAGE, 3, channels=2, cells=2, scan="on")),
          "darts": lambda: in_part(lambda: darts(IMAGE, 3, channels=2, cells=3))}


@pytest.fixture(scope="module")
def data():
    return tiny(400)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.heavy if name in ("nasbench201", "darts") else ())
                                  for name in MAKERS])
def test_the_inherited_network_is_the_supernet_with_one_hot_gates(name):
    """In training (with a key, though no path is dropped) and by the running averages; and it is what `cost` counts."""
    space, rng = MAKERS[name](), np.random.default_rng(0)
    genotype = space.genotype({g: rng.normal(size=group.shape) for g, group in space.groups.items()})
    weights, stats = space.init(jax.random.key(0), jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32))
    stats = jax.tree.map(lambda leaf: leaf + rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32), stats)
    images, gates = rng.normal(size=(6, *IMAGE)).astype(np.float32), genotype.gates(space.groups)
    parts, own = (space.inherit(weights, genotype), space.inherit(stats, genotype)), space.inherited.network(genotype)
    both = ({"train": True, "key": jax.random.key(1)}, {"train": False})
    mixed = jax.jit(lambda *args: [space.apply(*args, images, train=how["train"])[0] for how in both])(weights, stats, gates)
    single = jax.jit(lambda *args: [own.apply(*args, images, **how)[0] for how in both])(*parts)
    np.testing.assert_allclose(single, mixed, rtol=2e-5, atol=2e-5)
    assert space.inherited.cost(genotype)["params"] == sum(leaf.size for leaf in jax.tree.leaves(parts[0]))
    made = jax.eval_shape(lambda key: own.init(key, jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32)), jax.random.key(0))
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, parts)
    with pytest.raises(ValueError, match="no auxiliary head"):
        space.inherited.network(genotype, auxiliary=True)


def test_networks_of_no_framework_drop_no_paths():
    space = toy_pure(IMAGE, 3)
    own = space.network(space.genotype({"chain": np.eye(4)[:2]}))
    weights, stats = own.init(jax.random.key(0), jnp.zeros((1, *IMAGE)))
    with pytest.raises(ValueError, match="take no drop_path"):
        own.apply(weights, stats, jnp.zeros((1, *IMAGE)), train=True, key=jax.random.key(0), drop_path=0.1)


def test_statistics_are_the_mean_over_the_batches_whatever_they_were(data):
    """Of a network with an average that never moves, and of cells in a loop."""
    examples = on_device(data)
    rows = train_indices(0, 0, data.splits["train"], 32)[:3]
    pixels = [(data.inputs[row] / np.float32(255) - data.mean) / data.std for row in rows]
    plain = network()
    weights, stats = plain.init(jax.random.key(0), pixels[0])
    fixed = plain._replace(apply=lambda w, s, x, **given: (None, {
        "fixed": s["fixed"], **plain.apply(w, {"mean": s["mean"]}, x, **given)[1]}))
    stats = {"mean": stats["mean"] + 7, "fixed": jnp.float32(5)}
    found = recalibrate_batch_norm(fixed, data, examples, weights, stats, rows)
    expected = np.mean([x.reshape(32, -1) @ weights["a"] for x in pixels], (0, 1))
    np.testing.assert_allclose(found["mean"], expected, rtol=1e-5, atol=1e-6)
    assert found["fixed"] == 5

    space = stack()
    net = space.inherited.network(space.genotype({"g": np.array([[0, 1]])}))
    weights, stats = jax.device_get(net.init(jax.random.key(0), pixels[0]))
    found = recalibrate_batch_norm(net, data, examples, weights, stats, rows)
    follow = jax.jit(lambda stats, x: net.apply(weights, stats, x, train=True)[1])
    alone = [jax.tree.map(lambda new: new / 0.1, follow(jax.tree.map(np.zeros_like, stats), x)) for x in pixels]
    for mine, *theirs in zip(*map(jax.tree.leaves, (found, *alone))):
        np.testing.assert_allclose(mine, np.mean(theirs, 0), rtol=2e-4, atol=2e-5)


def test_a_training_from_given_weights(data):
    """It begins with them, is judged before the first epoch by statistics of its own, and may leave it at that."""
    go = lambda epochs, start=None, say=None, final=None, **recipe: train(
        network(), data, epochs=epochs, batch=32, progress=False, start=start, say=say, final=final, recipe=Recipe(**recipe))
    first, said = go(2, lr=0.1), []
    start = first.weights, jax.tree.map(lambda leaf: leaf + 3, first.stats)
    again = go(0, start, said.append, "test")
    accuracy = again.report["accuracy"]
    assert same(again.weights, first.weights) and [r["epoch"] for r in again.records] == [0] and "lr" not in again.records[0]
    assert accuracy == pytest.approx(first.report["accuracy"], abs=0.03) and accuracy > 0.9
    assert f"before the first epoch: holdout {100 * accuracy:.1f} %" in said and again.confusion.sum()
    on = go(1, start, lr=1e-9, ema=0.5)
    assert [r["epoch"] for r in on.records] == [0, 1] and on.records[0] == again.records[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), on.weights, first.weights)
    assert not jax.tree.leaves(start)[0].is_deleted()
    with pytest.raises(ValueError, match="epochs is 0, it must be at least 1"):
        go(0)


def test_the_loss_with_a_teacher():
    """(1 - w) CE + w T^2 KL of the supernet, by the statistics of the very images; nothing moves the teacher."""
    space, rng, weight, temperature = toy(IMAGE, 3), np.random.default_rng(0), 0.3, 2.0
    weights, stats = space.init(jax.random.key(0), jnp.zeros((1, *IMAGE)))
    gates = {"chain": jax.nn.softmax(jnp.asarray(rng.normal(size=(2, 4)), jnp.float32))}
    task, recipe = classification(), Recipe(distill=weight, distill_temperature=temperature)
    state = trainer(network(3), task, Recipe()).start(weights, stats)
    teacher = supernet_teacher(space, state, gates)
    batch = Batch(rng.normal(size=(6, *IMAGE)).astype(np.float32), rng.integers(0, 3, 6))
    how = trainer(network(3), task, recipe, teacher=teacher)
    begun = how.init(jax.random.key(1), batch.inputs)
    after, info = jax.jit(how.step)(jax.random.key(2), begun, batch, recipe.numbers(epochs=1, steps=1))
    taught = np.asarray(space.apply(weights, stats, gates, batch.inputs, train=True)[0], np.float64)
    logits, _ = network(3).apply(begun.weights, begun.stats, batch.inputs, train=True, key=None)
    logs, target, soft = (jax.nn.log_softmax(np.asarray(x, np.float64) / t)
                          for x, t in ((logits, 1), (taught, temperature), (logits, temperature)))
    loss = -(1 - weight) * logs[np.arange(6), batch.targets].mean()
    loss += weight * temperature**2 * (np.exp(target) * (target - soft)).sum(-1).mean()
    np.testing.assert_allclose(info["train_loss"], loss, rtol=1e-5)
    assert same(after.teacher, begun.teacher) and not same(after.weights, begun.weights)
    assert trainer(network(3), task, Recipe(), teacher=teacher).init(jax.random.key(1), batch.inputs).teacher == ()
    for name, value in (("distill", 1.5), ("distill_temperature", 0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Recipe(**{name: value}).check()
    with pytest.raises(ValueError, match="the task regression does not have; it must be 0"):
        trainer(network(3), regression(), Recipe(label_smoothing=0.1))
    with pytest.raises(ValueError, match="the task mine has no divergence"):
        trainer(network(3), task._replace(name="mine", divergence=None), recipe, teacher=teacher)


def test_a_step_in_another_type_and_a_judgement_in_this_one(data):
    net, seen = network(), []

    def apply(weights, stats, images, *, train, key):
        seen.append((train, {str(leaf.dtype) for leaf in jax.tree.leaves((weights, images))}, str(stats["mean"].dtype)))
        return net.apply(weights, stats, images, train=train, key=key)

    assert trained_in(net, "float32") is net
    result = train(net._replace(apply=apply), data, epochs=2, batch=32, progress=False,
                   recipe=Recipe(lr=0.1, dtype="bfloat16"))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(result[:2])} == {"float32"} and result.report["accuracy"] > 0.9
    assert seen[0] == (True, {"bfloat16"}, "float32") and seen[-1] == (False, {"float32"}, "float32")


# `dnas train` of a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search on classes of different brightness, and a selection in it that fine-tunes."""
    folder, bright = tmp_path_factory.mktemp("runs") / "mine", tiny(400)
    np.savez(folder.parent / "bright.npz", x=bright.inputs, y=bright.targets)
    assert main(["search", "--space", TOY, "--data", str(folder.parent / "bright.npz"), "--epochs", "3", "--batch", "16",
                 "--method.lr", "0.1", "--run", str(folder), *QUICK]) == 0
    assert main(["select", str(folder), "--selection", "perturbation", "--cache", "off"]) == 0
    return folder


@pytest.fixture(scope="module")
def inherited(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "inherited"
    assert main(["train", str(run), "--inherit", "--distill", "0.5", "--epochs", "2", "--lr", "0.01", "--run", str(folder),
                 *QUICK]) == 0
    return folder


def test_no_accuracy_is_lost_on_the_way(run, tmp_path, capsys):
    """Of the supernet with one-hot gates and batch statistics, and of the network in a file with running averages."""
    assert main(["train", str(run), "--inherit", "--epochs", "0", "--run", str(tmp_path / "net"), *QUICK]) == 0
    assert "weights   of the supernet of" in capsys.readouterr().out
    results, trained, genotype = json.loads((tmp_path / "net/results.json").read_text()), supernet(run), load_genotype(run)
    space, on, data = trained.space, trained.context, trained.data
    judge = compile_evaluation(space, on.task, data, on_device(data), on.state, on.gates(on.state), 16)
    before = judge(on.state, genotype.gates(space.groups))
    assert before["accuracy"] > 0.9 and results["test"]["accuracy"] > 0.9
    assert results["holdout"]["accuracy"] == pytest.approx(before["accuracy"], abs=0.04)
    assert results["holdout"]["loss"] == pytest.approx(before["loss"], abs=0.05)
    assert results["holdout"]["inherited"] == results["holdout"]["accuracy"]
    parts = space.inherit(on.state.weights, genotype), space.inherit(on.state.stats, genotype)
    found, _ = restore(tmp_path / "net/last.safetensors", dict(zip(("weights", "stats"), parts)))
    assert same(found["weights"], parts[0]) and not same(found["stats"], parts[1])
    assert results["params"] == sum(leaf.size for leaf in jax.tree.leaves(parts[0]))
    assert main(["report", str(tmp_path / "net")]) == 0
    page = (tmp_path / "net/report.html").read_text()
    assert "Training from the weights of a supernet" in page and "as inherited" in page
    rows = data.splits["test"]
    classes = dnas.load(tmp_path / "net", space=TOY).predict(data.inputs[rows]).argmax(-1)
    assert (classes == data.targets[rows]).mean() == pytest.approx(results["test"]["accuracy"])


def test_a_selection_hands_on_what_it_fine_tuned(run, tmp_path, capsys):
    choice = run / "selections" / "perturbation"
    assert main(["train", str(choice), "--inherit", "--epochs", "0", "--run", str(tmp_path / "net"), *QUICK]) == 0
    assert f"fine-tuned in {choice}" in capsys.readouterr().out
    context, genotype = supernet(run).context, load_genotype(choice)
    parts = [context.space.inherit(tree, genotype) for tree in (context.state.weights, context.state.stats)]
    found, _ = restore(tmp_path / "net/last.safetensors", dict(zip(("weights", "stats"), parts)))
    assert not same(found["weights"], parts[0])


def test_interrupted_it_goes_on_from_its_folder_alone(inherited, tmp_path, monkeypatch, capsys):
    config = json.loads((inherited / "config.json").read_text())
    assert config["inherit"] and config["distill"] == 0.5 and config["supernet"]["epoch"] == 3
    assert "partial_channels" in config["space"]
    records = [json.loads(line) for line in (inherited / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [0, 1, 2]
    for stop in 0, 1:
        calls = []

        def indices(seed, epoch, *args, stop=stop, calls=calls):
            calls.append(epoch)
            if len(calls) == stop + 2:  # the first is for the statistics
                raise KeyboardInterrupt
            return train_indices(seed, epoch, *args)

        folder = str(tmp_path / f"part{stop}")
        monkeypatch.setattr("dnas.engine.train.train_indices", indices)
        assert main(["train", str(inherited), "--run", folder, *QUICK]) == 130
        monkeypatch.undo()
        assert main(["train", folder, "--run", folder, "--cache", "off"]) == 0
        assert f"continuing after epoch {stop} of 2" in capsys.readouterr().out
        assert contents(folder) == contents(inherited)


def test_a_weight_of_nothing_is_ordinary_training(run, tmp_path):
    for name, options in (("plain", []), ("taught", ["--distill", "0", "--distill-temperature", "3"])):
        assert main(["train", str(run), "--epochs", "1", "--run", str(tmp_path / name), *options, *QUICK]) == 0
    plain, taught = (contents(tmp_path / name) for name in ("plain", "taught"))
    for name in "config.json", "weights.safetensors":  # which holds the config
        assert plain.pop(name) != taught.pop(name)
    assert plain == taught and "last.safetensors" in plain


@pytest.mark.parametrize("argv, message", [
    (["RUN", "--inherit", "--channels", "8"], "channels is 8: inherit trains the supernet's own network, its channels: 4"),
    (["RUN", "--inherit", "--cells", "3"], "cells is 3"), (["RUN", "--inherit", "--auxiliary", "0.4"], "has no such head"),
    (["RUN", "--inherit", "--space", "darts"], "space is darts"), (["darts-v2", "--inherit"], "needs the supernet of a"),
    (["alone.json", "--space", TOY, "--distill", "0.5"], "distill needs the supernet"),
    (["RUN", "--distill", "1.5"], "distill is 1.5"),
    (["RUN", "--distill", "1", "--distill-temperature", "0"], "distill-temperature is 0"),
    (["RUN", "--inherit", "--limit", "200"], "examples that would judge the network"),
    (["RUN", "--inherit", "--data", "other.npz"], "is for images of 8x8x1 of 2 classes"),
    (["RUN", "--epochs", "0"], "epochs is 0; it must be a whole number"), (["RUN", "--dtype", "float16"], "float16")])
def test_what_cannot_be_inherited_is_refused_in_one_line(run, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alone.json").write_text((run / "genotype.json").read_text())
    np.savez("other.npz", x=np.zeros((60, 8, 8), np.uint8), y=np.arange(60) % 3)
    assert message in refused(capsys, *(str(run) if word == "RUN" else word for word in argv))


def test_a_preset_gives_way_to_the_supernets_size(run, tmp_path, capsys):
    assert main(["train", str(run), "--inherit", "--preset", "cifar", "--epochs", "0", "--run",
                 str(tmp_path / "net"), *QUICK]) == 0
    config = json.loads((tmp_path / "net/config.json").read_text())
    assert config["auxiliary"] == 0 and config["space"]["channels"] == 4
    assert "holdout" not in json.loads((tmp_path / "net/results.json").read_text())
