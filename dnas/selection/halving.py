"""Successive halving (Jamieson & Talwalkar, AISTATS 2016, arXiv 1502.07943): many architectures are trained for a little
while, the better half of them for twice as long, and so on.

    rung r = 0, 1, ...: n / 2^r architectures, each trained from fresh weights for e 2^r epochs; every rung costs the same

Each is the supernet's network under one-hot gates, trained on the train split by the recipe of `dnas train` and judged by
the task's metric on the validation split. Training starts anew in every rung, so that its learning rate comes to its end,
which is ours. The first architecture is what the space's own rule makes of the gates; the others are drawn from them, or
uniformly, which is random search with a training budget. No weights of the search are used.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from dnas.algorithms.schedules import refuse_negative
from dnas.selection.sampling import MOST, best_draw, draw, no_draws, tried, uniform_draw, with_draw
from dnas.selection.types import TRIED, Progress, Selection

TRIES = 10
"""Draws for each architecture that is wanted, after which fewer are tried: gates may be so sure that few differ."""
RUNGS = "rungs"
"""Name of the scores `[rungs, N]` by rung and architecture, NaN where one was not trained."""


def halving(*, draws: int = 16, epochs: int = 8, rungs: int = 3, source: Literal["gates", "uniform"] = "gates",
            seed: int | None = None) -> Selection:
    """The best of several architectures by training them, half of them for twice as long, and so on.

    Args:
        draws: Architectures to begin with, all different.
        epochs: Epochs of training in the last rung; half as many in the one before, and so on.
        rungs: How many rungs there are.
        source: Draw from the gates, beginning with the space's own choice, or uniformly.
        seed: Seed of the draws and of the trainings; default: the search's seed.

    Raises ValueError for an option out of range, and where the last rung would have no architecture or the first no epoch.
    """
    if source not in ("gates", "uniform"):
        raise ValueError(f"source is {source!r}; it must be gates or uniform")
    for name, value, most in (("draws", draws, MOST), ("epochs", epochs, MOST), ("rungs", rungs, 20)):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}; it must be 1 to {most:,}")
    if min(draws, epochs) < 2 ** (rungs - 1):
        raise ValueError(f"{rungs} rungs halve {draws} architectures and {epochs} epochs {rungs - 1} times: both must be at "
                         f"least {2 ** (rungs - 1)}")
    refuse_negative(seed=seed or 0)

    def ladder(count):
        """(rung, architectures, epochs of each), for `count` architectures."""
        return [(rung, max(count >> rung, 1), epochs >> (rungs - 1 - rung)) for rung in range(rungs)]

    def first(context):
        return context.seed if seed is None else seed

    def begin(context):
        genotypes = distinct(context, draws, source, first(context))
        scores = no_draws(context.space, len(genotypes)) | {RUNGS: np.full((rungs, len(genotypes)), np.nan, np.float32)}
        for n, genotype in enumerate(genotypes):
            scores = with_draw(scores, n, genotype, np.nan, context.space)
        return Progress(context.state, np.int32(0), scores, np.int64(0))

    def step(key, context, progress):
        number, scores = int(progress.step), {name: np.array(values) for name, values in progress.scores.items()}
        for rung, count, length in ladder(len(scores[TRIED])):  # noqa: B007
            if number < count:
                break
            number -= count
        n = int(survivors(scores[RUNGS], rung, count)[number])
        genotype = tried(context.space, scores, n)
        scores[RUNGS][rung, n] = scores[TRIED][n] = context.task.better * context.train(genotype, length, first(context))
        return progress._replace(step=progress.step + 1, scores=scores)

    def genotype(context, progress):
        last = progress.scores[RUNGS][-1]
        return best_draw(context, progress._replace(scores={**progress.scores, TRIED: np.nan_to_num(last, nan=-np.inf)}))

    def rungs_of(context):
        return ladder(len(distinct(context, draws, source, first(context))))

    return Selection(lambda context: sum(count for _, count, _ in rungs_of(context)), begin, step, genotype,
                     lambda context: {"evaluations": 0, "epochs": 0,
                                      "training_epochs": sum(count * length for _, count, length in rungs_of(context))})


def survivors(scores, rung: int, count: int) -> np.ndarray:
    """The architectures of a rung, the best of the one before; of equal ones the first."""
    return np.arange(count) if rung == 0 else np.argsort(-scores[rung - 1], kind="stable")[:count]


def distinct(context, draws: int, source: str, seed: int) -> list:
    """Up to `draws` different genotypes."""
    gates = {name: np.asarray(rows) for name, rows in context.gates(context.state).items()}
    genotypes = [context.space.genotype(gates)] if source == "gates" else []
    one = draw if source == "gates" else uniform_draw
    for n in range(TRIES * draws):
        if len(genotypes) == draws:
            break
        genotype = one(context, np.random.default_rng([seed, n]))
        if genotype not in genotypes:
            genotypes.append(genotype)
    return genotypes
