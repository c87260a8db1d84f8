"""LINAS (Cummings et al., A Hardware-Aware Framework for Accelerating Neural Architecture Search Across Modalities, arXiv
2205.10358): a front by few true evaluations, in rounds.

    a population of random networks
    repeat:  evaluate the population truly
             fit a predictor of each objective on all that was evaluated
             the next population: NSGA-II on the predictors

What differs here: costs are not predicted where they are known exactly; the next population are those of all networks that
NSGA-II has looked at which come first by rank and crowding distance and were not evaluated yet, so that none is evaluated
twice; limits hold for every network that is evaluated; NSGA-II begins with the best networks so far, and random ones.
"""

from __future__ import annotations

import numpy as np

from dnas.fronts.dominance import ranked
from dnas.fronts.encoding import Vector
from dnas.fronts.nsga2 import nsga2
from dnas.fronts.predictors import fit
from dnas.fronts.problem import Log, Problem, uniform


def linas(problem: Problem, log: Log, count: int, rng: np.random.Generator, *, predicted: int) -> list[Vector]:
    """The next networks to evaluate truly; drawn uniformly where none was evaluated yet. predicted: evaluations on the
    predictors."""
    if not log.vectors:
        return uniform(problem, log, count, rng)
    features = problem.encoding.features
    predictors = {m: fit(features(log.vectors), log.values[:, m]) for m, cost in enumerate(log.costs) if cost is None}

    def values(vectors):
        columns = [predictors[m].predict(features(vectors)) if cost is None else
                   np.array([problem.costs(vector)[cost] for vector in vectors]) for m, cost in enumerate(log.costs)]
        return np.stack(columns, 1)

    population = max(count, 20)
    first = [log.vectors[n] for n in ranked(log.values, population // 2)[:population // 2]]
    while len(first) < population:
        first.append(problem.encoding.draw(rng))
    visited = nsga2(problem, values, first, generations=max(predicted // population, 1), rng=rng)
    known = set(log.vectors)
    fresh = [vector for vector in visited if vector not in known]
    best = ranked(np.array([visited[vector] for vector in fresh]), count)[:count] if fresh else ()
    chosen = [fresh[n] for n in best]
    if len(chosen) == count:
        return chosen
    seen = log._replace(vectors=(*log.vectors, *chosen))
    return chosen + uniform(problem, seen, count - len(chosen), rng)
