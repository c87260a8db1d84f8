"""What a front is searched for: the networks of a space, their exact costs, and hard limits on these."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from dnas.fronts.encoding import Encoding, Vector
from dnas.types import REMOVED, Genotype, SearchSpace

Cost = Mapping[Genotype, float] | Callable[[Genotype], float]
SMALL = 20_000
"""Spaces of at most so many vectors are listed where it must be known how many networks there are within the limits."""
TRIES = 30
"""Draws for one network, after which there is none within the limits that is new."""
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


def limit_of(text: str) -> tuple[str, float]:
    """Name and number of a limit such as `macs<=20e6` or `macs<=20M`. Raises ValueError on any other text."""
    match = re.fullmatch(rf"\s*([A-Za-z_][\w.-]*)\s*<=\s*({NUMBER})\s*([kMG]?)\s*", text)
    if not match:
        raise ValueError(f"{text[:60]!r} is not a limit; it must be NAME<=NUMBER in quotes, such as 'macs<=20e6' or "
                         "'macs<=20M'")
    value = float(match[2]) * 1000 ** " kMG".index(match[3] or " ")
    if not math.isfinite(value):
        raise ValueError(f"limit {text[:60]!r}: the number must be finite")
    return match[1], value


def limits_of(texts: Sequence[str]) -> dict[str, float]:
    """Limits by name. Raises ValueError for a text that is none, and for two limits of one name."""
    limits: dict[str, float] = {}
    for name, value in map(limit_of, [texts] if isinstance(texts, str) else texts):
        if name in limits:
            raise ValueError(f"there are two limits of {name}; give one")
        limits[name] = value
    return limits


def limits_text(limits: Mapping[str, float]) -> str:
    """Limits for a person, such as `macs<=20000000 and params<=100000`."""
    return " and ".join(f"{name}<={value:.10g}" for name, value in limits.items())


def cost_function(space: SearchSpace, others: Mapping[str, Cost] = {}) -> Callable[[Genotype], dict[str, float]]:
    """genotype -> its exact costs: "params" and "macs" of the stand-alone network, and each of `others`.

    Raises ValueError for a network that another cost does not have, or whose cost is not finite.
    """
    fast = space.expected is not None and _is_exact(space)

    def costs(genotype):
        known = _expected(space, genotype) if fast else {name: float(value) for name, value in space.cost(genotype).items()}
        return known | {name: _cost(name, cost, genotype, space) for name, cost in others.items()}

    return costs


def _expected(space: SearchSpace, genotype: Genotype) -> dict[str, float]:
    """The expected cost of a network's one-hot gates."""
    gates = {name: rows.astype(np.float64) for name, rows in genotype.gates(space.groups).items()}
    return {name: float(value) for name, value in space.expected(gates).items()}


def _is_exact(space: SearchSpace) -> bool:
    """Whether the expected cost of a network's one-hot gates is its cost; some spaces can only count."""
    genotype = space.genotype({name: np.ones(group.shape) for name, group in space.groups.items()})
    try:
        return _expected(space, genotype) == space.cost(genotype)
    except ValueError:
        return False


def _cost(name: str, cost: Cost, genotype: Genotype, space: SearchSpace) -> float:
    if isinstance(cost, Mapping) and genotype not in cost:
        raise ValueError(f"there is no {name} of the network {space.format(genotype)}")
    value = float(cost[genotype] if isinstance(cost, Mapping) else cost(genotype))
    if not math.isfinite(value):
        raise ValueError(f"{name} of the network {space.format(genotype)} is {value}; it must be finite")
    return value


