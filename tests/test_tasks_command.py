"""Data that is not pictures and tasks that are not classification, through the commands from the search to the export."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.data import load as load_data
from dnas.reports import comparison
from dnas.runs.index import Quality
from launch.main import main
from tests.test_load import refused, said

HERE = Path(__file__).parent
CAUSAL = f"{HERE}/toy_causal.py:causal"
DENSE = ["--space", "dense", "--space.hidden", "4", "--space.layers", "1"]
QUICK = ["--cache", "off", "--no-progress"]
TASK = """
import dnas

def absolute():
    error = lambda outputs, targets: abs(outputs[:, 0] - targets / 100)
    return dnas.Task("absolute", error, {"centi": error}, better=-1, percent=False, predict=lambda outputs: 100 * outputs)
"""
COLOURS = [("red", 0.0), ("green", 5.0), ("blue", -5.0)]


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """A search and a training on a table of numbers and texts with a number as target."""
    folder = tmp_path_factory.mktemp("numbers")
    data = load_data("diabetes")
    with open(folder / "table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"m{k}" for k in range(9)), "kind", "target"])
        for row, target in zip(data.inputs, data.targets.reshape(-1)):
            writer.writerow([*row[:9], "low" if row[9] < 90 else "high", target])
    assert main(["search", "--data", str(folder / "table.csv"), *DENSE, "--epochs", "1", "--batch", "32", "--run",
                 str(folder / "search"), *QUICK]) == 0
    assert main(["train", str(folder / "search"), "--epochs", "2", "--run", str(folder / "net"), *QUICK]) == 0
    return folder


def test_a_table_of_numbers_is_searched_selected_and_compared(numbers, capsys):
    config = json.loads((numbers / "search" / "config.json").read_text())
    assert config["task"] == "regression" and config["metric"] == {"name": "mae", "better": -1, "percent": False}
    out = said(capsys, "select", numbers / "search", "--selection", "sampled", "--selection.draws", "2", "--cache", "off")
    assert "examples forward" in out and "per example" in out
    out = said(capsys, "compare", numbers / "search", "--selection", "magnitude", "sampled", "--sampled.draws", "2",
               "--train-epochs", "1", "--cache", "off")
    assert "discretised mae" in out and "trained mae" in out and "%" not in re.sub(r"95 %|\d+ %", "", out)
    found = json.loads((numbers / "comparison" / "comparison.json").read_text())
    assert found["metrics"]["discrete"]["better"] == -1 and found["metrics"]["gap"]["better"] == -1
    assert all(10 < entry["values"]["discrete"] < 200 for entry in found["entries"])
    page = (numbers / "comparison" / "report.html").read_text()
    assert "hold-out mae of the genotype" in page and "discretised %" not in page and "in points" not in page


def test_reports_and_lists_say_the_metric(numbers, capsys):
    for folder in "search", "net":
        said(capsys, "report", numbers / folder)
        page = (numbers / folder / "report.html").read_text()
        assert re.search(r"mae \d+", page) and "accuracy" not in re.sub("base64,[^\"]*", "", page)
    said(capsys, "show", numbers / "search")
    lines = said(capsys, "runs", numbers, "--sort", "quality").splitlines()
    assert all(re.search(r"mae +\d", line) for line in lines[1:3])
    assert ">mae<" in (numbers / "net" / "curves.svg").read_text()
    results = json.loads((numbers / "net" / "results.json").read_text())
    assert "confusion" not in results and not (numbers / "net" / "confusion.svg").exists() and results["test"]["mae"] > 0


def test_rows_of_a_table_are_predicted_in_the_units_of_its_target(numbers, tmp_path, capsys):
    data = load_data(str(numbers / "table.csv"))
    rows = np.sort(data.splits["test"])
    lines = (numbers / "table.csv").read_text().splitlines()
    (tmp_path / "test.csv").write_text("\n".join([lines[0], *(lines[1 + row] for row in rows)]))
    out = said(capsys, "predict", numbers / "net", tmp_path / "test.csv", "--cache", "off").splitlines()
    assert out[0].split() == ["predicted", "target"] and len(out) == len(rows) + 3
    predicted, target = np.array([line.split()[2:] for line in out[1:-2]], float).T
    np.testing.assert_allclose(target, data.targets.reshape(-1)[rows], 1e-4)
    mae = json.loads((numbers / "net" / "results.json").read_text())["test"]["mae"]
    assert abs(predicted - target).mean() == pytest.approx(mae, rel=1e-4)
    assert out[-1].startswith(f"mae {mae:.5g}, mse ") and out[-1].endswith(f", of {len(rows)} examples")
    np.testing.assert_allclose(dnas.load(numbers / "net").predict(data.inputs[rows]).reshape(-1), predicted, 1e-4)


def test_columns_may_stand_in_any_order_and_the_target_may_be_missing(numbers, tmp_path, capsys):
    data = load_data(str(numbers / "table.csv"))
    with open(numbers / "table.csv", newline="") as file:
        records = list(csv.DictReader(file))[:3]
    names = ["kind", "other", *(f"m{k}" for k in reversed(range(9)))]
    with open(tmp_path / "new.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows([record | {"other": "x", "kind": "high"} for record in records])
    out = said(capsys, "predict", numbers / "net", tmp_path / "new.csv", "--cache", "off").splitlines()
    inputs = data.inputs[:3].copy()
    inputs[:, 9:] = [1, 0]  # texts in the order of their names
    expected = np.asarray(dnas.load(numbers / "net").predict(inputs)).reshape(-1)
    assert [line.split()[:2] for line in out] == [["line", str(k)] for k in (2, 3, 4)]
    np.testing.assert_allclose([float(line.split()[2]) for line in out], expected, 1e-4)
    np.savez(tmp_path / "new.npz", x=inputs)
    out = said(capsys, "predict", numbers / "net", tmp_path / "new.npz", "--cache", "off").splitlines()
    np.testing.assert_allclose([float(line.split()[2]) for line in out], expected, 1e-4)


@pytest.mark.parametrize("name, content, message", [
    ("a.csv", "m0,m1,m2,m3,m4,m5,m6,m7,target\n1,2,3,4,5,6,7,8,9\n", "no columns 'm8', 'kind'; the features are m0, m1"),
    ("a.csv", "m0,m1,m2,m3,m4,m5,m6,m7,m8,kind\n1,2,3,4,5,6,7,8,9,odd\n", "column 'kind' is 'odd', which is not one of"),
    ("a.csv", "m0,m1,m2,m3,m4,m5,m6,m7,m8,kind\nx,2,3,4,5,6,7,8,9,low\n", "line 2: column 'm0' is 'x', which is not"),
    ("a.csv", "m0,m1,m2,m3,m4,m5,m6,m7,m8,kind\n,2,3,4,5,6,7,8,9,low\n", "a missing value"),
    ("a.csv", "m0,m1,m2,m3,m4,m5,m6,m7,m8,kind,target\n1,2,3,4,5,6,7,8,9,low,much\n", "column 'target' is 'much', which is"),
    ("a.txt", "text", "was not trained on a text; give a .csv table, or a .npz with x [N, 11] float32"),
    ("a.npz", {"x": np.zeros((3, 5))}, "features have shape (3, 5); this network takes [B, 11]"),
    ("a.npz", {"z": np.zeros(3)}, "no array x; its arrays are z"), ("a.npz", {"x": np.zeros((0, 11))}, "x has no examples"),
    ("a.npz", {"x": np.full((2, 11), np.nan)}, "x holds NaN"),
    ("a.npz", {"x": np.zeros((2, 11)), "y": np.zeros(3)}, "3 targets for 2 examples"),
    ("a.png", "", "the network takes float32 features, and pictures are uint8")])
def test_what_does_not_fit_a_table_is_one_line(numbers, tmp_path, capsys, name, content, message):
    file = tmp_path / name
    np.savez(file, **content) if isinstance(content, dict) else file.write_text(content)
    assert message in refused(capsys, "predict", numbers / "net", file, "--cache", "off")
    assert "holds many examples; give it alone" in refused(capsys, "predict", numbers / "net", "b.csv", file)


def test_exports_of_a_table_give_the_same_numbers(numbers, tmp_path, capsys):
    out = said(capsys, "export", numbers / "net", "--format", "stablehlo", "safetensors", "flax", "--out", tmp_path / "out",
               "--cache", "off")
    mae = json.loads((numbers / "net" / "results.json").read_text())["test"]["mae"]
    assert out.count(f"mae {mae:.5g} before and after") == 3 and "88 of the 88 test rows of table" in out
    about = json.loads((tmp_path / "out" / "network.json").read_text())
    assert about["inputs"]["columns"]["target"] == "target" and about["outputs"]["task"] == "regression"
    assert about["inputs"]["columns"]["features"][9] == ["kind", ["high", "low"]]
    copy = shutil.copy(tmp_path / "out" / "network.safetensors", tmp_path / "alone.safetensors")
    said(capsys, "predict", copy, numbers / "table.csv", "--cache", "off")


def test_classes_of_a_table_have_their_names(tmp_path, capsys):
    draw = np.random.default_rng(0)
    rows = [(f"{draw.normal(centre):.4f}", f"{draw.normal():.4f}", name) for name, centre in COLOURS * 40]
    (tmp_path / "colours.csv").write_text("\n".join(["a,b,class", *map(",".join, rows)]))
    said(capsys, "search", "--data", tmp_path / "colours.csv", *DENSE, "--epochs", "1", "--batch", "16", "--run",
         tmp_path / "search", *QUICK)
    out = said(capsys, "train", tmp_path / "search", "--epochs", "20", "--batch", "16", "--run", tmp_path / "net", *QUICK)
    assert "green" in out and (tmp_path / "net" / "confusion.svg").exists()
    said(capsys, "report", tmp_path / "net")
    assert "What is taken for what" in (tmp_path / "net" / "report.html").read_text()
    assert dnas.load(tmp_path / "net").classes == ("blue", "green", "red")
    (tmp_path / "new.csv").write_text("a,b,class\n5.0,0,green\n-5.0,0,red\n")
    first, second, _, metric = said(capsys, "predict", tmp_path / "net", tmp_path / "new.csv", "--top", "1", "--cache",
                                    "off").splitlines()
    assert first.split()[:3] == ["line", "2", "green"] and second.split()[2] == "blue"
    assert metric == "50.00 % accuracy, of 2 examples"
    (tmp_path / "new.csv").write_text("a,b,class\n5.0,0,\n-5.0,0,\n")  # to be filled in
    assert len(said(capsys, "predict", tmp_path / "net", tmp_path / "new.csv", "--cache", "off").splitlines()) == 2
    (tmp_path / "new.csv").write_text("a,b,class\n5.0,0,grey\n")
    assert "'grey', which is not one of the 3 classes" in refused(capsys, "predict", tmp_path / "net", tmp_path / "new.csv")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A search and a training on the beginning of a text."""
    source = Path(os.environ.get("DNAS_DATA", "")) / "tinyshakespeare.txt"
    if "DNAS_DATA" not in os.environ or not source.is_file():
        pytest.skip("needs DNAS_DATA with tinyshakespeare.txt")
    folder = tmp_path_factory.mktemp("text")
    (folder / "play.txt").write_text(source.read_text()[:20_000])
    assert main(["search", "--data", str(folder / "play.txt"), "--window", "16", "--space", CAUSAL, "--epochs", "1",
                 "--batch", "32", "--run", str(folder / "search"), *QUICK]) == 0
    assert main(["train", str(folder / "search"), "--epochs", "2", "--run", str(folder / "net"), *QUICK]) == 0
    return folder


