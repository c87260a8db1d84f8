"""A search of a toy space on small data: what it learns, writes, repeats, and survives."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from dnas.data import from_arrays, steps_per_epoch
from dnas.engine.estimate import estimate
from dnas.engine.records import entropy
from dnas.engine.search import NonFiniteLoss, input_shape, search
from dnas.methods.darts import darts
from dnas.runs import checkpoint
from dnas.runs.directory import load_genotype, open_run
from dnas.runs.files import RunWriteError
from dnas.task import task_of
from tests.toy_space import toy

EPOCHS, BATCH = 3, 16


def tiny(count=200):
    """Two classes told apart by which half of the image is bright."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, count)
    x = rng.integers(0, 120, (count, 8, 8, 1))
    x[y == 1, :, 4:] += 120
    return from_arrays("tiny", x.astype(np.uint8), y, pad=1, flip=False)


@pytest.fixture(scope="module")
def data():
    return tiny()


def parts(data, **options):
    return toy(data.image, data.classes), darts(**{"lr": 0.1, **options})


def around(method, change):
    """`method`, of whose every step `change(state, info)` comes back."""
    def algorithm(problem):
        steps = method.algorithm(problem)
        return steps._replace(step=lambda *args: change(*steps.step(*args)))

    return method.extend(algorithm=algorithm)


def first_state(data, method=None, seed=0):
    """The state in which a search by `method` begins."""
    space, default = parts(data)
    method = method or default
    hyper = method.numbers_of(epochs=EPOCHS, steps=steps_per_epoch(data, BATCH))
    key = jax.random.fold_in(jax.random.key(seed), 0)
    return method.bind(space, task_of(data)).init(key, input_shape(data, BATCH), hyper)


def interrupted(method, after):
    """`method`, by which the process ends when it is to choose a genotype once more than `after` times."""
    calls = []

    def select(space, state, gates):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return space.genotype(gates)

    return method.extend(select=select)


def go(data, run=None, *, epochs=EPOCHS, method=None, **options):
    space, built = parts(data, **options)
    return search(space, method or built, data, epochs=epochs, batch=BATCH, run=run, progress=False)


def same(a, b):
    a, b = jax.tree.leaves_with_path(jax.device_get(a)), jax.tree.leaves_with_path(jax.device_get(b))
    return len(a) == len(b) and all(p == q and x.dtype == y.dtype and x.tobytes() == y.tobytes()
                                    for (p, x), (q, y) in zip(a, b))


