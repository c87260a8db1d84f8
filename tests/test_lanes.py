"""Several searches by one program: each equal to the search of its seed and its numbers, whatever happens beside it."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dnas.engine import lanes as engine_lanes
from dnas.engine.search import Lane, NonFiniteLoss, search, search_lanes
from dnas.methods.darts import darts
from dnas.runs.directory import open_run
from tests.test_search import BATCH, EPOCHS, contents, interrupted, same
from tests.toy_lanes import SEEDS, built, close, equal, go, matched, near, quickly, single

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
QUICK = ["search", "--space", TOY, "--limit", "200", "--epochs", "1", "--batch", "16", "--cache", "off", "--no-progress"]


@pytest.fixture(scope="module", autouse=True)
def quick():
    with quickly():
        yield


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
    assert matched(go(settings=lanes, at_once=False), whole, equal)
    with open_run(tmp_path, {}) as run:
        single(NUMBERS[0], run=run)
        data, space, method = built()
        search_lanes(space, [Lane(method.replace(**NUMBERS[0]), 0, run), Lane(method.replace(**NUMBERS[1]))], data,
                     epochs=EPOCHS, batch=BATCH)
    said = capsys.readouterr().out
    assert "seed 0, lr 0.02, decay 0.0003: all 3 epochs are done" in said and said.count("\nepoch ") == EPOCHS
    assert matched(go(settings=lanes, at_once=True), whole, close)
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
        go(settings=())
    with pytest.raises(ValueError, match="seed 1 is named twice with the same numbers"):
        go(settings=(1, 2, 1))
    with pytest.raises(ValueError, match="no number 'arch_rl'; did you mean 'arch_lr'"):
        method.replace(arch_rl=1)


def test_as_many_at_once_as_fit(alone, monkeypatch, capsys):
    real, widths = engine_lanes.start_search, []
    monkeypatch.setattr(engine_lanes, "start_search", lambda *args, key: widths.append(args[-1]) or real(*args, key=key))
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
