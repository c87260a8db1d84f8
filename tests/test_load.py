"""`dnas.load`: a trained network from a folder, and what is refused."""

import json
import shutil
import struct
from pathlib import Path

import jax
import numpy as np
import pytest

import dnas
from dnas.api.train import without_auxiliary
from dnas.data import load as load_data
from dnas.runs import checkpoint, model_file
from launch.main import main
from search_spaces.darts import darts
from search_spaces.genotypes import genotype as published
from tests.test_train_command import TOY
from tests.toy_space import toy


@pytest.fixture(scope="module")
def data():
    return load_data("digits", limit=200)


def said(capsys, *argv):
    """What a command prints."""
    capsys.readouterr()
    code = main([*map(str, argv)])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def refused(capsys, *argv):
    capsys.readouterr()
    assert main([*map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("dnas: error: ") and err.count("\n") == 1
    return err


def test_a_folder_alone_gives_the_accuracy_that_was_reported(run, data, tmp_path):
    """Moved, with nothing in it but the one file."""
    shutil.copy(run / "weights.safetensors", tmp_path)
    trained = dnas.load(tmp_path)
    rows = data.splits["test"]
    shares = np.asarray(trained.predict(data.inputs[rows]))
    np.testing.assert_allclose(shares.sum(-1), 1, rtol=1e-5)
    results = json.loads((run / "results.json").read_text())
    counts = np.array(results["confusion"])
    np.testing.assert_array_equal(np.bincount(shares.argmax(-1), minlength=10), counts.sum(0))
    assert (shares.argmax(-1) == data.targets[rows]).mean() == results["test"]["accuracy"]
    assert trained.classes == tuple("0123456789") and trained.described.config["data"] == ["digits"]
    assert not [path for path in run.rglob("*") if path.suffix in (".pkl", ".pickle", ".msgpack")]


def test_it_is_shown_on_one_line(run):
    shown = repr(dnas.load(run))
    assert "8x8x1 uint8 images, 10 classes" in shown and "\n" not in shown


def test_the_module_is_the_network(run, data):
    trained = dnas.load(run)
    images = data.inputs[:4]
    normalised = (images / np.float32(255) - data.mean) / data.std
    logits = trained.module.apply(trained.variables, normalised)
    np.testing.assert_allclose(logits, trained.logits(images), atol=1e-6)
    _, updated = trained.module.apply(trained.variables, normalised, train=True, mutable=["batch_stats"])
    assert jax.tree.structure(updated["batch_stats"]) == jax.tree.structure(trained.stats)
    assert not np.array_equal(*(jax.tree.leaves(stats)[0] for stats in (updated["batch_stats"], trained.stats)))
    made = jax.eval_shape(trained.module.init, jax.random.key(0), normalised)
    assert jax.tree.map(lambda leaf: leaf.shape, made) == jax.tree.map(lambda leaf: leaf.shape, trained.variables)


@pytest.mark.parametrize("wrong, message", [
    (lambda images: images[0], "a single one as x[None]"), (lambda images: images[:, :4], "takes [B, 8, 8, 1]"),
    (lambda images: images / 255, "trained on uint8 pixels, 0 to 255"),
    (lambda images: images.astype(np.int32), "images are int32")])
def test_images_of_another_kind_are_refused(run, data, wrong, message):
    with pytest.raises(ValueError) as error:
        dnas.load(run).predict(wrong(data.inputs[:2]))
    assert message in str(error.value)


def test_a_space_of_the_users_own_is_not_imported_unless_named(untrained, data, monkeypatch):
    own = untrained(f"/somewhere/{Path(TOY).name}", toy(), toy().genotype({"chain": np.eye(4)[[2, 1]]}))

    def never(*_):
        raise AssertionError("something was imported")

    with monkeypatch.context() as patched:
        patched.setattr("dnas.registry.load", never)
        with pytest.raises(ValueError, match="names the space 'toy_space.py:toy', and nothing is imported"):
            dnas.load(own)
    assert dnas.load(own, space=TOY).predict(data.inputs[:2]).shape == (2, 10)


def test_what_is_no_training_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a run directory"):
        dnas.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="`dnas train .*` trains what a search found"):
        dnas.load(tmp_path)
    with pytest.raises(ValueError, match="config.json is not a .safetensors file; name the run directory of a training"):
        dnas.load(tmp_path / "config.json")


def other(path, **changed):
    """The file written anew with other metadata, its digest right."""
    found = checkpoint.read(path).metadata
    trained = dnas.load(path)
    described = {name: json.loads(found[name]) for name in found}
    for name, change in changed.items():
        change(described[name])
    tree = {"params": trained.weights, "batch_stats": trained.stats}
    checkpoint.save(path, tree, {name: json.dumps(part) for name, part in described.items()}, name=checkpoint.PLAIN)


def only(space, **options):
    space.clear()
    space.update(options)


def million(genotype):
    genotype["groups"]["width"] *= 5000


@pytest.mark.parametrize("change, message", [
    (dict(genotype=lambda g: g["groups"]["width"][0].update(op="import os")), "the operations there are 1, 2, 3, 4"),
    (dict(genotype=million), "twice"), (dict(genotype=lambda g: g["groups"]["width"][0].update(source=7)), "edge 7->1"),
    (dict(genotype=lambda g: g.update(schema=9)), "not a genotype of schema 1"),
    (dict(genotype=lambda g: g.update(long="x" * 10**6)), "more than 1,000,000 are refused"),
    (dict(space=lambda s: s.update(layers=1)), "genotype has edge 1->2"),
    (dict(space=lambda s: s.update(channels="3")), "channels is '3'; it must be a whole number"),
    (dict(space=lambda s: s.update(stages=10**6)), "stages is 1000000; it must be a whole number, at most 16"),
    (dict(space=lambda s: only(s, name="darts", cells=10**6)), "cells is 1000000; it must be a whole number, at most 100"),
    (dict(space=lambda s: only(s, name="nasbench201", cells=10**6, scan="off")), "cells is 1000000; it must be"),
    (dict(space=lambda s: s.update(depth=3)), "has no option depth; its options are"),
    (dict(space=lambda s: s.update(name="../../evil.py:space")), "if you trust that"),
    (dict(space=lambda s: s.update(name="evil")), "no space 'evil'"),
    (dict(input=lambda i: i.update(std=[0])), "its input is not that of a network"),
    (dict(output=lambda o: o.update(classes=["\x1b[2J"] * 10)), "its output is not that of a network"),
    (dict(input=lambda i: i.update(mean=[10**400])), "its input is not that of a network"),
    (dict(input=lambda i: i.update(shape=[10**6, 10**6, 1])), "its input is not that of a network"),
    (dict(input=lambda i: i.update(kind="tokens")), "its input is not that of a network"),
    (dict(input=lambda i: i.update(characters="ab")), "its input is not that of a network"),
    (dict(input=lambda i: i.update(columns={"features": [["a", [1]]], "target": "b"})), "its input is not that"),
    (dict(output=lambda o: o.update(size=9)), "its output is not that of a network"),
    (dict(output=lambda o: o.update(target_mean=[1.0])), "its output is not that of a network"),
    (dict(output=lambda o: o.update(task="evil.py:task")), "names the task 'evil.py:task', and nothing is imported"),
    (dict(output=lambda o: o.update(task="evil")), "no task 'evil'"),
    (dict(input=lambda i: i.pop("mean")), "its input is not that of a network")])
def test_a_file_that_lies_is_refused_in_one_line(run, tmp_path, change, message):
    file = tmp_path / "weights.safetensors"
    shutil.copy(run / file.name, file)
    other(file, **change)
    with pytest.raises(ValueError) as error:
        dnas.load(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_damaged_file_is_refused(run, tmp_path):
    whole = (run / "weights.safetensors").read_bytes()
    file = tmp_path / "weights.safetensors"
    for content in b"", whole[:-1], whole[:100], whole[:-1] + bytes([whole[-1] ^ 1]), struct.pack("<Q", 2**60) + whole[8:]:
        file.write_bytes(content)
        with pytest.raises(ValueError, match="is corrupt: "):
            dnas.load(file)
    shutil.copy(run / "last.safetensors", file)
    with pytest.raises(ValueError, match="has no genotype in its metadata"):
        dnas.load(file)


def test_arrays_that_lie_outside_of_the_file_are_refused(tmp_path):
    """The header is as wrong as can be, and the digest of the whole is right."""
    file = tmp_path / "a.safetensors"
    checkpoint.save(file, {"a": np.zeros(4, np.float32)})
    for wrong, message in (b"[1600,16]", "share bytes"), (b"[-320,16]", "its header"), (b"[1e999,16]", "its header"):
        content = file.read_bytes().replace(b"[0,16]", wrong)
        size = int.from_bytes(content[:8], "little") + len(wrong) - len(b"[0,16]")
        content = struct.pack("<Q", size) + content[8:]
        stored = json.loads(content[8:8 + size])["__metadata__"]["sha256"]
        head = content[:8 + size].replace(stored.encode(), b"0" * 64, 1)
        digest = checkpoint._digest(head, content[8 + size:])
        (tmp_path / "b.safetensors").write_bytes(content.replace(stored.encode(), digest.encode(), 1))
        with pytest.raises(checkpoint.CorruptCheckpoint, match=message):
            checkpoint.restore(tmp_path / "b.safetensors", {"a": np.zeros(4, np.float32)})


def test_the_auxiliary_head_stays_behind(tmp_path):
    """What is kept of a training's weights is what the network alone has."""
    space, genotype = darts((32, 32, 3), 10, channels=2, cells=3), published("darts-v2")
    data = dnas.data.from_arrays("a", np.zeros((200, 32, 32, 3), np.uint8), np.arange(200) % 10)
    image = jax.ShapeDtypeStruct((1, *data.image), "float32")
    weights, stats = space.network(genotype, auxiliary=True).init(jax.random.key(0), image)
    assert "auxiliary" in weights and "auxiliary" in stats
    used = jax.eval_shape(lambda key: space.network(genotype).init(key, image), jax.random.key(0))
    described = model_file.ModelDescription(genotype, {"name": "darts", "channels": 2, "cells": 3},
                                            model_file.input_of(data, {}), model_file.output_of(data), {})
    model_file.save(tmp_path / model_file.FILE, described, *map(without_auxiliary, (weights, stats), used))
    trained = dnas.load(tmp_path)
    assert trained.weights.keys() == weights.keys() - {"auxiliary"}
    np.testing.assert_array_equal(trained.weights["head"]["dense"]["kernel"], weights["head"]["dense"]["kernel"])


def test_weights_of_another_shape_are_refused(run, tmp_path):
    file, trained = tmp_path / "weights.safetensors", dnas.load(run)
    trained.weights["head"]["dense"]["bias"] = np.zeros(11, np.float32)
    model_file.save(file, trained.described, trained.weights, trained.stats)
    with pytest.raises(ValueError, match="leaf params/head/dense/bias is float32.11. there, float32.10. here"):
        dnas.load(file)


@pytest.mark.parametrize("part", ["weights", "stats"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(run, tmp_path, part, value):
    network = dnas.load(run)
    trees = {"weights": network.weights, "stats": network.stats}
    leaves, structure = jax.tree.flatten(trees[part])
    leaves[-1] = np.full_like(leaves[-1], value)
    trees[part] = jax.tree.unflatten(structure, leaves)
    model_file.save(tmp_path / model_file.FILE, network.described, trees["weights"], trees["stats"])
    with pytest.raises(ValueError, match="the network cannot be used: .* has values that are not finite"):
        dnas.load(tmp_path)


def test_a_link_that_a_person_names_is_followed_and_one_in_a_run_is_not(run, tmp_path):
    (tmp_path / "linked.safetensors").symlink_to(run / model_file.FILE)
    assert dnas.load(tmp_path / "linked.safetensors").genotype == dnas.load(run).genotype
    (tmp_path / model_file.FILE).symlink_to(run / model_file.FILE)
    with pytest.raises(ValueError, match="it is a link, which is not followed"):
        dnas.load(tmp_path)
