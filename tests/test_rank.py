"""`dnas rank`: how well a supernet ranks networks whose truth is known."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import dnas
from dnas.reports import ranking
from dnas.reports.ranking import Correlation, numbers_of, rank_statistics
from dnas.runs import lock as locks
from dnas.selection import scoring
from dnas.selection.scoring import read_scores, score_networks
from dnas.tabular.benchmarks import BENCHMARKS, load
from dnas.tabular.table import Benchmark, better, drawn_rows
from dnas.types import Genotype
from launch.main import main
from tests.test_load import refused, said
from tests.test_macro import write
from tests.toy_space import OPS

ROOT = Path(__file__).parent.parent
DIGITS = dnas.data.load("digits", limit=200)


# Statistics

def pairs(scores, truth):
    """Kendall's tau-b by its definition, over all pairs."""
    agree = tied_scores = tied_truth = total = 0
    for i in range(len(scores)):
        for j in range(i):
            a, b = np.sign(scores[i] - scores[j]), np.sign(truth[i] - truth[j])
            agree, tied_scores, tied_truth, total = agree + a * b, tied_scores + (a == 0), tied_truth + (b == 0), total + 1
    return agree / np.sqrt((total - tied_scores) * (total - tied_truth))


def test_ties_count_as_neither_order():
    """Of three pairs one is tied in the scores, the others agree: tau-b = 2 / sqrt(2 * 3); ranks 1.5, 1.5, 3 and 1, 2, 3."""
    found = rank_statistics([1, 1, 2], [1, 2, 3], resamples=0)
    assert found.kendall == Correlation(pytest.approx(2 / np.sqrt(6)))
    assert found.spearman.value == pytest.approx(1.5 / np.sqrt(3))
    rng = np.random.default_rng(0)
    scores, truth = rng.integers(5, size=60), rng.integers(9, size=60)
    assert rank_statistics(scores, truth, resamples=0).kendall.value == pytest.approx(pairs(scores, truth))


def test_the_order_of_the_truth_reversed_and_none():
    truth = np.arange(40.0)
    found = rank_statistics(truth**3, truth, resamples=0)
    assert {"kendall": 1, "spearman": 1, "tenth": 1, "quarter": 1}.items() <= numbers_of(found._replace(top={
        name: Correlation(1.0) for name in found.top})).items() and found.top["quarter"].value == pytest.approx(1)
    assert found.top["tenth"].value is None  # of four networks
    assert (found.mean, found.best, found.regret) == (34.5, 39, 0)
    found = rank_statistics(-truth, truth, among=[50.0], resamples=0)
    assert (found.kendall.value, found.spearman.value) == pytest.approx((-1, -1))
    assert (found.mean, found.best, found.regret) == (4.5, 9, 41)
    found = rank_statistics(np.ones(40), truth)
    assert (found.kendall, found.spearman, found.mean) == (Correlation(None), Correlation(None), 4.5)
    cheaper = rank_statistics(-truth, truth, better=-1, resamples=0)
    assert (cheaper.kendall.value, cheaper.mean, cheaper.best, cheaper.regret) == (pytest.approx(1), 4.5, 0, 0)


