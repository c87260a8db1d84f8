"""`benchmarks accelerator`: which entries run within the minutes, and what is recorded of each."""

import json
import sys
import time

import pytest

from benchmarks import accelerator
from benchmarks.accelerator import TINY, Entry, Size, carry_out, chosen, planned, run, save, started, table

HOST = {"card": "a card", "driver": "1", "memory": "80 GB", "sees": {"jax": "a card", "torch": "a card"},
        "versions": {"jax": "0.10.2", "jaxlib": "0.10.2", "torch": None}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder from which `python -m benchmarks` runs a program of this test's."""
    (tmp_path / "benchmarks.py").write_text(
        "import os, subprocess, sys, time\n"
        "what, out = sys.argv[1], sys.argv[-1]\n"
        "print('begins', flush=True)\n"
        "if what == 'abort': os.abort()\n"
        "if what == 'fail': sys.exit('no such thing')\n"
        "if what == 'hang': print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)\n"
        "open(out, 'w').write('[{\"seconds\": 2}]' if what == 'list' else '{\"seconds\": 1}')\n")
    monkeypatch.setattr(accelerator, "ROOT", tmp_path)
    return tmp_path


def test_an_entry_that_ends_well_is_recorded_with_its_result(folder):
    for what, seconds in ("list", 2), ("one", 1):
        record = run(Entry(what, [what, f"{folder}/images.npz"], 60), 60, folder)
        assert (record["ending"], record["result"]) == ("done", {"seconds": seconds})
        assert record["words"] == [what, "FOLDER/images.npz"]


@pytest.mark.parametrize("what, why", [("fail", "status 1: no such thing"), ("abort", "status -6: begins")])
def test_one_that_fails_is_recorded_with_the_end_of_what_it_said(folder, what, why):
    record = run(Entry(what, [what], 60), 60, folder)
    assert (record["ending"], record["why"], record["said"][0]) == ("failed", why, "begins")


def test_one_that_takes_too_long_is_stopped_with_all_that_it_began(folder):
    begun = time.monotonic()
    record = run(Entry("hang", ["hang"], 60), 2, folder)
    assert record["ending"] == "stopped" and time.monotonic() - begun < 30
    time.sleep(0.1)
    with pytest.raises(OSError), open(f"/proc/{record['said'][-1]}/cmdline", "rb") as running:
        if not running.read():  # a zombie, whose parent has gone, has no command line
            raise OSError


def carried_out(entries, deadline, endings, report, saved):
    """Carries out entries whose runs take all of their seconds, by a clock of their own."""
    clock, ran = [0], []

    def take(entry, seconds):
        ran.append((entry.name, seconds))
        clock[0] += seconds
        return {"ending": endings.get(entry.name, "done"), "took": seconds}

    carry_out(entries, report, deadline, lambda report: saved.append(json.loads(json.dumps(report))), take, lambda: clock[0])
    return ran


def test_the_rest_go_on_and_what_may_not_end_in_time_is_skipped():
    entries = [Entry("a", [], 40), Entry("fails", [], 30), Entry("reads", [], 1, "fails"), Entry("large", [], 80),
               Entry("cut", [], 40), Entry("late", [], 10)]
    report, saved = {"entries": {}}, []
    assert carried_out(entries, 100, {"fails": "failed"}, report, saved) == [("a", 40), ("fails", 30), ("cut", 30)]
    assert {name: each["ending"] for name, each in report["entries"].items()} == {
        "a": "done", "fails": "failed", "reads": "skipped", "large": "skipped", "cut": "done", "late": "skipped"}
    assert report["entries"]["reads"]["why"] == "fails did not end well"
    assert report["entries"]["large"]["why"] == "30 s were left, and it may take 80"
    assert [len(each["entries"]) for each in saved] == [1, 2, 3, 4, 5, 6]  # after each, and what is saved is JSON


def test_a_second_time_goes_on_with_what_is_not_done():
    entries = [Entry("a", [], 1), Entry("base", [], 1), Entry("reads", [], 1, "base"), Entry("b", [], 1)]
    names = lambda before, only=None: [entry.name for entry in chosen(entries, before, only)]
    ending = lambda **endings: {name: {"ending": each} for name, each in endings.items()}
    assert names({}) == ["a", "base", "reads", "b"]
    assert names(ending(a="done", base="done", reads="done", b="stopped")) == ["b"]
    assert names(ending(a="done", base="done", reads="failed", b="done")) == ["base", "reads"]  # its files are gone
    assert names(ending(a="done"), ["a"]) == ["a"]
    with pytest.raises(SystemExit, match="--only c: must be of a, base, reads, b"):
        names({}, ["c"])


def test_a_result_outlives_a_later_time_that_has_no_time_for_it():
    report = {"entries": {"a": {"ending": "done", "result": 1}}}
    assert carried_out([Entry("a", [], 40)], 10, {}, report, []) == []
    assert report["entries"]["a"]["result"] == 1


def test_the_file_is_gone_on_with_only_by_the_same_card_versions_and_size(tmp_path):
    path = tmp_path / "deep" / "report.json"
    report = started(path, HOST, TINY)
    save(report, path)
    assert started(path, HOST, TINY) == json.loads(path.read_text()) and list(path.parent.iterdir()) == [path]
    with pytest.raises(SystemExit, match="results are of channels 2, here 16; .*name another file"):
        started(path, HOST, Size())
    with pytest.raises(SystemExit, match="results are of card a card, here another; name another file"):
        started(path, {**HOST, "card": "another"}, TINY)


def test_entries_are_words_of_benchmarks_and_without_torch_ours_alone(tmp_path, monkeypatch):
    entries = planned(Size(), tmp_path, torch=True)
    names = [entry.name for entry in entries]
    assert len(set(names)) == len(names) and names[0] == "nasbench201-few"
    assert all(entry.needs is None or names.index(entry.needs) < names.index(entry.name) for entry in entries)
    alone = planned(Size(), tmp_path, torch=False)
    assert all("torch" not in entry.words for entry in alone) and len(alone) < len(entries)


def test_the_table_sets_torch_alone_beside_ours_of_the_same_work():
    jax = {"bytes": 3e6, "planned_bytes": 2e6, "trace_seconds": 1, "compile_seconds": 2}
    work = {"space": "darts", "cells": 8, "half": False}
    eager = {**work, "mode": "eager", "torch": {"bytes": 6e6}, "jax": jax, "ratio": 2.0,
             "seconds": {"torch": [0.4, 0.4], "jax": [0.2, 0.2]}}
    compiled = {**work, "mode": "compile", "torch": {"bytes": 5e6}, "seconds": {"torch": [0.3]}}
    lines = table({"host": HOST, "entries": {
        "darts": {"ending": "done", "result": eager}, "darts-compile": {"ending": "done", "result": compiled},
        "seeds": {"ending": "failed", "why": "status 1: no"}}}).splitlines()
    assert "| darts, 8 cells, float32, torch eager | 0.4 | 0.2 | **2.00** | 3 / 6 | 2 | 1.0 + 2.0 |" in lines
    assert "| darts, 8 cells, float32, torch compile | 0.3 | 0.2 | **1.50** | 3 / 5 | 2 | – |" in lines
    assert lines[-1] == "seeds: failed, status 1: no"


def test_without_an_accelerator_it_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "SEEN", {"jax": "print('cpu')", "torch": "import nothing_of_this_name"})
    with pytest.raises(SystemExit, match="JAX sees no accelerator here.*--tiny"):
        accelerator.main(["--out", str(tmp_path / "report.json")])
    assert not list(tmp_path.iterdir()) and sys.exc_info()[0] is None
