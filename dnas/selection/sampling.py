"""Selections that draw: one genotype at random, or the best of several drawn from the architecture's distribution.

The best of N draws by supernet accuracy is how SETN (Dong & Yang, ICCV 2019) and random search with weight sharing
(Li & Talwalkar, UAI 2019, arXiv 1902.07638) choose.
"""

from __future__ import annotations

import numpy as np

from dnas.selection.types import Progress, Selection
from dnas.types import REMOVED, Genotype


def random(*, seed: int = 0) -> Selection:
    """A genotype drawn uniformly: random scores, and then the space's own rule.

    Args:
        seed: Of the draw.
    """

    def begin(bench):
        rng = np.random.default_rng(seed)
        scores = {name: rng.random(group.shape, np.float32) for name, group in bench.space.groups.items()}
        return Progress(bench.state, np.int32(0), scores, np.int64(0))

    return Selection(lambda bench: 0, begin, lambda key, bench, progress: progress,
                     lambda bench, progress: bench.space.genotype(progress.scores),
                     lambda bench: {"evaluations": 0, "epochs": 0})


def sampled(*, draws: int = 100, seed: int = 0) -> Selection:
    """The genotype with the best validation accuracy in the supernet among several drawn from the gates.

    Args:
        draws: Genotypes that are tried.
        seed: Of the draws.

    Raises ValueError for fewer than one draw.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}, it must be at least 1")

    def steps(bench):
        return -(-draws // bench.width)

    def begin(bench):
        scores = {name: np.full(group.shape, np.nan, np.float32) for name, group in bench.space.groups.items()}
        return Progress(bench.state, np.int32(0), scores | {"best": np.float32(-1)}, np.int64(0))

    def step(key, bench, progress):
        number = int(progress.step)
        count = min(bench.width, draws - number * bench.width)
        drawn = [draw(bench, np.random.default_rng([seed, number, i])) for i in range(count)]
        gates = [genotype.gates(bench.space.groups) for genotype in drawn]
        _, hits = bench.score(progress.state, gates)
        accuracies = hits.mean(-1)
        best = int(accuracies.argmax())
        scores = progress.scores
        if accuracies[best] > scores["best"]:
            scores = gates[best] | {"best": np.float32(accuracies[best])}
        return Progress(progress.state, np.int32(number + 1), scores, progress.evaluations + hits.size)

    def genotype(bench, progress):
        return Genotype.from_decisions(bench.space, {
            name: np.where(progress.scores[name].any(-1), progress.scores[name].argmax(-1), REMOVED)
            for name in bench.space.groups})

    return Selection(steps, begin, step, genotype,
                     lambda bench: {"evaluations": draws * bench.images, "epochs": 0})


def draw(bench, rng) -> Genotype:
    """A genotype drawn from the gates: Gumbel noise on their logarithms, and then the space's own rule."""
    noisy = {name: np.log(np.maximum(np.asarray(rows, np.float64), 1e-30)) + rng.gumbel(size=rows.shape)
             for name, rows in bench.method.gates(bench.state).items()}
    return bench.space.genotype({name: np.exp(rows - rows.max()) for name, rows in noisy.items()})
