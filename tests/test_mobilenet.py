"""Inverted residuals of searched kernels, expansions and depths: costs, equal networks, budgets, selections."""

import jax
import numpy as np
import pytest

import dnas
from dnas.algorithms.budget import Budget, bounds, likelihood, met, within
from dnas.selection.perturbation import schedule
from dnas.types import REMOVED, Genotype
from search_spaces.check import check
from search_spaces.mobilenet import depths, mobilenet

IMAGE, TEXT = (8, 8, 1), "3x6-5x3 | 7x4"


def small(form="entangled", **options):
    return mobilenet(IMAGE, 3, channels=2, stages=2, layers=2, form=form, **options)


def double(gates):
    return jax.tree.map(np.float64, gates)


def block(into, out, kernel, ratio, pixels, before, squeeze):
    """Parameters and multiply-adds of one by hand, `before` its stride."""
    hidden, few = into * ratio, into * ratio // 4
    weights = [(into * hidden, before), (kernel**2 * hidden, pixels), (hidden * out, pixels)]
    extra = few * (hidden + 1) + hidden * (few + 1) if squeeze else 0
    return (sum(count for count, _ in weights) + 2 * (2 * hidden + out) + extra,
            sum(count * times for count, times in weights) + 2 * few * hidden * squeeze)


@pytest.mark.parametrize("squeeze", [False, True])
def test_its_cost_by_hand(squeeze):
    """Of a network in the notation, of the mean cost at its gates, and of both forms."""
    space = small(squeeze_excite=squeeze)
    genotype = space.parse(TEXT)
    assert space.format(genotype) == TEXT
    assert genotype.decisions(space.groups)["kernel"].tolist() == [0, 1, 2, REMOVED]
    blocks = [block(2, 2, 3, 6, 64, 64, squeeze), block(2, 2, 5, 3, 64, 64, squeeze), block(2, 4, 7, 4, 16, 64, squeeze)]
    params, macs = (sum(each[i] for each in blocks) for i in (0, 1))
    cost = {"params": params + 9 * 2 + 4 + 4 * 16 + 32 + 17 * 3, "macs": macs + 9 * 2 * 64 + 4 * 16 * 16 + 16 * 3}
    other = small("separate", squeeze_excite=squeeze)
    assert space.cost(genotype) == space.expected(double(genotype.gates(space.groups))) == cost
    assert other.cost(genotype) == other.expected(double(genotype.gates(space.groups))) == cost


def test_what_a_missing_block_would_have_is_no_part_of_a_genotype():
    """However it is drawn: from decisions, by the rule, from a text; of 225 networks in a stage of up to two blocks."""
    space = small()
    rows = {"kernel": np.array([0, 1, 2, 0]), "ratio": np.array([2, 0, 1, 0]), "depth": np.array([1, 0])}
    drawn = [Genotype.from_decisions(space, rows | {"kernel": np.array([0, 1, 2, k]), "ratio": np.array([2, 0, 1, k])})
             for k in range(3)]
    scores = {name: np.eye(group.shape[1])[row] for (name, group), row in
              zip(space.groups.items(), (rows["kernel"], rows["ratio"], rows["depth"]))}
    assert set(drawn) == {space.parse(TEXT), space.genotype(scores)} and len(set(drawn)) == 1
    assert not any(edges.any() for edges in space.skipped(space.largest().decisions(space.groups)).values())
    assert depths(4) == (2, 3, 4) and depths(2) == (1, 2)


def test_a_budget_moves_the_depth():
    """Its nearest network has more blocks, or fewer, than the one that the gates prefer; all rows count in the mean."""
    space, draw = small(), np.random.default_rng(0)
    even = {name: np.full(group.shape, 1 / group.shape[1]) for name, group in space.groups.items()}
    assert all((rows == even[name]).all() for name, rows in likelihood(space)(even).items())
    lowest, highest = bounds(space)
    shallow, deep = space.parse("3x3 | 3x3"), space.largest()
    assert space.cost(shallow) == lowest and space.cost(deep) == highest
    gates = {name: draw.dirichlet(np.ones(group.shape[1]), group.shape[0]) for name, group in space.groups.items()}
    for start, budget in (shallow, Budget(macs=0.95 * highest["macs"])), (deep, Budget(macs=1.05 * lowest["macs"])):
        chosen = within(space, budget, gates, start)
        assert met(space, budget, chosen)["ok"] and chosen == Genotype.from_decisions(space, chosen.decisions(space.groups))
        assert [choice.op for choice in chosen.choices["depth"]] != [choice.op for choice in start.choices["depth"]]


def test_a_perturbation_decides_every_row_and_removes_none():
    assert {event.kind for event in schedule(small(), 0)} == {"edge"}


@pytest.mark.heavy
@pytest.mark.parametrize("form, squeeze", [("entangled", True), ("separate", False)])
def test_it_does_what_a_space_must(form, squeeze):
    images = np.random.default_rng(0).normal(size=(4, *IMAGE))
    assert not [finding for finding in check(small(form, squeeze_excite=squeeze), images, 3) if finding.wrong]


@pytest.mark.heavy
def test_a_search_in_a_budget_and_a_selection_of_its_supernet():
    data = dnas.data.load("digits", limit=200)
    space = dnas.space("mobilenet", data, channels=2, stages=2, layers=2)
    budget = Budget(macs=0.5 * bounds(space)[1]["macs"])
    run = dnas.search(space, "darts", data, epochs=2, batch=32, budget=budget, progress=False)
    assert met(space, budget, run.genotype)["ok"]
    for selection, options in ("perturbation", {"interval": 1}), ("sampled", {"draws": 4}):
        genotype = dnas.select(run, selection, progress=False, **options).genotype
        assert genotype == Genotype.from_decisions(space, genotype.decisions(space.groups))


@pytest.mark.parametrize("go, message", [
    (lambda: small("merged"), "form is 'merged'; it must be one of entangled, separate"),
    (lambda: mobilenet(IMAGE, 3, channels=1), "channels >= 2"),
    (lambda: mobilenet(IMAGE, 3, stages=5), "images of 8x8 are too small for 5 stages: 16x16 is the least"),
    (lambda: mobilenet((8,), 3), "space mobilenet is for images"),
    (lambda: small().parse("3x6-5x3"), "not 2 stages"),
    (lambda: small().parse("3x6-5x3-3x3 | 3x3"), "of 1 to 2 blocks"),
    (lambda: small().parse("3x6-5x5 | 3x3"), "a ratio of 3,4,6"),
])
def test_what_cannot_be_is_refused_in_one_line(go, message):
    with pytest.raises(ValueError, match=message) as caught:
        go()
    assert "\n" not in str(caught.value)