class Problem:
    """Networks within limits. Costs are computed once for each network.

    encoding: of the space. costs: genotype -> {name: number}, exact and cheap: it is called for every network that a search
    looks at. limits: {name: largest number}.
    """

    def __init__(self, encoding: Encoding, costs: Callable[[Genotype], Mapping[str, float]], limits: Mapping[str, float]):
        self.encoding, self.limits, self._compute = encoding, dict(limits), costs
        self._costs: dict[Vector, Mapping[str, float]] = {}

    def costs(self, vector: Vector) -> Mapping[str, float]:
        """The costs of a canonical vector."""
        if vector not in self._costs:
            self._costs[vector] = self._compute(self.encoding.genotype(vector))
        return self._costs[vector]

    def excess(self, vector: Vector) -> float:
        """The sum over the limits of the share by which a canonical vector exceeds each; 0 within all."""
        if not self.limits:
            return 0.0
        costs = self.costs(vector)
        return sum(max(costs[name] - limit, 0.0) / (abs(limit) or 1.0) for name, limit in self.limits.items())

    def new(self, rng: np.random.Generator, seen: Set[Vector]) -> Vector:
        """A network within the limits that is not in `seen`: drawn uniformly, and where it exceeds a limit changed edge by
        edge towards it. Raises ValueError where none is found."""
        for _ in range(TRIES):
            vector = self._within(self.encoding.draw(rng), rng)
            if vector is not None and vector not in seen:
                return vector
        left = [vector for vector in self.listed if vector not in seen] if self.encoding.size <= SMALL else []
        if left:
            return left[int(rng.integers(len(left)))]
        raise self.refusal(len(seen))

    def _within(self, vector: Vector, rng: np.random.Generator) -> Vector | None:
        excess = self.excess(vector)
        for _ in range(20 * len(vector)):
            if not excess:
                return vector
            other = self.encoding.canonical(mutated(self.encoding, vector, 1 / len(vector), rng), rng)
            if (now := self.excess(other)) <= excess:
                vector, excess = other, now
        return vector if not excess else None

    @functools.cached_property
    def listed(self) -> list[Vector]:
        """All networks within the limits, of a space of at most SMALL vectors."""
        canonical = lambda vector: self.encoding.vector(self.encoding.genotype(vector))
        choices = [options.tolist() or [REMOVED] for options in self.encoding.options]
        vectors = dict.fromkeys(canonical(vector) for vector in itertools.product(*choices))
        return [vector for vector in vectors if not self.excess(vector)]

    def check(self, evaluations: int) -> None:
        """Raises ValueError where the limits name no cost, or leave fewer networks than `evaluations`, as far as that can be
        said before a search: of a small space exactly, of another whether any is found."""
        rng = np.random.default_rng(0)
        costs = self.costs(self.encoding.draw(rng))
        for name in self.limits:
            if name not in costs:
                raise ValueError(f"there is a limit of {name}, and the costs are {', '.join(costs)}")
        crowded = self.encoding.size < 4 * evaluations
        if self.encoding.size <= SMALL and (self.limits or crowded) and len(self.listed) < evaluations:
            raise self.refusal(len(self.listed))
        self.new(rng, set())

    def refusal(self, networks: int) -> ValueError:
        """The error that the limits leave so few networks."""
        limits = limits_text(self.limits)
        space = f"space {self.encoding.space.name}"
        if networks:
            return ValueError(f"evaluations must be at most {networks:,}: {space} has no more networks"
                              + (f" with {limits}" if limits else ""))
        lowest = {name: min((costs[name] for costs in self._costs.values()), default=math.nan) for name in self.limits}
        return ValueError(f"no network of {space} was found with {limits}; the least seen are " + ", ".join(
            f"{value:,.10g} {name}" for name, value in lowest.items()))


def mutated(encoding: Encoding, vector: Vector, probability: float, rng: np.random.Generator) -> Vector:
    """The vector with each entry replaced by a random operation with this probability, one of them in any case. It need not
    be canonical."""
    change = rng.random(len(vector)) < probability
    change[rng.integers(len(vector))] = True
    drawn = rng.random(len(vector))
    return tuple(int(ops[int(share * len(ops))]) if replace and len(ops) else value
                 for value, ops, replace, share in zip(vector, encoding.options, change, drawn))


class Log(NamedTuple):
    """What was evaluated truly: vectors, and the values `[N, M]` of the objectives, all such that less is better. costs: of
    each objective the name of the exact cost that it is, None where it is known by true evaluation only."""

    vectors: tuple[Vector, ...]
    values: np.ndarray
    costs: tuple[str | None, ...]


def uniform(problem: Problem, log: Log, count: int, rng: np.random.Generator) -> list[Vector]:
    """New networks within the limits, drawn uniformly: random search."""
    seen = set(log.vectors)
    drawn: list[Vector] = []
    for _ in range(count):
        drawn.append(problem.new(rng, seen))
        seen.add(drawn[-1])
    return drawn
