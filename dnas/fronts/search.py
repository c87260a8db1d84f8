"""`dnas.fronts.search`: a front of any space by any evaluator, such as a table; no supernet is needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from dnas.fronts.encoding import Encoding, Vector
from dnas.fronts.evolution import by_predictor, evolution
from dnas.fronts.front import Front, front_of
from dnas.fronts.linas import linas
from dnas.fronts.nsga2 import refuse_missing
from dnas.fronts.problem import Cost, Log, Problem, cost_function, limits_of, uniform
from dnas.types import Genotype, SearchSpace

POPULATION, PREDICTED = 50, 5000
"""True evaluations between two fits of the predictors, and evaluations on these; published: 50, and 5,000 to 20,000."""
BY = {
    "linas": lambda evaluations, population, predicted: partial(linas, predicted=predicted),
    "evolution": lambda evaluations, population, predicted: partial(evolution, population=population),
    "predictor": lambda evaluations, population, predicted: partial(by_predictor, draws=evaluations - tops(evaluations)),
    "random": lambda evaluations, population, predicted: uniform,
}
"""Ways to propose the networks that are evaluated next."""


def tops(evaluations: int) -> int:
    """True evaluations of the networks that a predictor finds to be best: a tenth of all."""
    return max(evaluations // 10, 1)


def check_numbers(evaluations: int, population: int, predicted: int = PREDICTED) -> None:
    """Raises ValueError for a number out of range."""
    for name, value, least in (("evaluations", evaluations, 2), ("population", population, 2), ("predicted", predicted, 1)):
        if not least <= value <= 10**6:
            raise ValueError(f"{name} is {value}; it must be {least} to 1,000,000")


def rounds(evaluations: int, population: int, by: str) -> list[int]:
    """How many networks are evaluated truly in each round; together `evaluations`."""
    ends = list(range(0, evaluations, population))
    if by == "predictor":
        last = evaluations - tops(evaluations)
        ends = [*range(0, last, population), last]
    return np.diff([*ends, evaluations]).tolist()


def propose(problem: Problem, log: Log, by: str, number: int, *, evaluations: int, population: int,
            predicted: int, seed: int) -> list[Vector]:
    """The networks that round `number` evaluates: a pure function of the seed and what was evaluated before."""
    count = rounds(evaluations, population, by)[number]
    way: Callable = BY[by](evaluations, population, predicted)
    return way(problem, log, count, np.random.default_rng([seed, number]))


def search(space: SearchSpace, evaluate: Callable[[Genotype], Mapping[str, float]], objectives: Sequence[str], *,
           evaluations: int = 200, by: str = "linas", limits: Sequence[str] = (), costs: Mapping[str, Cost] = {},
           better: Mapping[str, int] = {}, population: int = POPULATION, predicted: int = PREDICTED, seed: int = 0,
           progress: Callable[[int, Mapping[str, Any]], None] = lambda done, values: None) -> Front:
    """The front that some true evaluations find among the networks of a space.

    Args:
        space: whose networks are searched.
        evaluate: genotype -> numbers by name, among them every objective that is not a cost. It is called exactly
            `evaluations` times, never twice for the same network.
        objectives: names of what `evaluate` returns, "params", "macs", and those of `costs`. Evolution and the predictor
            look at the first alone.
        evaluations: how many networks are evaluated truly.
        by: linas, evolution, predictor, or random.
        limits: hard limits on costs, such as "macs<=20e6", which every network that is evaluated keeps.
        costs: more costs by name, such as {"latency": ...}: a function or a mapping from a genotype to a number, exact and
            cheap, for it is looked up for every network that the search looks at. Less is better.
        better: {name: -1} where less of what `evaluate` returns is better.
        population: evaluations of a round.
        predicted: evaluations on predictors between two rounds of linas.
        seed: equal seeds give equal fronts.
        progress: called with the number of evaluations done, and the values of the last network.

    Raises ValueError for bad input, where the limits leave fewer networks than `evaluations`, and where a value is missing
    or not finite.
    """
    if by not in BY:
        raise ValueError(f"by is {by!r}; it must be one of {', '.join(BY)}")
    check_numbers(evaluations, population, predicted)
    if by == "linas":
        refuse_missing()
    names = [*dict.fromkeys([objectives] if isinstance(objectives, str) else objectives)]
    if not names:
        raise ValueError("objectives are empty; name at least one, such as macs")
    problem = Problem(Encoding(space), cost_function(space, costs), limits_of(limits))
    problem.check(evaluations)
    of_costs = ("params", "macs", *costs)
    signs = {name: better.get(name, -1 if name in of_costs else 1) for name in names}
    vectors: list[Vector] = []
    values: list[dict[str, float]] = []
    for number in range(len(rounds(evaluations, population, by))):
        log = log_of(vectors, [[each[name] for name in names] for each in values], signs, of_costs)
        for vector in propose(problem, log, by, number, evaluations=evaluations, population=population,
                              predicted=predicted, seed=seed):
            genotype = problem.encoding.genotype(vector)
            measured = {**evaluate(genotype), **problem.costs(vector)}
            for name in names:
                if not math.isfinite(measured.get(name, math.nan)):
                    raise ValueError(f"{name} of the network {space.format(genotype)} is {measured.get(name)}; it must be a "
                                     "finite number")
            vectors.append(vector)
            values.append({name: float(measured[name]) for name in dict.fromkeys([*names, *problem.costs(vector)])})
            progress(len(values), values[-1])
    return front_of(signs, [problem.encoding.genotype(vector) for vector in vectors], values, problem.limits)


def log_of(vectors: Sequence[Vector], values: Any, signs: Mapping[str, int], of_costs: Sequence[str]) -> Log:
    """The log of networks whose objectives have these values `[N, M]`."""
    worse = -np.asarray(values, np.float64).reshape(len(vectors), len(signs)) * np.array(list(signs.values()), np.float64)
    return Log(tuple(vectors), worse, tuple(name if name in of_costs else None for name in signs))
