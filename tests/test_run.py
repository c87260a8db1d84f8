"""The run directory: resumed or refused, whole at every moment, one process at a time."""

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from dnas.runs import lock as locks
from dnas.runs.directory import flatten, load_genotype, open_run
from dnas.runs.files import RunWriteError, write_atomic
from dnas.types import Genotype

CONFIG = {"space": {"name": "nasbench201", "channels": 16}, "epochs": 50, "betas": (0.5, 0.999), "method": {}}
GENOTYPE = Genotype("toy", {"channels": 4}, {"cell": [(0, 1, "skip_connect")]})


@pytest.fixture
def run(tmp_path):
    with open_run(tmp_path / "runs" / "x", CONFIG) as run:
        yield run


def names(folder):
    return sorted(os.listdir(folder))


class Full:
    """No file of this process can grow past `limit` bytes: writes are cut short and fail, as on a full disk."""

    def __init__(self, limit):
        self.limit = limit

    def __enter__(self):
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, self.before[1]))

    def __exit__(self, *_):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_new_run_holds_its_config_and_environment(run):
    assert not run.resumed
    assert names(run.folder) == ["config.json", "environment.json", "run.lock"]
    config = json.loads((run.folder / "config.json").read_text())
    assert list(config) == list(CONFIG)
    assert config["betas"] == [0.5, 0.999]
    environment = json.loads((run.folder / "environment.json").read_text())
    assert {"python", "jax", "jaxlib", "flax", "optax", "numpy", "dnas", "device", "cpu_count", "commit",
            "date"} <= set(environment)


def test_the_same_config_resumes(run):
    run.close()
    before = {name: (run.folder / name).read_bytes() for name in ("config.json", "environment.json")}
    (run.folder / ".metrics.jsonl.1.tmp").write_text("half")
    with open_run(run.folder, CONFIG) as again:
        assert again.resumed
    assert {name: (run.folder / name).read_bytes() for name in before} == before
    assert not list(run.folder.glob(".*"))


def test_another_config_is_refused_naming_every_key(run):
    run.close()
    other = {"space": {"name": "nasbench201", "channels": 8}, "epochs": 20, "betas": [0.5, 0.999], "seed": 1}
    with pytest.raises(ValueError) as caught:
        open_run(run.folder, other)
    assert str(caught.value) == (
        f"{run.folder} holds a run of another config: space.channels is 16 there, 8 here; epochs is 50 there, 20 here; "
        "method is {} there, absent here; seed is absent there, 1 here; "
        f"choose another folder, or repeat that run with its own config, {run.folder}/config.json")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty \(it has thesis.tex\) and holds no run"):
        open_run(tmp_path, CONFIG)
    assert names(tmp_path) == ["thesis.tex"]


def test_an_empty_folder_and_one_killed_before_its_config_are_new(tmp_path):
    for leftover in [], ["run.lock"], ["run.lock", ".config.json.1.tmp"]:
        for name in leftover:
            (tmp_path / name).write_text("")
        with open_run(tmp_path, CONFIG) as run:
            assert not run.resumed
        assert names(tmp_path) == ["config.json", "environment.json", "run.lock"]
        for name in names(tmp_path):
            (tmp_path / name).unlink()


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in tmp_path / "file", tmp_path / "file" / "x", Path("/proc/nowhere/x"), tmp_path / ("long" * 100):
        with pytest.raises(ValueError, match="cannot write in .*; choose another folder") as caught:
            open_run(path, CONFIG)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_corrupt_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match="config.json: no "):
        open_run(tmp_path, CONFIG)
    assert names(tmp_path) == ["config.json"]


