"""Comparisons: their statistics against closed forms, and the command on real runs."""

import csv
import gc
import itertools
import json
import re
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_rel

import dnas
from dnas.reports import comparison, html
from dnas.types import Genotype
from launch.main import main

TOY = f"{Path(__file__).parent}/toy_space.py:toy"
DIGITS = dnas.data.load("digits", limit=200)


def entry(run, method, selection, ops="ab", **values):
    choices = {"g": tuple((i, i + 1, op) for i, op in enumerate(ops))}
    return comparison.Entry(run, method, int(run[-1]), selection, Genotype("s", {}, choices), ops, values)


ENTRIES = [entry(f"{method}{seed}", method, selection, ops, discrete=value) for method, selection, ops, values in (
    ("a", "one", "ab", (50.0, 52.0, 57.0)), ("a", "two", "ac", (60.0, 61.0, 65.0)), ("b", "one", "cd", (40.0, 41.0, 39.0)))
    for seed, value in enumerate(values)]


def test_means_deviations_and_single_runs():
    rows = {(row.method, row.selection): row for row in comparison.summarise(ENTRIES)}
    assert rows["a", "one"].values == {"discrete": (53.0, pytest.approx(np.sqrt(13)), 3)}
    assert comparison.spell(comparison.METRICS["discrete"], rows["a", "one"].values["discrete"]) == "53.00 ± 3.61"
    (alone,) = comparison.summarise(ENTRIES[:1])
    assert comparison.spell(comparison.METRICS["discrete"], alone.values["discrete"]) == "50.00"
    assert comparison.spell(comparison.METRICS["table"], None) == "–"
    assert comparison.spell(comparison.METRICS["gap"], (-0.001, None, 1)) == "0.00"


def test_differences_are_paired_and_their_interval_is_that_of_students_t():
    found = {(d.within, d.first, d.second): d for d in comparison.differences(ENTRIES, ["discrete"])}
    one, two = (np.array(v) for v in ((50, 52, 57), (60, 61, 65)))
    d = found["a", "one", "two"]
    interval = ttest_rel(one, two).confidence_interval(0.95)
    assert (d.mean, d.low, d.high) == pytest.approx((-9.0, interval.low, interval.high))
    assert found["one", "a", "b"].mean == pytest.approx(13.0) and found["one", "a", "b"].pairs == 3
    (single,) = [d for d in comparison.differences(ENTRIES[:1] + ENTRIES[3:4], ["discrete"])]
    assert single.low is None and single.pairs == 1


def bold(name, *rows, **more):
    """Names of the rows that are bold in a column; rows of one method, selected on runs 0, 1, ..."""
    entries = [entry(f"a{seed}", "m", f"s{i}", **{name: value}, **more) for i, values in enumerate(rows)
               for seed, value in enumerate(values)]
    return {selection for _, selection in comparison.apart(entries, comparison.METRICS[name], name)}


def test_a_mean_is_bold_only_where_it_is_apart_from_every_other():
    one, two = (50.0, 52.0, 57.0), (59.0, 61.0, 65.0)
    assert bold("discrete", one, two) == {"s1"}  # pairs 9, 9, 8 apart, though the deviations are 3.6
    assert bold("discrete", one, (51.0, 60.0, 52.0)) == set()  # higher by 1, 8 and -5
    assert bold("discrete", one, two, (61.0, 61.0, 65.0)) == set()  # two are apart from the first, not from each other
    assert bold("discrete", one, two, two) == {"s1", "s2"}  # the same cells
    assert bold("discrete", one, one) == set()
    assert bold("discrete", one[:1], two[:1]) == set()  # one run says nothing of how sure it is
    assert bold("gap", one, two) == {"s0"} and bold("params", one, two) == set() and bold("discrete", one) == set()


def test_without_pairs_deviations_must_not_overlap():
    def methods(values, seeds, other=(50.0, 52.0)):
        entries = [entry(f"a{seed}", "m", "s", discrete=value) for seed, value in enumerate(other)]
        entries += [entry(f"b{seed}", "n", "s", discrete=value) for seed, value in zip(seeds, values)]
        return comparison.apart(entries, comparison.METRICS["discrete"], "discrete")

    assert methods((54.0, 56.0), (5, 6)) == {("n", "s")}  # 51 ± 1.41 and 55 ± 1.41
    assert methods((52.0, 54.0), (5, 6)) == set()  # 53 ± 1.41
    assert methods((52.0, 54.0), (0, 1)) == {("n", "s")}  # the same seeds: 2 and 2 apart
    assert methods((99.0,), (5,)) == set()