def contents(folder):
    """Everything of a run that must be equal in equal runs."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and not re.search("events|timing|environment|lock", path.name)}


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with open_run(folder, {"name": "toy"}) as run:
        return folder, go(data, run)


def test_it_learns_and_the_architecture_moves(data, finished):
    _, result = finished
    first, last = result.records[0], result.records[-1]
    assert last["loss"]["train"] < first["loss"]["train"] and last["loss"]["valid"] < first["loss"]["valid"]
    assert [record["epoch"] for record in result.records] == [1, 2, 3]
    assert last["step"] == EPOCHS * steps_per_epoch(data, BATCH) == int(result.state.step)
    assert np.abs(result.state.arch["chain"] - first_state(data).arch["chain"]).min() > 0
    assert 0 < last["entropy"]["chain"] < np.log(4) + 1e-6


def test_the_run_directory_holds_what_it_should(finished):
    folder, result = finished
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "environment.json", "metrics.jsonl", "arch.npz", "checkpoints", "genotype.json"} <= names
    assert any(name.startswith("events") for name in names)
    assert [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] == result.records
    with np.load(folder / "arch.npz") as arrays:
        assert arrays["chain"].shape == (EPOCHS + 1, 2, 4)
        assert np.array_equal(arrays["chain"][-1], result.state.arch["chain"])
    assert load_genotype(folder) == result.genotype
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [f"{e:05d}.safetensors" for e in (1, 2, 3)]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(data, finished):
    again = go(data)
    assert same(again.state, finished[1].state) and again.records == finished[1].records
    space, method = parts(data)
    other = search(space, method, data, epochs=1, batch=BATCH, seed=1, progress=False)
    assert other.records[0] != again.records[0]


def test_the_step_is_traced_once(data):
    traces = []
    go(data, method=around(parts(data)[1], lambda *after: traces.append(1) or after))
    assert len(traces) == 1


@pytest.mark.parametrize("stop", [1, 2])
def test_going_on_after_any_epoch_ends_bit_identical(data, finished, tmp_path, stop):
    folder = tmp_path / "run"
    with open_run(folder, {"name": "toy"}) as run, pytest.raises(KeyboardInterrupt):
        go(data, run, method=interrupted(parts(data)[1], stop))
    with open_run(folder, {"name": "toy"}) as run:
        assert run.resumed
        result = go(data, run)
    assert same(result.state, finished[1].state) and result.records == finished[1].records
    assert contents(folder) == contents(finished[0])


def test_metrics_beyond_the_checkpoint_and_a_corrupt_checkpoint_change_nothing(data, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    with open_run(folder, {"name": "toy"}) as run:
        go(data, run)
    (folder / "checkpoints" / "00003.safetensors").write_bytes(b"rubbish")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "loss"')
    with open_run(folder, {"name": "toy"}) as run:
        space, method = parts(data)
        search(space, method, data, epochs=EPOCHS, batch=BATCH, run=run)
    said = capsys.readouterr().out
    assert "00003.safetensors is corrupt" in said and "00002" in said and "continuing after epoch 2" in said
    assert {n: c for n, c in contents(folder).items() if "corrupt" not in n} == contents(finished[0])


@pytest.mark.heavy
def test_killed_at_any_moment_and_started_again_it_ends_bit_identical(finished, tmp_path):
    """A real process, SIGKILLed at several moments."""
    script = ("import sys; from tests.test_search import *\n"
              "with open_run(sys.argv[1], {'name': 'toy'}) as run: go(tiny(), run)\nprint('done')")
    command = [sys.executable, "-c", script, str(tmp_path / "run")]
    kills = 0
    for moment in ("config.json", "metrics.jsonl", "checkpoints/00001.safetensors", "checkpoints/00002.safetensors",
                   "checkpoints/00003.safetensors"):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent.parent,
                                   env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
                                        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"})
        while process.poll() is None and not (tmp_path / "run" / moment).exists():
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3
    assert subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True,
                          check=True).stdout.endswith("done\n")
    assert contents(tmp_path / "run") == contents(finished[0])


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path):
    with open_run(tmp_path / "run", {"name": "toy"}) as run, pytest.raises(NonFiniteLoss) as caught:
        go(data, run, method=around(parts(data)[1], lambda state, info: (
            state, info | {"train_loss": jax.numpy.where(state.step == 7, np.nan, info["train_loss"])})))
    assert steps_per_epoch(data, BATCH) == 4
    assert "train_loss became nan at step 7" in str(caught.value)
    assert "checkpoints/00001.safetensors" in str(caught.value) and "\n" not in str(caught.value)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert json.loads((tmp_path / "run" / "failed.json").read_text()) == {"error": str(caught.value)}


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint_whole(data, tmp_path, monkeypatch):
    real, calls = os.replace, []

    def full(source, target):
        calls.append(target)
        if sum("00002" in str(path) for path in calls):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    with open_run(tmp_path / "run", {"name": "toy"}) as run, pytest.raises(RunWriteError, match="No space left"):
        go(data, run)
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path / "run" / "checkpoints", first_state(data)).epoch == 1


def test_estimate_counts_without_a_step(data):
    space, method = parts(data)
    found = estimate(space, method, data, batch=BATCH)
    assert found["weights"] == space.cost(None)["params"] and found["macs"] == space.cost(None)["macs"]
    assert found["memory_bytes"] > 4 * found["weights"] and found["compile_seconds"] > 0


def test_entropy_of_known_gates():
    assert entropy({"a": np.full((2, 4), 0.25), "b": np.eye(3)}) == {"a": pytest.approx(np.log(4)), "b": 0}
    assert entropy({"a": np.array([[0.0, 0.0], [0.5, 0.5]])})["a"] == pytest.approx(np.log(2) / 2)


@pytest.mark.parametrize("name, damage, message", [
    ("metrics.jsonl", lambda path: path.unlink(), "lacks epoch 1"),
    ("metrics.jsonl", lambda path: path.write_bytes(path.read_bytes().split(b"\n", 1)[1]), "lacks epoch 1"),
    ("timing.jsonl", lambda path: path.write_text("xx\nyy\n"), "no JSON record"),
    ("arch.npz", lambda path: path.unlink(), "missing or corrupt"),
    ("arch.npz", lambda path: path.write_bytes(path.read_bytes()[:99]), "missing or corrupt")])
def test_a_damaged_run_is_refused_before_anything_is_written(data, finished, tmp_path, name, damage, message):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "checkpoints" / "00003.safetensors").unlink()
    damage(folder / name)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"}
    with open_run(folder, {"name": "toy"}) as run, pytest.raises(ValueError, match=message):
        go(data, run)
    assert {path: path.read_bytes() for path in before} == before
