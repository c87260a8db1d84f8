"""Studies: what is refused, what is not repeated, and what a failure leaves."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.runs.files import read_json
from dnas.runs.study_folder import entry_file, failures
from dnas.studies import job as jobs
from dnas.studies.plan import plan_study
from dnas.studies.run import plan_text, planned, run_jobs
from launch.main import main
from tests.test_load import refused, said

ROOT = Path(__file__).parent.parent
TOY = f"{ROOT}/tests/toy_space.py:toy"
STUDY = {"space": {"name": TOY}, "data": {"limit": 200}, "budget": {"epochs": 1, "batch": 16}, "seeds": [0, 1],
         "methods": ["darts"], "selections": ["magnitude"]}
FAST = {"name": "darts", "label": "fast", "arch_lr": 0.01}
DIVERGES = {"name": "darts", "label": "diverges", "lr": 1e30, "lr_min": 1e30}


WRITTEN_ANEW = "study.json", "study.csv", "report.json", "report.html", "run.lock"


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*")
            if path.is_file() and path.name not in WRITTEN_ANEW}


def study(folder, **changes):
    return dnas.study({**STUDY, **changes}, folder, trust=True, progress=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "s"
    study(folder)
    return folder


def toml(value):
    return json.dumps(value) if not isinstance(value, dict) else "{ " + ", ".join(
        f"{key} = {toml(item)}" for key, item in value.items()) + " }"


def write_study(path, **changes):
    lines = [f"{key} = [{', '.join(map(toml, value))}]" if isinstance(value, list) else f"{key} = {toml(value)}"
             for key, value in {**STUDY, **changes}.items()]
    path.write_text("\n".join(lines))
    return path


def test_a_study_reports_every_choice_and_repeats_nothing(done, capsys):
    result = study(done)
    assert [(each.method, each.selection, each.seed) for each in result.entries] == [
        ("darts", "magnitude", 0), ("darts", "magnitude", 1)]
    assert not result.failures and not result.missing
    steps = len(dnas.open(done / "runs/darts/1").supernet.data.splits["train"]) // 16
    assert [each.values["gradients"] for each in result.entries] == [2 * steps] * 2  # of the weights, of the architecture
    run = dnas.open(done / "runs/darts/1", trust=True)
    assert result.entries[1].genotype == run.genotype == dnas.load_genotype(done / "runs/darts/1/selections/magnitude")
    assert result.searches[1]["epochs"][-1]["genotype"] == run.genotype.to_json()
    before = contents(done)
    study(done)
    assert contents(done) == before
    out = said(capsys, "study", "report", done)
    assert "discretised %" in out and max(map(len, out.splitlines()[:-1])) <= 80 and contents(done) == before
    rows = list(csv.DictReader((done / "study.csv").read_text().splitlines()))
    assert [(row["method"], row["seed"]) for row in rows] == [("darts", "0"), ("darts", "1")]
    report = json.loads((done / "report.json").read_text())
    assert report["summary"][0]["discrete"]["seeds"] == 2 and len(report["points"]) == 4
    assert report["points"][0]["entropy"] is None and report["points"][1]["entropy"] > 0


def test_what_is_added_is_all_that_is_done(done, monkeypatch):
    before, searched = contents(done), []
    search = jobs.search
    monkeypatch.setattr(jobs, "search", lambda *args, **kwargs: searched.append(kwargs["seeds"]) or search(*args, **kwargs))
    result = study(done, seeds=[1, 2], selections=["magnitude", "random"])
    assert searched == [[2]] and len(result.entries) == 5  # seed 0 has the choice that was declared before
    entries = [path for path in before if "entries" in path.parts]
    assert {path: content for path, content in contents(done).items() if path in before and path not in entries} == {
        path: content for path, content in before.items() if path not in entries}
    result = study(done, methods=["darts", FAST])
    assert searched == [[2], [0, 1]] and [each.method for each in result.entries].count("fast") == 2
    assert (result.differences[0].first, result.differences[0].second) == ("fast", "darts")
    result = study(done)  # what was begun stays in the report
    assert {each.method for each in result.entries} == {"darts", "fast"}


def test_changes_of_what_was_begun_are_refused(done):
    before = contents(done)
    for changes, message in (
            ({"budget": {"epochs": 2, "batch": 16}}, "epochs is 1 there, 2 here"),
            ({"data": {"limit": 300}}, "described.limit is 200 there, 300 here"),
            ({"methods": [{"name": "darts", "lr": 0.5}]}, "method.lr is 0.025 there, 0.5 here; give the changed"),
            ({"space": {"name": TOY, "channels": 8}}, "space.channels is 4 there, 8 here")):
        with pytest.raises(ValueError, match="has begun") as error:
            study(done, **changes)
        assert message in str(error.value)
    assert contents(done) == before


def test_an_entry_that_fails_does_not_stop_the_rest(tmp_path, capsys):
    file = write_study(tmp_path / "mine.toml", methods=[DIVERGES, "darts"], seeds=[3])
    command = ["study", file, "--run", tmp_path / "s", "--trust", "--no-progress", "--cache", "off"]
    assert main([*map(str, command)]) == 1
    out = capsys.readouterr().out
    assert "failed: diverges, seed 3: " in out and "darts" in out and "missing: " not in out
    assert "became" in read_json(tmp_path / "s/failures/diverges/3.json")["error"]
    assert (tmp_path / "s/entries/darts/3.json").exists() and main(["study", "report", str(tmp_path / "s")]) == 0


def test_the_plan_says_what_there_is_to_do_and_writes_nothing(tmp_path, capsys):
    file = write_study(tmp_path / "mine.toml", methods=["darts", FAST], budget={"epochs": 3, "batch": 16})
    out = said(capsys, "study", file, "--run", tmp_path / "s", "--trust", "--dry-run")
    steps = plan_study(file, True).steps
    assert f"fast: 2 to search: {2 * 3 * steps} steps" in out and f"to do      12 epochs, {12 * steps} steps" in out
    assert "seeds      2; a corrected p can be 0.05 or less from 6 on with 1 comparison" in out
    assert not (tmp_path / "s").exists()


def test_the_plan_says_how_long_it_will_take_by_what_is_done(tmp_path):
    changes = {"methods": ["darts", FAST], "seeds": 4, "selections": ["magnitude", "random"]}
    plan, folder = plan_study({**STUDY, **changes}, True), tmp_path / "s"
    for seed, choices in (0, {"magnitude": 1.0, "random": 3.0}), (1, {"magnitude": 2.0}):
        file = entry_file(folder, "darts", seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        selections = {name: {"values": {"seconds": seconds}} for name, seconds in choices.items()}
        file.write_text(json.dumps({"seconds": 100.0 + seed, "selections": selections}))
        (folder / f"runs/darts/{seed}").mkdir(parents=True)
        (folder / f"runs/darts/{seed}/results.json").touch()
    rows = planned(plan, folder)
    assert rows[0] == ("darts", [0], [1, 2, 3], [1], 2 * 100.5 + 3 * 3.0 + 2 * 1.5) and rows[1].seconds is None
    text = plan_text(plan._replace(methods=plan.methods[:1]), folder)
    assert "darts: 1 done, 1 to select from, 2 to search: 10 steps, about 3 min 33 s" in text
    assert text.endswith("to do      2 epochs, 10 steps, about 3 min 33 s and compiling")


@pytest.mark.parametrize("changes, message", [
    ({"method": ["darts"]}, "has no part 'method'; did you mean methods?"),
    ({"methods": ["dart"]}, "did you mean 'darts'?"), ({"methods": []}, "it must be a list of names or tables"),
    ({"methods": [{"label": "x"}]}, "a method has no name"),
    ({"methods": [{"name": "darts", "label": "a" * 101}]}, "at most 100"),
    ({"methods": ["darts", {"name": "darts", "label": "Darts"}]}, "two methods are called Darts"),
    ({"seeds": 10**12}, "seeds is 1000000000000; it must be at most"),
    ({"methods": ["darts+rarts"]}, "rarts cannot follow"),
    ({"table": {"file": "~nobody-of-that-name/t.npz"}}, "no home directory of '~nobody-of-that-name'"),
    ({"data": {"source": "~nobody-of-that-name/d.npz"}}, "no home directory of '~nobody-of-that-name'"),
    ({"selections": [{"name": "zero-cost", "seed": 2**70}]}, "seed is 1180591620717411303424, it must be 0 to 4294967295"),
    ({"methods": ["darts", "darts"]}, "two methods are called darts; give each a label"),
    ({"methods": [{"name": "darts", "label": "../x"}]}, "label '../x' names a folder"),
    ({"methods": [{"name": "darts", "lrr": 1}]}, "has no option lrr; did you mean lr?"),
    ({"methods": [{"name": "darts", "lr": "fast"}]}, "lr is 'fast'; it must be a number"),
    ({"methods": ["pc-darts"]}, "method pc-darts: arch_warmup 15 leaves none of 1 epochs to the architecture"),
    ({"selections": ["magnitude", "magnitude"]}, "two selections are called magnitude"),
    ({"selections": ["magnitud"]}, "did you mean 'magnitude'?"), ({"seeds": [1, 1]}, "name a seed twice"),
    ({"seeds": 0}, "at least one seed"), ({"seeds": 1.5}, "it must be a number of seeds"),
    ({"budget": {"seconds": -60}}, "budget: seconds is -60.0; it must be a number above 0"),
    ({"budget": {"steps": 60, "epochs": 3}}, "budget has epochs and steps; give one of them"),
    ({"budget": {"steps": 0, "batch": 16}}, "budget: steps is 0, 0 epochs of 5; it must be 1 to 5,000,000"),
    ({"budget": {"steps": 1.5}}, "steps is 1.5; it must be a whole number"),
    ({"budget": {"epochs": 0}}, "epochs is 0"), ({"budget": {"epoch": 3}}, "did you mean epochs?"),
    ({"budget": {"batch": 10**6}}, "is larger than the train split"), ({"data": {"limits": 3}}, "did you mean limit?"),
    ({"data": {"source": "absent.npz"}}, "absent.npz"), ({"space": {"name": "nasbench201", "chanels": 4}}, "channels"),
    ({"table": {"file": "absent.npz"}}, "a table is for runs of nasbench201")])
def test_what_is_refused_before_anything_is_written(tmp_path, capsys, changes, message):
    file = write_study(tmp_path / "mine.toml", **changes)
    assert message in refused(capsys, "study", file, "--run", tmp_path / "s", "--trust")
    assert not (tmp_path / "s").exists()


def test_other_files_and_folders_are_refused(tmp_path, capsys):
    file = write_study(tmp_path / "mine.toml")
    (tmp_path / "broken.toml").write_text("a = ")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "is not TOML" in refused(capsys, "study", tmp_path / "broken.toml")
    assert "cannot read" in refused(capsys, "study", tmp_path / "absent.toml")
    assert "is not empty (it has x)" in refused(capsys, "study", file, "--run", tmp_path / "full", "--trust")
    assert "holds no study" in refused(capsys, "study", "report", tmp_path / "full")
    assert "jobs is 0" in refused(capsys, "study", file, "--run", tmp_path / "s", "--jobs", "0", "--trust")


def test_places_in_a_study_are_imported_only_if_trusted(tmp_path, capsys):
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'marker')!r}).touch()\n")
    for changes in ({"methods": [{"name": "evil.py:factory"}]}, {"selections": [{"name": "evil.py:factory"}]},
                    {"data": {"source": "evil.py:factory"}}, {"data": {"task": "evil.py:factory"}},
                    {"space": {"name": "evil.py:factory"}}):
        file = write_study(tmp_path / "mine.toml", **{"space": {"name": "nasbench201"}, **changes})
        assert "nothing is imported because a file says so" in refused(capsys, "study", file, "--run", tmp_path / "s")
    assert not (tmp_path / "marker").exists() and not (tmp_path / "s").exists()


def test_a_budget_of_steps_and_of_seconds(tmp_path, capsys):
    for steps, epochs in (1, 1), (5, 1), (6, 2), (1001, 201):
        assert plan_study({**STUDY, "budget": {"steps": steps, "batch": 16}}, True).epochs == epochs
    file = write_study(tmp_path / "mine.toml", budget={"steps": 12, "batch": 16, "seconds": 1e-4}, seeds=[0])
    out = said(capsys, "study", file, "--run", tmp_path / "s", "--trust", "--cache", "off", "--no-progress", "--dry-run")
    assert "budget     3 epochs of 5 steps of 16 examples for each search, 15 steps, or 0.0001 seconds" in out
    result = dnas.study(file, tmp_path / "s", trust=True, progress=False)
    assert len(result.searches[0]["epochs"]) == 2 and "0.0001 seconds are over" in result.searches[0]["stopped"]
    assert [each.values["gradients"] for each in result.entries] == [2 * 5]  # of the epoch that there was
    with pytest.raises(ValueError, match="seconds is 0.0001 there, 5.0 here"):
        dnas.study({**STUDY, "budget": {"steps": 12, "batch": 16, "seconds": 5}}, tmp_path / "s", trust=True)


def test_a_folder_in_use_is_refused(done, capsys):
    from dnas.studies.folder import open_folder

    with open_folder(done), pytest.raises(ValueError, match=f"{done} is in use by process"):
        study(done)


def test_a_method_has_the_space_options_that_suit_it(tmp_path):
    said = {**STUDY, "space": {"name": "nasbench201", "channels": 4, "cells": 1}, "budget": {"epochs": 20, "batch": 16},
            "methods": ["darts", "pc-darts", {"name": "pc-darts", "label": "half", "space": {"partial_channels": 2}}]}
    assert [method.space["partial_channels"] for method in plan_study(said).methods] == [1, 4, 2]


def test_the_example_of_the_documents_is_the_file():
    text = (ROOT / "studies/digits.toml").read_text()
    assert f"```toml\n{text}```" in (ROOT / "docs/studies.md").read_text()
    plan = plan_study(ROOT / "studies/digits.toml")
    assert [method.label for method in plan.methods] == ["darts", "darts-fast"] and plan.methods[1].method["arch_lr"] == 0.01


def test_paths_are_relative_to_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "mine.py").write_text("from dnas.methods.darts import darts\n\n\ndef mine(*, lr: float = 0.1):\n"
                                    "    return darts(lr=lr)\n")
    np.savez(folder / "data.npz", x=np.random.default_rng(0).random((90, 8, 8, 1)).astype(np.float32), y=np.arange(90) % 3)
    file = write_study(folder / "study.toml", methods=[{"name": "mine.py:mine"}], data={"source": "data.npz"})
    plan = plan_study(file, True)
    assert plan.methods[0][:2] == ("mine", {"name": f"{folder}/mine.py:mine", "lr": 0.1})
    assert plan.data == {"data": [str(folder / "data.npz")]}


def test_worker_processes_write_why_a_job_failed(tmp_path):
    said = []
    broken = jobs.Job(str(tmp_path), "own", {"name": "absent"}, {"name": TOY}, {"data": ["digits"]}, [0, 4], {}, 1, 16, 0)
    run_jobs([broken], 2, said.append, False)
    assert failures(tmp_path).keys() == {("own", 0), ("own", 4)}
    assert all(why.startswith("no method 'absent'; ") for why in failures(tmp_path).values())  # not how its process ended
    assert sum(line.startswith("failed     own, seed ") for line in said) == 2


def test_a_worker_that_is_killed_leaves_a_failure_and_one_without_a_parent_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("dnas.studies.run.WORKER", ["-c", "import os; os.kill(os.getpid(), 9)"])
    parts = {"name": "darts"}, {"name": TOY}, {"data": ["digits"]}
    run_jobs([jobs.Job(str(tmp_path), "own", *parts, [0], {"random": {}}, 1, 16, 0)], 2, lambda text: None, False)
    assert "its process ended with signal 9" in failures(tmp_path)["own", 0]
    slow = "import threading, time; from dnas.studies import worker; threading.Thread(target=worker._wait_for_parent, " \
           "daemon=True).start(); time.sleep(100)"
    process = subprocess.Popen([sys.executable, "-c", slow], stdin=subprocess.PIPE,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    process.stdin.close()
    assert process.wait(30) == 3


def killed(command, folder, ready):
    """Starts a command, and kills it and nothing else as soon as a file is there that `ready` matches."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    end = time.monotonic() + 300
    while not any(folder.glob(ready)) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None and any(folder.glob(ready))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.heavy
@pytest.mark.parametrize("workers", [1, 2])
def test_a_study_that_was_killed_goes_on_to_the_same_end(workers, tmp_path, capsys):
    changes = {"methods": ["darts", FAST], "budget": {"epochs": 12, "batch": 16}}
    file, folder = write_study(tmp_path / "mine.toml", **changes), tmp_path / "s"
    command = ["study", str(file), "--trust", "--no-progress", "--cache", str(tmp_path / "cache"), "--jobs", str(workers)]
    killed([sys.executable, "-m", "launch.main", *command, "--run", str(folder)], folder,
           "runs/darts/0/checkpoints/0000[3-9].safetensors")
    time.sleep(3)  # workers notice that the parent has gone
    said(capsys, *command, "--run", folder)
    said(capsys, *command, "--run", tmp_path / "whole")
    assert (folder / "study.csv").exists() and not list(folder.rglob("*.tmp"))
    for name in "darts", "fast":
        for seed in 0, 1:
            for part in "genotype.json", "metrics.jsonl", "checkpoints/00012.safetensors":
                one, other = (top / "runs" / name / str(seed) / part for top in (folder, tmp_path / "whole"))
                assert one.read_bytes() == other.read_bytes()
