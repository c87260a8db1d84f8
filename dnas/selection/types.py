"""The interface of selections: their context, progress and functions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dnas.fronts.front import Front
from dnas.task import Task
from dnas.types import Array, Batch, Gates, Genotype, SearchSpace, Tree


class Unsuitable(ValueError):
    """Raised by `begin` if a selection cannot work on this run."""


class Context(NamedTuple):
    """A trained supernet with two compiled programs, to evaluate and to fine-tune it.

    gates(state) -> the gates by which the supernet is evaluated, decided edges one-hot.
    score(state, masks, first=0, last=examples) -> {"loss", and each metric of the task: [M, examples]}: of the supernet
        under each of the gates in `masks`, a list of at most `width` mappings {group: [E, K]}, on validation examples
        number first..last. Losses in nats or squared units. Batch statistics.
    tune(state, epoch) -> state: one epoch of the search step at a tenth of the first learning rate; decided edges stay.
    train(genotype, epochs, seed) -> the task's metric on the validation split of the supernet's network of a genotype, after
        training it from fresh weights on the train split by `Recipe()`. One program trains any genotype.
    examples: of the validation split. rows: examples in a batch of `score`, which computes whole batches.
    batch: a batch of the train split, its inputs normalised. seed: of the search, for selections that draw.
    seconds(plan) -> duration of a plan, measured on a batch of each program that it needs; compiles them.
    """

    space: SearchSpace
    task: Task
    gates: Callable[[Tree], Gates]
    state: Tree
    score: Callable[..., Mapping[str, Array]]
    tune: Callable[[Tree, int], Tree]
    examples: int
    width: int
    rows: int = 1
    batch: Batch | None = None
    seed: int = 0
    seconds: Callable[[Mapping[str, Any]], float] = lambda plan: 0.0
    train: Callable[[Genotype, int, int], float] | None = None


class Progress(NamedTuple):
    """The progress of a selection, arrays only, saved after every step.

    state: the supernet with its decisions. step: steps done. scores: {group: [E, K]}, the score of each operation, more
    is better, NaN if unknown; other names may hold arrays of the selection's own, of which TRIED `[N]` and TRIED/group
    `[N, E]` are scores of whole genotypes, more is better, and their operations' indices. evaluations: examples passed
    forward through the supernet. seconds: counted by `dnas.selection.select`.
    """

    state: Tree
    step: Array
    scores: Mapping[str, Array]
    evaluations: Array
    seconds: Array = np.float64(0)


PROXY = "proxy"
"""Name of the scores `[N]` of untrained networks."""
TRIED = "tried"
"""Begins the names of scores that belong to whole genotypes."""


LARGEST_SEED = 2**32 - 1
"""As of a search."""


def refuse_seed(seed: int | None) -> None:
    """Raises ValueError for a seed of a selection that is out of range; None stands for that of the search."""
    if seed is not None and (type(seed) is not int or not 0 <= seed <= LARGEST_SEED):
        raise ValueError(f"seed is {seed!r}, it must be 0 to {LARGEST_SEED}")


class Selection(NamedTuple):
    """A way of choosing a genotype, in steps.

    steps(context) -> how many there are; begin(context) -> Progress; step(key, context, progress) -> Progress;
    genotype(context, progress) -> Genotype, after the last step; plan(context) -> its cost: {"evaluations", "epochs"}, and
    where that is not 0 "trained_epochs", of training networks, and "untrained", networks judged untrained; "discrete":
    whether the evaluations are of discrete networks. check(space): raises ValueError for one that its options do not fit.
    front(context, progress) -> the Pareto front that it found; None for a selection of a single genotype.
    seconds(context) -> duration of what `Context.seconds` does not measure, measured on a network; compiles.
    """

    steps: Callable[[Context], int]
    begin: Callable[[Context], Progress]
    step: Callable[[Array, Context, Progress], Progress]
    genotype: Callable[[Context, Progress], Genotype]
    plan: Callable[[Context], Mapping[str, Any]]
    check: Callable[[SearchSpace], None] = lambda space: None
    front: Callable[[Context, Progress], Front] | None = None
    seconds: Callable[[Context], float] = lambda context: 0.0


def timed(function: Callable[[], Any]) -> float:
    """Seconds of the second call; the first compiles."""
    function()
    started = time.monotonic()
    function()
    return time.monotonic() - started
