"""What names and numbers in files can do to a terminal, a picture or a page: nothing."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.printing import print_flushed, printable
from dnas.reports.cells import draw_genotype
from dnas.reports.figures import draw_curves, draw_dots, draw_logits
from dnas.types import Genotype, Group
from launch.main import main
from tests.test_runs import SEARCH, TRAIN, write_run

ESCAPE = "\x1b]0;pwned\x07\x1b[31m\u202e\u200f"
FORMULAS = "$\\frac{$", "$x$", "$", "a$b$c", "\\", "{}%s"


def safe(text):
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


def test_what_is_printed_commands_nothing(capsys):
    text = f"a{ESCAPE}b\n\tc \xfc \N{MULTIPLICATION SIGN} \udcff"
    assert printable(text) == "a?]0;pwned??[31m??b\n\tc \xfc \N{MULTIPLICATION SIGN} \\udcff"
    print_flushed(text)
    assert capsys.readouterr().out == printable(text) + "\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run whose config, environment and records say what a terminal would obey, in a folder that is called like that."""
    monkeypatch.chdir(tmp_path)
    name = ESCAPE.replace("/", "")
    config = SEARCH | {"space": {"name": f"mine.py:{ESCAPE}"}, "method": {"name": f"m:{ESCAPE}"}, "seed": 10**200,
                       "data": [f"/x/{ESCAPE}.npz"], "metric": {"name": ESCAPE, "better": 1, "percent": False}}
    folder = write_run(tmp_path / "runs" / name, SEARCH)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "environment.json").write_text(json.dumps({"date": ESCAPE, "command": ESCAPE, ESCAPE: 1}))
    rows = [{"epoch": epoch, "loss": {"holdout": 1e299}, ESCAPE: {"holdout": 1e299}} for epoch in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "timing.jsonl").write_text('{"epoch": 1, "seconds": 1e299}\n')
    return folder


@pytest.mark.parametrize("argv", [
    ["runs", "runs"], ["runs", "runs", "--format", "csv"], ["runs", "runs", "--format", "json"], ["runs", "RUN"],
    ["report", "RUN"], ["show", "RUN"], ["evaluate", "RUN"], ["select", "RUN"], ["train", "RUN"], ["predict", "RUN", "x"],
    ["search", "--config", "RUN/config.json"], ["show", ESCAPE], ["runs", ESCAPE], [ESCAPE], ["search", f"--{ESCAPE}"],
    ["search", "--data", ESCAPE], ["search", "--space", ESCAPE], ["train", "x", "--task", ESCAPE]])
def test_a_command_prints_nothing_that_a_terminal_obeys(folder, capfd, argv):
    code = main([word.replace("RUN", str(folder)) for word in argv])
    out, err = capfd.readouterr()
    assert code in (0, 2) and safe(out) and safe(err) and err.count("\n") <= 1
    assert max((len(line) for line in out.splitlines() if "--format" not in argv), default=0) < 1000


def test_a_run_shows_itself_in_python_without_that(folder):
    change = json.loads((folder / "config.json").read_text()) | {"metric": SEARCH.get("metric", {
        "name": "mae", "better": 1, "percent": False})}
    (folder / "config.json").write_text(json.dumps(change))
    (folder / "results.json").write_text(json.dumps({"cell": ESCAPE}))
    assert safe(repr(dnas.open(folder))) and "?[31m" in repr(dnas.open(folder))


def test_no_number_makes_a_line_of_hundreds_of_digits(folder, capsys):
    assert main(["runs", "runs"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert len(line) < 250 and "e+299" in line
    assert main(["runs", "runs", "--format", "csv"]) == 0
    [row] = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(row["value"]) == 1e299


@pytest.mark.parametrize("name", FORMULAS)
def test_no_name_is_a_formula(tmp_path, name):
    """Of an operation, a space, a metric, a selection."""
    groups = {f"cell {name}": Group(((0, 1), (0, 2), (1, 2)), ("none", name))}
    genotype = Genotype(name, {}, {f"cell {name}": [(0, 1, name), (1, 2, "none")]})
    for suffix in "svg", "png":
        draw_genotype(genotype, groups, tmp_path / f"cells.{suffix}")
        draw_logits({f"cell {name}": np.zeros((3, 3, 2))}, groups, tmp_path / f"logits.{suffix}")
        draw_curves([{"epoch": 1, "loss": {"train": 1}, name: {"holdout": 2}}], tmp_path / f"curves.{suffix}")
        draw_dots({f"metric {name}": {name: [1, 2]}}, tmp_path / f"dots.{suffix}")
    assert genotype._repr_svg_()
    for picture in "cells", "dots":
        text = (tmp_path / f"{picture}.svg").read_text()
        assert name.replace("&", "&amp;") in text


def test_a_picture_of_strange_letters_is_silent(tmp_path, capfd):
    groups = {"cell": Group(((0, 1),), ("\u4e00\ue000\U0010fffd",))}
    draw_genotype(Genotype("toy", {}, {"cell": [(0, 1, groups["cell"].ops[0])]}), groups, tmp_path / "cells.png")
    assert capfd.readouterr() == ("", "")


def test_data_that_would_be_waited_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for suffix in "npz", "csv", "txt", "png":
        os.mkfifo(f"pipe.{suffix}")
    Path("pieces").mkdir()
    os.mkfifo("pieces/a.npz")
    Path("pictures/cats").mkdir(parents=True)
    Path("pictures/dogs").mkdir(parents=True)
    for kind in "cats", "dogs":
        os.mkfifo(f"pictures/{kind}/a.png")
    for name in "pipe", "pipe.npz", "pipe.csv", "pipe.txt", "pieces", "pictures", "/dev/zero", "/dev/stdin":
        with pytest.raises(ValueError) as caught:
            dnas.data.load(name)
        assert "\n" not in str(caught.value)
    for argv in (["evaluate", "darts-v2", "--table", "pipe.npz"], ["table", "import", "pipe"]):
        assert main(argv) == 2
    config = write_run(tmp_path / "run", TRAIN) / "config.json"
    config.write_text(json.dumps(TRAIN | {"data": ["/dev/zero"], "space": {"name": "toy"}}))
    assert main(["train", "run", "--run", "run"]) == 2
