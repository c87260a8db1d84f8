"""`dnas show` and the table of layers."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from launch.main import main
from search_spaces.cost import layers
from search_spaces.nasbench201 import nasbench201
from search_spaces.width import width
from tests.test_spaces import PUBLISHED

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
DIGITS = dnas.data.load("digits", limit=200)


@pytest.mark.parametrize("cells", [1, 3])
def test_layers_add_up_to_the_cost(cells):
    space = nasbench201((8, 8, 2), 3, channels=4, cells=cells)
    genotype = space.parse(PUBLISHED)
    network, images = space.network(genotype), jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32)
    weights, stats = jax.eval_shape(lambda key: network.init(key, images), jax.random.key(0))
    stats = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), stats)
    found = layers(lambda w, x: network.apply(w, stats, x, train=False, key=None)[0], weights, images)
    assert [layer.name for layer in found][:3] == ["stem_conv", "stem_bn", "stage_0"] and found[-1].name == "head"
    assert {layer.name: layer.shape for layer in found}["stage_2"] == (2, 2, 16) and found[-1].shape == (3,)
    assert found[0].macs == 8 * 8 * 2 * 9 * 4 and found[0].params == 2 * 9 * 4
    cost = space.cost(genotype)
    assert sum(layer.params for layer in found) == cost["params"] and sum(layer.macs for layer in found) == cost["macs"]


def test_a_network_without_names_is_one_part():
    (whole,) = layers(lambda w, x: x @ w["a"], {"a": jnp.zeros((3, 5))}, jax.ShapeDtypeStruct((1, 3), jnp.float32))
    assert (whole.params, whole.macs) == (15, 15)


def test_it_shows_a_genotype_and_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "darts-v2", "--cells", "3", "--channels", "4", "--out", "v2"]) == 0
    out = capsys.readouterr().out
    assert "cell_2" in out and "multiply-adds" in out and (tmp_path / "v2" / "cells.png").exists()
    run = dnas.search(TOY, "darts", DIGITS, epochs=1, batch=16, out="run", progress=False)
    (tmp_path / "run" / "logits.svg").unlink()
    assert main(["show", "run"]) == 0
    out = capsys.readouterr().out
    assert "edge_0" in out and "chain 0->1" in out and "epoch 1" in out and (tmp_path / "run" / "logits.svg").exists()
    before = sorted(tmp_path.rglob("*"))
    assert str(dnas.show(run)) in out and not dnas.show(run).files and sorted(tmp_path.rglob("*")) == before


def test_a_run_in_memory_a_choice_and_a_genotype():
    run = dnas.search(TOY, "darts", DIGITS, epochs=1, batch=16, progress=False)
    overview = dnas.show(run)
    assert overview.logits["chain"].shape == (2, 2, 4) and "chain 0->1" in str(overview)
    assert sum(layer.macs for layer in overview.layers) == overview.cost["macs"] > 0
    assert "edge_0" in str(overview) and len(repr(overview)) < 500 and overview._repr_svg_().count("<svg") == 1
    choice = dnas.show(dnas.select(run, "random", progress=False))
    assert choice.logits is None and "shares" not in str(choice) and choice.space.name == "toy"
    assert dnas.show("darts-v2", cells=3, channels=4).layers


def test_a_space_that_only_a_file_names_is_imported_by_the_users_word(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dnas.search(TOY, "darts", DIGITS, epochs=1, batch=16, out="mine", progress=False)
    os.rename("mine", "received")  # as good as a run from elsewhere
    config = json.loads(Path("received/config.json").read_text())
    Path("evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom tests.toy_space import toy\n")
    Path("received/config.json").write_text(json.dumps(config | {"space": {"name": "evil.py:toy", "channels": 4}}))
    before = sorted(tmp_path.rglob("*"))
    assert main(["show", "received"]) == 2
    err = capsys.readouterr().err
    assert "nothing is imported because a file says so" in err and "--trust" in err and err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["show", "received", "--space", TOY, "--out", "new"]) == 0 and not (tmp_path / "ran").exists()
    assert main(["show", "received", "--trust", "--out", "new"]) == 0 and (tmp_path / "ran").exists()


@pytest.mark.parametrize("make, message", [
    (lambda path: "absent.json", "absent.json does not exist"),
    (lambda path: "darts-v9", "did you mean"),
    (lambda path: str(path / "g.json"), "nothing is imported because a file says so"),
    (lambda path: genotype_of(path, image=5), "inputs of the genotype are 5"),
    (lambda path: genotype_of(path, image=[8, 8.5, 1]), "inputs of the genotype are [8, 8.5, 1]"),
    (lambda path: genotype_of(path, image=[8, 8, 1], evil=[0] * 10**6), "more than 1,000,000 characters"),
    (lambda path: genotype_of(path, image=[8, 8, 1], **{"\x1b[2J" * 5000: 1}), "has no option")])
def test_bad_input_is_one_line(tmp_path, capsys, make, message):
    (tmp_path / "g.json").write_text(json.dumps({"schema": 1, "space": "evil.py:run", "options": {}, "groups": {}}))
    assert main(["show", make(tmp_path), "--out", str(tmp_path / "new")]) == 2
    out, err = capsys.readouterr()
    assert message in err and err[:-1].isprintable() and len(err) < 2100 and not out and not (tmp_path / "new").exists()


def genotype_of(path, **options):
    """A genotype.json with these options."""
    groups = json.loads(width((8, 8, 1), 10, channels=4, stages=1).parse("4-3").to_json())["groups"]
    (path / "o.json").write_text(json.dumps({"schema": 1, "space": "width", "options": options, "groups": groups}))
    return str(path / "o.json")


@pytest.mark.parametrize("found", [{"x": np.zeros((3, 2, 4))}, {"width": np.zeros((3, 1, 4))}, {"width": np.array("a")}, {}])
def test_logits_of_something_else_are_named_before_anything_is_written(tmp_path, capsys, found):
    options = {"image": [8, 8, 1], "channels": 4, "stages": 1}
    os.rename(genotype_of(tmp_path, **options), tmp_path / "genotype.json")
    np.savez(tmp_path / "arch.npz", **found)
    assert main(["show", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "arch.npz: no logits [epochs, 2, 4] of group 'width'" in err and not (tmp_path / "cells.svg").exists()
