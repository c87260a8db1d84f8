"""Tasks other than classification from the search to the trained network: numbers, and the next token."""

import json
import math

import numpy as np
import pytest

from dnas.algorithms.supervised import Recipe
from dnas.data import from_arrays, load
from dnas.engine.search import search
from dnas.engine.train import best, train
from dnas.methods.darts import darts
from dnas.runs.directory import open_run
from dnas.selection.perturbation import perturbation
from dnas.selection.sampling import sampled
from dnas.selection.select import select, selection_context
from dnas.task import task_of
from search_spaces.dense import dense
from tests.toy_causal import causal


def counting():
    """Sequences that count upwards modulo 5, by one or by two: the next token can be told from the last two."""
    rng = np.random.default_rng(0)
    starts, strides = rng.integers(0, 5, (600, 1)), rng.integers(1, 3, (600, 1))
    tokens = (starts + strides * np.arange(9)) % 5
    return from_arrays("counting", tokens[:, :-1], tokens[:, 1:], task="next-token")


def small(data):
    return dense(data.image, data.classes, hidden=4, layers=1)


CASES = {
    "regression": (lambda: load("diabetes"), small, ["mae", "mse"]),
    "next-token": (counting, lambda data: causal(data.image, data.classes), ["bits", "accuracy"]),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """The data, the space and the names of the metrics; the method, and what a search ends with."""
    make, space_of, metrics = CASES[request.param]
    data = make()
    space, method = space_of(data), darts(lr=0.05, arch_lr=0.01)
    with open_run(tmp_path_factory.mktemp("runs") / "run", {"name": request.param}) as run:
        return data, space, metrics, method, search(space, method, data, epochs=3, batch=32, run=run), run.folder


def test_a_search_reports_the_metrics_of_its_task(case):
    data, _, metrics, _, result, folder = case
    first, last = result.records[0], result.records[-1]
    assert set(result.holdout) == {"loss", *metrics}
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) == last
    for name in ("loss", *metrics):
        assert set(last[name]) == {"train", "valid", "holdout"} and all(map(math.isfinite, last[name].values()))
    assert last["loss"]["train"] < first["loss"]["train"] and last[metrics[0]]["holdout"] < first[metrics[0]]["holdout"]
    if metrics[0] == "mae":  # in the units of the targets, the loss is not
        spread = np.abs(data.targets - data.targets.mean()).mean()
        assert 0.3 * spread < last["mae"]["holdout"] < 1.5 * spread and last["loss"]["holdout"] < 3
    else:
        assert last["bits"]["train"] == pytest.approx(last["loss"]["train"] / math.log(2), rel=1e-5)


def test_selections_take_what_has_the_better_metric(case):
    """Less of it, here: of genotypes the one with the least, of operations the one without which there is most."""
    data, space, metrics, method, result, _ = case
    context = selection_context(space, method, data, result.state, batch=32, epochs=3)
    said = []
    choice = select(sampled(draws=10), context, say=said.append)
    tried = choice.scores["tried"]
    assert context.task.better == -1 and np.ptp(tried) > 0
    for name in space.groups:
        least = choice.scores[f"tried/{name}"][tried.argmax()]
        assert np.array_equal(choice.genotype.decisions(space.groups)[name], least)
    assert f"the best scores {tried.max():.4g}" in said[-1]
    choice = select(perturbation(interval=0), context)
    name = next(iter(space.groups))
    gates = {group: np.asarray(rows) for group, rows in context.gates(context.state).items()}
    first = np.random.default_rng(0).permutation(len(space.groups[name].edges))[0]
    masks = [gates | {name: gates[name] * ~((np.arange(len(gates[name]))[:, None] == first) & (np.arange(
        gates[name].shape[1]) == k))} for k in range(gates[name].shape[1])]
    without = context.score(context.state, masks)[metrics[0]].mean(-1)
    np.testing.assert_allclose(choice.scores[name][first], without, rtol=1e-5)
    assert choice.genotype.decisions(space.groups)[name][first] == without.argmax()


def test_a_training_reports_the_metrics_of_its_task(case, tmp_path):
    data, space, metrics, _, result, _ = case
    with open_run(tmp_path / "run", {"name": "net"}) as run:
        net = train(space.network(result.genotype), data, epochs=3, batch=32, recipe=Recipe(lr=0.05), final="test", run=run)
    assert set(net.report) == set(net.final) == {"loss", *metrics} and set(net.errors) == set(metrics)
    assert net.confusion is None and net.report == {name: net.records[-1][name]["holdout"] for name in net.report}
    values = [record[metrics[0]]["holdout"] for record in net.records]
    assert best(net.records, "holdout", task_of(data)) == 1 + int(np.argmin(values)) and values[-1] < values[0]
    assert all(math.isfinite(value) for value in net.errors.values())


def test_teachers_of_other_tasks(case):
    """Distillation by earlier supernets, whatever they hand on."""
    data, space, *_ = case
    method = darts(distill=1, distill_every="step", distill_warmup=0)
    result = search(space, method, data, epochs=1, batch=32, progress=False)
    assert result.records[0]["distillation"]["train"] > 0


def test_without_a_divergence_there_are_no_teachers(monkeypatch):
    data = load("diabetes")
    monkeypatch.setattr("dnas.engine.search.task_of", lambda data: task_of(data)._replace(divergence=None))
    with pytest.raises(ValueError, match="the task regression has no divergence to distil by; search it without teachers"):
        search(small(data), darts(distill=1), data, epochs=1, batch=32, progress=False)
