"""A search that begins with a trained network."""

import json

import jax
import numpy as np
import pytest

import dnas
from dnas.api.search_plan import plan_search
from dnas.runs import checkpoint
from launch.main import main
from search_spaces.conv_macro import conv_macro
from tests.test_ends import QUICK

SEARCH = {"epochs": 1, "selection": "own"}


@pytest.fixture(scope="module")
def data():
    return dnas.data.load("digits", limit=100)


@pytest.fixture(scope="module")
def space(data):
    return dnas.space("conv-macro", data, channels=1)


@pytest.fixture(scope="module")
def large(untrained, space):
    """The file of the largest network."""
    return untrained("conv-macro", space, space.largest()) / "weights.safetensors"


def test_a_network_is_unchanged_by_becoming_elastic(large, space, data):
    """The supernet's largest form puts out the same, also by the running averages; and a network in memory does."""
    net = dnas.load(large)
    plan = plan_search(space, "instatune", data, start=large, **SEARCH)
    gates, images = space.largest().gates(space.groups), data.inputs[:4]
    inputs = (images / np.float32(255) - np.float32(0.5)) / np.float32(0.2)
    begun = plan.start.weights, plan.start.stats
    outputs = jax.jit(lambda *state: space.apply(*state, gates, inputs, train=False)[0])(*begun)
    np.testing.assert_allclose(outputs, net.logits(images), rtol=1e-5, atol=1e-6)
    other = plan_search(space, "darts", data, start=net, **SEARCH)
    assert jax.tree.all(jax.tree.map(np.array_equal, other.start.weights, plan.start.weights))
    said, also = (each.settings[0].config["start"] for each in (plan, other))
    assert said == also | {"run": str(large)} and also["run"] is None
    assert said["checkpoint"] == checkpoint.digest((net.weights, net.stats))
    assert plan.start.arch is None and plan.start.decisions is None


def test_a_network_that_does_not_fit_is_refused(large, untrained, space, data):
    small, apart = space.parse("1x3-4x3-8x3-32x7"), conv_macro(data.image, 10, channels=1, form="separate")
    with pytest.raises(ValueError, match="its network is .*, and a search of conv-macro can begin with the weights of its "
                                         "largest alone"):
        plan_search(space, "spos", data, start=untrained("conv-macro", space, small) / "weights.safetensors", **SEARCH)
    with pytest.raises(ValueError, match=r"weights.safetensors: batch_stats/.* is missing in its network, and \(1,\) in "
                                         "the supernet of conv-macro; they must have the same arrays"):
        plan_search(apart, "spos", data, start=large, **SEARCH)


@pytest.mark.heavy
def test_by_the_command(space, data, tmp_path, monkeypatch, capsys):
    """A training starts a search; the search says what it began with, goes on, and notices another network there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "large.json").write_text(space.largest().to_json())
    common = ["--space", "conv-macro", "--data", "digits", "--limit", "100", "--batch", "16", *QUICK]
    assert main(["train", "large.json", *common, "--epochs", "2", "--run", "net"]) == 0
    search = ["search", *common, "--space.channels", "1", "--method", "instatune", "--selection", "own", "--start", "net"]
    capsys.readouterr()
    assert main([*search, "--epochs", "1", "--method.lr", "0", "--method.lr-min", "0", "--run", "run"]) == 0
    out = capsys.readouterr().out
    assert "start   net, a trained network" in out and "it was trained on valid too" in out
    net, run = dnas.load("net"), dnas.open("run")
    assert jax.tree.all(jax.tree.map(np.array_equal, run.supernet.state.weights, net.weights))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["start"]["run"] == str(tmp_path / "net")
    again = ["search", "--config", "run/config.json", "--run", "run", *QUICK]
    assert main(again) == 0
    assert main([*search, "--start", "run", "--epochs", "1", "--run", "on"]) == 0  # another elastic search
    assert main(["train", "large.json", *common, "--epochs", "1", "--splits", "train", "--run", "other"]) == 0
    (tmp_path / "net").rename(tmp_path / "old")
    (tmp_path / "other").rename(tmp_path / "net")
    capsys.readouterr()
    assert main(again) == 2
    assert "other weights are there now" in capsys.readouterr().err
    assert main([*search, "--epochs", "1", "--run", "fresh"]) == 0
    assert "it was trained on" not in capsys.readouterr().out
