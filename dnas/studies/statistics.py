"""Statistics of a study: ranks, paired tests and their correction. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
"""Bootstrap samples of an interval."""
EXACT = 2**16
"""Most sign patterns that are enumerated; of more, as many are drawn."""


LEVEL = 0.05
"""Corrected p up to which a difference is told."""


class Comparison(NamedTuple):
    """Two conditions of a study, each a method and a selection. within: the selection or the method that they share; first,
    second: what they do not."""

    space: str
    within: str
    first: str
    second: str
    one: tuple[str, str]
    other: tuple[str, str]


def comparisons(spaces: Mapping[str, Sequence[str]], selections: Sequence[str]) -> list[Comparison]:
    """Every method against the first of its space within each selection, every selection against the first within each
    method. spaces: the labels of the methods in each space."""
    pairs = []
    for space, methods in spaces.items():
        pairs += [Comparison(space, selection, method, methods[0], (method, selection), (methods[0], selection))
                  for selection in selections for method in methods[1:]]
        pairs += [Comparison(space, method, selection, selections[0], (method, selection), (method, selections[0]))
                  for method in methods for selection in selections[1:]]
    return pairs


class Interval(NamedTuple):
    """A mean with its 95 % interval, None where there is a single value."""

    mean: float
    low: float | None
    high: float | None

    def within(self, least: float, most: float) -> Interval:
        """The same, its interval cut at the least and the most that there can be. Student's knows of no ends."""
        return self if self.low is None else self._replace(low=max(self.low, least), high=min(self.high, most))


def ranks(values: np.ndarray, better: int = 1) -> np.ndarray:
    """Ranks `[S, C]` of C conditions within each of S seeds, 1 for the best; ties share their mean rank.

    values: `[S, C]`, finite. better: 1 where more is better, -1 where less is.
    """
    from scipy.stats import rankdata

    return rankdata(-better * np.asarray(values, np.float64), axis=1)


def bootstrap(values: np.ndarray, seed: int = 0) -> Interval:
    """The mean of values `[S]` with its percentile interval over resampled seeds."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Interval(float(values.mean()), None, None)
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def student(values: np.ndarray) -> Interval:
    """The mean of values `[S]` with Student's t interval."""
    from scipy.stats import t

    values = np.asarray(values, np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, None, None)
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences `[S]` under flips of their signs: the share of the 2^S patterns whose mean is at
    least as far from 0. Exact up to 16 pairs; of more, EXACT patterns are drawn, and the observed one counts as well."""
    values = np.asarray(differences, np.float64)
    size, exact = len(values), 2**len(values) <= EXACT
    bits = np.arange(2**size)[:, None] >> np.arange(size) & 1 if exact else \
        np.random.default_rng(0).integers(2, size=(EXACT, size))
    sums, observed = np.abs((2 * bits - 1) @ values), abs(values.sum())
    as_far = int((sums >= observed - 1e-9 * np.abs(values).sum()).sum())  # equal up to the rounding of a sum
    return as_far / 2**size if exact else (1 + as_far) / (1 + EXACT)


def least_p(pairs: int) -> float:
    """The smallest p that so many pairs can have."""
    return 1.0 if pairs < 2 else 2.0 ** (1 - pairs)


def seeds_for(tests: int) -> int:
    """How many seeds it takes until one of so many tests can have a corrected p of at most LEVEL."""
    return next(pairs for pairs in range(2, 1000) if tests * least_p(pairs) <= LEVEL)


def holm(values: Sequence[float]) -> list[float]:
    """Holm's correction of p values for their number: the k-th smallest of m times m - k + 1, never below the one before."""
    order, corrected, largest = np.argsort(values, kind="stable"), [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = largest
    return corrected
