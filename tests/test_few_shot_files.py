"""Files of a few-shot search that were lost, damaged or put there by somebody else: one line each, and no other state."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import dnas
from dnas.api.supernet import Supernet
from dnas.fewshot.split import read_split
from dnas.runs.children import children_of, read_choice
from dnas.runs.directory import holds_run
from dnas.runs.index import list_runs
from dnas.types import Genotype, Group
from tests.test_load import refused
from tests.test_runs import GENOTYPE, GROUPS, SEARCH, write_run
from tests.toy_space import toy

CONFIG = {**SEARCH, "split": {"split": "gm", "splits": 1, "split_epochs": [1], "split_batches": 2,
                              "split_weights": "inherit", "split_train_epochs": 1}}
CHILD = {"within": "cell 0->1 skip", "cell": "|a|", "trained": [0.5], "holdout": {"loss": 1.0, "accuracy": 0.5}}
CHOICE = {"chosen": 1, "children": [{"name": "0", **CHILD}, {"name": "1", **CHILD}], "supernet_epochs": 5, "gradients": 0}
WITHIN = [{"group": "cell", "edge": 0, "ops": ["skip"]}]


def write(file, value):
    file.write_text(json.dumps(value))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A few-shot search that has ended, without checkpoints."""
    folder = write_run(tmp_path_factory.mktemp("few") / "run", CONFIG)
    for name in "01":
        (folder / "children" / name).mkdir(parents=True)
        write(folder / "children" / name / "config.json", {**CONFIG, "within": WITHIN})
        write(folder / "children" / name / "results.json", {"cell": "|a|"})
    write(folder / "children/choice.json", CHOICE)
    write(folder / "results.json", {"cell": "|a|", "chosen": 1, "children": CHOICE["children"]})
    return folder


@pytest.fixture
def run(written, tmp_path):
    return shutil.copytree(written, tmp_path / "run")


def refuses(run, said):
    """All that goes by the children raises this one line, and the run is listed."""
    supernet = Supernet(run, CONFIG, None, None, None, None, 3)
    for read in (lambda: children_of(run), lambda: supernet.state_of(GENOTYPE), lambda: dnas.open(run).children):
        with pytest.raises(ValueError, match=said) as error:
            read()
        assert "\n" not in str(error.value)
    assert [each.status for each in list_runs(run)] == ["done"]


def test_children_are_those_of_the_choice(run):
    assert children_of(run) == [run / "children/0", run / "children/1"] and read_choice(run) == CHOICE
    assert [child.folder for child in dnas.open(run).children] == children_of(run)
    assert children_of(run / "children/0") == []


@pytest.mark.parametrize("lost", ["children", "children/choice.json"])
def test_children_that_are_lost_are_not_the_chosen_one(run, lost):
    shutil.rmtree(run / lost) if lost == "children" else (run / lost).unlink()
    refuses(run, "run is a few-shot search that has ended, and its .*choice.json is gone; restore it")
    (run / "results.json").unlink()
    assert children_of(run) == []


@pytest.mark.parametrize("changed", [
    {"chosen": 7}, {"chosen": -1}, {"chosen": True}, {"chosen": None}, {"children": []}, {"children": {"name": "0"}},
    {"children": [3]}, {"children": [{**CHILD, "name": 3}]}, {"children": [{**CHILD, "name": "../../base"}]},
    {"children": [{**CHILD, "name": "0/"}]}, {"children": [{**CHILD, "name": "0\n"}]}, {"children": [{"name": "0"}]},
    {"children": [{**CHILD, "name": "0", "trained": ["x"]}]}, {"children": [{**CHILD, "name": "0", "holdout": 3}]},
    {"children": [{**CHILD, "name": "0"}] * 2}, {"supernet_epochs": "5"}, {"gradients": None}], ids=str)
def test_a_damaged_choice_is_one_line(run, changed):
    write(run / "children/choice.json", {**CHOICE, "chosen": 0, **changed})
    refuses(run, "choice.json is damaged: .*; restore it")
    with pytest.raises(ValueError, match="choice.json is damaged"):
        read_choice(run)


