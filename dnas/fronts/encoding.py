"""Genotypes as vectors of integers, one for each edge of the space, and as one-hot features for predictors.

A vector holds the operation's index on each edge, group after group, and REMOVED where the genotype leaves the edge out.
It is canonical if the space's own rule chooses it, so that vectors are equal where the networks are. What an edge would have
that is left out, such as a block behind the end of a stage, is no part of it, and its features are zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from dnas.types import REMOVED, Genotype, SearchSpace

Vector = tuple[int, ...]


class Encoding:
    """The vectors of a space's genotypes.

    options: of each entry of a vector, the operations' indices that may be chosen `[k]`; empty for an edge that is out of
    the race. size: how many vectors there are at most.
    """

    def __init__(self, space: SearchSpace, allowed: Mapping[str, np.ndarray] | None = None):
        """allowed: the operations that may be chosen, boolean `[E, K]` of each group; default: all."""
        self.space = space
        self.allowed = {name: group.allowed & (allowed[name] if allowed else True) for name, group in space.groups.items()}
        self.options = [np.flatnonzero(row) for rows in self.allowed.values() for row in rows]
        self.size = math.prod(max(len(each), 1) for each in self.options)
        self.columns = [(edge, op) for edge, ops in enumerate(self.options) for op in ops]

    def vector(self, genotype: Genotype) -> Vector:
        """The vector of a genotype."""
        return tuple(int(op) for rows in genotype.decisions(self.space.groups).values() for op in rows)

    def genotype(self, vector: Vector) -> Genotype:
        """The genotype of a canonical vector, by the space's own rule."""
        return self.space.genotype(self._scores(vector, None))

    def features(self, vectors: Sequence[Vector]) -> np.ndarray:
        """One-hot features of vectors, float `[N, F]`: a column for each operation of each edge."""
        edges, ops = (np.array(part, int) for part in zip(*self.columns))
        return (np.asarray(vectors, int).reshape(-1, len(self.options))[:, edges] == ops).astype(np.float64)

    def draw(self, rng: np.random.Generator) -> Vector:
        """A vector drawn uniformly: the space's own rule on random scores."""
        return self.canonical((REMOVED,) * len(self.options), rng)

    def canonical(self, vector: Vector, rng: np.random.Generator) -> Vector:
        """The vector that the space's rule makes of any other. Where more edges have an operation than the rule keeps, and
        where it needs others, chance decides."""
        return self.vector(self.space.genotype(self._scores(vector, rng)))

    def _scores(self, vector: Vector, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        """Scores by which the space's rule chooses a vector: above 1 for its operations, below 0 for those not allowed."""
        scores, first = {}, 0
        for name, allowed in self.allowed.items():
            edges = len(allowed)
            rows = np.array(vector[first:first + edges])
            rest, ranks = (rng.random(shape) if rng else np.zeros(shape) for shape in (allowed.shape, edges))
            scores[name] = np.where(allowed, rest, -1.0)
            chosen = np.flatnonzero(rows >= 0)
            scores[name][chosen, rows[chosen]] = 1 + ranks[chosen]
            first += edges
        return scores
