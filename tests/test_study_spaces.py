"""Studies of several spaces: methods are compared within a space, and a table is for its own."""

import json

import numpy as np
import pytest

import dnas
from dnas.api.parts import space
from dnas.runs.study_folder import entry_file
from dnas.studies.folder import declare
from dnas.studies.plan import plan_study
from dnas.tabular.nasbench201 import BENCHMARK
from tests.test_study import FAST, STUDY, TOY, toml
from tests.test_study_report import CELLS

SPACES = [{"name": "nasbench201", "channels": 2, "cells": 1}, {"name": TOY, "label": "tiny"},
          {"name": TOY, "label": "wide", "channels": 8}]
OWN = {"name": "darts", "label": "own", "space": {"partial_channels": 2}}


def several(**changes):
    return {**{key: value for key, value in STUDY.items() if key != "space"}, "spaces": SPACES, **changes}


def test_every_method_is_one_in_every_space():
    plan = plan_study(several(methods=["darts", FAST]), True)
    assert [each.label for each in plan.methods] == [
        "darts,nasbench201", "fast,nasbench201", "darts,tiny", "fast,tiny", "darts,wide", "fast,wide"]
    assert [each.within for each in plan.methods[1:3]] == ["nasbench201", "tiny"]
    assert [each.space.get("channels") for each in plan.methods] == [2, 2, 4, 4, 8, 8]
    assert [each.method["arch_lr"] for each in plan.methods[:2]] == [each.method["arch_lr"] for each in plan.methods[4:]]


@pytest.mark.parametrize("changes, message", [
    ({"space": {"name": TOY}}, "has space and spaces; put all of them into [[spaces]]"),
    ({"spaces": [{"name": TOY}, {"name": TOY}]}, "two spaces are called toy; give each a label"),
    ({"spaces": []}, "spaces is []; it must be a list of names or tables, [[spaces]]"),
    ({"spaces": [{"name": TOY, "label": "a/b"}]}, "label 'a/b' names a folder"),
    ({"spaces": ["nasbench2"]}, "did you mean 'nasbench201'?"),
    ({"spaces": [{"name": TOY, "label": "b,c"}, {"name": TOY, "label": "c"}],
      "methods": [{"name": "darts", "label": "a"}, {"name": "darts", "label": "a,b"}]}, "two methods are called a,b,c"),
    ({"spaces": [{"name": TOY}], "table": {"file": "t.npz"}}, "a table is for runs of nasbench201")])
def test_spaces_that_are_refused(changes, message):
    with pytest.raises(ValueError) as error:
        dnas.study(several(**changes), "absent", trust=True)
    assert message in str(error.value)


@pytest.mark.heavy
def test_a_study_file_of_two_spaces(tmp_path):
    said = {**STUDY, "spaces": SPACES[1:], "seeds": [0]}
    said.pop("space")
    file = tmp_path / "mine.toml"
    file.write_text("\n".join(f"{key} = [{', '.join(map(toml, value))}]" if isinstance(value, list) else
                              f"{key} = {toml(value)}" for key, value in said.items()))
    result = dnas.study(file, tmp_path / "s", trust=True, progress=False)
    assert [each.method for each in result.entries] == ["darts,tiny", "darts,wide"] and not result.failures
    assert dnas.open(tmp_path / "s/runs/darts,wide/0").config["space"]["channels"] == 8
    assert result.entries[1].values["params"] > result.entries[0].values["params"]
    assert str(result).count("space ") == 2 and not result.differences


@pytest.fixture
def reported(tmp_path):
    """A study of a table's space and another, two methods each, whose searches were never carried out."""
    ops = np.stack(np.unravel_index(np.arange(BENCHMARK.size), (5,) * 6), 1)
    worth = (ops == BENCHMARK.ops.index("nor_conv_3x3")).sum(1) * 10.0
    np.savez(tmp_path / "table.npz", ops=ops, code=np.arange(BENCHMARK.size), op_names=np.array(BENCHMARK.ops),
             cifar10_test_200=worth)
    plan, folder = plan_study(several(spaces=SPACES[:2], methods=["darts", FAST], seeds=7, table={
        "file": str(tmp_path / "table.npz")}), True), tmp_path / "s"
    folder.mkdir()
    declare(folder, plan)
    data = dnas.data.load("digits", limit=200)
    cell, toy = space("nasbench201", data, channels=2, cells=1), space(TOY, data)
    for method in plan.methods:
        for seed in plan.seeds:
            better = method.label.startswith("fast")
            genotype = cell.parse(CELLS["good" if better else "poor"]) if method.within == "nasbench201" else \
                toy.genotype({name: np.ones(group.shape) for name, group in toy.groups.items()})
            value = 10.0 + seed + (1 + seed) * better  # of the same sign in both spaces
            epochs = [{"epoch": epoch, "seconds": 2.0 * epoch, "entropy": 1.0, "genotype": genotype.to_json(), "skips": 1,
                       "edges": 6} for epoch in (0, 1)]
            choice = {"source": {}, "genotype": genotype.to_json(), "notation": "x", "values": {"discrete": value}}
            file = entry_file(folder, method.label, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"label": method.label, "seed": seed, "seconds": 2.0, "epochs": epochs,
                                        "selections": {"magnitude": choice}}))
    return folder


def test_methods_are_compared_within_a_space_and_a_table_is_for_its_own(reported):
    result = dnas.study_report(reported)
    by_label = {each.method: each.values for each in result.entries if each.seed == 0}
    assert by_label["fast,nasbench201"]["table"] == 50 and "table" not in by_label["fast,tiny"]
    assert {point.regret for point in result.points if point.method == "darts,tiny"} == {None}
    assert [(each.metric, each.space, each.first, each.second, each.p, each.corrected) for each in result.differences] == [
        ("table", "nasbench201", "fast,nasbench201", "darts,nasbench201", 2 / 128, 2 / 128),
        ("discrete", "nasbench201", "fast,nasbench201", "darts,nasbench201", 2 / 128, 4 / 128),  # of two comparisons
        ("discrete", "tiny", "fast,tiny", "darts,tiny", 2 / 128, 4 / 128)]
    ranks = [(each.space, each.method, each.rank.mean) for each in result.ranks if each.metric == "discrete"]
    assert ranks == [("nasbench201", "darts,nasbench201", 2), ("nasbench201", "fast,nasbench201", 1),
                     ("tiny", "darts,tiny", 2), ("tiny", "fast,tiny", 1)]
    firsts = [line for line in result.claims if "has the first mean rank" in line]
    assert [line.split(" with ")[0] for line in firsts] == ["fast,nasbench201", "fast,nasbench201", "fast,tiny"]
    text, page = str(result), (reported / "report.html").read_text()
    parts = text.split("space tiny")
    assert "table %" in parts[0] and "table %" not in parts[1].split("\n\n")[1] and max(map(len, text.splitlines())) <= 80
    for heading in "Methods and selections: tiny", "Mean ranks: nasbench201":
        assert heading in page
    assert "2 methods in 2 spaces, 1 selection, 28 searches of 1 epoch, each epoch of 5 steps of 16 examples." in page
    assert "Space nasbench201 (channels 2): darts,nasbench201, fast,nasbench201." in page
    assert "Space toy: darts,tiny, fast,tiny." in page
    assert "Data digits (limit 200): 90 train, 90 valid, 20 hold-out, 359 test examples." in page
