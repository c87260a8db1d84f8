"""Random selections: one genotype drawn uniformly, or the best of several drawn from the gates.

The best of N draws by supernet accuracy is how SETN (Dong & Yang, ICCV 2019) and random search with weight sharing
(Li & Talwalkar, UAI 2019, arXiv 1902.07638) choose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dnas.selection.types import TRIED, Progress, Selection, refuse_seed
from dnas.types import Genotype


def random(*, seed: int | None = None) -> Selection:
    """A genotype drawn uniformly: the space's own rule on random scores.

    It trains nothing; random search that trains what it draws is `halving` with the source `uniform`.

    Args:
        seed: Seed of the draw; default: the search's seed.

    Raises ValueError for a seed out of range.
    """
    refuse_seed(seed)

    def begin(context):
        rng = np.random.default_rng(context.seed if seed is None else seed)
        scores = {name: rng.random(group.shape, np.float32) for name, group in context.space.groups.items()}
        return Progress(context.state, np.int32(0), scores, np.int64(0))

    return Selection(lambda context: 0, begin, lambda key, context, progress: progress,
                     lambda context, progress: context.space.genotype(progress.scores),
                     lambda context: {"evaluations": 0, "epochs": 0})


MOST = 10**6
"""Draws: their scores are held in memory and saved after every step."""


def sampled(*, draws: int = 100, seed: int | None = None) -> Selection:
    """The genotype with the best validation metric in the supernet among several drawn from the gates.

    Args:
        draws: How many genotypes to try.
        seed: Seed of the draws; default: the search's seed.

    Raises ValueError for fewer than one draw, more than MOST, or a seed out of range.
    """
    check_draws(draws)
    refuse_seed(seed)

    def begin(context):
        return Progress(context.state, np.int32(0), no_draws(context.space, draws), np.int64(0))

    def step(key, context, progress):
        number = int(progress.step)
        first = number * context.width
        rngs = [np.random.default_rng([context.seed if seed is None else seed, n])
                for n in range(first, min(first + context.width, draws))]
        drawn, scores = [draw(context, rng) for rng in rngs], copied(progress.scores)
        masks = [genotype.gates(context.space.groups) for genotype in drawn]
        values = context.score(progress.state, masks)[context.task.metric]
        for n, genotype in enumerate(drawn):
            put_draw(scores, first + n, genotype, context.task.better * values[n].mean(), context.space)
        return progress._replace(step=np.int32(number + 1), scores=scores,
                                 evaluations=progress.evaluations + values.size)

    return Selection(lambda context: -(-draws // context.width), begin, step, best_draw,
                     lambda context: {"evaluations": draws * context.examples, "epochs": 0, "discrete": True})


def check_draws(draws: int) -> None:
    """Raises ValueError for fewer than one draw, or more than MOST."""
    if not 1 <= draws <= MOST:
        raise ValueError(f"draws is {draws}, it must be at least 1, and at most {MOST:,}")


def no_draws(space, draws: int) -> dict[str, np.ndarray]:
    """The scores of a selection that tries whole genotypes, before the first of them."""
    return {TRIED: np.full(draws, np.nan, np.float32)} | {
        f"{TRIED}/{name}": np.zeros((draws, len(group.edges)), np.int32) for name, group in space.groups.items()}


def copied(scores) -> dict[str, np.ndarray]:
    """Scores that a step may change."""
    return {name: np.array(values) for name, values in scores.items()}


def put_draw(scores: dict[str, np.ndarray], n: int, genotype: Genotype, value: float, space) -> None:
    """Puts genotype number `n` and its value into the scores."""
    scores[TRIED][n] = value
    for name, decisions in genotype.decisions(space.groups).items():
        scores[f"{TRIED}/{name}"][n] = decisions


def best_draw(context, progress) -> Genotype:
    """The genotype with the largest value."""
    return tried(context.space, progress.scores, int(np.argmax(progress.scores[TRIED])))


def tried(space, scores, n: int) -> Genotype:
    """Genotype number `n` of those whose values are in the scores."""
    return Genotype.from_decisions(space, {name: scores[f"{TRIED}/{name}"][n] for name in space.groups})


def uniform_draw(context, rng, without: Sequence[str] = ()) -> Genotype:
    """A genotype drawn uniformly: the space's own rule on random scores, which are low for the operations `without` and for
    those out of the race, and high for those that are decided."""
    scores = {}
    for name, group in context.space.groups.items():
        decisions, mask = (np.asarray(part[name]) for part in (context.state.decisions, context.state.mask))
        scores[name] = rng.random(group.shape) - 2 * ~mask + 4 * (np.arange(group.shape[1]) == decisions[:, None])
        for e in range(len(group.edges)):
            scores[name][e, :len(group.edge_ops(e))] -= np.isin(group.edge_ops(e), list(without))
    return context.space.genotype(scores)


def draw(context, rng) -> Genotype:
    """A genotype drawn from the gates: the space's own rule on their logarithms plus Gumbel noise."""
    noisy = {name: np.log(np.maximum(np.asarray(rows, np.float64), 1e-30)) + rng.gumbel(size=rows.shape)
             for name, rows in context.gates(context.state).items()}
    return context.space.genotype({name: np.exp(rows - rows.max()) for name, rows in noisy.items()})