def test_a_score_that_is_not_finite_is_the_worst():
    truth = np.arange(20.0)
    scores = np.where(truth < 3, np.nan, truth)
    found = rank_statistics(scores, truth, resamples=0)
    assert found.kendall.value == pytest.approx(pairs(np.maximum(scores, 2, where=truth >= 3, out=np.full(20, 2.0)), truth))
    assert rank_statistics([np.nan] * 20, truth).kendall == Correlation(None)
    with pytest.raises(ValueError, match=r"scores are \[2\], truth is \[3\]"):
        rank_statistics([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="the truth finite"):
        rank_statistics([1, 2], [1, np.nan])


def test_the_top_is_that_of_the_truth():
    """Within the best quarter the order is reversed, and otherwise right."""
    truth = np.arange(80.0)
    scores = np.where(truth >= 60, 139 - truth, truth)
    found = rank_statistics(scores, truth, resamples=0)
    assert {name: part.value for name, part in found.top.items()} == pytest.approx({"tenth": -1, "quarter": -1})
    assert found.mean == np.arange(60, 70).mean() and found.regret == 79 - 69


def test_the_interval_is_that_of_the_correlation_of_normal_numbers():
    """Fisher's: atanh of the linear correlation has a deviation of 1 / sqrt(n - 3); of ranks 1.03 / sqrt(n - 3) or so."""
    rng = np.random.default_rng(1)
    truth = rng.normal(size=400)
    scores = truth + rng.normal(size=400)
    found = rank_statistics(scores, truth)
    value, low, high = found.spearman
    assert low < value < high and found.kendall.low < found.kendall.value < found.kendall.high
    assert np.arctanh(high) - np.arctanh(low) == pytest.approx(2 * 1.96 * 1.03 / np.sqrt(397), rel=0.15)
    some = rank_statistics(scores, truth, resamples=20)
    assert rank_statistics(scores, truth, resamples=20) == some != rank_statistics(scores, truth, resamples=20, seed=1)


def test_rows_are_drawn_without_repetition_and_more_begin_with_the_fewer(tmp_path):
    table = load(write(tmp_path / "macro.npz", 50, seconds_first30_x=np.arange(30.0)))
    few, more = drawn_rows(table, "cifar10_test_50", 10, 3), drawn_rows(table, "cifar10_test_50", 40, 3)
    assert np.array_equal(few, more[:10]) and len(set(more)) == 40 and set(few) != set(range(10))
    assert sorted(drawn_rows(table, "seconds_first30_x", None)) == list(range(30))  # those that have a value
    for count in 0, 31:
        with pytest.raises(ValueError, match=f"networks is {count}; it must be 1 to 30, .* a value of seconds_first30_x"):
            drawn_rows(table, "seconds_first30_x", count)
    with pytest.raises(ValueError, match="networks is 1.5; it must be 1 to 30"):
        drawn_rows(table, "seconds_first30_x", 1.5)
    empty = table._replace(columns={"cifar10_test_50": np.full(50, np.nan)})
    with pytest.raises(ValueError, match="macro.npz has no network with a value of cifar10_test_50; choose another column"):
        drawn_rows(empty, "cifar10_test_50", None)
    with pytest.raises(ValueError, match="it has no columns of results$"):
        drawn_rows(table._replace(columns={}), "cifar10_test_50", None)
    assert (better("cifar10_test_50"), better("train_acc_12_x"), better("flops_cifar10")) == (1, 1, -1)


# Scores

BENCHMARK = Benchmark(
    space="toy", title="Toy-Bench", group="chain", edges=((0, 1), (1, 2)), ops=tuple(OPS), notation="toy",
    reported="digits_test_9", skeleton={}, data={})
"""Of the toy space, which compiles in a moment: 16 networks."""
TOY = f"{ROOT}/tests/toy_space.py:toy"
WORTH = np.array([0.0, 1, 5, 2])
"""What an operation of the toy space is worth in its table."""


def write_toy(path):
    """A table of the toy space: the sum of what the operations of a network are worth."""
    ops = np.indices((4, 4)).reshape(2, -1).T
    np.savez(path, ops=ops, digits_test_9=WORTH[ops].sum(1), digits_test_first7_9=np.arange(7.0))
    return path


@pytest.fixture(scope="module")
def bench():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BENCHMARKS, "toy", BENCHMARK)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory, bench):
    folder = tmp_path_factory.mktemp("rank") / "run"
    dnas.search(TOY, "rsps", DIGITS, epochs=1, batch=16, out=folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory, bench):
    return write_toy(tmp_path_factory.mktemp("table") / "toy.npz")


