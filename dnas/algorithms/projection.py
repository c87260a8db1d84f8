"""Chooses one option for every slot, such that the cost is within limits and the score highest.

    maximise  sum over slots of score[slot][pick]    subject to    1 - band <= max over limits of cost(picks) / limit <= 1

A cost that is a sum over the slots is handled by dynamic programming over the sums that partial choices reach: exactly while
there are at most STATES of them; beyond that, sums that lie close together share one state, the one that scores higher. Any
other cost is handled by best-first search over changes of one slot, which is exhaustive for at most EVALUATIONS choices,
and then by changes of one or two slots that raise the score.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

STATES, EVALUATIONS, DRAWS = 5_000, 20_000, 32
"""Most partial choices per slot; most costs computed; random choices that test whether a cost is a sum."""

Picks = tuple[int, ...]
"""The index of an option for every slot."""


class Problem(NamedTuple):
    """scores: for each slot `[K]`, which may differ in K. cost(picks) -> `[L]`. limits: `[L]`, above 0.

    accept(picks) -> whether the choice is allowed; called only for choices that would be returned.
    """

    scores: Sequence[np.ndarray]
    cost: Callable[[Picks], np.ndarray]
    limits: np.ndarray
    band: float
    accept: Callable[[Picks], bool]

    def score(self, picks: Picks) -> float:
        """The sum to maximise."""
        return float(sum(scores[k] for scores, k in zip(self.scores, picks)))

    def excess(self, picks: Picks) -> float:
        """Distance of the cost from the band, as a difference of logarithms; 0 inside."""
        ratio = float((self.cost(picks) / self.limits).max())
        if 1 - self.band <= ratio <= 1:
            return 0.0
        log = np.log(max(ratio, 1e-30))
        return float(max(log, np.log(1 - self.band) - log, 1e-12))

    def changes(self, picks: Picks) -> Iterator[tuple[int, int]]:
        """(slot, option) of every change of one slot."""
        return ((s, k) for s, scores in enumerate(self.scores) for k in range(len(scores)) if k != picks[s])


def project(problem: Problem, start: Picks) -> tuple[Picks, float]:
    """The accepted choice that meets the limits and scores highest, else the nearest one reached; and its excess.

    start: an accepted choice.
    """
    terms = _terms(problem, start)
    if terms is not None:
        for picks in itertools.islice(_by_sums(problem, *terms), 100):
            if problem.excess(picks) == 0 and problem.accept(picks):
                return picks, 0.0
    return _by_changes(problem, start)


def changed(picks: Picks, *changes: tuple[int, int]) -> Picks:
    """`picks` with other options in some slots."""
    new = list(picks)
    for slot, option in changes:
        new[slot] = option
    return tuple(new)


def _terms(problem: Problem, start: Picks) -> tuple[np.ndarray, list[np.ndarray]] | None:
    """(base `[L]`, for each slot `[K, L]`), whose sum is the cost; None if the cost is not such a sum."""
    base = problem.cost(start)
    tables = [np.array([problem.cost(changed(start, (s, k))) - base for k in range(len(scores))])
              for s, scores in enumerate(problem.scores)]
    draw = np.random.default_rng(0)
    for _ in range(DRAWS):
        picks = tuple(int(draw.integers(len(scores))) for scores in problem.scores)
        if not np.allclose(base + sum(table[k] for table, k in zip(tables, picks)), problem.cost(picks), 1e-9, 0):
            return None
    return base, tables


def _by_sums(problem: Problem, base: np.ndarray, tables: Sequence[np.ndarray]) -> Iterator[Picks]:
    """Choices that meet the limits, one for each sum, those that score highest first."""
    costs, scores, picks = base[None], np.zeros(1), np.zeros((1, 0), np.int32)
    for s, (table, gains) in enumerate(zip(tables, problem.scores)):
        count, options = len(costs), len(table)
        costs = (costs[:, None] + table).reshape(count * options, len(base))
        scores = (scores[:, None] + gains).reshape(-1)
        picks = np.column_stack([np.repeat(picks, options, 0), np.tile(np.arange(options), count)])
        least, most = (sum((extreme(rest, 0) for rest in tables[s + 1:]), np.zeros(len(base)))
                       for extreme in (np.min, np.max))
        within = (costs + least <= problem.limits).all(-1)
        within &= (costs + most >= (1 - problem.band) * problem.limits).any(-1)
        costs, scores, picks = costs[within], scores[within], picks[within]
        rows = _thinned(costs, scores)
        costs, scores, picks = costs[rows], scores[rows], picks[rows]
    return (tuple(picks[row].tolist()) for row in np.argsort(-scores, kind="stable"))


def _thinned(costs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rows of the highest score for each cost, or each cell of a grid of costs if there are more than STATES."""
    rows, bins = _best(costs, scores), 4 * STATES
    while len(rows) > STATES:
        low, span = costs.min(0), np.ptp(costs, 0)
        rows = _best(np.floor((costs - low) / np.where(span > 0, span, 1) * bins), scores)
        bins //= 2
    return rows


def _best(cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
    order = np.lexsort((-scores, *cells.T))
    ordered = cells[order]
    first = np.ones(len(order), bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(-1)
    return order[first]


def _by_changes(problem: Problem, start: Picks) -> tuple[Picks, float]:
    """Best-first search, nearest to the limits first; then uphill within them."""
    reached, counter = {start}, itertools.count()
    queue = [(problem.excess(start), -problem.score(start), next(counter), start)]
    best, nearest = np.inf, start
    while queue and best > 0 and len(reached) < EVALUATIONS:
        excess, _, _, picks = heapq.heappop(queue)
        if excess < best and problem.accept(picks):
            best, nearest = excess, picks
        for change in problem.changes(picks):
            new = changed(picks, change)
            if new not in reached:
                reached.add(new)
                heapq.heappush(queue, (problem.excess(new), -problem.score(new), next(counter), new))
    return (nearest, best) if best > 0 else (_uphill(problem, nearest), best)


def _uphill(problem: Problem, picks: Picks) -> Picks:
    """Changes of one or two slots that keep within the limits, the largest gain in score first, until there is none."""
    left = EVALUATIONS
    while left > 0:
        singles = list(problem.changes(picks))
        gain = {(s, k): problem.scores[s][k] - problem.scores[s][picks[s]] for s, k in singles}
        steps = [(one,) for one in singles] + [(a, b) for a, b in itertools.combinations(singles, 2) if a[0] != b[0]]
        steps = sorted(((sum(gain[change] for change in step), step) for step in steps), key=lambda each: -each[0])
        for gained, step in steps:
            new = changed(picks, *step)
            left -= 1
            if gained <= 1e-12 or left <= 0:
                return picks
            if problem.excess(new) == 0 and problem.accept(new):
                picks = new
                break
        else:
            return picks
    return picks
