"""Zero-cost proxies: the best of many drawn networks by a number of untrained ones (Abdelfattah et al., ICLR 2021).

    grad-norm  sum over weights of |d L / d w|_2, one norm for each array
    snip       sum of |w d L / d w|                                                 (SNIP, arXiv 1810.02340)
    synflow    sum of |w d R / d w| of the network with |w| and without normalisation, where R is the sum of what it puts
               out for an input of ones                                             (SynFlow, arXiv 2006.05467)

L is the loss on one training batch. Each network is the supernet with fresh weights under one-hot gates, of which only
the chosen operations have gradients: so one program serves all networks. Synflow evaluates with the running averages
that fresh weights begin with, mean 0 and variance 1, by which batch norm does nothing. Nothing of the search is used.

The networks have the supernet's size and its weights are drawn at once, which is ours: the papers draw each network's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.schedules import refuse_negative
from dnas.one_hot import one_hot_gates
from dnas.selection.sampling import best_draw, check_draws, no_draws, uniform_draw, with_draw
from dnas.selection.types import Context, Progress, Selection
from dnas.types import Genotype

PROXIES = "grad-norm", "snip", "synflow"
AT_ONCE = 50
"""Networks between two checkpoints."""


def zero_cost(*, proxy: Literal["grad-norm", "snip", "synflow"] = "synflow", draws: int = 100,
              seed: int | None = None) -> Selection:
    """The best of several networks by a zero-cost proxy, drawn uniformly.

    Args:
        proxy: The number by which they are compared; more is better.
        draws: How many networks to try.
        seed: Seed of the draws and of the fresh weights; default: the search's seed.

    Raises ValueError for another proxy, fewer than one draw, more than MOST, or a negative seed.
    """
    if proxy not in PROXIES:
        raise ValueError(f"proxy must be one of {', '.join(PROXIES)}, not {proxy!r}")
    check_draws(draws)
    refuse_negative(seed=seed or 0)

    def step(key, context, progress):
        start, first = int(progress.step) * AT_ONCE, context.seed if seed is None else seed
        value, scores = proxy_of(context, proxy, first), progress.scores
        last = min(start + AT_ONCE, draws)
        for number in range(start, last):
            genotype = uniform_draw(context, np.random.default_rng([first, number]))
            scores = with_draw(scores, number, genotype, value(genotype), context.space)
        return progress._replace(step=np.int32(progress.step + 1), scores=scores,
                                 evaluations=progress.evaluations + (last - start) * len(context.batch.inputs))

    return Selection(lambda context: -(-draws // AT_ONCE),
                     lambda context: Progress(context.state, np.int32(0), no_draws(context.space, draws), np.int64(0)),
                     step, best_draw, lambda context: {"evaluations": draws * len(context.batch.inputs), "epochs": 0})


def proxy_of(context: Context, proxy: str, seed: int) -> Callable[[Genotype], float]:
    """The proxy of the network of a genotype, with weights that are drawn by `seed`."""
    space = context.space
    weights, stats = _init(space.init, jax.random.key(seed), context.batch.inputs)
    others = context.gates(context.state)

    def value(genotype):
        gates = jax.tree.map(jnp.asarray, {**others, **genotype.gates(space.groups)})
        return float(_value(space.apply, context.task.losses, proxy, weights, stats, gates, context.batch))

    return value


@partial(jax.jit, static_argnums=0)
def _init(init, key, inputs):
    return init(key, inputs)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _value(apply, losses, proxy, weights, stats, gates, batch):
    """The proxy of the supernet's network under one-hot gates, a scalar."""
    def loss(weights):
        return batch.mean(losses(apply(weights, stats, gates, batch.inputs, train=True, key=jax.random.key(0))[0],
                                 batch.targets))

    def flow(weights):
        return apply(weights, stats, gates, jnp.ones_like(batch.inputs[:1]), train=False, key=None)[0].sum()

    if proxy == "synflow":
        weights = jax.tree.map(jnp.abs, weights)
    with one_hot_gates():
        grads = jax.grad(flow if proxy == "synflow" else loss)(weights)
    of = (lambda w, g: jnp.linalg.norm(g.ravel())) if proxy == "grad-norm" else lambda w, g: jnp.abs(w * g).sum()
    return sum(jax.tree.leaves(jax.tree.map(of, weights, grads)))
