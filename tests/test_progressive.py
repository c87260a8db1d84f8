"""Searches in stages: P-DARTS, the operations that a search keeps, and a start by another network."""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.algorithms.decisions import full_mask, keep_best, undecided
from dnas.algorithms.players import SearchState
from dnas.algorithms.schedules import Time
from dnas.methods.darts import darts
from dnas.methods.p_darts import limited, p_darts, rate
from dnas.task import classification
from dnas.types import SKIP_DROPOUT, Batch
from launch.main import main
from search_spaces import darts as darts_space
from tests.problems import KEY, plain
from tests.test_ends import QUICK, TOY
from tests.toy_space import toy


def test_the_rate_of_dropout():
    hyper = {"skip_dropout": 0.5, "arch_warmup": 10}
    rates = [float(rate(hyper, Time(2 * e, 25, 2))) for e in range(25)]
    np.testing.assert_allclose(rates[:10], 0.5 * (24 - np.arange(10)) / 25, rtol=1e-6)
    np.testing.assert_allclose(rates[10:], 0.5 * np.exp(-0.2 * np.arange(15)), rtol=1e-6)


def test_dropout_is_behind_skips_alone_and_only_while_training():
    space, images = toy((4, 4, 1), 3, channels=4), np.random.default_rng(0).normal(size=(64, 4, 4, 1))
    weights, stats = space.init(KEY, jax.ShapeDtypeStruct((1, 4, 4, 1), jnp.float32))

    run = {train: jax.jit(lambda gates, train=train: space.apply(weights, stats, gates, images, train=train, key=KEY)[0])
           for train in (True, False)}

    def outputs(op, rate, train=True):
        return run[train]({"chain": jnp.zeros((2, 4)).at[:, op].set(1.0), SKIP_DROPOUT: jnp.float32(rate)})

    with jax.enable_x64(False):
        for op in 0, 2, 3:
            np.testing.assert_array_equal(outputs(op, 0.9), outputs(op, 0.0))
        assert np.abs(outputs(1, 0.9) - outputs(1, 0.0)).max() > 0.1
        np.testing.assert_array_equal(outputs(1, 0.9, train=False), outputs(1, 0.0, train=False))
        np.testing.assert_allclose(outputs(1, 0.3).mean(0), outputs(1, 0.0).mean(0), atol=0.1)


def test_without_dropout_and_limits_a_stage_is_darts():
    def program(method):
        algorithm, hyper = method.bind(plain(), classification()), method.numbers_of(epochs=20, steps=2)
        state = jax.eval_shape(algorithm.init, KEY, None, hyper)
        batch = (jax.ShapeDtypeStruct((8, 6), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32))
        return jax.jit(algorithm.step).lower(KEY, state, Batch(*batch), Batch(*batch), hyper).as_text()

    assert program(p_darts(skip_dropout=0.0)) == program(darts())


def state_of(space, arch, mask=None, decisions=None):
    return SearchState(*[()] * 8)._replace(arch=arch, decisions=decisions or jax.device_get(undecided(space.groups)),
                                           mask=mask or jax.device_get(full_mask(space.groups)))


def test_a_search_ends_with_the_best_operations_of_each_open_edge():
    space = plain()
    arch = {"cell": np.array([[0.0, 1, 9], [3, 2, 2], [1, 2, 3]])}  # the first edge has no third operation
    state, decide = state_of(space, arch, decisions={"cell": np.array([-1, -1, 0])}), keep_best(2)
    assert decide(space, state, {"epoch": 1, "epochs": 2}) is state
    np.testing.assert_array_equal(decide(space, state, {"epoch": 2, "epochs": 2}).mask["cell"],
                                  [[1, 1, 0], [1, 1, 0], [1, 1, 1]])
    with pytest.raises(ValueError, match="keep is 1, it must be 2 or more, or 0"):
        darts(keep=1)


