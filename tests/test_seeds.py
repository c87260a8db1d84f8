"""Several seeds by one program: each search equal to that of its seed alone, whatever happens to it or beside it."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imsave

from dnas import pictures
from dnas.engine import lanes as together
from dnas.engine import search as loop
from dnas.engine.search import NonFiniteLoss, search, search_seeds
from dnas.run import open_run
from launch import arguments
from launch.main import main
from tests.test_loop import BATCH, EPOCHS, contents, parts, same, tiny

SEEDS = (3, 0, 7)
TOY = f"{Path(__file__).parent}/toy_space.py:toy"
QUICK = ["search", "--space", TOY, "--limit", "200", "--epochs", "1", "--batch", "16", "--cache", "off", "--no-progress"]


@functools.cache
def built():
    """The data, the space and the method of all these searches."""
    data = tiny()
    return data, *parts(data)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """What is compiled for one search serves the next one of the same method, and pictures are not drawn."""
    def once(compiles, key):
        made = {}

        def of(*args):
            if key(*args) not in made:
                made[key(*args)] = compiles(*args)
            return made[key(*args)]

        return of

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(together, "compile_steps", once(together.compile_steps, lambda method, *rest: (method.step, rest[-1])))
        patch.setattr(loop, "evaluation", once(loop.evaluation, lambda space, data, *rest: data.name))
        patch.setattr(pictures, "draw_genotype", lambda genotype, groups, path: imsave(path, np.zeros((1, 1)), format="png"))
        patch.setattr(pictures, "draw_logits", lambda *args: None)
        patch.setattr(pictures, "draw_curves", lambda *args: None)
        yield


def go(folder=None, seeds=SEEDS, **options):
    """The searches of `seeds`, each in a run directory of its own if there is a `folder`."""
    data, space, method = built()
    runs = [open_run(folder / str(seed), {"seed": seed}) for seed in seeds] if folder else None
    try:
        return search_seeds(space, options.pop("method", method), data, epochs=EPOCHS, batch=BATCH, seeds=seeds, runs=runs,
                            **{"progress": False, **options})
    finally:
        for run in runs or ():
            run.close()


def marked(seed):
    """Whether a first state is that of `seed`, from the key that it is made of."""
    own = jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 0))
    return lambda key: jnp.all(jax.random.key_data(key) == own)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each seed by a search of its own: the folder of their runs, and their results."""
    folder, results = tmp_path_factory.mktemp("alone"), []
    data, space, method = built()
    for seed in SEEDS:
        with open_run(folder / str(seed), {"seed": seed}) as run:
            results.append(search(space, method, data, epochs=EPOCHS, batch=BATCH, seed=seed, run=run, progress=False))
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


def test_in_turn_each_is_the_search_of_its_seed(alone, tmp_path):
    results = go(tmp_path, at_once=False)
    assert all(same(a.state, b.state) and a.records == b.records for a, b in zip(results, alone[1]))
    assert contents(tmp_path) == contents(alone[0])
    assert not same(results[0].state, results[1].state)


def test_at_once_each_is_the_search_of_its_seed_up_to_rounding(alone, at_once):
    assert all(map(close, at_once[1], alone[1])) and not close(at_once[1][0], alone[1][1])
    assert contents(at_once[0]).keys() == contents(alone[0]).keys()


def test_as_many_at_once_as_fit(alone, monkeypatch, capsys):
    real, asked = together.compile_steps, []
    monkeypatch.setattr(together, "compile_steps", lambda *args: asked.append(args[-1]) or real(*args))
    monkeypatch.setattr(together, "planned", lambda compiled: 10_000 * (asked[-1] or 1))
    monkeypatch.setattr(together, "available", lambda: 28_000)
    monkeypatch.setattr(together, "size", lambda tree: 100)
    results = go(at_once=True, progress=True)
    said = capsys.readouterr().out
    assert asked == [3, 2] and all(map(close, results, alone[1]))
    assert "3 searches at once need 0.0 MiB, 2 would fit: 2 at a time, 0.0 MiB of 0.0 MiB\n" in said
    assert said.count("\nepoch ") == EPOCHS and " ± " in said.partition("\nepoch 1/3 ")[2].partition("\n")[0]


@pytest.mark.parametrize("form", [False, True])
def test_going_on_from_different_epochs_ends_bit_identical(alone, at_once, tmp_path, form):
    method = built()[2]
    begun = []

    def select(state):
        begun.append(1)
        if len(begun) > 4:
            raise KeyboardInterrupt
        return method.select(state)

    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, method=method._replace(select=select), at_once=form)
    epochs = [len(list((tmp_path / str(seed) / "checkpoints").glob("*.safetensors"))) for seed in SEEDS]
    assert epochs == [2, 1, 1]
    results = go(tmp_path, at_once=form)
    whole = at_once if form else alone
    assert all(same(a.state, b.state) and a.records == b.records for a, b in zip(results, whole[1]))
    assert contents(tmp_path) == contents(whole[0])


@pytest.mark.parametrize("form", [False, True])
def test_a_seed_whose_loss_is_not_finite_does_not_lose_the_others(alone, at_once, tmp_path, form):
    method = built()[2]
    bad = marked(SEEDS[1])

    def init(key, images):
        return method.init(key, images)._replace(extra=bad(key))

    def step(key, state, train, valid):
        state, info = method.step(key, state, train, valid)
        return state, info._replace(train_loss=jnp.where(state.extra & (state.step == 7), np.nan, info.train_loss))

    first, failed, last = go(tmp_path, method=method._replace(init=init, step=step), at_once=form)
    assert isinstance(failed, NonFiniteLoss) and "train_loss became nan at step 7" in str(failed)
    assert f"{SEEDS[1]}/checkpoints/00001.safetensors" in str(failed)
    whole = (at_once if form else alone)[1]
    assert near(first.records, whole[0].records) and near(last.records, whole[2].records)
    assert not (tmp_path / str(SEEDS[1]) / "cells.svg").exists() and (tmp_path / str(SEEDS[2]) / "cells.svg").exists()


def test_one_that_collapses_stops_and_the_others_go_on():
    method, bad = built()[2], marked(SEEDS[0])
    skip, conv = (np.array([row] * 2, np.float32) for row in ([-9, 9, -9, -9], [-9, -9, 9, -9]))
    begin = method._replace(init=lambda key, images: method.init(key, images)._replace(
        arch={"chain": jnp.where(bad(key), skip, conv)}))
    results = go(seeds=SEEDS[:2], method=begin, diagnose=2, stop_on_collapse=True)
    assert [len(result.records) for result in results] == [2, EPOCHS]
    assert [result.genotype.choices["chain"][0].op for result in results] == ["skip", "conv"]
    assert "eigenvalue" in results[1].records[1]


@pytest.mark.parametrize("seeds", [(), (1, 2, 1)])
def test_no_seed_and_one_named_twice(seeds):
    with pytest.raises(ValueError, match="it takes one or more, each once"):
        go(seeds=seeds)


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