def test_values_that_are_no_json_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        open_run(tmp_path / "x", {"space": {"factory": print}})
    assert not (tmp_path / "x").exists()


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    script = ("import sys; from dnas.runs.directory import open_run\n"
              "run = open_run(sys.argv[1], {'epochs': 5}); print('open', flush=True); sys.stdin.read()")
    command = [sys.executable, "-c", script, str(tmp_path / "x")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "open\n"
        with pytest.raises(ValueError, match=f"in use by process {process.pid};"):
            open_run(tmp_path / "x", {"epochs": 5})
        process.kill()
        process.wait()
        with open_run(tmp_path / "x", {"epochs": 5}) as run:
            assert run.resumed
            with pytest.raises(ValueError, match=f"in use by process {os.getpid()};"):
                open_run(tmp_path / "x", {"epochs": 5})


def test_a_lock_file_may_hold_anything(tmp_path):
    """It is taken over; one that is held is told of; and a link in its place empties no other file."""
    (tmp_path / "run.lock").write_bytes(b"\xff\xfe\0" * 1000)
    assert locks.holder(tmp_path) is None
    with locks.take(tmp_path):
        (tmp_path / "run.lock").write_bytes(b"\xff\xfe 5")
        assert locks.holder(tmp_path).startswith("process ")
    with locks.take(tmp_path):
        assert (tmp_path / "run.lock").read_text().startswith(f"{os.getpid()} ")
    (tmp_path / "run.lock").unlink()
    (tmp_path / "other").write_text("precious")
    (tmp_path / "run.lock").symlink_to(tmp_path / "other")
    (tmp_path / "config.json").write_text('{"epochs": 5}')
    with pytest.raises(ValueError, match="cannot write in"):
        open_run(tmp_path, {"epochs": 5})
    assert locks.holder(tmp_path) is None and (tmp_path / "other").read_text() == "precious"


def test_metrics_come_back(run):
    run.append({"epoch": 1, "loss": {"train": jnp.float32(0.5), "valid": float("nan")}, "steps": np.int32(4)})
    run.append({"epoch": 2, "loss": {"train": 0.1, "valid": -math.inf}, "logits": np.ones((1, 2))})
    run.append_timing({"epoch": 1, "seconds": 0.2})
    assert run.metrics() == [{"epoch": 1, "loss": {"train": 0.5, "valid": None}, "steps": 4},
                             {"epoch": 2, "loss": {"train": 0.1, "valid": None}, "logits": [[1, 1]]}]
    assert run.timings() == [{"epoch": 1, "seconds": 0.2}]
    assert "NaN" not in (run.folder / "metrics.jsonl").read_text()


def test_a_torn_last_line_is_ignored_wherever_it_is_cut(run):
    path = run.folder / "metrics.jsonl"
    assert run.metrics() == []
    run.append({"epoch": 1, "loss": 0.25})
    first = path.read_bytes()
    run.append({"epoch": 2, "loss": {"train": [1.5, None]}})
    whole = path.read_bytes()
    for end in range(len(first), len(whole) - 1):
        path.write_bytes(whole[:end])
        assert [record["epoch"] for record in run.metrics()] == [1]
        with pytest.raises(ValueError, match="lacks epoch 2"):
            run.truncate(2)
        assert path.read_bytes() == whole[:end]
        run.truncate(1)
        assert path.read_bytes() == first
    path.write_bytes(whole[:-1])
    assert len(run.metrics()) == 2
    run.truncate(2)
    assert path.read_bytes() == whole


def test_a_bad_line_elsewhere_is_named(run):
    (run.folder / "metrics.jsonl").write_text('{"epoch": 1}\nhello\n{"epoch": 3}\n')
    with pytest.raises(ValueError, match="metrics.jsonl, line 2, is no JSON record"):
        run.metrics()


def test_truncate_forgets_the_epochs_after_a_checkpoint(run):
    run.truncate(0)
    for epoch in range(1, 5):
        run.append({"epoch": epoch, "loss": 1 / epoch})
        run.append_timing({"epoch": epoch, "seconds": epoch / 7})
    whole = (run.folder / "metrics.jsonl").read_bytes()
    run.truncate(2)
    assert [r["epoch"] for r in run.metrics()] == [r["epoch"] for r in run.timings()] == [1, 2]
    for epoch in 3, 4:
        run.append({"epoch": epoch, "loss": 1 / epoch})
    assert (run.folder / "metrics.jsonl").read_bytes() == whole


def test_logits_come_back(run):
    trajectory = {"normal": np.random.default_rng(0).normal(size=(3, 14, 8)).astype(np.float32),
                  "reduce": np.ones((3, 1, 2))}
    run.save_arch(trajectory)
    back = run.load_arch()
    for name, rows in trajectory.items():
        np.testing.assert_array_equal(back[name], rows, strict=True)
    whole = (run.folder / "arch.npz").read_bytes()
    run.save_arch(trajectory)
    assert (run.folder / "arch.npz").read_bytes() == whole
    for content in b"", whole[:100], whole[:-30], b"x" * 100:
        (run.folder / "arch.npz").write_bytes(content)
        with pytest.raises(ValueError, match="arch.npz is missing or corrupt"):
            run.load_arch()


def test_a_genotype_comes_back_from_the_run_and_from_its_file(run):
    run.save_genotype(GENOTYPE)
    assert load_genotype(run.folder) == load_genotype(str(run.folder / "genotype.json")) == GENOTYPE


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": 1}', b'{"schema": 99}'])
def test_a_corrupt_genotype_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "genotype.json").write_bytes(content)
    with pytest.raises(ValueError, match="genotype.json: ") as caught:
        load_genotype(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_genotype_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*genotype.json: No such file"):
        load_genotype(tmp_path)


def test_a_full_disk_leaves_what_was_there(run):
    run.append({"epoch": 1, "loss": 0.5})
    run.save_arch({"cell": np.ones((2, 6, 5))})
    run.save_genotype(GENOTYPE)
    before = {name: (run.folder / name).read_bytes() for name in names(run.folder)}
    message = "could not write .*; what was there before is untouched"
    for write in (lambda: run.append({"epoch": 2, "text": "x" * 3000}),
                  lambda: run.save_arch({"cell": np.ones((99, 6, 5))}),
                  lambda: write_atomic(run.folder / "config.json", "x" * 3000)):
        with Full(2000), pytest.raises(RunWriteError, match=message) as caught:
            write()
        assert "\n" not in str(caught.value) and caught.value.errno
        assert {name: (run.folder / name).read_bytes() for name in names(run.folder)} == before
    run.append({"epoch": 2})
    assert len(run.metrics()) == 2


def test_an_interrupted_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_atomic(tmp_path / "a", "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", "new")
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "old"


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": 2}, "e": {}}, ".") == {"a.b.c": 1, "a.d": 2, "e": {}}
