"""Selections that draw: one genotype at random, or the best of several drawn from the architecture's distribution.

The best of N draws by supernet accuracy is how SETN (Dong & Yang, ICCV 2019) and random search with weight sharing
(Li & Talwalkar, UAI 2019, arXiv 1902.07638) choose.
"""

from __future__ import annotations

import numpy as np

from dnas.algorithms.optimizers import refuse_negative
from dnas.selection.types import TRIED, Progress, Selection
from dnas.types import Genotype


def random(*, seed: int | None = None) -> Selection:
    """A genotype drawn uniformly: random scores, and then the space's own rule.

    Args:
        seed: Of the draw; that of the search unless given.

    Raises ValueError for a negative seed.
    """
    refuse_negative(seed=seed or 0)

    def begin(bench):
        rng = np.random.default_rng(bench.seed if seed is None else seed)
        scores = {name: rng.random(group.shape, np.float32) for name, group in bench.space.groups.items()}
        return Progress(bench.state, np.int32(0), scores, np.int64(0))

    return Selection(lambda bench: 0, begin, lambda key, bench, progress: progress,
                     lambda bench, progress: bench.space.genotype(progress.scores),
                     lambda bench: {"evaluations": 0, "epochs": 0})


def sampled(*, draws: int = 100, seed: int | None = None) -> Selection:
    """The genotype with the best validation accuracy in the supernet among several drawn from the gates.

    Args:
        draws: Genotypes that are tried.
        seed: Of the draws; that of the search unless given.

    Raises ValueError for fewer than one draw or a negative seed.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}, it must be at least 1")
    refuse_negative(seed=seed or 0)

    def steps(bench):
        return -(-draws // bench.width)

    def begin(bench):
        scores = {TRIED: np.full(draws, np.nan, np.float32)}
        scores |= {f"{TRIED}/{name}": np.zeros((draws, len(group.edges)), np.int32)
                   for name, group in bench.space.groups.items()}
        return Progress(bench.state, np.int32(0), scores, np.int64(0))

    def step(key, bench, progress):
        number = int(progress.step)
        first = number * bench.width
        rngs = [np.random.default_rng([bench.seed if seed is None else seed, n])
                for n in range(first, min(first + bench.width, draws))]
        drawn = [draw(bench, rng) for rng in rngs]
        _, hits = bench.score(progress.state, [genotype.gates(bench.space.groups) for genotype in drawn])
        scores, rows = {name: np.array(values) for name, values in progress.scores.items()}, slice(first, first + len(drawn))
        scores[TRIED][rows] = hits.mean(-1)
        for n, genotype in enumerate(drawn):
            for name, decisions in genotype.decisions(bench.space.groups).items():
                scores[f"{TRIED}/{name}"][first + n] = decisions
        return progress._replace(step=np.int32(number + 1), scores=scores,
                                 evaluations=progress.evaluations + hits.size)

    def genotype(bench, progress):
        best = int(np.argmax(progress.scores[TRIED]))
        return Genotype.from_decisions(bench.space, {name: progress.scores[f"{TRIED}/{name}"][best]
                                                     for name in bench.space.groups})

    return Selection(steps, begin, step, genotype,
                     lambda bench: {"evaluations": draws * bench.images, "epochs": 0})


def draw(bench, rng) -> Genotype:
    """A genotype drawn from the gates: Gumbel noise on their logarithms, and then the space's own rule."""
    noisy = {name: np.log(np.maximum(np.asarray(rows, np.float64), 1e-30)) + rng.gumbel(size=rows.shape)
             for name, rows in bench.method.gates(bench.state).items()}
    return bench.space.genotype({name: np.exp(rows - rows.max()) for name, rows in noisy.items()})
