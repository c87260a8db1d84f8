"""Comparisons: their statistics against closed forms, and the command on real runs."""

import csv
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr, ttest_rel

from dnas.reports import comparison, html
from dnas.types import Genotype
from launch.main import main

TOY = f"{Path(__file__).parent}/toy_space.py:toy"


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
    assert comparison.correlation(rising, np.array([5.0, 6, 9, 1])) == {"kendall": 1.0, "spearman": 1.0}
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
        assert main(["search", "--space", TOY, "--limit", "200", "--epochs", "1", "--batch", "16", "--seed", str(seed),
                     "--run", str(folder / f"run-{seed}"), "--cache", "off", "--no-progress"]) == 0
    return folder


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
    assert page.count("data:image/svg+xml") == 7 and not re.search(r'(src|href)="(?!data:)', page) and "http" not in \
        re.sub(r'base64,[^"]*', "", page)
    before = {path: path.read_bytes() for path in runs.rglob("genotype.json")}
    assert main(argv) == 0  # nothing is selected or trained again
    assert "training" not in capsys.readouterr().out
    assert {path: path.read_bytes() for path in runs.rglob("genotype.json")} == before


@pytest.mark.parametrize("argv, message", [
    (["--selection", "magnitude", "random", "magnitude"], "two selections are called magnitude"),
    (["--selection", "perturbed"], "did you mean 'perturbation'"),
    (["--train-epochs", "-1"], "train-epochs is -1, it must be 0 or more"),
    (["--table", "absent.npz"], "absent.npz"),
    (["--perturbation.interval", "-1"], "interval is -1"),
    (["--random.seed", "x"], "x")])
def test_bad_input_is_one_line_and_writes_nothing(runs, tmp_path, capsys, argv, message):
    before = {path for path in runs.rglob("*")}
    assert main(["compare", str(runs / "run-0"), "--out", str(tmp_path / "c"), "--cache", "off", *argv]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert {path for path in runs.rglob("*")} == before and not (tmp_path / "c").exists()


def test_a_run_named_twice_is_refused(runs, capsys):
    assert main(["compare", str(runs / "run-0"), str(runs / "run-0" / "..") + "/run-0"]) == 2
    assert "a run is named twice" in capsys.readouterr().err
    assert main(["compare"]) == 2 and "name at least one run" in capsys.readouterr().err
    assert main(["compare", str(runs / "run-0"), "--selection", "magnitude", "--out", str(runs / "run-1")]) == 2
    err = capsys.readouterr().err
    assert "holds a run of another config" in err and " more; choose another --out" in err and len(err) < 900


@pytest.mark.heavy
def test_with_a_table_each_genotype_is_looked_up_and_scores_are_ranked_against_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ops = np.array(list(itertools.product(range(5), repeat=6)), np.int8)
    truth = (ops == 3).sum(1) * 10.0 + (ops == 2).sum(1)
    np.savez("table.npz", ops=ops, code=ops.astype(np.int64) @ 5 ** np.arange(6)[::-1], accuracy=truth)
    assert main(["search", "--space.channels", "2", "--limit", "200", "--epochs", "1", "--batch", "16", "--run", "run",
                 "--cache", "off", "--no-progress"]) == 0
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
