"""Training from scratch: the step against one written by hand, what the loop learns, repeats and writes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.algorithms.supervised import Recipe, trainer
from dnas.data import steps_per_epoch, train_indices
from dnas.engine.compile import compile_training, epoch_of, on_device
from dnas.engine.search import NonFiniteLoss, input_shape
from dnas.engine.train import best, train
from dnas.platform import platform
from dnas.reports.confusion import accuracy
from dnas.runs.checkpoint import restore
from dnas.runs.directory import open_run
from dnas.task import classification
from dnas.types import Batch, Network
from tests.test_search import contents, same, tiny

EPOCHS, BATCH = 3, 32


def network(classes=2, width=4):
    """Two layers, the mean of the first one taken off: in training that of the batch, else the running one."""
    def init(key, images):
        shapes = {"a": (int(np.prod(images.shape[1:])), width), "b": (width, classes)}
        return {name: 0.1 * jax.random.normal(jax.random.fold_in(key, i), shape)
                for i, (name, shape) in enumerate(shapes.items())}, {"mean": jnp.zeros(width)}

    def apply(weights, stats, images, *, train, key):
        h = images.reshape(len(images), -1) @ weights["a"]
        mean = h.mean(0) if train else stats["mean"]
        return jnp.tanh(h - mean) @ weights["b"], {"mean": 0.9 * stats["mean"] + 0.1 * mean} if train else stats

    return Network(init, apply)


@pytest.fixture(scope="module")
def data():
    return tiny(400)


def go(data, net=None, *, epochs=EPOCHS, **options):
    """A training; options that are fields of a recipe make it."""
    own = {name: options.pop(name) for name in Recipe._fields if name in options}
    recipe = Recipe(**{"lr": 0.1, "nesterov": False, "weight_decay": 3e-4, **own})
    return train(net or network(), data, epochs=epochs, batch=BATCH, recipe=recipe, progress=False, **options)


def steps_by(net, epochs=4, steps=1, **numbers):
    """The trainer of a recipe, and its step with the recipe's numbers, not rounded to float32."""
    recipe = Recipe(**{"lr": 0.025, "nesterov": False, "weight_decay": 3e-4, **numbers})
    how = trainer(net, classification(), recipe)
    hyper = recipe.numbers(epochs=epochs, steps=steps)
    hyper |= {name: value for name, value in recipe._asdict().items() if isinstance(value, float) and name in hyper}
    return how, lambda key, state, batch: how.step(key, state, batch, hyper)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "whole"
    with open_run(folder, {"name": "toy"}) as run:
        return folder, go(data, run=run)


def test_two_steps_are_those_written_by_hand():
    """Torch's: clipped gradient, plus decay times weights, momentum, rate; the statistics of the first as they were."""
    with jax.enable_x64(True):
        net, rng = network(), np.random.default_rng(0)
        batches = [Batch(rng.normal(size=(6, 2, 2, 1)), rng.integers(0, 2, 6)) for _ in range(2)]
        how, step = steps_by(net, lr=0.5, weight_decay=0.01, clip=0.05)
        state = how.init(jax.random.key(0), batches[0].inputs)
        weights, stats, moved = state.weights, state.stats, jax.tree.map(jnp.zeros_like, state.weights)

        def loss(weights, stats, batch):
            logits, _ = net.apply(weights, stats, batch.inputs, train=True, key=None)
            return -jax.nn.log_softmax(logits)[jnp.arange(6), batch.targets].mean()

        for batch, rate in zip(batches, (0.5, 0.25 * (1 + np.cos(np.pi / 4)))):
            grads = jax.grad(loss)(weights, stats, batch)
            value = loss(weights, stats, batch)
            _, stats = net.apply(weights, stats, batch.inputs, train=True, key=None)
            norm = optax.tree.norm(grads)
            assert norm > 0.05
            moved = jax.tree.map(lambda m, g, w, norm=norm: 0.9 * m + 0.05 / norm * g + 0.01 * w, moved, grads, weights)
            weights = jax.tree.map(lambda w, m, rate=rate: w - rate * m, weights, moved)
            state, info = step(jax.random.key(1), state, batch)
            np.testing.assert_allclose(info["train_loss"], value, rtol=1e-12)
            for mine, theirs in zip(jax.tree.leaves((weights, stats)), jax.tree.leaves((state.weights, state.stats))):
                np.testing.assert_allclose(theirs, mine, rtol=1e-10, atol=1e-14)
    assert int(state.step) == 2


def test_it_learns_what_can_be_told_apart(data, finished):
    _, result = finished
    first, last = result.records[0], result.records[-1]
    assert result.report["accuracy"] == last["accuracy"]["holdout"] > 0.9
    assert last["loss"]["holdout"] < first["loss"]["holdout"] and [r["epoch"] for r in result.records] == [1, 2, 3]
    steps = (len(data.splits["train"]) + len(data.splits["valid"])) // BATCH
    assert last["step"] == EPOCHS * steps and first["lr"] == pytest.approx(0.1) and 0 < last["lr"] < 0.03