def test_a_cell_has_no_more_skips_than_it_may():
    """The weakest goes, to the next best operation or, by the rule of the space, to another edge; not if nothing is left."""
    group = darts_space.GROUPS["normal"]
    space = darts_space.darts((8, 8, 3), 10, channels=4, cells=3)
    skip, conv = group.ops.index("skip_connect"), group.ops.index("sep_conv_3x3")
    rows = np.full(group.shape, 0.01)
    rows[:, conv], rows[:, skip] = 0.3, np.linspace(0.4, 0.5, len(rows))
    gates = {"normal": rows, "reduce": rows}
    skips = lambda genotype, name: sum(choice.op == "skip_connect" for choice in genotype.choices[name])
    assert skips(space.genotype(gates), "normal") == 8
    for most in 1, 2, 8:
        genotype = limited(None, most)(space, None, gates)
        assert skips(genotype, "normal") == skips(genotype, "reduce") == most
        assert {c.op for c in genotype.choices["normal"]} <= {"skip_connect", "sep_conv_3x3"}
        strongest = max(genotype.choices["normal"], key=lambda c: rows[group.edges.index(c[:2]), skip])
        assert strongest.op == "skip_connect"
    alone = np.where(np.arange(group.shape[1]) == skip, rows, 0)
    assert skips(limited(None, 2)(space, None, {"normal": alone, "reduce": rows}), "normal") == 8
    assert rows[0, skip] == 0.4


def test_what_cannot_be_is_refused():
    for settings, message in [({"max_skips": -1}, "max_skips is -1"), ({"skip_dropout": 1.0}, "skip_dropout is 1.0")]:
        with pytest.raises(ValueError, match=message):
            p_darts(**settings)
    with pytest.raises(ValueError, match="which space plain cannot"):
        p_darts().check_search(plain(), {})
    p_darts(skip_dropout=0.0).check_search(plain(), {})


@pytest.mark.heavy
def test_stages_by_the_command(tmp_path, monkeypatch, capsys):
    """The second has another width, begins with what the first kept and with fresh weights, and says so."""
    monkeypatch.chdir(tmp_path)
    common = ["search", "--space", TOY, "--method", "p-darts", "--method.arch-warmup", "0", "--epochs", "1", "--batch", "16",
              "--limit", "100", *QUICK]
    assert main([*common, "--method.keep", "2", "--run", "one"]) == 0
    capsys.readouterr()
    assert main([*common, "--space.channels", "6", "--start", "one", "--run", "two"]) == 0
    assert "start   its weights do not fit this network and begin anew (space.channels is 4 there, 6 here" in (
        capsys.readouterr().out)
    one, two = (json.loads((tmp_path / run / "metrics.jsonl").read_text()) for run in ("one", "two"))
    assert one["operations"] == 4 and max(two["entropy"].values()) <= np.log(2) + 1e-6
    with np.load("two/arch.npz") as arrays:
        assert (arrays["chain"][0] == 0).all() and (arrays["chain"][1] != 0).any()


@pytest.mark.heavy
def test_stages_by_the_script_of_the_documents(tmp_path, monkeypatch):
    """With a space, data and lengths of a test: killed in the second stage, the same script reads the first and goes on."""
    text = (Path(__file__).parent.parent / "docs/methods.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    data, search, begun = dnas.data.load("digits", limit=100), dnas.search, []

    def short(space, method, data, *, epochs, batch, start, out, preset):
        assert space.name == "darts" and (epochs, batch, preset) == (25, 96, "paper")
        begun.append((space.options["cells"], *map(method.source.get, ("keep", "max_skips")), start and start.folder.name))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return search(toy(data.image, 10), method, data, epochs=12, batch=16, start=start, out=out, preset=preset,
                      progress=False, cache="off")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(dnas, "search", short)
    monkeypatch.setattr(dnas.data, "load", lambda name: data)
    with pytest.raises(KeyboardInterrupt):
        exec(code, {})
    done = Path("runs/p-darts/1/metrics.jsonl").read_text()  # with the seconds that it took
    exec(code, run := {})
    assert begun[2:] == [(5, 5, 0, None), (11, 3, 0, "1"), (17, 0, 2, "2")]
    assert Path("runs/p-darts/1/metrics.jsonl").read_text() == done
    assert run["run"].genotype == dnas.open("runs/p-darts/3").genotype
