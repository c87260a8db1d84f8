"""What tables may be used for in a study, and what its report says of choices."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.runs.files import read_json
from dnas.runs.study_folder import entry_file
from dnas.studies import job as jobs
from dnas.studies.folder import declare
from dnas.studies.plan import plan_study
from dnas.tabular import benchmarks
from dnas.tabular.benchmarks import load
from dnas.tabular.nasbench201 import BENCHMARK
from dnas.tabular.table import without_test
from tests.test_load import refused, said
from tests.test_study import FAST, STUDY

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of all cells in which convolutions are good."""
    ops = np.stack(np.unravel_index(np.arange(BENCHMARK.size), (5,) * 6), 1)
    worth = (ops == BENCHMARK.ops.index("nor_conv_3x3")).sum(1) * 10.0
    path = tmp_path_factory.mktemp("table") / "table.npz"
    np.savez(path, ops=ops, code=np.arange(BENCHMARK.size), op_names=np.array(BENCHMARK.ops),
             cifar10_test_200=worth, cifar10_valid_12=worth / 2)
    return path


CELL = {"space": {"name": "nasbench201", "channels": 2, "cells": 1}, "seeds": [0], "methods": ["darts"]}


def test_test_columns_are_for_reports_only(table):
    assert set(without_test(load(table)).columns) == {"cifar10_valid_12"}
    with pytest.raises(ValueError, match="'cifar10_test_200' of accuracies to choose; test columns are for reports only"):
        dnas.study({**STUDY, **CELL, "table": {"file": str(table), "choose": "cifar10_test_200"}}, "absent", trust=True)
    assert "table" not in jobs.Job._fields  # what a search and a selection are given
    rooms = ("algorithms", "methods", "selection", "engine", "data", "runs", "studies/job.py", "studies/worker.py",
             "studies/run.py", "studies/plan.py", "api/search.py", "api/search_plan.py", "api/select.py")
    for room in rooms:
        path = ROOT / "dnas" / room
        for file in [path] if path.is_file() else path.rglob("*.py"):
            names = [alias for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)
                     for alias in (node.module or "", *(f"{node.module}.{each.name}" for each in node.names))]
            assert not any(name.startswith(("dnas.tabular", "dnas.studies.truth")) for name in names), file


@pytest.mark.heavy
def test_a_table_is_read_for_the_report_alone(table, tmp_path, monkeypatch):
    said = {**STUDY, **CELL, "table": {"file": str(table), "choose": "cifar10_valid_12"}}
    said["budget"] = {"epochs": 1, "batch": 16, "train_epochs": 1}
    carry, read = jobs.carry_out, benchmarks.read_arrays

    def without_tables(*args):
        monkeypatch.setattr(benchmarks, "read_arrays", None)
        errors = carry(*args)
        monkeypatch.setattr(benchmarks, "read_arrays", read)
        return errors

    monkeypatch.setattr("dnas.studies.run.carry_out", without_tables)
    result = dnas.study(said, tmp_path / "s", progress=False)
    assert not result.failures
    (entry,) = result.entries
    assert entry.values["table"] == 10 * entry.notation.count("nor_conv_3x3") == 2 * entry.values["valid"]
    assert [point.regret for point in result.points][-1] == 60 - entry.values["table"]
    assert result.judged == ["table", "valid", "trained", "discrete"] and "table %" in str(result)


CELLS = {"good": "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
         "poor": "|none~0|+|skip_connect~0|none~1|+|skip_connect~0|skip_connect~1|skip_connect~2|"}