def test_a_page_is_not_written_of_damaged_children(run, capsys):
    assert "results.json is damaged: chosen is 7" in _reported(run, capsys, "results.json", {"chosen": 7, "children": [
        {"name": "0", **CHILD}]})
    write(run / "results.json", {"cell": "|a|", "chosen": 1, "children": CHOICE["children"]})
    assert "choice.json is damaged" in _reported(run, capsys, "children/choice.json", {})


def _reported(run, capsys, name, value):
    write(run / name, value)
    return refused(capsys, "report", run)


def test_links_are_not_followed(run, tmp_path):
    for name in ("children/1", "children"):
        (run / name).rename(tmp_path / "elsewhere")
        (run / name).symlink_to(tmp_path / "elsewhere")
        refuses(run, f"{name} is a link")
        with pytest.raises(ValueError, match=f"{name} is a link"):
            holds_run(run, CONFIG)
        (run / name).unlink()
        (tmp_path / "elsewhere").rename(run / name)


def test_another_run_is_no_child(run):
    file = run / "children/1/config.json"
    for config, said in (({**CONFIG, "within": WITHIN, "seed": 8}, "seed is 8 there, 7 here"), (CONFIG, "has no within"),
                         ({**CONFIG, "within": WITHIN, "space": {"name": "theirs.py:toy"}}, "space.name is .theirs")):
        write(file, config)
        refuses(run, f"children/1 is not a child of .*{said}.*; restore it")
    shutil.rmtree(file.parent)
    refuses(run, "children/1/config.json: No such file")


def test_a_child_scores_its_own_networks_only():
    space = toy()
    mask = {"chain": np.array([[True, True, False, False], [True] * 4])}
    child = Supernet(None, {**CONFIG, "within": WITHIN}, space, None, None, SimpleNamespace(mask=mask), 3)
    with pytest.raises(ValueError, match="is a child of a few-shot search, and does not have the network .*; use the run"):
        child.state_of(Genotype.from_decisions(space, {"chain": [2, 0]}))
    child.__dict__["context"] = SimpleNamespace(state="its own")
    assert child.state_of(Genotype.from_decisions(space, {"chain": [1, 3]})) == "its own"


SPLIT = {"group": "cell", "edge": 1, "ops": [["conv"], ["skip"]], "gradients": 4, "similarity": 0.5}


def test_a_split_is_read_as_it_was_written(tmp_path):
    write(tmp_path / "split.json", SPLIT)
    edges = {("cell", 0): [1, 2], ("cell", 1): [1, 2]}
    assert read_split(tmp_path / "split.json", GROUPS, edges) == (("cell", 1), [[2], [1]], SPLIT)
    own = {"cell": Group(((0, 1), (0, 2)), (("a", "b"), ("c", "d", "e")))}
    write(tmp_path / "split.json", {**SPLIT, "ops": [["e", "c"], ["d"]]})
    assert read_split(tmp_path / "split.json", own, {("cell", 1): [0, 1, 2]})[1] == [[2, 0], [1]]


@pytest.mark.parametrize("changed", [
    {"edge": 77}, {"edge": 2}, {"edge": True}, {"edge": None}, {"group": "other"}, {"group": ["cell"]}, {"ops": None},
    {"ops": [["conv", "skip"]]}, {"ops": [["conv", "skip"], []]}, {"ops": [["conv"], ["conv"]]}, {"ops": [["conv"], [1]]},
    {"ops": [["conv"], ["none"]]}, {"ops": [["conv"], ["skip", "none"]]}, {"ops": ["conv", "skip"]}, {"gradients": "4"},
    {"similarity": "x"}], ids=str)
def test_a_damaged_split_is_one_line(tmp_path, changed):
    write(tmp_path / "split.json", {**SPLIT, **changed})
    with pytest.raises(ValueError, match=r"split.json is damaged: [^\n]*; restore it$"):
        read_split(tmp_path / "split.json", GROUPS, {("cell", 0): [1, 2], ("cell", 1): [1, 2]})
