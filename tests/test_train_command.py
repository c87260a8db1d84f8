"""`dnas train`: what it takes, what it writes, how it goes on, and what it refuses."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from dnas import load_genotype
from dnas.engine.records import confusion
from dnas.reports.confusion import accuracy, draw_confusion, shares, table
from dnas.shared_options import SharedOptions
from launch.main import main
from tests.test_runs import holding
from tests.test_search import contents
from tests.toy_space import toy

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
QUICK = ["--epochs", "2", "--cache", "off", "--no-progress"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A search of one epoch, with a choice inside it."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    assert main(["search", "--space", TOY, "--limit", "200", "--epochs", "1", "--batch", "16", "--run", str(folder),
                 "--cache", "off", "--no-progress"]) == 0
    assert main(["select", str(folder), "--selection", "magnitude", "--cache", "off"]) == 0
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "whole"
    assert main(["train", str(run), "--run", str(folder), *QUICK]) == 0
    return folder


def refused(capsys, *argv):
    capsys.readouterr()
    assert main(["train", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("dnas: error: ") and err.count("\n") == 1
    return err


def test_a_run_is_trained_on_its_own_data(run, trained):
    config = json.loads((trained / "config.json").read_text())
    assert config["data"] == ["digits"] and config["limit"] == 200 and config["space"]["name"] == TOY
    assert load_genotype(trained).choices == load_genotype(run).choices
    results = json.loads((trained / "results.json").read_text())
    counts = np.array(results["confusion"])
    assert counts.sum() == results["test"]["examples"] == 359
    assert results["test"]["accuracy"] == pytest.approx(accuracy(counts)) and results["train_examples"] == 180
    assert results["params"] == toy((8, 8, 1), 10).cost(load_genotype(run))["params"]
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2] and "test" not in records[-1]["accuracy"]
    assert results["holdout"]["best"]["accuracy"] == max(record["accuracy"]["holdout"] for record in records)
    names = {path.name for path in trained.iterdir()}
    assert {"best.safetensors", "last.safetensors", "confusion.svg", "confusion.png", "cells.svg", "curves.svg"} <= names


def test_its_folder_is_enough_to_go_on_and_to_repeat(trained, place, capsys, monkeypatch):
    """Interrupted in the second epoch, and then the very command that the message names."""
    from dnas.data import train_indices

    def indices(seed, epoch, *args):
        if epoch:
            raise KeyboardInterrupt
        return train_indices(seed, epoch, *args)

    monkeypatch.setattr("dnas.engine.train.train_indices", indices)
    assert main(["train", str(trained), "--run", "part", "--cache", "off"]) == 130
    monkeypatch.undo()
    monkeypatch.chdir(place)
    said = re.search("`dnas (train part --run part)` continues", capsys.readouterr().err)
    assert main([*said[1].split(), "--cache", "off"]) == 0
    out = capsys.readouterr().out
    assert "continuing after epoch 1 of 2" in out and re.search(r"test +\d+\.\d\d % accuracy, ± ", out)
    assert contents("part") == contents(trained)
    assert main(["train", "part", "--cache", "off"]) == 0
    assert "all 2 epochs are done" in capsys.readouterr().out and not Path("runs").exists()


def test_a_choice_in_a_run_that_was_moved(run, place, capsys):
    moved = shutil.copytree(run, place / "moved")
    argv = ["train", str(moved), "--selection", "magnitude", "--splits", "train", "valid", "holdout", *QUICK]
    assert "nothing is imported because a file says so" in refused(capsys, *argv[1:])
    argv.append("--trust")
    assert main(argv) == 0
    out = capsys.readouterr().out
    folder = place / "runs" / "train-moved-magnitude-digits-0"
    assert load_genotype(folder).choices == load_genotype(run / "selections" / "magnitude").choices
    assert json.loads((folder / "results.json").read_text())["train_examples"] == 200
    assert "hold-out" not in out.split("run  ")[1] and not (folder / "best.safetensors").exists()
    assert "selection" not in json.loads((folder / "config.json").read_text())
    assert main(["train", str(moved / "selections" / "magnitude"), *argv[4:]]) == 0
    assert len(list((place / "runs").iterdir())) == 1  # the same training


def test_a_selection_that_a_run_has_not(run, trained, place, capsys):
    message = refused(capsys, run, "--selection", "sampled")
    assert f"--selection sampled: {run} has magnitude; make it by `dnas select {run} --selection sampled`" in message
    assert f"{trained} has no selection; make it by" in refused(capsys, trained, "--selection", "magnitude")
    message = refused(capsys, "darts-v2", "--selection", "magnitude")
    assert "--selection magnitude: darts-v2 must be the run directory of a search" in message
    assert "has magnitude; make it by" in refused(capsys, run, "--selection", "..")
    assert not any(place.iterdir())


def test_a_genotype_file_says_how_its_space_was_built(place, capsys):
    from search_spaces.nasbench201 import nasbench201

    text = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    (place / "cell.json").write_text(nasbench201((8, 8, 1), 10, channels=2).parse(text).to_json())
    assert main(["train", "cell.json", "--limit", "100", "--channels", "1", "--batch", "32", *QUICK]) == 0
    space = json.loads((place / "runs/train-cell-digits-0/config.json").read_text())["space"]
    assert space == {"name": "nasbench201", "channels": 1, "cells": 1, "scan": "auto", **SharedOptions()._asdict()}
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("argv, message", [
    (["darts-v3"], "did you mean 'darts-v2'"), (["absent/run"], "absent/run does not exist; it must be a run directory"),
    (["darts-v2", "--cells", "2"], "darts needs channels >= 1, cells >= 3"),
    (["darts-v2", "--preset", "cifar", "--channels", "4", "--cells", "3"], "the auxiliary head sees 2x2 pixels"),
    (["darts-v2", "--epochs", "0"], "epochs is 0; it must be a whole"), (["darts-v2", "--lr", "nan"], "lr is nan"),
    (["darts-v2", "--drop-path", "1"], "drop-path is 1.0, it must be at least 0 and below 1"),
    (["darts-v2", "--ema", "2"], "ema is 2.0, it must be"), (["darts-v2", "--momentum", "1"], "momentum is 1.0, it must be"),
    (["darts-v2", "--cutout", "-1"], "cutout is -1, it must be 0 or more"),
    (["darts-v2", "--splits", "train", "train"], "splits are train, train; they must be one or more"),
    (["darts-v2", "--preset", "fast"], "fast"), (["darts-v2", "--batch", "9999"], "batch 9999 is larger"),
    (["darts-v2", "--data", "digit"], "did you mean 'digits'"), (["darts-v2", "--epoch=3"], "did you mean --epochs?"),
    (["evil.json"], "nothing is imported because a file says so: if you trust that place, say --trust"),
    (["toy.json"], "no space 'toy'"),
    (["toy.json", "--space", TOY, "--cells", "2"], "has no option cells; its options are channels"),
    (["toy.json", "--space", TOY, "--auxiliary", "0.4"], "no auxiliary head"),
    (["toy.json", "--space", "nasbench201"], "genotype has groups"), (["broken.json"], "not valid JSON"),
    (["strange.json"], "space nasbench201 has no option chanels; did you mean channels"), ([], "RUN|GENOTYPE")])
def test_what_cannot_be_is_refused_in_one_line(place, capsys, argv, message):
    space = toy((8, 8, 1), 10)
    found = space.genotype({"chain": np.eye(4)[:2]})
    for name, text in (("toy", found.to_json()), ("evil", found.to_json().replace('"toy"', '"os:system"')),
                       ("strange", found.to_json().replace('"toy"', '"nasbench201"').replace('"channels"', '"chanels"')),
                       ("broken", "{")):
        (place / f"{name}.json").write_text(text)
    before = sorted(place.iterdir())
    assert message in refused(capsys, *argv)
    assert sorted(place.iterdir()) == before


def test_another_process_at_work_there_is_named(run, place, capsys):
    with holding(Path("taken")) as process:
        assert f"taken is in use by process {process.pid};" in refused(capsys, run, "--run", "taken")


def test_a_page_and_a_line_about_a_search_and_its_training(run, trained, place, capsys):
    for folder, name, parts in ((run, "a", ("Search of toy by darts", "dnas search --space", "multiply-adds", "logits")),
                                (trained, "b", ("Training from scratch", "dnas train", "(359)", "recall %"))):
        shutil.copytree(folder, name)
        assert main(["report", name]) == 0
        page = Path(name, "report.html").read_text()
        assert all(part in page for part in parts) and page.count("data:image/svg+xml") == {"a": 4, "b": 3}[name]
    capsys.readouterr()
    assert main(["runs", "."]) == 0
    searched, tested = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert searched[:6] == ["a", "done", "search", "darts", "toy", "digits"] and searched[-1] == "1"
    assert tested[:5] == ["b", "done", "train", "toy", "digits"] and tested[8:10] == ["%", "test"]


def test_a_training_of_other_options_is_refused(run, trained, capsys):
    assert "seed is 0 there, 1 here" in refused(capsys, run, "--run", trained, *QUICK, "--seed", 1)


def test_help_shows_the_published_values_and_those_of_a_preset(capsys):
    for argv, part in (["--help"], "(default: 30)"), (["--preset", "cifar", "--help"], "(default: 600)"):
        assert main(["train", *argv]) == 0
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert part in text and "Published: 600, and 200." in text and "--preset {quick,cifar,nasbench201}" in text


def test_the_table_of_classes_and_the_picture(tmp_path):
    counts = confusion([0, 0, 0, 1, 1, 2], np.array([0, 0, 1, 1, 1, 1]), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 2, 0], [0, 1, 0]] and accuracy(counts) == pytest.approx(4 / 6)
    recall, precision = shares(counts)
    np.testing.assert_allclose(recall, [2 / 3, 1, 0])
    np.testing.assert_allclose(precision, [1, 0.5, np.nan])
    lines = table(counts).splitlines()
    assert lines[1].split() == ["0", "3", "66.7", "100.0", "1", "(1", "times)"] and lines[2].split()[-1] == "-"
    many = np.diag(np.arange(1, 31)) + np.eye(30, k=1, dtype=int)
    assert table(many).splitlines()[1].split()[:3] == ["0", "2", "50.0"] and "20 of 30" in table(many)
    for name, found in ("a.svg", counts), ("b.png", many):
        draw_confusion(found, tmp_path / name)
        before = (tmp_path / name).read_bytes()
        draw_confusion(found, tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    assert ">class given<" in (tmp_path / "a.svg").read_text()