def test_a_rank_correlation_over_few_architectures_is_never_bold():
    low, high = (0.1, 0.2, 0.3), (0.7, 0.8, 0.9)
    assert bold("kendall", low, high, ranked=5) == {"s1"}
    assert bold("kendall", low, high, ranked=4) == set() == bold("spearman", low, high)
    entries = [entry("a0", "m", "s", kendall=0.3, ranked=8), entry("a1", "m", "s", kendall=0.4, ranked=3)]
    assert comparison.apart(entries, comparison.METRICS["kendall"], "kendall") == set()


def test_agreement_counts_edges_with_their_operations():
    assert comparison.agreements(ENTRIES) == {"a": {("one", "two"): 0.5}}
    fewer, more = (entry("r0", "m", "s", ops).genotype for ops in ("a", "ab"))
    assert comparison.agreement(fewer, more) == 0.5 and comparison.agreement(more, more) == 1


def test_additive_scores_and_rank_correlation():
    scores = {"g": np.array([[1.0, 2.0], [10.0, 30.0]])}
    decisions = {"g": np.array([[0, 0], [1, 1], [1, -2]])}
    assert list(comparison.scored(scores, decisions)) == [11, 32, 2]
    assert comparison.scored({"g": np.array([[1.0, np.nan], [1, 1]])}, decisions) is None
    assert comparison.scored({"tried": np.zeros(3)}, decisions) is None
    rising = np.array([1.0, 2.0, 3.0, np.nan])
    assert comparison.correlation(rising, np.array([5.0, 6, 9, 1])) == {"kendall": 1.0, "spearman": 1.0, "ranked": 3}
    # of four pairs' six comparisons five agree and one does not
    assert comparison.correlation(np.arange(4.0), np.array([0.0, 1, 3, 2]))["kendall"] == pytest.approx(4 / 6)
    assert comparison.correlation(rising[:2], rising[:2]) == {} == comparison.correlation(np.ones(4), rising)


def test_csv_and_json_hold_every_entry():
    rows = list(csv.DictReader(comparison.to_csv(ENTRIES).splitlines()))
    assert len(rows) == 9 and rows[4]["discrete"] == "61.0" and rows[4]["genotype"] == "ac"
    told = json.loads(json.dumps(comparison.to_json(ENTRIES)))
    assert told["summary"][0]["discrete"]["mean"] == 53 and len(told["entries"]) == 9
    assert Genotype.from_json(json.dumps(told["entries"][3]["genotype"])) == ENTRIES[3].genotype


def test_what_is_written_in_a_page_is_escaped(tmp_path):
    made = html.page("<a>", [html.paragraph("x < y"), html.table(["&"], [["<b>"]]), html.code("</pre>")])
    assert "<b>" not in made and "&lt;b&gt;" in made and "x &lt; y" in made and made.count("</pre>") == 1


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        search(folder / f"run-{seed}", seed=seed)
    return folder


def search(folder, **options):
    return dnas.search(TOY, "darts", DIGITS, epochs=1, batch=16, out=folder, progress=False, **options)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_command_compares_runs_and_writes_a_page_of_its_own(runs, capsys):
    argv = ["compare", str(runs / "run-0"), str(runs / "run-1"), "--selection", "magnitude", "magnitude-edge",
            "perturbation", "random", "--perturbation.interval", "1", "--train-epochs", "1", "--cache", "off"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "darts, 2 runs" in out and "left out" in out and " ± " in out and "95 % intervals" in out
    written = runs / "comparison"
    told = json.loads((written / "comparison.json").read_text())
    assert {e["selection"] for e in told["entries"]} == {"magnitude", "perturbation", "random"} and len(told["entries"]) == 6
    assert all({"discrete", "gap", "trained", "params", "macs", "seconds"} <= e["values"].keys() for e in told["entries"])
    assert all("tuned" in e["values"] for e in told["entries"] if e["selection"] == "perturbation")
    page = (written / "report.html").read_text()
    assert "Bold is the best mean of a column if it is apart" in page and ">ranked<" in page
    assert "run        2 of 2: " in out
    assert page.count("data:image/svg+xml") == 7 and not re.search(r'(src|href)="(?!data:)', page) and "http" not in \
        re.sub(r'base64,[^"]*', "", page)
    before = {path: path.read_bytes() for path in runs.rglob("genotype.json")}
    assert main(argv) == 0  # nothing is selected or trained again
    assert "training" not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in runs.rglob("genotype.json")} == before


