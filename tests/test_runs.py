"""`dnas runs` on runs in every state, and the lock of a run between real processes."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dnas.runs import lock
from dnas.runs.directory import COMMAND, open_run
from dnas.runs.trust import config_digest
from dnas.types import Genotype, Group
from launch.main import main

ROOT = Path(__file__).parent.parent
GROUPS = {"cell": Group(((0, 1), (0, 2), (1, 2)), ("none", "skip", "conv"))}
GENOTYPE = Genotype("toy", {}, {"cell": [(0, 1, "conv"), (0, 2, "skip"), (1, 2, "none")]})
SEARCH = {"space": {"name": "mine.py:toy"}, "method": {"name": "darts", "lr": 0.025}, "data": ["/data/some images.npz"],
          "epochs": 3, "seed": 7, "diagnose": 1, "stop_on_collapse": False}
TRAIN = {"genotype": {"name": "|a|", "groups": {}}, "space": {"name": "toy"}, "data": ["digits"], "epochs": 3, "seed": 0}


def write_run(folder, config, epochs=3, **more):
    """A run as the commands write one, of so many epochs, without any computing."""
    command = COMMAND.set("dnas search --space mine.py:toy")
    with open_run(folder, config) as run:
        COMMAND.reset(command)
        for epoch in range(1, epochs + 1):
            run.append({"epoch": epoch, "loss": {"train": 1 / epoch, "holdout": 2 / epoch},
                        "accuracy": {"train": 0.5, "holdout": 0.2 * epoch}, **more})
            run.append_timing({"epoch": epoch, "seconds": 20, "examples_per_second": 100.0})
        run.save_genotype(GENOTYPE)
        if "method" in config:
            run.save_groups(GROUPS)
            run.save_arch({"cell": np.random.default_rng(0).normal(size=(epochs + 1, 3, 3))})
    return folder


def write_choice(run, name):
    folder = run / "selections" / name
    config = {"run": "../..", "config": config_digest(json.loads((run / "config.json").read_text())), "epoch": 3,
              "checkpoint": "", "selection": {"name": name, "draws": 4}}
    with open_run(folder, config) as opened:
        opened.save_genotype(GENOTYPE)
    (folder / "cost.json").write_text(json.dumps({"evaluations": 1234, "epochs": 5, "seconds": 6.5}))
    return folder


@contextlib.contextmanager
def holding(folder):
    """A process that holds the lock of `folder`; killed at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    script = ("import sys; from pathlib import Path; from dnas.runs import lock; held = lock.take(Path(sys.argv[1])); "
              "print(1, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Runs in every state."""
    top = tmp_path_factory.mktemp("many") / "runs"
    write_choice(write_run(top / "a", SEARCH), "sampled")
    write_run(top / "deep" / "b", SEARCH | {"seed": 1}, epochs=2)
    write_run(top / "c", TRAIN)
    (top / "c" / "results.json").write_text('{"test": {"accuracy": 0.875}}')
    write_run(top / "d", TRAIN | {"inherit": True, "distill": 0.5})
    write_run(top / "e", SEARCH)
    (top / "e" / "config.json").write_text("{")
    write_run(top / "f", SEARCH)
    (top / "f" / "metrics.jsonl").write_text('{"epoch": 1}\n\x1b[31m\n{"epoch": 2}\n')
    write_run(top / "g", SEARCH, epochs=1)
    with open_run(top / "h", {"selections": [], "runs": []}):
        pass
    (top / "data").mkdir()
    (top / "data" / "config.json").write_text("{}")
    write_run(top / ".hidden", SEARCH)
    return top


def lines(capsys, *argv):
    capsys.readouterr()
    assert main(["runs", *map(str, argv)]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_line_a_run_whatever_state_it_is_in(many, capsys):
    with holding(many / "g") as process:
        header, *found = lines(capsys, many)
    assert header.split()[:3] == ["folder", "status", "kind"]
    words = {Path(line.split()[0]).name: line.split()[1:] for line in found}
    assert list(words) == list("acdbefgh")
    assert " ".join(words["a"]) == "done search darts toy some images 7 3/3 60.00 % hold-out 1 min 0 s 1"
    assert words["b"][:2] == ["interrupted", "search"] and "2/3" in words["b"] and "40.00" in words["b"]
    assert " ".join(words["c"]) == "done train toy digits 0 3/3 87.50 % test 1 min 0 s"
    assert words["d"][:3] == ["interrupted", "train", "inherit+distill"]  # not tested yet
    assert words["e"][0] == "broken" and "no valid JSON" in " ".join(words["e"])
    assert words["f"][0] == "broken" and "line 2, is no JSON record" in " ".join(words["f"])
    assert words["g"][0] == "running" and words["g"][-2:] == ["process", str(process.pid)]
    assert words["h"][:2] == ["interrupted", "compare"]


def test_order_and_forms(many, capsys):
    names = [Path(line.split()[0]).name for line in lines(capsys, many, "--sort", "quality")[1:]]
    assert names[0] == "c" and set(names[-3:]) == set("efh")
    told = json.loads("\n".join(lines(capsys, many, "--format", "json")))
    assert len(told) == 8 and told[0]["value"] == pytest.approx(60) and told[0]["selections"] == 1
    assert (told[0]["metric"], told[0]["unit"]) == ("accuracy", "%")
    rows = list(csv.DictReader(lines(capsys, many, "--format", "csv")))
    assert [row["folder"] for row in rows] == [one["folder"] for one in told] and rows[0]["seconds"] == "60.0"


@pytest.mark.parametrize("width, there, gone", [
    (200, "choices on time kind seed data space method", ""),
    (110, "kind seed data space method", "choices"),
    (80, "method epoch quality", "choices on time"),
    (56, "folder status epoch quality", "choices on time kind seed data space method")])
def test_a_narrow_terminal_gets_fewer_columns_and_no_line_longer(many, monkeypatch, capsys, width, there, gone):
    monkeypatch.chdir(many.parent)
    monkeypatch.setenv("COLUMNS", str(width))
    everything = lines(capsys, "runs")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with holding(many / "g"):
        found = lines(capsys, "runs")
    assert max(map(len, everything)) > 100  # where it is no terminal nothing is left out
    assert max(len(line) for line in found if "broken" not in line) <= width and len(found) == 9
    header = found[0].split()
    assert set(there.split()) <= set(header) and set(gone.split()).isdisjoint(header)
    assert header == [name for name in everything[0].split() if name in header]
    words = {Path(line.split()[0]).name: " ".join(line.split()) for line in found[1:]}
    assert "done" in words["a"] and "3/3 60.00 %" in words["a"] and "broken" in words["e"]
    assert "no valid JSON" in words["e"] and " process " in words["g"]


def test_a_folder_wider_than_the_terminal_is_not_cut(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "30")
    folder = write_run(tmp_path / "a rather long name of a run", SEARCH)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    _, line = lines(capsys, tmp_path)
    assert line.startswith(f"{folder}  done") and line.endswith("60.00 %")


MAE = {"task": "regression", "metric": {"name": "mae", "better": -1, "percent": False}}


def test_the_metric_of_the_task_and_its_direction(tmp_path, capsys):
    for name, value in ("a", 44.123), ("b", 12.5), ("c", 70.0):
        folder = write_run(tmp_path / name, TRAIN | MAE)
        (folder / "results.json").write_text(json.dumps({"test": {"mae": value, "loss": 0.5}}))
    write_run(tmp_path / "d", SEARCH)
    found = lines(capsys, tmp_path, "--sort", "quality")
    assert [Path(line.split()[0]).name for line in found[1:]] == list("dbac")
    assert "mae 44.12 test" in " ".join(found[3].split()) and "60.00 %  hold-out" in found[1]
    row = next(csv.DictReader(lines(capsys, tmp_path, "--format", "csv")))
    assert (row["metric"], row["value"], row["unit"], row["better"]) == ("mae", "44.123", "", "-1")
    (tmp_path / "a" / "config.json").write_text(json.dumps(TRAIN | {"metric": {"name": 3}}))
    assert "broken" in lines(capsys, tmp_path / "a")[1] and "metric is" in lines(capsys, tmp_path / "a")[1]


def test_a_search_that_failed(tmp_path, capsys):
    folder = write_run(tmp_path / "a", SEARCH, epochs=2)
    (folder / "failed.json").write_text('{"error": "the loss of epoch 3 is not finite"}')
    line = lines(capsys, tmp_path)[1]
    assert line.split()[1] == "failed" and line.endswith("the loss of epoch 3 is not finite") and "2/3" in line
    with holding(folder):
        assert lines(capsys, tmp_path)[1].split()[1] == "running"


def test_one_run_no_run_and_no_folder(many, tmp_path, capsys):
    assert len(lines(capsys, many / "a")) == 2
    assert lines(capsys, many / "data") == [f"no run in {many / 'data'}"]
    for name, message in ("absent", "does not exist"), ("file", "is not a folder"):
        (tmp_path / "file").write_text("")
        assert main(["runs", str(tmp_path / name)]) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1


@pytest.mark.parametrize("config", [
    {**SEARCH, "epochs": "many", "seed": None, "data": 3, "method": ["x"], "space": {}}, {**SEARCH, "data": []},
    {**SEARCH, "epochs": 10**400, "seed": True, "data": ["\ud800\n\x1b[2J"]}, {**TRAIN, "space": {"name": 1}}])
def test_strange_configs_are_lines(tmp_path, capsys, config):
    folder = write_run(tmp_path / "x", SEARCH)
    (folder / "config.json").write_text(json.dumps(config))
    found = lines(capsys, tmp_path)
    assert len(found) == 2 and all(letter.isprintable() for line in found for letter in line)


def test_neither_a_list_nor_a_wrong_name_waits_for_jax(many):
    script = ("import sys; from launch.main import main; codes = [main(['runs', sys.argv[1]]), main(['show', 'no/run']), "
              "main(['show', 'darts-v9'])]; assert codes == [0, 2, 2], codes; assert not {'jax', 'flax'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", script, str(many)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_process_on_another_machine_is_named_with_it(tmp_path, monkeypatch):
    with lock.take(tmp_path), monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        name = lock.holder(tmp_path)
        assert name.startswith(f"process {os.getpid()} on ") and not name.endswith("elsewhere")
        with pytest.raises(ValueError, match=f"in use by {name}; wait for it"):
            lock.take(tmp_path)
    assert lock.holder(tmp_path) is None is lock.holder(tmp_path / "absent")


def test_a_number_that_another_process_has_now_locks_nothing(tmp_path):
    (tmp_path / lock.NAME).write_text("1 elsewhere\n")
    assert lock.holder(tmp_path) is None
    with lock.take(tmp_path):
        assert (tmp_path / lock.NAME).read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_who_looks_does_not_keep_a_process_out(tmp_path, monkeypatch):
    """Somebody looks, as `dnas runs` does, at the very moment that a search begins."""
    import fcntl

    lock.take(tmp_path).close()
    looking = open(tmp_path / lock.NAME)  # noqa: SIM115
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda seconds: looking.close())
    lock.take(tmp_path).close()


def test_two_searches_in_one_folder(tmp_path, capsys):
    """A real search, a second one beside it, kill -9, and the run is free again."""
    folder = tmp_path / "run"
    argv = ["search", "--space", f"{ROOT}/tests/toy_space.py:toy", "--limit", "200", "--epochs", "1000", "--batch", "16",
            "--run", str(folder), "--cache", "off", "--no-progress", "--preset", "paper"]
    with subprocess.Popen([sys.executable, "-m", "launch.main", *argv], cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            while not (folder / "environment.json").exists():
                assert process.poll() is None
                time.sleep(0.05)
            assert main(argv) == 2
            err = capsys.readouterr().err
            assert f"{folder} is in use by process {process.pid};" in err and err.count("\n") == 1
            assert lines(capsys, tmp_path)[1].split()[1] == "running"
        finally:
            process.send_signal(signal.SIGKILL)
    assert lines(capsys, tmp_path)[1].split()[1] == "interrupted"
    with open_run(folder, json.loads((folder / "config.json").read_text())) as run:
        assert run.resumed
