"""Few-shot searches: children of a supernet that go on with its state, the choice of one, and that all of it resumes."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

import dnas
from dnas.fewshot.split import containing
from dnas.reports.children import children_parts
from dnas.runs import checkpoint
from dnas.runs.index import Quality, list_runs
from dnas.types import Genotype
from launch.main import main
from tests.test_load import refused
from tests.test_search import contents, same, tiny
from tests.test_sweep_command import QUICK, TOY
from tests.toy_lanes import once
from tests.toy_space import toy

SPLIT = {"split": "gm", "splits": 2, "split_batches": 2, "split_train_epochs": 1}


@pytest.fixture(scope="module")
def parts():
    """Data, space and method of all these searches."""
    data = tiny()
    return toy(data.image, data.classes), once(dnas.method("darts", lr=0.1)), data


def go(parts, out=None, **options):
    return dnas.search(*parts, **{**SPLIT, "epochs": 3, "batch": 16, "selection": "own", "progress": False, "cache": "off",
                                  "out": out and str(out), **options})


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    return go(parts, tmp_path_factory.mktemp("few") / "whole")


def equal_parts(folder):
    """What must be equal in equal few-shot searches: all but seconds, which the checkpoints of the halving have too."""
    return {name: data for name, data in contents(folder).items()
            if "cost" not in name and "halving/checkpoints" not in name}


def state_of(folder, template, epoch):
    return checkpoint.restore(folder / "checkpoints" / f"{epoch:05d}.safetensors", template)[0]


def test_children_begin_with_all_that_their_parent_has_but_its_mask(whole):
    template, top = whole.supernet.state, whole.folder
    for parent, names, epoch in ((top, "01", 1), (top / "children/0", ("0-0", "0-1"), 2)):
        before = state_of(parent, template, epoch)
        children = [state_of(top / "children" / name, template, epoch) for name in names]
        for child in children:
            assert same(before._replace(mask=()), child._replace(mask=())) and not same(before.mask, child.mask)
        masks = [child.mask["chain"] for child in children]
        assert (masks[0] | masks[1] == before.mask["chain"]).all() and (masks[0] & masks[1]).any(-1).sum() == 1
    records = [json.loads(line) for line in (top / "children/0-1/metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3] and records[2]["step"] == int(template.step) == 12


def test_fresh_children_begin_with_new_weights_and_all_of_a_schedule(parts, whole, tmp_path):
    run = go(parts, tmp_path / "fresh", split_weights="fresh")
    template = run.supernet.state
    parent, child = (state_of(run.folder / "children" / name, template, 2) for name in ("0", "0-0"))
    assert same(parent.arch, child.arch) and int(child.step) == 0 and not jax.tree.leaves(child.weights_opt)[0].any()
    assert all((a != b).any() for a, b in zip(jax.tree.leaves(parent.weights), jax.tree.leaves(child.weights)) if a.any())
    assert same(state_of(whole.folder / "children/0", template, 2), parent)
    assert run.supernet.epoch == 3 and int(run.supernet.state.step) == 4
    assert same(run.gates, dnas.open(run.folder, space=parts[0], method=parts[1], data=parts[2]).gates)


def test_the_run_is_in_the_end_that_of_the_chosen_child(parts, whole):
    listed = whole.results["children"]
    assert [each["name"] for each in listed] == ["0-0", "0-1", "1-0", "1-1"] and len(whole.children) == 4
    rounds = [each["trained"] for each in listed]
    assert sorted(map(len, rounds)) == [1] * 4 or max(map(len, rounds)) == 1  # one epoch is one round
    best = max(range(4), key=lambda n: rounds[n][-1])
    assert whole.results["chosen"] == best == next(n for n in range(4) if rounds[n] == max(rounds))
    chosen = whole.folder / "children" / listed[best]["name"]
    for name in ("genotype.json", "metrics.jsonl", "arch.npz", "checkpoints/00003.safetensors"):
        assert (whole.folder / name).read_bytes() == (chosen / name).read_bytes()
    again = dnas.open(whole.folder, space=parts[0], method=parts[1], data=parts[2])
    assert again.genotype == whole.genotype == again.children[best].genotype and again.supernet.epoch == 3
    assert same(again.supernet.state.mask, again.children[best].supernet.state.mask)
    for child in again.children:
        assert same(again.supernet.state_of(child.genotype).mask, child.supernet.state.mask)
    choice = json.loads((whole.folder / "children/choice.json").read_text())
    assert choice["supernet_epochs"] == 1 + 2 + 4 and choice["gradients"] == 2 * (8 + 4 + 4)
    assert [run.folder for run in list_runs(whole.folder)] == [whole.folder]
    assert {run.status for run in list_runs(whole.folder / "children") if "-" in run.folder.name} == {"done"}


def test_the_page_of_the_run_shows_its_children(whole):
    listed = whole.results["children"]
    [heading, table] = children_parts(whole.results, Quality(), whole.folder)
    assert "few-shot" in heading and all(each["within"].replace(">", "&gt;") in table for each in listed)
    assert table.count("chosen") == 1 and children_parts({}, Quality(), whole.folder) == []


def test_every_network_is_in_one_child(whole):
    masks = [child.supernet.state.mask for child in whole.children]
    groups = whole.supernet.space.groups
    count = np.zeros(4, int)
    for first, second in np.ndindex(4, 4):
        count[containing(masks, groups, Genotype.from_decisions(
            whole.supernet.space, {"chain": np.array([first, second])}))] += 1
    assert count.tolist() == [4, 4, 4, 4]
    for child, mask in zip(whole.children, masks):
        assert masks[containing(masks, groups, child.genotype)] is mask


@pytest.mark.heavy
def test_in_memory_it_is_the_same(parts, whole):
    run = go(parts)
    assert run.folder is None and run.genotype == whole.genotype and run.results == whole.results
    assert same(run.supernet.state, whole.supernet.state) and len(run.children) == 4
    assert json.dumps(run.records) == json.dumps(whole.records)


class Killed(BaseException):
    pass


@pytest.mark.heavy
@pytest.mark.parametrize("weights, first, step", [("inherit", 10, 9), ("fresh", 6, 11)])
def test_it_goes_on_wherever_it_was_killed(parts, whole, tmp_path, monkeypatch, weights, first, step):
    """Killed again and again as a file is about to be put in its place."""
    expected = whole if weights == "inherit" else go(parts, tmp_path / "whole", split_weights="fresh")
    replace, after, kills = os.replace, first, 0
    while True:
        left = iter(range(after))
        with monkeypatch.context() as patch:
            def kill(*args, left=left):
                if next(left, None) is None:
                    raise Killed
                return replace(*args)

            patch.setattr(os, "replace", kill)
            try:
                go(parts, tmp_path / "part", split_weights=weights)
                break
            except Killed:
                kills, after = kills + 1, after + step
    assert kills > 4 and equal_parts(tmp_path / "part") == equal_parts(expected.folder)


def test_it_goes_on_while_children_are_trained(parts, whole, tmp_path):
    """What a kill after the first epoch of a last child leaves behind."""
    part = tmp_path / "part"
    shutil.copytree(whole.folder, part)
    for name in ("children/choice.json", "results.json", "checkpoints/00003.safetensors", "children/1-1",
                 "children/0-1/checkpoints/00003.safetensors", "children/0-1/results.json", "children/halving"):
        shutil.rmtree(part / name) if (part / name).is_dir() else (part / name).unlink()
    for name in ("metrics.jsonl", "timing.jsonl"):
        (part / name).write_text((part / name).read_text().splitlines(keepends=True)[0])
    run = go(parts, part)
    assert equal_parts(part) == equal_parts(whole.folder) and run.results == whole.results
    before = {path: path.stat().st_mtime_ns for path in part.rglob("checkpoints/*")}
    assert go(parts, part).genotype == whole.genotype
    assert before == {path: path.stat().st_mtime_ns for path in part.rglob("checkpoints/*")}
    assert [child.genotype for child in go(parts, part).children] == [child.genotype for child in whole.children]
    config = json.loads((part / "config.json").read_text())
    for said in "gm", {**config["split"], "split_epochs": [9, 1]}, {**config["split"], "more": 1}:
        (part / "config.json").write_text(json.dumps({**config, "split": said}))
        with pytest.raises(ValueError, match="config.json: split is "):
            _ = dnas.open(part, space=parts[0], method=parts[1], data=parts[2]).supernet


@pytest.mark.heavy
def test_several_seeds_are_each_the_search_of_its_own(parts, tmp_path):
    few = {"split": "random", "splits": 1, "split_batches": None, "epochs": 2}
    runs = go(parts, tmp_path / "seeds", seeds=2, **few)
    alone = go(parts, tmp_path / "alone", seed=1, **few)
    assert equal_parts(runs[1].folder) == equal_parts(alone.folder)
    assert (runs[0].folder / "split.json").read_bytes() != (runs[1].folder / "split.json").read_bytes()


def test_a_child_that_a_selection_refuses_has_the_network_of_its_own_rule(parts, capsys):
    """Evolution needs as many networks as it evaluates, and a child of two edges has half of 16; `random` heeds no mask."""
    few = {"split": "random", "splits": 1, "split_batches": None, "epochs": 2, "progress": True}
    run = go(parts, selection=("evolution", {"evaluations": 12}), **few)
    assert "child 0: evaluations must be at most 8" in capsys.readouterr().out
    both = [run.children, go(parts, selection=("random", {"seed": 1}), **few).children]
    out = capsys.readouterr().out
    assert "the network that was chosen is not in it" in out and out.count("the method's own rule chooses") == 1
    for children in both:
        masks = [child.supernet.state.mask for child in children]
        assert [containing(masks, parts[0].groups, child.genotype) for child in children] == [0, 1]
    for child in run.children:
        assert run.supernet.state_of(child.genotype) is child.supernet.state


def test_an_operation_each_and_a_selection_of_the_child(parts):
    run = go(parts, split="exhaustive", splits=1, epochs=2, selection="magnitude", split_batches=None)
    names = [each["within"].split()[-1] for each in run.results["children"]]
    assert names == ["none", "skip", "conv", "pool"]
    split = [each["within"].split()[1] for each in run.results["children"]]
    edge = {"0->1": 0, "1->2": 1}[split[0]]
    assert [child.genotype.choices["chain"][edge].op for child in run.children] == names
    assert len(set(split)) == 1 and run.config["selection"]["name"] == "magnitude"


@pytest.mark.parametrize("method", ["drnas", "gdas", "snas", "rsps", "pc-darts"])
@pytest.mark.heavy
def test_other_methods_are_split_too(parts, method):
    space, _, data = parts
    method = dnas.method(method, **({"arch_warmup": 0} if method == "pc-darts" else {}))
    run = dnas.search(space, method, data, epochs=2, batch=16, split="gm", split_batches=2, split_train_epochs=1,
                      selection="own", progress=False, cache="off")
    masks = [child.supernet.state.mask for child in run.children]
    assert [containing(masks, space.groups, child.genotype) for child in run.children] == [0, 1]
    for child, mask in zip(run.children, masks):
        assert all((np.asarray(rows)[~np.asarray(mask[name])] == 0).all() for name, rows in child.gates.items())


COMMAND = [*QUICK, "--selection", "own", "--split", "random", "--split-train-epochs", "1"]


@pytest.mark.heavy
def test_the_command_shows_all_children_and_repeats_itself(tmp_path, capsys):
    run = tmp_path / "run"
    assert main([*COMMAND, "--run", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.count("child     ") == 2 and out.count("(chosen)") == 1 and "split     after epoch 1, chain" in out
    config = json.loads((run / "config.json").read_text())
    assert config["split"] == {"split": "random", "splits": 1, "split_epochs": [1], "split_batches": 16,
                               "split_weights": "inherit", "split_train_epochs": 1}
    assert main(["search", "--config", str(run / "config.json"), "--run", str(tmp_path / "again"), "--cache", "off",
                 "--no-progress", "--trust"]) == 0
    assert equal_parts(tmp_path / "again") == equal_parts(run)
    capsys.readouterr()
    assert "goes on from another" in refused(capsys, "search", "--config", run / "children/0/config.json", "--trust")
    for command in (["select", run, "--selection", "magnitude", "--cache", "off", "--space", TOY], ["report", run],
                    ["train", run, "--epochs", "1", "--cache", "off", "--run", tmp_path / "net", "--trust"]):
        assert main([*map(str, command)]) == 0, command


def test_the_command_refuses_what_cannot_be(tmp_path, capsys):
    for words, said in ((["--splits", "2"], "splits is 2 without split"),
                        (["--split", "gm", "--splits", "2"], "splits is 2 and epochs 2; each of the 3 stages"),
                        (["--split", "gm", "--splits", "3", "--epochs", "9"], "space toy has 2 edges"),
                        (["--split", "gm", "--split-epochs", "2"], "split-epochs is 2; it must be 1 growing number"),
                        (["--split", "gm", "--seconds", "5"], "seconds ends a search early"),
                        (["--split", "gm", "--method", "sgas"], "method sgas decides on operations itself")):
        assert said in refused(capsys, *QUICK, *words, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.heavy
def test_a_study_compares_splits(parts, tmp_path):
    methods = ["rsps", *({"name": "rsps", "label": by, "split": by, "split_batches": 2, "split_train_epochs": 1}
                         for by in ("gm", "random"))]
    study = {"space": {"name": TOY}, "data": {"source": "digits", "limit": 200}, "methods": methods, "seeds": 1,
             "selections": ["random"], "budget": {"epochs": 2, "batch": 16}}
    with pytest.raises(ValueError, match="method gm: splits is 2 and epochs 2"):
        dnas.study({**study, "methods": [methods[0], {**methods[1], "splits": 2}]}, tmp_path / "study", trust=True)
    report = dnas.study(study, tmp_path / "study", trust=True, cache="off", progress=False)
    assert not report.failures
    gradients = {row.method: row.values["gradients"][0] for row in report.rows}
    steps = json.loads((tmp_path / "study/study.json").read_text())["steps"]
    assert gradients["random"] == 3 * steps * gradients["rsps"] / (2 * steps)
    assert gradients["gm"] == gradients["random"] + 2 * 8
    with pytest.raises(ValueError, match="has begun method gm with other settings: split.split_batches is 2 there, 3 here"):
        dnas.study({**study, "methods": [methods[0], {**methods[1], "split_batches": 3}]}, tmp_path / "study", trust=True)
