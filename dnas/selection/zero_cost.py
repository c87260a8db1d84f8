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

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dnas.selection.sampling import best_draw, check_draws, no_draws, with_draw
from dnas.selection.types import Progress, Selection, refuse_seed

PROXIES = "grad-norm", "snip", "synflow"


def zero_cost(*, proxy: Literal["grad-norm", "snip", "synflow"] = "synflow", draws: int = 100,
              seed: int | None = None) -> Selection:
    """The best of several networks by a zero-cost proxy, drawn uniformly.

    Args:
        proxy: The number by which they are compared; more is better.
        draws: How many networks to try.
        seed: Seed of the draws and of the fresh weights; default: the search's seed.

    Raises ValueError for another proxy, fewer than one draw, more than MOST, or a seed out of range.
    """
    if proxy not in PROXIES:
        raise ValueError(f"proxy must be one of {', '.join(PROXIES)}, not {proxy!r}")
    check_draws(draws)
    refuse_seed(seed)

    def step(key, context, progress):
        space, number = context.space, int(progress.step)
        first = context.seed if seed is None else seed
        rng = np.random.default_rng([first, number])
        genotype = space.genotype({name: rng.random(group.shape) for name, group in space.groups.items()})
        weights, stats = _init(space.init, jax.random.key(first), context.batch.inputs)
        gates = jax.tree.map(jnp.asarray, {**context.gates(context.state), **genotype.gates(space.groups)})
        value = _value(space.apply, context.task.losses, proxy, weights, stats, gates, context.batch)
        scores = with_draw(progress.scores, number, genotype, value, space)
        return progress._replace(step=np.int32(number + 1), scores=scores,
                                 evaluations=progress.evaluations + len(context.batch.inputs))

    return Selection(lambda context: draws,
                     lambda context: Progress(context.state, np.int32(0), no_draws(context.space, draws), np.int64(0)),
                     step, best_draw, lambda context: {"evaluations": draws * len(context.batch.inputs), "epochs": 0})


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
    grads = jax.grad(flow if proxy == "synflow" else loss)(weights)
    of = (lambda w, g: jnp.linalg.norm(g.ravel())) if proxy == "grad-norm" else lambda w, g: jnp.abs(w * g).sum()
    return sum(jax.tree.leaves(jax.tree.map(of, weights, grads)))