def networks(space, count=16):
    return [Genotype.from_decisions(space, {"chain": [n // 4, n % 4]}) for n in range(count)]


def test_the_score_of_a_network_is_that_of_its_own_weights_alone(run, table):
    """By the space itself, on the batches of the examples, with batch statistics."""
    supernet = dnas.open(run, trust=True).supernet
    context, data = supernet.context, supernet.data
    space = supernet.space
    genotypes = networks(space)[::5]
    scores = score_networks(context, genotypes, 40, state_of=supernet.state_of)
    rows = dnas.data.evaluation_indices(dnas.data.mixed(data.splits["valid"]), 16)[0]
    size = rows.shape[1]
    rows, state = rows.reshape(-1)[:-(-40 // size) * size].reshape(-1, size), supernet.state
    inputs = (data.inputs[rows] / 255.0 - np.asarray(data.mean)) / np.asarray(data.std)
    for n, genotype in enumerate(genotypes):
        logits = np.concatenate([space.apply(state.weights, state.stats, genotype.gates(space.groups), batch, train=True,
                                             key=None)[0] for batch in inputs.astype(np.float32)])[:40]
        right = logits.argmax(-1) == data.targets[rows].reshape(-1)[:40]
        assert scores.values["accuracy"][n] == pytest.approx(right.mean())
    assert scores.seconds > 0 and scores.values["loss"].shape == (4,)


def test_networks_are_scored_by_the_state_that_contains_them(run):
    """Two states, as of a supernet that was split: half of the networks by each, in whatever order they come."""
    supernet = dnas.open(run, trust=True).supernet
    context, space = supernet.context, supernet.space
    other = context.state._replace(weights=jax.tree.map(lambda leaf: 2 * leaf, context.state.weights))
    genotypes = networks(space)
    states = {genotype: context.state if n % 2 else other for n, genotype in enumerate(genotypes)}
    mixed = score_networks(context, genotypes, 20, state_of=states.get).values["loss"]
    alone = [score_networks(context, genotypes, 20, state_of=lambda genotype, state=state: state).values["loss"]
             for state in (other, context.state)]
    np.testing.assert_array_equal(mixed, np.where(np.arange(len(genotypes)) % 2, alone[1], alone[0]))
    assert not np.array_equal(*alone)


def test_what_was_scored_is_not_scored_again(run, tmp_path, monkeypatch):
    """A stop after any chunk, more networks, and other orders end with the same numbers."""
    supernet = dnas.open(run, trust=True).supernet
    genotypes = networks(supernet.space, 11)
    monkeypatch.setattr(scoring, "AT_ONCE", 4)
    file, counted = tmp_path / "scores.npz", []
    context = supernet.context._replace(score=lambda state, masks, first, last: counted.append(len(masks)) or
                                        supernet.context.score(state, masks, first, last))
    score = lambda which, **options: score_networks(context, which, 20, state_of=supernet.state_of, of={"checkpoint": "a"},
                                                    **options)

    def stop(done, left):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(genotypes, file=file, on_scored=stop)
    assert len(read_scores(file).decisions) == 8 and sum(counted) == 1 + 8  # one compiles
    counted.clear()
    calls = []
    through = score(genotypes[::-1], file=file, on_scored=lambda done, left: calls.append(done))
    assert sum(counted) == 1 + len(genotypes) - 8 and calls == [len(genotypes)]
    whole = score(genotypes)
    for name in "loss", "accuracy":
        np.testing.assert_array_equal(through.values[name][::-1], whole.values[name])
    counted.clear()
    assert score(genotypes, file=file).values["loss"].tolist() == whole.values["loss"].tolist() and not counted
    before = file.read_bytes()
    for examples, of, message in (20, "b", "another state of the supernet"), (30, "a", "on 20 examples, and not on 30"):
        with pytest.raises(ValueError, match=message):
            score_networks(context, genotypes, examples, state_of=supernet.state_of, file=file, of={"checkpoint": of})
    assert file.read_bytes() == before
    whole_file = dict(np.load(file))
    for broken in ({"decisions": np.zeros(3)}, {"seconds": np.float64(0)}, {"seconds": np.float64(np.nan)},
                   {"decisions": np.zeros((11, 3), np.int32)}, {"accuracy": None}):
        np.savez(file, **{name: values for name, values in {**whole_file, **broken}.items() if values is not None})
        with pytest.raises(ValueError, match=r"scores.npz is not a file of scores .*\(its arrays do not fit\); remove it"):
            score(genotypes, file=file)


# The command

def test_the_command_and_the_function(run, table, capsys):
    command = ["rank", run, "--table", table, "--networks", "12", "--examples", "34", "--cache", "off", "--space", TOY]
    out = said(capsys, *command)
    assert "12 of Toy-Bench, 30 examples" in out and "Kendall" in out and "360 examples forward" in out
    result = json.loads((run / "rank-toy.json").read_text())
    assert (result["networks"], result["of"], result["examples"], result["epoch"]) == (12, 16, 30, 1)
    assert result["statistics"].keys() == {"accuracy", "loss", "multiply-adds"} and result["cost"]["evaluations"] == 360
    assert {f"rank-toy.{suffix}" for suffix in ("json", "npz", "svg", "png")} <= {path.name for path in run.iterdir()}
    again = dnas.rank(run, table=str(table), networks=12, examples=30, progress=False, cache="off", trust=True)
    assert again.to_json() == result and again.statistics["loss"].kendall.low < again.statistics["loss"].kendall.high
    assert "scored" not in said(capsys, *command)  # all are in the file
    values = np.array([sum(WORTH[list(OPS).index(choice.op)] for choice in each.choices["chain"])
                       for each in again.genotypes])
    np.testing.assert_array_equal(again.values, values)
    assert again.statistics["loss"] == rank_statistics(-again.scores["loss"], values, among=[10.0])
    space = dnas.open(run, trust=True).supernet.space
    macs = np.array([space.cost(each)["macs"] for each in again.genotypes])
    assert again.statistics["multiply-adds"] == rank_statistics(macs, values, among=[10.0]) and np.ptp(macs) > 0
    said(capsys, "report", run)
    page = (run / "report.html").read_text()
    assert "How the supernet ranks networks" in page and ranking.spelled(result["statistics"]["loss"]["kendall"]) in page
    assert "Kendall" in repr(again)
    (run / "rank-toy.json").write_text("{}")
    assert "rank-toy.json is not a ranking; remove it" in refused(capsys, "report", run)
    (run / "rank-toy.json").unlink()


def test_a_run_in_memory_writes_nothing(table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = dnas.search(TOY, "rsps", DIGITS, epochs=1, batch=16, out=None, progress=False)
    result = dnas.rank(found, table=str(table), truth="digits_test_first7_9", examples=16, progress=False)
    assert result.file is None and (len(result.genotypes), result.of) == (7, 7) and not list(tmp_path.iterdir())


def test_bad_input_is_one_line_and_writes_nothing(run, table, originals, tmp_path, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    cell = tmp_path / "cell.npz"
    np.savez(cell, ops=np.zeros((1, 6), np.int8), cifar10_test_200=np.ones(1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_bytes((run / "config.json").read_bytes())
    usual = [run, "--table", table]
    for argv, message in (
            ([run, "--table", cell], "of space toy; a table is for runs of nasbench201 alone"),
            ([*usual, "--truth", "digits_test_5"], "has no column 'digits_test_5'; its columns are digits_test_9, "),
            ([*usual, "--networks", "17"], "networks is 17; it must be 1 to 16"),
            ([*usual, "--networks", "0"], "networks is 0; it must be 1 to 16"),
            ([*usual, "--examples", "0"], "examples is 0; it must be a whole number, at least 1"),
            ([*usual, "--examples", "91"], "examples is 91; it must be 1 to 90, the size of the validation split"),
            ([*usual, "--seed", "-1"], "seed is -1"), ([run], "--table"),
            ([run, "--table", tmp_path / "x.npz"], "no such file"),
            ([tmp_path / "empty", "--table", table], "has no checkpoint"), ([tmp_path, "--table", table], "no config.json"),
            ([originals / "net", "--table", table], "is a training, which has no supernet"),
            ([originals / "run", "--table", table], "is of space width; a table is for runs of toy alone")):
        own = [] if argv[0] in (originals / "net", originals / "run") else ["--space", TOY]
        assert message in refused(capsys, "rank", *argv, *own, "--cache", "off"), argv
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("wrong, message", [
    ({"run": None}, "run is None; it must be a run"), ({"table": None}, "table is None; it must be the path"),
    ({"seed": 1.5}, "seed is 1.5"), ({"examples": "a"}, "examples is 'a'"), ({"examples": 1.5}, "examples is 1.5"),
    ({"networks": True}, "networks is True; it must be 1 to 16")])
def test_wrong_types_are_one_line(table, wrong, message):
    with pytest.raises(ValueError, match=message):
        dnas.rank(**{"run": "there-is-none", "table": str(table), **wrong})


def test_a_run_that_is_in_use_is_not_ranked(run, table):
    with locks.take(run), pytest.raises(ValueError, match="is in use by"):
        dnas.rank(run, table=str(table), space=TOY, progress=False)


@pytest.mark.heavy
def test_a_killed_command_goes_on(tmp_path):
    """Killed once the first scores are written; the same command then scores the others only."""
    table, folders = write(tmp_path / "macro.npz"), [tmp_path / "run", tmp_path / "other"]
    for folder in folders:
        dnas.search(dnas.space("macro", DIGITS, channels=1), "rsps", DIGITS, epochs=1, batch=16, out=folder, progress=False)
    command = ["--table", table, "--networks", "400", "--cache", "off"]
    words = [sys.executable, "-m", "launch.main", "rank", *map(str, [folders[0], *command])]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for line in process.stdout:
        if line.startswith("scored "):
            process.kill()
            break
    process.wait()
    process.stdout.close()
    done = len(read_scores(folders[0] / "rank-macro.npz").decisions)
    assert 0 < done < 400 and not (folders[0] / "rank-macro.json").exists()
    out = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert f"scored     {min(done + scoring.AT_ONCE, 400)} of 400" in out and f"scored     {done} of" not in out
    assert main(["rank", *map(str, [folders[1], *command])]) == 0
    through, whole = (json.loads((folder / "rank-macro.json").read_text()) for folder in folders)
    assert through["statistics"] == whole["statistics"]
