"""Evolution under hard limits, as in Once-for-All (Cai et al., ICLR 2020, arXiv 1908.09791).

    parents:   the best quarter of a population, all that was evaluated before included
    children:  half of them mutated parents, each operation replaced with probability 0.1; the others have each operation
               from one of two parents; a child that exceeds a limit is drawn again

Theirs looks for the best network by a predictor (`by_predictor`). With true evaluations in place of the predictor it is the
evolution of SPOS (Guo et al., ECCV 2020, arXiv 1904.00420), and no network is evaluated twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set

import numpy as np

from dnas.fronts.encoding import Vector
from dnas.fronts.predictors import fit
from dnas.fronts.problem import SMALL, TRIES, Log, Problem, mutated, uniform

PARENTS = 0.25
MUTATION = 0.1
POPULATION, GENERATIONS = 100, 500
"""Of an evolution on a predictor, as published."""


def evolution(problem: Problem, log: Log, count: int, rng: np.random.Generator, *, population: int) -> list[Vector]:
    """The next networks to evaluate truly, children of the best by the first objective; drawn uniformly where none was
    evaluated yet."""
    if not log.vectors:
        return uniform(problem, log, count, rng)
    best = np.argsort(log.values[:, 0], kind="stable")[:max(round(PARENTS * population), 1)]
    return offspring(problem, [log.vectors[n] for n in best], count, set(log.vectors), rng)


def by_predictor(problem: Problem, log: Log, count: int, rng: np.random.Generator, *, draws: int,
                 generations: int = GENERATIONS) -> list[Vector]:
    """The next networks to evaluate truly: `draws` that are drawn uniformly, then those that evolution finds to be best by a
    predictor fitted on these; in a space of at most SMALL vectors, those that are best among all."""
    if len(log.vectors) < draws:
        return uniform(problem, log, count, rng)
    features = problem.encoding.features
    predict = fit(features(log.vectors), log.values[:, 0]).predict
    known = dict(zip(log.vectors, predict(features(log.vectors)).tolist()))
    if problem.encoding.size <= SMALL:  # no evolution is needed
        known |= zip(problem.listed, predict(features(problem.listed)).tolist())
        generations = 0
    parents, best = list(log.vectors), round(PARENTS * POPULATION)
    for _ in range(generations):
        parents = heapq.nsmallest(best, parents, known.get)
        children = list(dict.fromkeys(offspring(problem, parents, POPULATION, None, rng)))
        fresh = [child for child in children if child not in known]
        if fresh:
            known |= zip(fresh, predict(features(fresh)).tolist())
        parents += fresh
    fresh = sorted(known.keys() - set(log.vectors), key=lambda vector: (known[vector], vector))[:count]
    rest = log._replace(vectors=(*log.vectors, *fresh))
    return fresh + uniform(problem, rest, count - len(fresh), rng)


def offspring(problem: Problem, parents: Sequence[Vector], count: int, seen: Set[Vector] | None,
              rng: np.random.Generator) -> list[Vector]:
    """Children within the limits, all different and none in `seen`; None if they may repeat. Where a child is hard to come
    by, a network drawn uniformly takes its place."""
    children: list[Vector] = []
    before = set(seen or ())
    for number in range(count):
        for _ in range(TRIES):
            child = problem.encoding.canonical(_child(problem, parents, number < count // 2, rng), rng)
            if child not in before and not problem.excess(child):
                break
        else:
            child = problem.new(rng, before)
        children.append(child)
        if seen is not None:
            before.add(child)
    return children


def _child(problem: Problem, parents: Sequence[Vector], mutate: bool, rng: np.random.Generator) -> Vector:
    one, other = (parents[int(rng.integers(len(parents)))] for _ in range(2))
    if mutate:
        return mutated(problem.encoding, one, MUTATION, rng)
    return tuple(a if first else b for a, b, first in zip(one, other, rng.random(len(one)) < 0.5))