@pytest.mark.parametrize("argv, message", [
    (["--selection", "magnitude", "random", "magnitude"], "two selections are called magnitude"),
    (["--selection", "perturbed"], "did you mean 'perturbation'"),
    (["--train-epochs", "-1"], "train-epochs is -1; it must be a whole number, 0 or more"),
    (["--table", "absent.npz"], "absent.npz"),
    (["--perturbation.interval", "-1"], "interval is -1"),
    (["--random.seed", "x"], "x")])
def test_bad_input_is_one_line_and_writes_nothing(runs, tmp_path, capsys, argv, message):
    before = sorted(runs.rglob("*"))
    assert main(["compare", str(runs / "run-0"), "--out", str(tmp_path / "c"), "--cache", "off", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert sorted(runs.rglob("*")) == before and not (tmp_path / "c").exists()


def test_a_run_named_twice_is_refused(runs, capsys):
    assert main(["compare", str(runs / "run-0"), str(runs / "run-0" / "..") + "/run-0"]) == 2
    assert "a run is named twice" in capsys.readouterr().err
    assert main(["compare"]) == 2 and "RUN ... is missing" in capsys.readouterr().err
    assert main(["compare", str(runs / "run-0"), "--selection", "magnitude", "--out", str(runs / "run-1")]) == 2
    err = capsys.readouterr().err
    assert "holds a run of another config" in err and " more; choose another folder" in err and len(err) < 900


@pytest.mark.heavy
def test_a_folder_stands_for_its_runs_and_a_comparison_moves_with_them(tmp_path, capsys):
    for seed in 0, 1:
        search(tmp_path / "before" / str(seed), seed=seed)
    argv = ["--selection", "magnitude", "random", "--train-epochs", "1", "--cache", "off"]
    assert main(["compare", str(tmp_path / "before"), *argv]) == 0
    first = json.loads((tmp_path / "before" / "comparison" / "comparison.json").read_text())
    shutil.move(tmp_path / "before", tmp_path / "after")
    moved = ["compare", str(tmp_path / "after"), "--trust", *argv]
    assert main(moved[:2] + argv) == 2 and "nothing is imported because a file says so" in capsys.readouterr().err
    assert main(moved) == 0
    assert "training" not in capsys.readouterr().out.split("darts, 2 runs")[0]
    again = json.loads((tmp_path / "after" / "comparison" / "comparison.json").read_text())
    assert again["summary"] == first["summary"] and [e["run"] for e in again["entries"]][0] == str(tmp_path / "after" / "0")

    shutil.rmtree(tmp_path / "after" / "1")
    search(tmp_path / "after" / "1", seed=9)  # another run in the place of one
    before = contents(tmp_path / "after")
    assert main(moved) == 2
    err = capsys.readouterr().err
    assert "holds a comparison of other runs: runs.2.config is" in err and err.count("\n") == 1
    shutil.copytree(tmp_path / "after" / "0" / "selections", tmp_path / "after" / "1" / "selections")
    assert main([*moved, "--out", str(tmp_path / "new")]) == 2
    err = capsys.readouterr().err
    assert "holds a choice from another state of the supernet" in err and "remove" in err and err.count("\n") == 1
    assert before.items() <= contents(tmp_path / "after").items() and not (tmp_path / "new").exists()


@pytest.mark.heavy
def test_in_python_without_a_folder_only_the_choices_inside_of_runs_are_written(tmp_path):
    runs = [search(tmp_path / "a"), search(tmp_path / "b", seed=1)]
    before = contents(tmp_path)
    table = dnas.compare(runs, ["magnitude", ("random", {"seed": 3})], train_epochs=1, progress=False)
    written = {path.relative_to(tmp_path).parts[:2] for path in contents(tmp_path).keys() - before.keys()}
    assert written == {("a", "selections"), ("b", "selections")} and before.items() <= contents(tmp_path).items()
    assert [(e.run, e.selection) for e in table.entries] == [
        (str(tmp_path / run), name) for run in "ab" for name in ("magnitude", "random")]
    assert {row.selection: row.runs for row in table.summary} == {"magnitude": 2, "random": 2} and table.folder is None
    assert {d.metric for d in table.differences} == {"discrete", "trained"} and table.agreement["darts"].keys() == {
        ("magnitude", "random")}
    assert len(repr(table)) < 200 and "95 % intervals" in str(table) and table._repr_html_().count("<table>") == 2
    assert len(list(csv.DictReader(table.to_csv().splitlines()))) == 4 == len(json.loads(table.to_json())["entries"])
    assert table.to_html().count("data:image/svg+xml") == 5
    assert sorted(path.name for path in table.write(tmp_path / "page").iterdir()) == [
        "comparison.csv", "comparison.json", "comparison.svg", "report.html"]
    memory = [dnas.search(TOY, "darts", DIGITS, epochs=1, batch=16, seed=seed, progress=False) for seed in (0, 1)]
    before = contents(tmp_path)
    other = dnas.compare(memory, ["magnitude", ("random", {"seed": 3})], train_epochs=1, progress=False)
    assert contents(tmp_path) == before and [e.run for e in other.entries][::2] == ["run 1 in memory", "run 2 in memory"]
    plain = lambda table: [{**e.values, "seconds": 0} for e in table.entries]
    assert plain(other) == plain(table)  # the same searches, chosen from in memory and on the disk


@pytest.mark.heavy
def test_one_supernet_at_a_time_and_one_data_set_for_all(tmp_path, monkeypatch):
    for seed in 0, 1, 2:
        search(tmp_path / str(seed), seed=seed)
    from dnas.api import open as opening
    from dnas.api import supernet as loading

    alive, most, sets = weakref.WeakSet(), [], set()
    load = loading.load_supernet

    def watched(*args, **parts):
        gc.collect()
        most.append(len(alive))
        supernet = load(*args, **parts)
        alive.add(supernet)
        sets.add(id(supernet.data))
        return supernet

    monkeypatch.setattr(opening, "load_supernet", watched)
    runs = [dnas.open(tmp_path / str(seed)) for seed in range(3)]
    dnas.compare(runs, "magnitude", progress=False)
    assert most == [0, 0, 0] and len(sets) == 1


@pytest.mark.parametrize("names, message", [
    ([], "runs are none"), ("absent", "does not exist"), ("empty", "holds no search"),
    (["run-0", "choice"], "is a selection"),
    (["run-0", "numbers"], "is of task classification, and"), (["bare"], "has no checkpoint; `dnas search --config")])
def test_runs_that_cannot_be_compared(runs, names, message, tmp_path):
    made = runs / "run-0"
    shutil.copytree(made, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    (tmp_path / "run-0").symlink_to(made)
    shutil.copytree(made, tmp_path / "numbers")
    config = json.loads((made / "config.json").read_text())
    (tmp_path / "numbers" / "config.json").write_text(json.dumps(config | {"task": "regression"}))
    (tmp_path / "choice").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "choice" / "config.json").write_text(json.dumps({"selection": {"name": "random"}, "run": ".."}))
    named = str(tmp_path / names) if isinstance(names, str) else [str(tmp_path / name) for name in names]
    with pytest.raises(ValueError, match=message):
        dnas.compare(named, "magnitude", trust=True, out=tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_where_nothing_suits_other_selections_can_be_tried_in_the_same_folder(runs, tmp_path, capsys):
    argv = ["compare", str(runs / "run-0"), "--out", str(tmp_path / "new"), "--cache", "off", "--selection"]
    assert main([*argv, "magnitude-edge"]) == 2
    assert "no selection suits any of the runs: left out on" in capsys.readouterr().err
    assert main([*argv, "magnitude"]) == 0 and (tmp_path / "new" / "comparison.json").exists()


@pytest.mark.heavy
def test_with_a_table_each_genotype_is_looked_up_and_scores_are_ranked_against_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ops = np.array(list(itertools.product(range(5), repeat=6)), np.int8)
    truth = (ops == 3).sum(1) * 10.0 + (ops == 2).sum(1)
    np.savez("table.npz", ops=ops, code=ops.astype(np.int64) @ 5 ** np.arange(6)[::-1], accuracy=truth)
    space = dnas.space("nasbench201", DIGITS, channels=2)
    dnas.search(space, "darts", DIGITS, epochs=1, batch=16, out="run", progress=False)
    argv = ["compare", "run", "--selection", "magnitude", "random", "sampled", "--sampled.draws", "8", "--table",
            "table.npz"]
    assert main([*argv, "--cache", "off"]) == 2 and "no column 'cifar10_test_200'" in capsys.readouterr().err
    assert main([*argv, "--column", "accuracy", "--cache", "off"]) == 0
    told = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert len(told["entries"]) == 3
    for entry in told["entries"]:
        assert entry["values"]["table"] == 10 * entry["notation"].count("nor_conv_3x3") + entry["notation"].count("1x1")
        assert -1 <= entry["values"]["kendall"] <= 1
    with np.load("run/selections/magnitude/scores.npz") as arrays:
        total = arrays["cell"].astype(float)[np.arange(6), ops].sum(1)
    assert told["entries"][0]["values"]["spearman"] == pytest.approx(spearmanr(total, truth).statistic)
    page = (tmp_path / "comparison" / "report.html").read_text()
    assert "column accuracy of table.npz" in page
