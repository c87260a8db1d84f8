"""What a method decides between epochs, when it stops, and a search that begins where another ended; resumed, too."""

import collections
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.algorithms.decisions import Stop, checked_decisions, full_mask, undecided
from dnas.runs.directory import open_run
from dnas.types import Group
from launch.main import main
from tests.test_search import EPOCHS, contents, interrupted, same
from tests.toy_lanes import built, equal, go, quickly, single


@pytest.fixture(scope="module", autouse=True)
def quick():
    with quickly():
        yield


def test_one_that_collapses_stops_and_the_others_go_on():
    skip, conv = (np.array([row] * 2, np.float32) for row in ([-9, 9, -9, -9], [-9, -9, 9, -9]))

    def algorithm(problem):
        steps = built()[2].algorithm(problem)
        arch = lambda hyper: {"chain": jnp.where(hyper["skips"] > 0, skip, conv)}
        return steps._replace(init=lambda key, inputs, hyper: steps.init(key, inputs, hyper)._replace(arch=arch(hyper)))

    method = built()[2].extend(algorithm=algorithm, hyper={"skips": 0})
    results = go(settings=[({"skips": 1}, 0), ({"skips": 0}, 0)], method=method, diagnose=2, stop_on_collapse=True)
    assert [len(result.records) for result in results] == [2, EPOCHS]
    assert [result.genotype.choices["chain"][0].op for result in results] == ["skip", "conv"]
    assert "eigenvalue" in results[1].records[1]
    assert "every edge is a skip connection" in results[0].stopped.reason and results[1].stopped is None


def narrowing(space, state, record):
    """Decides the first edge after the first epoch, takes the worst operation of the second out of the race after each."""
    gates, mask = state.arch["chain"], np.array(state.mask["chain"])
    decisions = np.array(state.decisions["chain"])
    decisions[0] = gates[0].argmax() if decisions[0] == -1 else decisions[0]
    mask[1, np.where(mask[1], gates[1], np.inf).argmin()] = False
    return state._replace(decisions={"chain": decisions}, mask={"chain": mask})


def early(records):
    return Stop("it is narrow enough", 1) if records[-1]["operations"] == 2 else None


def test_decisions_and_a_stop_survive_a_resume(tmp_path):
    method = built()[2].extend(decide=narrowing, stop=early)
    with open_run(tmp_path / "whole", {}) as run:
        whole = single(method=method, run=run, epochs=5)
    assert [(r["decided"], r["operations"]) for r in whole.records] == [(1, 3), (1, 2)]
    assert whole.stopped == Stop("it is narrow enough", 1)
    gates = np.asarray(whole.gates["chain"])
    assert sorted(gates[0]) == [0, 0, 0, 1] and (gates[1] > 0).sum() == 2 and gates[1].sum() == pytest.approx(1)
    with np.load(tmp_path / "whole" / "arch.npz") as arrays:
        kept = np.where(whole.state.mask["chain"][1], arrays["chain"][1][1], -np.inf).argmax()
    assert whole.genotype.decisions(built()[1].groups)["chain"].tolist() == [gates[0].argmax(), kept]
    with open_run(tmp_path / "part", {}) as run, pytest.raises(KeyboardInterrupt):
        single(method=interrupted(method, 2), run=run, epochs=5)
    for _ in range(2):  # it goes on, and then it is done
        with open_run(tmp_path / "part", {}) as run:
            assert run.resumed
            again = single(method=method, run=run, epochs=5)
        assert equal(again, whole) and again.stopped == whole.stopped
        assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def test_a_search_from_the_state_of_another(tmp_path):
    start = single(seed=3).state
    start = start._replace(decisions={"chain": jnp.array([2, -1], jnp.int32)},
                           mask={"chain": start.mask["chain"].at[1, 0].set(False)})
    before = jax.device_get(start)
    still = {"lr": 0.0, "lr_min": 0.0, "arch_lr": 0.0}
    found = single(still, epochs=1, start=start)
    for part in ("weights", "arch", "decisions", "mask"):
        assert same(getattr(found.state, part), getattr(before, part))
    assert int(found.state.step) == len(found.records) * 4 and same(start, before)
    gates = np.asarray(found.gates["chain"])
    assert gates[0].tolist() == [0, 0, 1, 0] and gates[1, 0] == 0
    with open_run(tmp_path / "part", {}) as run, pytest.raises(KeyboardInterrupt):
        single(method=interrupted(built()[2], 1), run=run, epochs=2, start=start)
    with open_run(tmp_path / "part", {}) as run:
        again = single(run=run, epochs=2, start=start)
    assert equal(again, single(epochs=2, start=start)) and not equal(again, single(epochs=2))
    with pytest.raises(ValueError, match="has other arch"):
        single(start=start._replace(arch={"chain": np.zeros((2, 5))}))


