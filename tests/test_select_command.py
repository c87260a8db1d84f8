"""`dnas select` on a real run of the toy space."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import dnas
from dnas.api import select
from launch.main import main
from tests.test_runs import holding

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
DIGITS = dnas.data.load("digits", limit=200)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    dnas.search(TOY, "darts", DIGITS, epochs=2, batch=16, out=folder, progress=False)
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "selections" not in path.parts}


def test_it_writes_a_choice_and_leaves_the_run_alone(run, capsys):
    before = contents(run)
    (run / "checkpoints" / "00003.safetensors").write_bytes(b"rubbish")
    assert main(["select", str(run), "--cache", "off", "--selection.interval", "1"]) == 0
    out = capsys.readouterr().out
    assert "00003.safetensors is corrupt" in out and "1 epochs of fine-tuning" in out and re.search(
        r"step 1 of 3: chain \d->\d is \w+\nstep 2 of 3: fine-tuning\nstep 3 of 3: chain \d->\d is \w+\n", out)
    (run / "checkpoints" / "00003.safetensors").unlink()
    assert contents(run) == before
    written = run / "selections" / "perturbation"
    assert {"genotype.json", "scores.npz", "cost.json", "cells.svg", "cells.png"} <= {p.name for p in written.iterdir()}
    assert json.loads((written / "genotype.json").read_text())["space"] == "toy"
    assert json.loads((written / "cost.json").read_text())["evaluations"] == 2 * 4 * 90


def test_without_a_name_it_is_that_of_the_method_or_the_usual_one(run, capsys, monkeypatch):
    opened, seen = dnas.open(run, trust=True), []
    monkeypatch.setattr(select, "choose", lambda run, built, source, *rest: seen.append(source))
    ended_by = lambda selection: dataclasses.replace(opened.supernet, method=dataclasses.replace(
        opened.supernet.method, selection=selection))
    for name in None, "evolution":
        monkeypatch.setattr(select, "open_search", lambda *args, name=name, **options: SimpleNamespace(
            supernet=ended_by(name), folder=run))
        dnas.select("run", progress=False)
        dnas.select("run", "magnitude", progress=False)
    assert [source["name"] for source in seen] == ["perturbation", "magnitude", "evolution", "magnitude"]


@pytest.mark.parametrize("method, argv, message", [
    ("spos", ["--selection.interval", "9"], "unknown option --selection.interval"),
    ("spos", ["--selection.limit", "macs"], "'macs' is not a limit"), ("spos", ["--selection.evaluations", "0"], "evalu"),
    ("darts", ["--selection.limit", "macs<=2"], "unknown option --selection.limit"),
    ("darts", ["--selection.interval", "-1"], "interval is -1")])
def test_the_options_are_those_of_the_selection_with_which_the_method_ends(run, tmp_path, capsys, method, argv, message):
    folder = shutil.copytree(run, tmp_path / "a run")
    config = json.loads((folder / "config.json").read_text())
    config["method"] = dict(dnas.method(method).source)
    (folder / "config.json").write_text(json.dumps(config))
    assert main(["select", str(folder), "--space", TOY, *argv]) == 2
    assert message in capsys.readouterr().err


def test_another_process_at_work_there_is_named(run, capsys):
    with holding(run / "selections" / "sampled") as process:
        assert main(["select", str(run), "--selection", "sampled", "--cache", "off"]) == 2
        err = capsys.readouterr().err
        assert f"in use by process {process.pid};" in err and "another folder" in err and err.count("\n") == 1
    assert main(["select", str(run), "--selection", "sampled", "--selection.draws", "4", "--cache", "off"]) == 0
    assert re.search(r"step 1 of 1: 4 tried, the best scores 0\.\d+", capsys.readouterr().out)


@pytest.mark.parametrize("argv, message", [
    (["--selection", "magnitud"], "did you mean 'magnitude'"),
    (["--selection.interval", "9"], "selection.interval is 1 there, 9 here"),
    (["--selection.criterion", "luck"], "luck"),
    (["--selection.intervall", "9"], "did you mean --selection.interval"),
    (["--selection", "sampled", "--selection.draws", "0"], "draws is 0, it must be at least 1")])
def test_bad_input_is_one_line(run, capsys, argv, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["select", str(run), *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_factory_that_makes_no_selection(run, tmp_path, capsys):
    (tmp_path / "odd.py").write_text("def odd(*, n: int = 1):\n    return n\n")
    assert main(["select", str(run), "--selection", f"{tmp_path}/odd.py:odd"]) == 2
    assert "it returned int; it must return a Selection" in capsys.readouterr().err


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main(["select", str(tmp_path / "absent")]) == 2
    assert "absent is not a run directory" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_moved_run_keeps_its_choices_and_another_in_its_place_is_noticed(tmp_path, capsys):
    dnas.search(TOY, "darts", DIGITS, epochs=1, batch=16, out=tmp_path / "first", progress=False)
    assert main(["select", str(tmp_path / "first"), "--selection", "random", "--cache", "off"]) == 0
    (tmp_path / "deep").mkdir()
    shutil.move(tmp_path / "first", tmp_path / "deep" / "moved")
    argv = ["select", str(tmp_path / "deep" / "moved"), "--selection", "random", "--cache", "off"]
    assert main(argv) == 2  # as good as a run from elsewhere, whose space is a place: that needs the user's word
    assert "nothing is imported because a file says so" in capsys.readouterr().err
    assert main([*argv, "--trust"]) == 0 and "finished before" in capsys.readouterr().out
    dnas.search(TOY, "darts", DIGITS, epochs=2, batch=16, seed=9, out=tmp_path / "other", progress=False)
    shutil.move(tmp_path / "deep" / "moved" / "selections", tmp_path / "other" / "selections")
    before = contents(tmp_path / "other")
    assert main(["select", str(tmp_path / "other"), "--selection", "random", "--cache", "off"]) == 2
    err = capsys.readouterr().err
    assert "holds a choice from another state of the supernet" in err and "remove" in err and err.count("\n") == 1
    assert contents(tmp_path / "other") == before


def test_what_the_library_chose_the_command_reads(tmp_path, capsys):
    run = dnas.search(TOY, "darts", DIGITS, epochs=1, batch=16, out=tmp_path / "run", progress=False)
    chosen = dnas.select(run, "random", progress=False)
    assert main(["select", str(tmp_path / "run"), "--selection", "random", "--cache", "off"]) == 0
    assert "finished before" in capsys.readouterr().out and dnas.load_genotype(chosen.folder) == chosen.genotype