def test_a_text_from_the_search_to_bits_per_character(text, tmp_path, capsys):
    said(capsys, "select", text / "search", "--selection", "magnitude", "--cache", "off")
    results = json.loads((text / "net" / "results.json").read_text())["test"]
    data = load_data(str(text / "play.txt"), window=16)
    found = dnas.load(text / "net", space=CAUSAL)
    assert found.described.input.characters == data.characters
    assert found.predict(data.inputs[:2]).shape == (2, 16)
    letters = data.inputs[data.splits["test"]].reshape(-1).tolist() + [int(data.targets[data.splits["test"]][-1, -1])]
    (tmp_path / "end.txt").write_text("".join(data.characters[letter] for letter in letters))
    out = said(capsys, "predict", text / "net", tmp_path / "end.txt", "--space", CAUSAL, "--cache", "off")
    bits, accuracy, many = re.fullmatch(r"bits ([\d.]+) per character, accuracy ([\d.]+), of ([\d,]+) characters\n",
                                        out).groups()
    assert float(bits) == pytest.approx(results["bits"], abs=1e-3) and many.replace(",", "") == str(len(letters) - 1)
    assert float(accuracy) == pytest.approx(results["accuracy"], abs=1e-3)
    out = said(capsys, "export", text / "net", "--format", "stablehlo", "safetensors", "--space", CAUSAL, "--out",
               tmp_path / "out", "--cache", "off")
    assert "test sequences of play" in out and out.count("bits") == 2
    about = json.loads((tmp_path / "out" / "network.json").read_text())
    assert about["inputs"]["type"] == "int32" and about["outputs"]["shape"] == ["any", 16, len(data.characters)]
    out = said(capsys, "show", text / "search", "--space", CAUSAL, "--out", tmp_path / "cells")
    assert "edge_0" in out


