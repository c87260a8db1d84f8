"""Successive halving (Jamieson & Talwalkar, AISTATS 2016, arXiv 1502.07943), and random search with a training budget.

Many architectures are trained for a little while, the better half of them for twice as long, and so on:

    rung r = 0, 1, ...: n / 2^r architectures, each trained from fresh weights for e 2^r epochs; every rung costs the same

Each is the supernet's network under one-hot gates, trained on the train split by the recipe of `dnas train` and judged by
the task's metric on the validation split. Training starts anew in every rung, so that its learning rate comes to its end,
which is ours. The first architecture is what the space's own rule makes of the gates; the others are drawn from them. Or all
are drawn uniformly: then this is random search with a training budget, with one rung the plain one. With a `pool` they are
those of so many draws that have the largest synflow (`dnas.selection.zero_cost`), a number that costs milliseconds. No
weights of the search are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from dnas.selection.sampling import MOST, copied, draw, no_draws, put_draw, tried, uniform_draw
from dnas.selection.types import TRIED, Context, Progress, Selection, refuse_seed
from dnas.selection.zero_cost import proxy_of
from dnas.types import OPEN, Genotype

TRIES = 10
"""Draws for each architecture that is wanted, after which fewer are trained: gates may be so sure that few differ."""
RUNGS = "rungs"
"""Name of the scores `[rungs, N]` by rung and architecture, NaN where one was not trained."""


def halving(*, draws: int = 16, epochs: int = 8, rungs: int = 3, source: Literal["gates", "uniform"] = "gates",
            pool: int = 0, seed: int | None = None) -> Selection:
    """The best of several architectures by training them, half of them for twice as long, and so on.

    Args:
        draws: Architectures to begin with, all different.
        epochs: Epochs of training in the last rung; half as many in the one before, and so on.
        rungs: How many rungs there are.
        source: Draw from the gates, beginning with the space's own choice, or uniformly.
        pool: Draw so many different ones, of which the best by synflow are trained; 0 to train all that are drawn.
        seed: Seed of the draws and of the trainings; default: the search's seed.

    Raises ValueError for an option out of range, and where the last rung would have no architecture or the first no epoch.
    """
    if source not in ("gates", "uniform"):
        raise ValueError(f"source is {source!r}; it must be gates or uniform")
    for name, value, most in (("draws", draws, MOST), ("epochs", epochs, MOST), ("rungs", rungs, 20)):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}; it must be 1 to {most:,}")
    if pool and not draws <= pool <= MOST:
        raise ValueError(f"pool is {pool}; it must be 0, or {draws:,} to {MOST:,}: {draws} of it are trained")
    if min(draws, epochs) < 2 ** (rungs - 1):
        raise ValueError(f"{rungs} rungs halve {draws} architectures and {epochs} epochs {rungs - 1} times: both must be at "
                         f"least {2 ** (rungs - 1)}")
    refuse_seed(seed)

    def drawn(context):
        own = context.seed if seed is None else seed
        genotypes = distinct(context, pool or draws, source, own)
        return sorted(genotypes, key=proxy_of(context, "synflow", own), reverse=True)[:draws] if pool else genotypes

    return halved(drawn, draws, epochs=epochs, rungs=rungs, seed=seed)


def halved(candidates: Callable[[Context], Sequence[Genotype]], draws: int, *, epochs: int, rungs: int,
           seed: int | None = None) -> Selection:
    """The best of up to `draws` candidates by training them, half of them for twice as long, and so on."""
    ladder = [(rung, draws >> rung, epochs >> (rungs - 1 - rung)) for rung in range(rungs)]
    trainings = [(rung, place, length) for rung, count, length in ladder for place in range(count)]

    def first(context):
        return context.seed if seed is None else seed

    def begin(context):
        empty = {RUNGS: np.full((rungs, draws), np.nan, np.float32)}
        return Progress(context.state, np.int32(0), no_draws(context.space, draws) | empty, np.int64(0))

    def step(key, context, progress):
        number, scores = int(progress.step), copied(progress.scores)
        progress = progress._replace(step=np.int32(number + 1))
        if number == 0:
            put_drawn(context, scores)
            return progress._replace(scores=scores)
        rung, place, length = trainings[number - 1]
        n = place if rung == 0 else int(np.argsort(-scores[RUNGS][rung - 1], kind="stable")[place])
        if any((scores[f"{TRIED}/{name}"][n] == OPEN).any() for name in context.space.groups):
            return progress  # there were not so many
        value = context.task.better * context.train(tried(context.space, scores, n), length, first(context))
        scores[RUNGS][rung, n] = scores[TRIED][n] = value
        return progress._replace(scores=scores)

    def put_drawn(context, scores):
        genotypes = candidates(context)
        for name in context.space.groups:
            scores[f"{TRIED}/{name}"][len(genotypes):] = OPEN
        for n, genotype in enumerate(genotypes):
            put_draw(scores, n, genotype, np.nan, context.space)

    def genotype(context, progress):
        last = np.nan_to_num(progress.scores[RUNGS][-1], nan=-np.inf)
        return tried(context.space, progress.scores, int(np.argmax(last)))

    cost = {"evaluations": 0, "epochs": 0, "trained_epochs": sum(length for *_, length in trainings)}
    return Selection(lambda context: 1 + len(trainings), begin, step, genotype, lambda context: cost)


def distinct(context, draws: int, source: str, seed: int) -> list:
    """Up to `draws` different genotypes."""
    gates = {name: np.asarray(rows) for name, rows in context.gates(context.state).items()}
    genotypes = dict.fromkeys([context.space.genotype(gates)] if source == "gates" else [])
    one = draw if source == "gates" else uniform_draw
    for n in range(TRIES * draws):
        if len(genotypes) == draws:
            break
        genotypes[one(context, np.random.default_rng([seed, n]))] = None
    return list(genotypes)
