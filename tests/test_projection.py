"""Choices within limits against all choices, one by one; and budgets that no change of one edge meets."""

import itertools

import numpy as np
import pytest

from dnas import Genotype
from dnas.algorithms import projection
from dnas.algorithms.budget import Budget, bounds, budgeted, met, within
from dnas.algorithms.projection import Problem, project
from dnas.methods.darts import darts
from dnas.types import REMOVED
from search_spaces.adapter import linear_cost
from tests.toy_space import toy

BAND = 0.05


def problem(seed, *, slots=5, options=4, limits=1, products=0.0, accept=lambda picks: True, share=0.5):
    """Whole-numbered costs, a sum over the slots, or with products of neighbouring slots besides."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, options + 1, slots)
    tables = [draw.integers(1, 1000, (size, limits)).astype(float) for size in sizes]
    scores = [np.log(draw.dirichlet(np.full(size, 0.3)) + 1e-9) for size in sizes]

    def cost(picks):
        parts = [table[k] for table, k in zip(tables, picks)]
        return sum(parts) + products * sum(a * b // 1000 for a, b in itertools.pairwise(parts))

    largest = np.max([cost(picks) for picks in everything(scores)], 0)
    return Problem(scores, cost, share * largest, BAND, accept)


def everything(scores):
    return itertools.product(*(range(len(row)) for row in scores))


def best(problem):
    """The highest score of all choices that meet the limits, -inf if none does."""
    return max((problem.score(picks) for picks in everything(problem.scores)
                if problem.excess(picks) == 0 and problem.accept(picks)), default=-np.inf)


def start(problem):
    return (0,) * len(problem.scores)


@pytest.mark.parametrize("limits", [1, 2])
def test_of_a_sum_the_highest_score_is_found(limits):
    found = 0
    for seed in range(30):
        case = problem(seed, limits=limits, share=np.random.default_rng(seed).uniform(0.2, 0.9))
        picks, excess = project(case, start(case))
        assert (excess == 0) == (best(case) > -np.inf)
        if excess == 0:
            found += 1
            assert case.excess(picks) == 0 and case.score(picks) == pytest.approx(best(case))
        else:
            assert excess == case.excess(picks) == pytest.approx(min(map(case.excess, everything(case.scores))))
    assert 10 < found <= 30


def test_of_another_cost_a_choice_is_found_wherever_there_is_one():
    scores = []
    for seed in range(30):
        case = problem(seed, products=1.0, share=np.random.default_rng(seed).uniform(0.2, 0.9))
        assert projection._terms(case, start(case)) is None
        picks, excess = project(case, start(case))
        assert (excess == 0) == (best(case) > -np.inf) and excess == case.excess(picks)
        if excess == 0:
            scores.append(case.score(picks) - best(case))
    assert len(scores) > 10 and np.mean(np.array(scores) > -1e-9) > 0.7


def test_more_sums_than_states_share_one(monkeypatch):
    monkeypatch.setattr(projection, "STATES", 40)
    near = []
    for seed in range(10):
        case = problem(seed, slots=7)
        picks, excess = project(case, start(case))
        assert excess == 0 and case.excess(picks) == 0
        near.append(case.score(picks) - best(case))
    assert np.median(near) > -0.5


def test_only_accepted_choices_come_back():
    for products in 0.0, 1.0:
        case = problem(3, products=products, accept=lambda picks: sum(picks) % 2 == 0)
        assert best(case) > -np.inf
        picks, excess = project(case, start(case))
        assert excess == 0 and sum(picks) % 2 == 0


def priced(prices, rule=None):
    """The toy space, whose networks cost the sum of what `prices` `[E, K]` says of their operations."""
    space = toy((8, 8, 1), 3)

    def cost(genotype=None):
        rows = genotype.decisions(space.groups)["chain"]
        total = int(sum(prices[e, k] for e, k in enumerate(rows) if k != REMOVED))
        return {"params": 10 + total, "macs": 1000 + 10 * total}

    space = space._replace(cost=cost, **({"genotype": rule} if rule else {}))
    return space._replace(expected=linear_cost(space))


STUCK = np.array([[0, 50, 60, 100], [0, 55, 35, 90]])


def test_a_budget_that_no_change_of_one_edge_meets_is_met_by_two():
    space = priced(STUCK)
    gates = {"chain": np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])}
    own = space.genotype(gates)
    assert space.cost(own)["params"] == 100
    budget = Budget(params=106)  # 10 and 91 to 96: 60 and 35 alone
    chosen = within(space, budget, gates, own)
    assert met(space, budget, chosen)["ok"] and [c.op for c in chosen.choices["chain"]] == ["conv", "conv"]
    assert "budget" in budgeted(darts(), space, budget).arch.terms


def test_a_budget_that_no_network_meets_is_refused_with_the_nearest():
    space = priced(np.array([[0, 1, 2, 3], [0, 500, 501, 502]]))
    lowest, highest = bounds(space)
    assert lowest["params"] < 300 < highest["params"]
    gates = {"chain": np.full((2, 4), 0.25)}
    assert space.cost(within(space, Budget(params=300), gates, space.genotype(gates)))["params"] == 510
    with pytest.raises(ValueError, match="found no network of space toy that uses 95 to 100 % of a budget of 300 "
                                         "parameters; the nearest has 510 parameters"):
        budgeted(darts(), space, Budget(params=300))
    with pytest.raises(ValueError, match="of 300 parameters and 5,900 multiply-adds; the nearest has "):
        budgeted(darts(), space, Budget(params=300, macs=5900))


def test_other_edges_are_kept_where_those_of_the_choice_cannot_meet_it():
    def rule(scores):
        rows = np.asarray(scores["chain"])
        e = int(rows.max(-1).argmax())
        return Genotype.from_decisions(space, {"chain": [rows[e].argmax() if i == e else REMOVED for i in range(2)]})

    space = priced(np.array([[0, 1, 2, 3], [0, 500, 501, 502]]), rule)
    gates = {"chain": np.array([[0.1, 0.1, 0.1, 0.7], [0.25, 0.25, 0.25, 0.25]])}
    own = space.genotype(gates)
    assert [c.source for c in own.choices["chain"]] == [0]
    chosen = within(space, Budget(params=512), gates, own)
    assert met(space, Budget(params=512), chosen)["ok"] and [c.source for c in chosen.choices["chain"]] == [1]
