"""Several searches by one program: each equal to the search of its seed and its numbers, whatever happens beside it."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imsave

from dnas import pictures
from dnas.algorithms.decisions import Stop
from dnas.engine import lanes as engine_lanes
from dnas.engine import search as engine_search
from dnas.engine.search import Lane, NonFiniteLoss, search, search_lanes
from dnas.methods.darts import darts
from dnas.run import open_run
from launch import arguments
from launch.main import main
from tests.test_search import BATCH, EPOCHS, contents, interrupted, parts, same, tiny

SEEDS = (3, 0, 7)
TOY = f"{Path(__file__).parent}/toy_space.py:toy"
QUICK = ["search", "--space", TOY, "--limit", "200", "--epochs", "1", "--batch", "16", "--cache", "off", "--no-progress"]


def once(method):
    """`method`, whose every binding has the same two functions, by which what is compiled for it is known again."""
    steps = []

    def algorithm(problem):
        if not steps:
            steps.append(method.algorithm(problem))
        return steps[0]

    return method.extend(algorithm=algorithm)


@functools.cache
def built():
    """The data, the space and the method of all these searches."""
    data = tiny()
    space, method = parts(data)
    return data, space, once(method)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """What is compiled for one search serves the next one of the same method, and pictures are not drawn."""
    def cached(compiles, key):
        programs = {}

        def of(*args):
            if key(*args) not in programs:
                programs[key(*args)] = compiles(*args)
            return programs[key(*args)]

        return of

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_lanes, "compile_search", cached(engine_lanes.compile_search, lambda algorithm, *rest: (
            algorithm.step, tuple(rest[3]), rest[-1])))
        patch.setattr(engine_search, "compile_evaluation", cached(engine_search.compile_evaluation, lambda space, *rest: 0))
        patch.setattr(pictures, "draw_genotype", lambda genotype, groups, path: imsave(path, np.zeros((1, 1)), format="png"))
        patch.setattr(pictures, "draw_logits", lambda *args: None)
        patch.setattr(pictures, "draw_curves", lambda *args: None)
        yield


def go(folder=None, lanes=SEEDS, *, method=None, **options):
    """The searches of several lanes, each in a run directory of its own if there is a `folder`.

    lanes: seeds of `method`, or pairs (numbers to replace in it, seed).
    """
    data, space, default = built()
    lanes = [lane if isinstance(lane, tuple) else ({}, lane) for lane in lanes]
    runs = [open_run(folder / str(seed), {"seed": seed}) for _, seed in lanes] if folder else [None] * len(lanes)
    try:
        return search_lanes(space, [Lane((method or default).replace(**numbers), seed, run)
                                    for (numbers, seed), run in zip(lanes, runs)], data,
                            **{"epochs": EPOCHS, "batch": BATCH, "progress": False, **options})
    finally:
        for run in filter(None, runs):
            run.close()


def single(numbers=None, *, method=None, seed=0, run=None, epochs=EPOCHS, **options):
    """One search by itself."""
    data, space, default = built()
    method = (method or default).replace(**(numbers or {}))
    return search(space, method, data, epochs=epochs, batch=BATCH, seed=seed, run=run, progress=False, **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each seed by a search of its own: the folder of their runs, and their results."""
    folder, results = tmp_path_factory.mktemp("alone"), []
    for seed in SEEDS:
        with open_run(folder / str(seed), {"seed": seed}) as run:
            results.append(single(seed=seed, run=run))
    return folder, results


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("at_once")
    return folder, go(folder, at_once=True)


def near(found, expected):
    """Whether two trees are equal up to rounding."""
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-5), found, expected)))


def close(found, expected):
    """Whether two results are."""
    return found.genotype == expected.genotype and near((found.state, found.records), (expected.state, expected.records))


def equal(found, expected):
    """Whether two results are the same bits."""
    return same(found.state, expected.state) and found.records == expected.records and found.genotype == expected.genotype


def matched(results, expected, alike):
    """Whether there are as many results as expected, each like its own."""
    return len(results) == len(expected) and all(map(alike, results, expected))


def test_in_turn_each_is_the_search_of_its_seed(alone, tmp_path):
    results = go(tmp_path, at_once=False)
    assert matched(results, alone[1], equal) and contents(tmp_path) == contents(alone[0])
    assert not same(results[0].state, results[1].state)


def test_at_once_each_is_the_search_of_its_seed_up_to_rounding(alone, at_once):
    assert matched(at_once[1], alone[1], close) and not close(at_once[1][0], alone[1][1])
    assert contents(at_once[0]).keys() == contents(alone[0]).keys()