@pytest.mark.parametrize("content, message", [
    ("to be\n\u00e9 or not to be, that is", "line 2: character '\\xe9' is not one of the"), ("short", "need 17")])
def test_other_texts_are_one_line(text, tmp_path, capsys, content, message):
    (tmp_path / "a.txt").write_text(content)
    assert message in refused(capsys, "predict", text / "net", tmp_path / "a.txt", "--space", CAUSAL)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert "not trained on a table; give a .txt text" in refused(capsys, "predict", text / "net", tmp_path / "a.csv",
                                                                "--space", CAUSAL)


def test_runs_of_two_tasks_are_not_compared(numbers, text, tmp_path, capsys):
    error = refused(capsys, "compare", numbers / "search", text / "search", "--out", tmp_path / "c")
    assert "is of task regression, and" in error and "of task next-token; runs of one task can be compared" in error
    assert not (tmp_path / "c").exists()


@pytest.mark.heavy
def test_a_task_of_ones_own(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(TASK)
    place = f"{tmp_path}/mine.py:absolute"
    said(capsys, "search", "--data", "diabetes", "--task", place, *DENSE, "--epochs", "1", "--batch", "32", "--run",
         tmp_path / "search", *QUICK)
    out = said(capsys, "train", tmp_path / "search", "--epochs", "1", "--run", tmp_path / "net", *QUICK)
    assert "centi" in out
    results = json.loads((tmp_path / "net" / "results.json").read_text())["test"]
    assert results["centi"] == pytest.approx(results["loss"], rel=1e-5)
    assert "centi" in said(capsys, "runs", tmp_path)
    data = load_data("diabetes")
    rows = data.splits["test"]
    np.savez(tmp_path / "new.npz", x=data.inputs[rows], y=data.targets[rows])
    copy = shutil.copytree(tmp_path / "net", tmp_path / "copy")  # which this user has not begun
    load = dnas.registry.load
    with monkeypatch.context() as patched:
        patched.setattr("dnas.registry.load", lambda name: load(name) if "mine" not in name else pytest.fail("imported"))
        error = refused(capsys, "predict", copy, tmp_path / "new.npz")
    assert "names the task 'mine.py:absolute', and nothing is imported because a file says so" in error
    outs = [said(capsys, "predict", *argv, tmp_path / "new.npz", "--cache", "off") for argv in (
        [tmp_path / "net"], [copy, "--task", place], [copy, "--trust"])]
    assert f"centi {results['centi']:.5g}" in outs[0] and len(outs[0].splitlines()) == len(rows) + 2
    assert outs[1] == outs[2] == outs[0]
    assert dnas.load(tmp_path / "net", task=place).task.name == "absolute"
    for argv in [tmp_path / "net"], [copy, "--task", place]:
        out = said(capsys, "export", *argv, "--format", "stablehlo", "--cache", "off")
        assert "centi" in out and "test rows of diabetes" in out


def test_columns_of_a_comparison_by_task():
    of_shares, of_errors = comparison.metrics_of(Quality()), comparison.metrics_of(Quality("mae", -1, False))
    assert of_shares == comparison.METRICS and of_shares["discrete"].title == "discretised %"
    assert of_errors["discrete"].title == "discretised mae" and of_errors["discrete"].better == -1
    assert of_errors["discrete"].text(44.1234) == "44.12" and of_errors["discrete"].text(0.00012345) == "0.0001234"
    assert comparison.spell(of_errors["trained"], (44.1234, 1.5, 2)) == "44.12 ± 1.5"
    assert of_errors["gap"].better == of_shares["gap"].better == -1
