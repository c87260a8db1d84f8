"""Studies that ask how well each supernet ranks the networks of a table."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

import dnas
from dnas.reports.ranking import numbers_of, rank_statistics
from dnas.runs.files import read_json
from dnas.runs.index import list_runs
from dnas.runs.study_folder import entry_file, failure_file
from dnas.selection.scoring import read_scores
from dnas.studies import job as jobs
from dnas.studies.folder import declare
from dnas.studies.results import Row, SupernetRank, mean_ranks, paired_of, paired_ranks
from dnas.studies.run import jobs_of, planned
from dnas.studies.statistics import student
from dnas.studies.study import checked_plan
from dnas.tabular.benchmarks import load
from dnas.tabular.table import drawn_rows
from tests.test_load import refused, said
from tests.test_macro import write
from tests.test_study import write_study

ROOT = Path(__file__).parent.parent
STUDY = {"space": {"name": "macro", "channels": 1}, "data": {"limit": 200}, "budget": {"epochs": 1, "batch": 16},
         "seeds": [0, 1], "methods": ["rsps"], "selections": ["random"]}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write(tmp_path_factory.mktemp("table") / "macro.npz")


def study(folder, said, **options):
    return dnas.study(said, folder, progress=False, **options)


def ranked(table, **options):
    return {**STUDY, "table": {"file": str(table), "rank": True, "networks": 12, "examples": 16, **options}}


@pytest.fixture
def reported(table, tmp_path):
    """A study of two methods and three seeds whose searches were never carried out: the files are written here."""
    other, folder = {"name": "darts", "label": "long-label-of-darts"}, tmp_path / "s"
    plan = checked_plan({**ranked(table), "seeds": 3, "methods": ["rsps", other]}, folder)
    folder.mkdir()
    declare(folder, plan)
    space = dnas.space("macro", dnas.data.load("digits", limit=200), channels=1)
    genotype, rng = space.largest(), np.random.default_rng(0)
    decisions = np.array(plan.ranked["networks"], np.int32)
    for method in plan.methods:
        for seed in plan.seeds:
            file = entry_file(folder, method.label, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            choice = {"source": {}, "genotype": genotype.to_json(), "notation": "22222222", "values": {"discrete": 1.0}}
            file.write_text(json.dumps({"label": method.label, "seed": seed, "seconds": 2.0, "epochs": [],
                                        "selections": {"random": choice}, "ranked": plan.ranked["digest"]}))
            noise = rng.normal(size=(2, 12))
            values = (decisions == 2).sum(1) + (method.label == "rsps") * (1 + 3 * seed) * noise
            np.savez(file.with_suffix(".npz"), decisions=decisions[::-1], accuracy=values[0, ::-1], loss=-values[1, ::-1],
                     seconds=np.float64(4), described=np.array("{}"))
    return folder


def test_the_report_ranks_each_supernet_and_gives_means_over_seeds(reported, table, capsys):
    result, known = dnas.study_report(reported), load(table)
    truth = known.columns["cifar10_test_50"][drawn_rows(known, "cifar10_test_50", 12)]
    scores = read_scores(reported / "entries/rsps/2.npz")
    expected = numbers_of(rank_statistics(scores.values["accuracy"][::-1], truth, among=[80], resamples=0))
    (mine,) = [each for each in result.supernet_ranks if (each.method, each.seed, each.score) == ("rsps", 2, "accuracy")]
    assert (mine.numbers, mine.seconds) == (expected, 4.0)
    taus = [each.numbers["kendall"] for each in result.supernet_ranks if (each.method, each.score) == ("rsps", "accuracy")]
    assert result.supernet_means["rsps", "accuracy"]["kendall"] == student(np.array(taus)) and taus[0] > taus[2]
    assert result.supernet_means["long-label-of-darts", "loss"]["kendall"].mean == pytest.approx(1)
    rows = list(csv.DictReader((reported / "study.csv").read_text().splitlines()))
    assert [float(row["kendall"]) for row in rows if row["method"] == "rsps"] == taus and "spearman" in rows[0]
    report = json.loads((reported / "report.json").read_text())
    assert len(report["supernet_ranks"]) == 12 and report["supernet_means"][0]["kendall"]["low"] < np.mean(taus)
    assert report["declared"]["table"]["networks"] == 12
    assert report["metrics"]["kendall"]["meaning"] == ("tau-b of the supernet's accuracy with cifar10_test_50, over 12 "
                                                       "networks")
    out, page = said(capsys, "study", "report", reported), (reported / "report.html").read_text()
    assert "rank 12 networks with cifar10_test_50" in " ".join(out.split()) and max(map(len, out.splitlines()[:-1])) <= 80
    assert "How supernets rank networks" in page and f"{np.mean(taus):.2f} [" in page
    (reported / "entries/rsps/1.npz").unlink()  # scores of one search are missing
    assert len(dnas.study_report(reported).supernet_ranks) == 10
    assert "networks" not in read_json(reported / "study.json")["ranked"]


def test_the_ranking_is_first_by_both_scores_and_against_the_first_method(reported, capsys):
    result, out = dnas.study_report(reported), said(capsys, "study", "report", reported)
    taus = {key: np.array([each.numbers["kendall"] for each in result.supernet_ranks if (each.method, each.score) == key])
            for key in result.supernet_means}
    pairs = {(each.within, each.first, each.second): each for each in result.supernet_differences}
    other = "long-label-of-darts"
    assert list(pairs) == [("accuracy", other, "rsps"), ("loss", other, "rsps"), ("rsps", "loss", "accuracy"),
                           (other, "loss", "accuracy")]
    (by_loss, within_one) = pairs["loss", other, "rsps"], pairs["rsps", "loss", "accuracy"]
    assert by_loss.difference == student(taus[other, "loss"] - taus["rsps", "loss"]).within(-2, 2) and by_loss.p == 2 / 2**3
    assert within_one.difference == student(taus["rsps", "loss"] - taus["rsps", "accuracy"]).within(-2, 2)
    difference, report = result.spell_difference(by_loss), json.loads((reported / "report.json").read_text())
    assert report["supernet_differences"][1]["difference"]["mean"] == by_loss.difference.mean
    assert report["metrics"]["gradients"]["meaning"].endswith("of a step that is sometimes cheaper, the most costly")
    lines = out.strip().splitlines()
    assert lines[0].startswith("how supernets rank") and "Kendall's tau \N{MINUS SIGN} that of rsps" in out
    assert [line.split()[:3] for line in lines if line.startswith("by ")] == [
        ["by", "accuracy", "Kendall"], ["by", "loss", "Kendall"]]
    assert any(line.startswith("long-label-of-d...") and line.endswith(difference) for line in lines)
    page = (reported / "report.html").read_text()
    assert ">Kendall \N{MINUS SIGN} rsps</th>" in page and f">{difference}</td>" in page
    assert page.index("How supernets rank") < page.index("Methods and selections")


def test_intervals_of_two_seeds_end_where_values_do():
    numbers = [{"kendall": -0.5, "tenth": 0.9, "mean": 60.0, "regret": 0.0}, {"kendall": 0.7, "mean": 98.0, "regret": 2.0}]
    ranks = [SupernetRank(method, seed, "loss", numbers[seed if method == "a" else 1 - seed], 1.0)
             for method in "ab" for seed in (0, 1)]
    means = mean_ranks(ranks)["a", "loss"]
    assert means["kendall"] == (pytest.approx(0.1), -1, 1) and means["mean"] == (79, 0, 100)
    assert means["regret"][:2] == (1, 0) and 13 < means["regret"].high < 14 and means["tenth"] == (0.9, None, None)
    (pair,) = paired_ranks(ranks, {"": ["a", "b"]}, "kendall")
    assert (pair.first, pair.second, pair.difference) == ("b", "a", (0, -2, 2))
    rows = [Row(method, "own", {seed: {"table": 100.0 * (seed == place)} for seed in (0, 1)}, {})
            for place, method in enumerate("ab")]
    (pair,) = paired_of(rows, "table", {"": ["a", "b"]}, ["own"], 100.0)
    assert pair.difference == (0, -100, 100)


def test_a_ranking_over_fewer_seeds_is_told(reported):
    (reported / "entries/rsps/2.npz").unlink()
    assert "over fewer seeds than the others: rsps (2)" in str(dnas.study_report(reported))


def test_a_method_that_failed_has_its_rows_and_is_told_of_once(reported, capsys):
    for seed in range(3):
        for suffix in ".json", ".npz":
            entry_file(reported, "rsps", seed).with_suffix(suffix).unlink()
        file = failure_file(reported, "rsps", seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"error": "the loss is not finite"}))
    failure_file(reported, "rsps", 2).unlink()
    result, out = dnas.study_report(reported), said(capsys, "study", "report", reported)
    assert result.missing == [("rsps", 2)] and result.failed == {"rsps"}
    assert [row.method for row in result.rows] == ["rsps", "long-label-of-darts"] and not result.rows[0].values
    rows = [line.split() for line in out.splitlines() if line.startswith("rsps ")]
    assert rows == 2 * [["rsps", *"\N{EN DASH}" * 4]] + [["rsps", "random", *"\N{EN DASH}" * count] for count in (3, 1, 1)]
    assert out.count("failed: rsps, seed ") == 2 and "missing: 1 searches" in out
    page = (reported / "report.html").read_text()
    assert "<td class=\"text\">rsps: loss</td><td class=\"\">0</td>" in page and page.count("it has not ended") == 1


@pytest.mark.heavy
def test_a_ranking_is_once_and_knows_nothing_of_the_truth(table, tmp_path, monkeypatch):
    folder, read = tmp_path / "s", jobs.carry_out

    def without_tables(*args):
        with monkeypatch.context() as patch:
            patch.setattr("dnas.tabular.benchmarks.read_arrays", None)
            return read(*args)

    monkeypatch.setattr("dnas.studies.run.carry_out", without_tables)
    plain = {**STUDY, "seeds": [0], "table": {"file": str(table)}}
    assert not study(folder, plain).supernet_ranks
    result = study(folder, {**ranked(table), "seeds": [0]})
    assert not result.failures and {each.score for each in result.supernet_ranks} == {"accuracy", "loss"}
    entry = folder / "entries/rsps/0.json"
    scores, before = read_scores(entry.with_suffix(".npz")), entry.read_bytes()
    table_of = load(table)
    rows = drawn_rows(table_of, "cifar10_test_50", 12)
    np.testing.assert_array_equal(scores.decisions, table_of.ops[rows])
    ranking = dnas.rank(folder / "runs/rsps/0", table=str(table), networks=12, examples=16, progress=False)
    np.testing.assert_array_equal(ranking.scores["loss"], scores.values["loss"])
    assert study(folder, {**ranked(table), "seeds": [0]}, dry_run=True).count("1 done") == 1
    study(folder, {**ranked(table), "seeds": [0]})
    assert entry.read_bytes() == before
    more = study(folder, {**ranked(table, networks=16), "seeds": [0]})
    assert len(read_scores(entry.with_suffix(".npz")).decisions) == 16 and len(more.supernet_ranks) == 2


def test_a_begun_ranking_keeps_its_examples_and_counts_until_it_is_there(reported, table):
    changed = {**ranked(table, examples=32), "seeds": 3, "methods": ["rsps"]}
    with pytest.raises(ValueError, match=r"its ranking with other settings: examples is 16 there, 32 here; remove entries"):
        checked_plan(changed, reported)
    more = checked_plan({**ranked(table, networks=16), "seeds": 3, "methods": ["rsps"]}, reported)
    assert [row.waiting for row in planned(more, reported)] == [[0, 1, 2]]
    assert {run.status for run in list_runs(reported) if run.method == "rsps"} == {"done"}
    declare(reported, more)
    assert {run.status for run in list_runs(reported) if run.method == "rsps"} == {"waiting"}


def test_a_ranking_that_was_left_out_for_a_while_keeps_its_examples(reported, table):
    plain = {**ranked(table), "seeds": 3, "methods": ["rsps"], "table": {"file": str(table)}}
    declare(reported, checked_plan(plain, reported))
    with pytest.raises(ValueError, match="its ranking with other settings: examples is 16 there, 32 here"):
        checked_plan({**ranked(table, examples=32), "seeds": 3, "methods": ["rsps"]}, reported)
    same = checked_plan({**ranked(table), "seeds": 3, "methods": ["rsps"]}, reported)
    assert planned(same, reported)[0].done == [0, 1, 2]
    entry_file(reported, "rsps", 1).with_suffix(".npz").unlink()
    assert planned(same, reported)[0].waiting == [1]


@pytest.mark.parametrize("changes, message", [
    ({"examples": 0}, "table: examples is 0; it must be 1 to 90, the size of the validation split"),
    ({"examples": 91}, "table: examples is 91; it must be 1 to 90"),
    ({"networks": 7000}, "networks is 7000; it must be 1 to 6,561"), ({"rank": False}, "scored with rank = true only"),
    ({"rank": "yes"}, "rank")])
def test_what_is_refused_before_anything_is_written(table, tmp_path, capsys, changes, message):
    file = write_study(tmp_path / "mine.toml", **ranked(table, **changes))
    assert message in refused(capsys, "study", file, "--run", tmp_path / "s", "--dry-run")
    assert not (tmp_path / "s").exists()


def test_the_plan_says_what_is_ranked_and_only_in_the_table_s_space(table, tmp_path):
    several = {**ranked(table), "spaces": [{"name": "macro", "channels": 1}, {"name": "width", "channels": 4}]}
    del several["space"]
    text = study(tmp_path / "s", several, dry_run=True)
    assert "ranking    12 networks of macro in each supernet, about 16 examples of" in text
    plan = checked_plan(several, tmp_path / "s")
    first, second = jobs_of(plan, tmp_path / "s", 1, None)
    assert len(first.ranked["networks"]) == 12 and second.ranked == {} and json.dumps(first._asdict())


@pytest.mark.parametrize("file", ["rank-macro.toml", "rank-nasbench201.toml"])
def test_the_study_files_of_the_documents_can_be_read(file):
    import tomllib

    said = tomllib.loads((ROOT / "studies" / file).read_text())
    assert said["table"]["rank"] and {"methods", "selections", "space", "data", "budget"} <= said.keys()