@pytest.fixture
def reported(table, tmp_path):
    """A study of two methods and six seeds whose searches were never carried out: the files are written here."""
    from dnas.api.parts import space

    cell, folder = space("nasbench201", dnas.data.load("digits", limit=200), channels=2, cells=1), tmp_path / "s"
    said = {**STUDY, **CELL, "seeds": 6, "methods": ["darts", FAST], "table": {"file": str(table)}}
    folder.mkdir()
    declare(folder, plan_study(said))
    for label in "darts", "fast":
        for seed in range(6):
            notation = CELLS["good" if label == "fast" or seed == 0 else "poor"]
            genotype = cell.parse(notation).to_json()
            choice = {"source": {}, "genotype": genotype, "notation": notation, "values": {"discrete": 10.0 + seed}}
            epochs = [{"epoch": epoch, "seconds": 2.0 * epoch, "entropy": 1.0, "genotype": genotype,
                       "skips": notation.count("skip"), "edges": 6} for epoch in (0, 1)]
            file = entry_file(folder, label, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"label": label, "seed": seed, "seconds": 2.0, "epochs": epochs,
                                        "selections": {"magnitude": choice}}))
    return folder


def test_the_report_looks_the_choices_up_in_the_table(reported, capsys):
    result = dnas.study_report(reported)
    assert [entry.values["table"] for entry in result.entries[:2]] == [50, 0] and result.judged == ["table", "discrete"]
    assert [point.regret for point in result.points[:4]] == [10, 10, 60, 60]  # of the best cell: six convolutions, 60
    assert result.agreement == {("darts", "magnitude"): pytest.approx(((5 * 1 / 6) + 10) / 15), ("fast", "magnitude"): 1}
    (by_table, by_discrete) = result.differences
    assert (by_table.difference.mean, by_table.p, by_discrete.p) == (pytest.approx(50 * 5 / 6), 2 / 32, 1.0)
    assert result.claims[-1].startswith("5 of 6 searches of darts ended with skips on more than half")
    out = said(capsys, "study", "report", reported)
    assert max(map(len, out.splitlines()[:-1])) <= 80 and "table %" in out and "41.67" in out
    page = (reported / "report.html").read_text()
    headings = "Mean ranks", "Differences by seed", "Agreement of seeds", "Every choice"
    assert all(part in page for part in (*headings, CELLS["poor"], "regret", *result.claims))


def test_an_interval_of_two_percentages_is_cut_at_the_largest_difference(reported):
    for label in "darts", "fast":
        for seed in range(2, 6):
            entry_file(reported, label, seed).unlink()
    assert dnas.study_report(reported).differences[0].difference == (pytest.approx(25), -100, 100)  # of 0 and 50


def test_a_study_of_an_older_version_is_read(reported, capsys):
    said_before = read_json(reported / "study.json")
    for key in "slurm", "seconds", "sizes":
        said_before.pop(key)
    said_before["latest"].pop("selections")
    said_before["methods"] = [each[:3] for each in said_before["methods"]]
    (reported / "study.json").write_text(json.dumps(said_before))
    assert len(dnas.study_report(reported).searches) == 12
    assert f"study  {reported}: 12 done" in said(capsys, "runs", reported)


def test_a_damaged_entry_is_one_clear_line(reported, capsys):
    file = reported / "entries/darts/3.json"
    file.write_text('{"label": "darts"}')
    assert f"{file} lacks seed, seconds, epochs, selections; remove it" in refused(capsys, "study", "report", reported)
    file.unlink()
    for label in "../x", "/etc":
        said = read_json(reported / "study.json")
        said["methods"][0][0] = label
        (reported / "other").mkdir(exist_ok=True)
        (reported / "other/study.json").write_text(json.dumps(said))
        assert "no name of a folder" in refused(capsys, "study", "report", reported / "other")
    assert "ranks are over the 5 seeds that all rows have" in str(dnas.study_report(reported))
    assert len(dnas.study_report(reported).searches) == 11 and dnas.study_report(reported).missing == [("darts", 3)]


def test_the_report_stays_within_80_columns_whatever_the_names(reported):
    long = "a-method-with-a-very-long-label=0.0001,and-more"
    for part in "entries", "runs":
        if (reported / part).exists():
            (reported / part / "fast").rename(reported / part / long)
    declared = read_json(reported / "study.json")
    declared["methods"][1][0] = long
    (reported / "study.json").write_text(json.dumps(declared))
    for file in (reported / "entries" / long).iterdir():
        file.write_text(json.dumps(read_json(file) | {"label": long}))
    text = str(dnas.study_report(reported))
    assert max(map(len, text.splitlines())) <= 80 and "a-method-with-a..." in text