@pytest.mark.parametrize("change, message", [
    (lambda state: None, "returned NoneType, it must return the state"),
    (lambda state: state._replace(mask={"chain": np.zeros((2, 4), bool)}), "left edge 0->1 of group 'chain' no operation"),
    (lambda state: state._replace(mask={"chain": np.ones((2, 3), bool)}), r"mask bool \(2, 3\) of group 'chain'"),
    (lambda state: state._replace(decisions={"chain": np.array([7, -1])}), "chose operation 7 on edge 0->1"),
    (lambda state: state._replace(decisions={}), "of group 'chain', they must be integers"),
])
def test_decisions_that_cannot_be_are_refused(change, message):
    groups = {"chain": Group(((0, 1), (1, 2)), ("a", "b", "c", "d"))}
    State = collections.namedtuple("State", "decisions mask")
    state = State(undecided(groups), full_mask(groups))
    assert checked_decisions(groups, state)["mask"]["chain"].all()
    with pytest.raises(ValueError, match=message):
        checked_decisions(groups, change(state))


def time_of(folder, seed, *seconds):
    lines = [json.dumps({"epoch": epoch, "seconds": each}) + "\n" for epoch, each in enumerate(seconds, 1)]
    (folder / str(seed) / "timing.jsonl").write_text("".join(lines))


def test_a_search_ends_with_the_epoch_that_passes_its_time_and_its_clock_survives_a_resume(tmp_path):
    whole = go(settings=[0, 3], epochs=4)
    results = go(tmp_path, settings=[0, 3], epochs=4, seconds=1e-9)
    assert [len(result.records) for result in results] == [1, 1]
    assert results[0].stopped.reason.startswith("its 1e-09 seconds are over, after ") and results[0].stopped.epoch is None
    time_of(tmp_path, 0, 40.0)
    time_of(tmp_path, 3, 30.0)
    results = go(tmp_path, settings=[0, 3], epochs=4, seconds=40.0)
    assert [len(result.records) for result in results] == [1, 4]
    assert results[0].stopped.reason == "its 40 seconds are over, after 40.0" and results[1].stopped is None
    assert equal(results[1], whole[1])  # schedules go over all epochs
    [result] = go(tmp_path, settings=[0], epochs=4, seconds=40.0001)
    assert len(result.records) == 2 and result.records == whole[0].records[:2]


def test_the_limit_of_time_is_a_part_of_the_config(tmp_path, capsys):
    for wrong in 0, -1.0, float("nan"), float("inf"), 10**400, "60", True:
        with pytest.raises(ValueError, match="seconds is .*; it must be a number above 0"):
            dnas.search("nasbench201", "darts", seconds=wrong)
    toy = f"{Path(__file__).parent}/toy_space.py:toy"
    command = ["search", "--space", toy, "--limit", "200", "--epochs", "3", "--batch", "16", "--seconds", "0.0001", "--run",
               str(tmp_path / "run"), "--cache", "off", "--no-progress"]
    for _ in range(2):
        assert main(command) == 0
        out = capsys.readouterr().out
        assert "3 epochs of 5 steps of 16 examples, at most 0.0001 seconds, seed 0" in out
        assert "stopped   its 0.0001 seconds are over, after " in out
        run = dnas.open(tmp_path / "run")
        assert len(run.records) == 1 and run.config["seconds"] == 0.0001
    assert main(["search", "--config", str(tmp_path / "run"), "--run", str(tmp_path / "run"), "--no-progress"]) == 0
    assert main([*command[:-1], "--seconds", "5"]) == 2 and "seconds is 0.0001 there, 5.0 here" in capsys.readouterr().err