def test_the_same_seed_gives_the_same_bits_and_another_does_not(data, finished):
    again, other = go(data), go(data, seed=1)
    assert same(again[:2], finished[1][:2]) and again.records == finished[1].records
    assert not same(other[:2], again[:2]) and other.records != again.records


def test_the_step_is_traced_once_and_uses_running_averages_to_judge(data):
    net, calls = network(), []

    def apply(*args, train, key):
        calls.append(train)
        return net.apply(*args, train=train, key=key)

    go(data, net._replace(apply=apply))
    assert calls == [True, False]  # the step, the evaluation


def test_the_loop_on_the_device_takes_the_same_steps(data, finished):
    """That of other platforms than CPUs, run on this one."""
    with platform("gpu"):
        looped = go(data)
    for mine, theirs in zip(jax.tree.leaves(looped[:2]), jax.tree.leaves(finished[1][:2])):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    assert looped.report == finished[1].report


@pytest.mark.parametrize("stop", [1, 2])
def test_going_on_ends_bit_identical(data, finished, tmp_path, stop, monkeypatch):
    real = train_indices

    def indices(seed, epoch, *args):
        if epoch == stop:
            raise KeyboardInterrupt
        return real(seed, epoch, *args)

    with open_run(tmp_path / "run", {"name": "toy"}) as run:
        monkeypatch.setattr("dnas.engine.train.train_indices", indices)
        with pytest.raises(KeyboardInterrupt):
            go(data, run=run)
        monkeypatch.undo()
    said = []
    with open_run(tmp_path / "run", {"name": "toy"}) as run:
        result = go(data, run=run, say=said.append)
    assert f"continuing after epoch {stop} of 3" in said
    assert same(result[:2], finished[1][:2]) and result.records == finished[1].records
    assert contents(tmp_path / "run") == contents(finished[0])


def test_only_the_named_splits_are_trained_on(data):
    """Images of the others may be anything."""
    images = data.inputs.copy()
    images[np.concatenate([data.splits["valid"], data.splits["test"]])] = 255
    one, two = (go(d, splits=("train",), epochs=1) for d in (data, data._replace(inputs=images)))
    assert same(one[:2], two[:2])
    assert not same(one[:2], go(data, epochs=1)[:2])


def test_a_loss_that_is_not_finite_stops_it(data, tmp_path):
    with open_run(tmp_path / "run", {"name": "toy"}) as run, pytest.raises(NonFiniteLoss) as caught:
        go(data, run=run, lr=1e38, clip=0)
    assert "train_loss became inf at step 2" in str(caught.value) and "no checkpoint yet" in str(caught.value)


@pytest.mark.parametrize("options, message", [
    ({"splits": ("train", "tset")}, "no split 'tset'"), ({"splits": ()}, "none"),
    ({"splits": ("holdout",)}, "holdout split is trained on"), ({"epochs": 0}, "epochs is 0"),
    ({"lr": -1}, "lr is -1"), ({"final": "train"}, "train split is trained on"), ({"cutout": -1}, "cutout is -1"),
    ({"drop_path": 1.0}, "drop_path is 1.0"), ({"ema": 1.0}, "ema is 1.0"),
    ({"momentum": 1}, "momentum is 1"), ({"clip": -1.0}, "clip is -1.0"),
    ({"distill": 2}, "distill is 2"), ({"dtype": "float16"}, "dtype is 'float16'")])
def test_settings_out_of_range_are_refused(data, options, message):
    with pytest.raises(ValueError, match=message):
        go(data, **options)


def test_train_rows_are_those_of_a_search():
    from dnas.data import epoch_indices

    rows = np.arange(50)
    assert np.array_equal(train_indices(3, 5, rows, 8), epoch_indices(3, 5, rows, rows, 8)[0])
    assert steps_per_epoch({"train": 50}, 8) == 6


def test_smoothed_labels_and_the_auxiliary_head_are_what_their_formulas_say():
    """(1 - s) CE + s mean over classes of -log p, and as much again of the head, times its weight."""
    with jax.enable_x64(True):
        net, rng = network(3), np.random.default_rng(0)
        batch = Batch(rng.normal(size=(5, 2, 2, 1)), rng.integers(0, 3, 5))

        def apply(weights, stats, images, *, train, key):
            logits, stats = net.apply(weights, stats, images, train=train, key=key)
            return (logits, 2 * logits + images.sum((1, 2))) if train else logits, stats

        how, step = steps_by(net._replace(apply=apply), label_smoothing=0.1, auxiliary=0.4)
        state = how.init(jax.random.key(0), batch.inputs)
        _, info = step(jax.random.key(1), state, batch)
        expected = 0
        for weight, logits in zip((1, 0.4), apply(state.weights, state.stats, batch.inputs, train=True, key=None)[0]):
            logs = jax.nn.log_softmax(logits)
            expected -= weight * (0.9 * logs[jnp.arange(5), batch.targets] + 0.1 * logs.mean(-1)).mean()
        np.testing.assert_allclose(info["train_loss"], expected, rtol=1e-12)