NUMBERS = ({"lr": 0.02}, {"lr": 0.2, "decay": 0.01}, {"arch_lr": 0.05, "arch_warmup": 1, "arch_every": 2})


def test_lanes_of_different_numbers_are_the_searches_by_those_numbers(tmp_path, capsys):
    whole = [single(numbers) for numbers in NUMBERS]
    lanes = [(numbers, 0) for numbers in NUMBERS]
    assert matched(go(lanes=lanes, at_once=False), whole, equal)
    with open_run(tmp_path, {}) as run:
        single(NUMBERS[0], run=run)
        data, space, method = built()
        search_lanes(space, [Lane(method.replace(**NUMBERS[0]), 0, run), Lane(method.replace(**NUMBERS[1]))], data,
                     epochs=EPOCHS, batch=BATCH)
    said = capsys.readouterr().out
    assert "seed 0, lr 0.02, decay 0.0003: all 3 epochs are done" in said and said.count("\nepoch ") == EPOCHS
    assert matched(go(lanes=lanes, at_once=True), whole, close)
    assert not any(near(whole[0].state.weights, other.state.weights) for other in whole[1:])
    assert not near(whole[0].state.arch, whole[2].state.arch)


def test_one_program_serves_other_numbers_and_epochs(alone):
    """That of the searches above, and one that is compiled for these very numbers."""
    numbers = {"lr": 0.05, "arch_decay": 0.1, "arch_warmup": 1}
    data, space, _ = built()
    fresh = search(space, darts(**numbers), data, epochs=2, batch=BATCH, progress=False)
    assert equal(single(numbers, epochs=2), fresh)
    assert not near(fresh.state.weights, single(numbers).state.weights)


def test_methods_of_other_parts_are_refused():
    data, space, method = built()
    with pytest.raises(ValueError, match="may differ in numbers only"):
        search_lanes(space, [Lane(method), Lane(darts(), 1)], data, epochs=1, batch=BATCH)
    with pytest.raises(ValueError, match="at least one seed"):
        go(lanes=())
    with pytest.raises(ValueError, match="seed 1 is named twice with the same numbers"):
        go(lanes=(1, 2, 1))
    with pytest.raises(ValueError, match="no number 'arch_rl'; did you mean 'arch_lr'"):
        method.replace(arch_rl=1)


def test_as_many_at_once_as_fit(alone, monkeypatch, capsys):
    real, widths = engine_lanes.compile_search, []
    monkeypatch.setattr(engine_lanes, "compile_search", lambda *args: widths.append(args[-1]) or real(*args))
    monkeypatch.setattr(engine_lanes, "planned", lambda compiled: 10_000 * (widths[-1] or 1))
    monkeypatch.setattr(engine_lanes, "available", lambda: 28_000)
    monkeypatch.setattr(engine_lanes, "size", lambda tree: 100)
    results = go(at_once=True, progress=True)
    said = capsys.readouterr().out
    assert widths == [3, 2] and matched(results, alone[1], close)
    assert "3 searches at once need 0.0 MiB, 2 would fit: 2 at a time, 0.0 MiB of 0.0 MiB\n" in said
    assert said.count("\nepoch ") == EPOCHS and " ± " in said.partition("\nepoch 1/3 ")[2].partition("\n")[0]


@pytest.mark.parametrize("form", [False, True])
def test_going_on_from_different_epochs_ends_bit_identical(alone, at_once, tmp_path, form):
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, method=interrupted(built()[2], 4), at_once=form)
    epochs = [len(list((tmp_path / str(seed) / "checkpoints").glob("*.safetensors"))) for seed in SEEDS]
    assert epochs == [2, 1, 1]
    results = go(tmp_path, at_once=form)
    whole = at_once if form else alone
    assert matched(results, whole[1], equal) and contents(tmp_path) == contents(whole[0])


def test_lanes_that_are_two_epochs_apart_go_on_in_groups(alone, tmp_path):
    """One is done, one is to begin, and one is in between."""
    for seed, epochs in (SEEDS[0], EPOCHS), (SEEDS[2], 1):
        with open_run(tmp_path / str(seed), {"seed": seed}) as run:
            if epochs == EPOCHS:
                single(seed=seed, run=run)
            else:
                with pytest.raises(KeyboardInterrupt):
                    single(method=interrupted(built()[2], epochs), seed=seed, run=run)
    results = go(tmp_path, at_once=False)
    assert matched(results, alone[1], equal) and contents(tmp_path) == contents(alone[0])


