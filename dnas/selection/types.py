"""What a selection is, and what it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dnas.algorithms.players import Method
from dnas.types import Array, Genotype, SearchSpace, Tree


class Unsuitable(ValueError):
    """A selection cannot work on this run: raised by `begin`."""


class Bench(NamedTuple):
    """A trained supernet, and two compiled programs to try things on it.

    score(state, masks, first=0, last=images) -> losses, hits: of the supernet under each of the gates in `masks`, a
        list of at most `width` mappings {group: [E, K]}, on validation images number first..last: float arrays
        `[M, images]` of cross-entropies in nats and of 1 where the prediction is right. Batch statistics.
    tune(state, epoch) -> state: one epoch of the search step at a tenth of the learning rate; decided edges stay.
    images: of the validation split. rows: images in a batch of `score`, which computes whole batches.
    seed: of the search, for selections that draw.
    seconds(plan) -> how long a plan takes here, measured on a batch of each program that it needs; compiles them.
    """

    space: SearchSpace
    method: Method
    state: Tree
    score: Callable[..., tuple[Array, Array]]
    tune: Callable[[Tree, int], Tree]
    images: int
    width: int
    rows: int = 1
    seed: int = 0
    seconds: Callable[[Mapping[str, Any]], float] = lambda plan: 0.0


class Progress(NamedTuple):
    """How far a selection has come, as arrays only: it is saved after every step.

    state: the supernet, with the decisions taken. step: steps taken. scores: {group: [E, K]}, what the selection found
    out about each operation, more is better, NaN where nothing; other names may hold arrays of its own, of which
    TRIED `[N]` and TRIED/group `[N, E]` are accuracies of whole genotypes and their operations' indices.
    evaluations: images that went forward through the supernet. seconds: spent so far, kept by `dnas.selection.select`.
    """

    state: Tree
    step: Array
    scores: Mapping[str, Array]
    evaluations: Array
    seconds: Array = np.float64(0)


TRIED = "tried"
"""Begins the names of scores that belong to whole genotypes."""


class Selection(NamedTuple):
    """A way of choosing a genotype, in steps.

    steps(bench) -> how many there are; begin(bench) -> Progress; step(key, bench, progress) -> Progress;
    genotype(bench, progress) -> Genotype, once all are taken; plan(bench) -> {"evaluations", "epochs"} it will cost.
    """

    steps: Callable[[Bench], int]
    begin: Callable[[Bench], Progress]
    step: Callable[[Array, Bench, Progress], Progress]
    genotype: Callable[[Bench, Progress], Genotype]
    plan: Callable[[Bench], Mapping[str, Any]]