def test_the_running_average_is_the_result():
    how, step = steps_by(network(), lr=0.5, ema=0.15)
    batch = Batch(np.random.default_rng(0).normal(size=(6, 2, 2, 1)), np.arange(6) % 2)
    state = how.init(jax.random.key(0), batch.inputs)
    average = jax.device_get((state.weights, state.stats))
    for decay in (0.1, 0.15, 0.15):  # 1/10, then 2/11 and 3/12 at most
        state, _ = step(jax.random.key(1), state, batch)
        average = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, average, (state.weights, state.stats))
    for mine, theirs in zip(jax.tree.leaves(average), jax.tree.leaves(how.result(state))):
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-7)


def test_drop_path_is_ramped_up_by_epochs_without_another_trace(data):
    net, seen = network(), []

    def apply(*args, drop_path=None, **given):
        seen.append(drop_path)
        return net.apply(*args, **given)

    go(data, net._replace(apply=apply), drop_path=0.3)
    assert len(seen) == 2 and seen[1] is None
    values = []
    how, step = steps_by(net._replace(apply=lambda *args, drop_path, **rest: values.append(drop_path) or net.apply(
        *args, **rest)), drop_path=0.3, epochs=3, steps=7)
    batch = Batch(np.zeros((2, 2, 2, 1)), np.arange(2))
    state = how.init(jax.random.key(0), batch.inputs)
    for number in (0, 6, 7, 20):
        step(jax.random.key(0), state._replace(step=number), batch)
    assert [float(value) for value in values] == pytest.approx([0, 0, 0.1, 0.2])


def test_one_program_serves_other_numbers_and_epochs(data):
    """A training by a program that was compiled for other numbers is, bit for bit, that by its own."""
    recipe, other = (Recipe(lr=lr, momentum=m, ema=ema, cutout=cutout, clip=clip, drop_path=0.0) for
                     lr, m, ema, cutout, clip in ((0.1, 0.9, 0.9, 2, 5.0), (0.3, 0.5, 0.99, 4, 0.0)))
    how, examples = trainer(network(), classification(), recipe), on_device(data)
    rows, results = train_indices(0, 0, data.splits["train"], BATCH)[:3], []
    for compiled in recipe, other:
        state = how.init(jax.random.key(0), input_shape(data, BATCH))
        program = compile_training(how, compiled, data, examples, state, compiled.numbers(epochs=len(results) + 1, steps=3),
                                   3, BATCH)
        results.append(epoch_of(program, examples, 3)(state, other.numbers(epochs=5, steps=1), jax.random.key(1), rows,
                                                       on_metrics=lambda metrics, done: metrics))
    assert same(*results)


def test_all_that_regularises_is_repeatable_and_changes_the_result(data, finished):
    options = {"cutout": 4, "ema": 0.9, "label_smoothing": 0.1, "nesterov": True}
    once, again = go(data, **options), go(data, **options)
    assert same(once[:2], again[:2]) and not same(once[:2], finished[1][:2])


def test_the_final_split_is_judged_by_the_last_weights(data, finished, tmp_path):
    with open_run(tmp_path / "run", {"name": "toy"}) as run:
        result = go(data, run=run, final="test", report=None)
    with open_run(tmp_path / "run", {"name": "toy"}) as run:
        again = go(data, run=run, final="test", report=None, say=[].append)
    assert result.report is None and not (tmp_path / "run" / "best.safetensors").exists()
    assert np.array_equal(result.confusion, again.confusion) and result.final == again.final
    assert result.confusion.sum(1).tolist() == np.bincount(data.targets[data.splits["test"]]).tolist()
    pixels = (data.inputs[data.splits["test"]] / 255 - data.mean) / data.std
    logits, _ = network().apply(*finished[1][:2], pixels.astype(np.float32), train=False, key=None)
    assert accuracy(result.confusion) == pytest.approx(result.final["accuracy"])
    hits = np.asarray(logits.argmax(-1) == data.targets[data.splits["test"]])
    assert result.errors["accuracy"] == pytest.approx(hits.std() / np.sqrt(len(hits)), rel=1e-4)
    assert accuracy(result.confusion) == pytest.approx(hits.mean())


def test_best_and_last_weights_are_kept(finished):
    folder, result = finished
    template = {"weights": result.weights, "stats": result.stats}
    last, best_there = (restore(folder / f"{name}.safetensors", template)[0] for name in ("last", "best"))
    assert same(last, template)
    assert same(best_there, template) == (best(result.records, "holdout", classification()) == EPOCHS)
    records = [{"epoch": e, "accuracy": {"test": a}} for e, a in ((1, 0.5), (2, 0.7), (3, 0.7))]
    assert best(records, "test", classification()) == 2