@pytest.mark.parametrize("form", [False, True])
def test_a_search_that_diverges_does_not_disturb_the_others(alone, at_once, tmp_path, form):
    first, failed, last = go(tmp_path, [SEEDS[0], ({"lr": 1e30}, SEEDS[1]), SEEDS[2]], at_once=form)
    whole = at_once if form else alone
    assert equal(first, whole[1][0]) and equal(last, whole[1][2])
    assert isinstance(failed, NonFiniteLoss) and "there is no checkpoint yet" in str(failed)
    bad = tmp_path / str(SEEDS[1])
    assert json.loads((bad / "failed.json").read_text()) == {"error": str(failed)}
    assert not (bad / "cells.svg").exists() and not (bad / "metrics.jsonl").exists()
    for seed in SEEDS[::2]:
        assert contents(tmp_path / str(seed)) == contents(whole[0] / str(seed))


def with_poison(method):
    """`method`, whose loss is NaN at step number `poison`, if that is not 0."""
    def algorithm(problem):
        steps = method.algorithm(problem)

        def step(key, state, train, valid, hyper):
            state, info = steps.step(key, state, train, valid, hyper)
            bad = (hyper["poison"] > 0) & (state.step == hyper["poison"])
            return state, info | {"train_loss": jnp.where(bad, np.nan, info["train_loss"])}

        return steps._replace(step=step)

    return method.extend(algorithm=algorithm, hyper={"poison": 0})


def test_one_that_fails_later_is_told_of_its_checkpoint_and_may_try_again(alone, tmp_path):
    method = with_poison(built()[2])
    first, failed = go(tmp_path, [SEEDS[0], ({"poison": 7}, SEEDS[1])], method=method, at_once=False)
    assert near(first.records, alone[1][0].records)
    assert "train_loss became nan at step 7" in str(failed)
    assert f"{SEEDS[1]}/checkpoints/00001.safetensors" in str(failed)
    assert (tmp_path / str(SEEDS[1]) / "failed.json").exists()
    again = go(tmp_path, SEEDS[:2], method=method, at_once=False)
    assert near(again[1].records, alone[1][1].records) and not (tmp_path / str(SEEDS[1]) / "failed.json").exists()


def test_one_that_collapses_stops_and_the_others_go_on():
    method = built()[2]
    skip, conv = (np.array([row] * 2, np.float32) for row in ([-9, 9, -9, -9], [-9, -9, 9, -9]))

    def algorithm(problem):
        steps = method.algorithm(problem)
        arch = lambda hyper: {"chain": jnp.where(hyper["skips"] > 0, skip, conv)}
        return steps._replace(init=lambda key, inputs, hyper: steps.init(key, inputs, hyper)._replace(arch=arch(hyper)))

    results = go(lanes=[({"skips": 1}, 0), ({"skips": 0}, 0)], method=method.extend(algorithm=algorithm, hyper={"skips": 0}),
                 diagnose=2, stop_on_collapse=True)
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


def test_a_search_from_the_state_of_another(alone, tmp_path):
    start = alone[1][0].state
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
    with pytest.raises(ValueError, match="to start from has other weights than this one"):
        single(start=start._replace(weights={}))
    with pytest.raises(ValueError, match="has other arch"):
        single(start=start._replace(arch={"chain": np.zeros((2, 5))}))


def test_the_command_writes_ordinary_runs_and_goes_on(tmp_path, capsys):
    command = [*QUICK, "--seed", "4", "--seeds", "2", "--run", str(tmp_path / "runs")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "seeds 4 to 5" in said and "agreement" in said and f"dnas compare {tmp_path}/runs/4 {tmp_path}/runs/5" in said
    assert " ± " in said and sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["4", "5"]
    single = [*QUICK[1:], "--seed", "5"]
    config = json.loads(json.dumps(arguments.resolved(arguments.parse("search", "", single))))
    assert json.loads((tmp_path / "runs" / "5" / "config.json").read_text()) == config
    before = contents(tmp_path / "runs")
    assert main(["search", *single, "--run", str(tmp_path / "runs" / "5")]) == 0
    assert "complete: this is its result" in capsys.readouterr().out
    assert main(command) == 0 and contents(tmp_path / "runs") == before


@pytest.mark.parametrize("argv, message", [
    (["--seeds", "0"], "--seeds 0: it must be 1 to 1000"), (["--seeds", "10000000"], "it must be 1 to 1000"),
    (["--seeds", "2", "--seed", "4294967295"], "--seeds 2 from --seed 4294967295 on: the last would be beyond 4294967295"),
    (["--seeds", "2", "--run", "one"], "one is a run itself; --seeds writes runs into folders of --run, choose another"),
    (["--seeds", "2", "--run", "other"], "other/1 holds a run of another config: ")])
def test_what_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "other/1"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text('{"seed": 9}')
    before = sorted(tmp_path.rglob("*"))
    assert main([*QUICK, *argv]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out and sorted(tmp_path.rglob("*")) == before
