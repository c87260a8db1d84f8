"""ShiftNAS (Zhang et al., ICCV 2023, arXiv 2307.08300), its idea: networks drawn by how much they cost.

    bins    of equal width between the multiply-adds of the smallest and of the largest network
    bin b   drawn with chance p_b = tau v_b / sum(v) + (1 - tau) / B,   tau = epochs done / epochs
    v_b     ||d L_valid(w, network of b) / d w||, halved with the one before, every few steps of the bin drawn then
    weights <- SGD on  d L_train(w, network) / d w,   a network of the bin drawn uniformly from those known

Uniform draws of many choices are nearly all of medium cost, so the smallest and the largest networks are hardly trained.

What is ours: nearly all but the bins. The paper learns p by a gradient that is unrolled over a step of the weights, and a
generator that puts out networks of a given cost; there is no code of it. Here p follows the norms, as in `pa-da`, and the
networks of each bin are drawn once, before the search, by chances that lean to small or large operations. The optimiser's
defaults are those of `darts`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.elastic import Networks, Training, costs_in_order, draws, largest, smallest, trained_by
from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import Architecture
from dnas.methods.pa_da import mixed
from dnas.methods.spos import spos
from dnas.registry import extends
from dnas.types import SearchSpace

EVERY = 10
"""Steps between two gradients on validation data."""
POOL = 64
"""Networks of a bin at most."""
DRAWN = 16_384
"""Networks drawn to fill the bins."""
LEAN = 6.0
"""Largest difference of the logarithms of an edge's chances in those draws."""


@extends(spos)
def shift_nas(method: Method, *, bins: int = 10) -> Method:
    """Draws by cost.

    Args:
        bins: of multiply-adds.

    Raises ValueError if it is out of range.
    """
    if not 2 <= bins <= 1000:
        raise ValueError(f"bins is {bins}, it must be 2 to 1000")

    def training(space):
        pool, counts, ends = networks_by_cost(space, bins)
        cost = cost_of(space)
        filled = counts > 0

        def networks(key, architecture, extra, hyper, t):
            bin_key, network_key, rest_key = jax.random.split(key, 3)
            b = jax.random.categorical(bin_key, jnp.where(filled, jnp.log(jnp.maximum(extra["chances"], 1e-30)), -jnp.inf))
            n = jax.random.randint(network_key, (), 0, jnp.asarray(counts)[b])
            free, allowed = draws(rest_key, architecture, 1), architecture.allowed()
            gates = {name: in_race(jnp.asarray(pool[name])[b, n].astype(jnp.int32), allowed[name], free[name][0])
                     for name in space.groups}
            return Networks(jax.tree.map(lambda rows: rows[None], gates), jnp.ones(1))

        def after(key, networks, gradients, extra, hyper, t):
            gates = {name: rows[0] for name, rows in networks.gates.items()}
            b = bin_of(cost(gates), ends, bins)
            old = extra["norms"][b]
            norm = jax.lax.cond(t.step % EVERY == 0, lambda: gradients.of_valid(gates).astype(old.dtype),
                                lambda: jnp.full_like(old, jnp.nan))
            new = jnp.where(jnp.isnan(norm), old, jnp.where(old > 0, (old + norm) / 2, norm))
            norms = extra["norms"].at[b].set(new)
            ended = (t.step + 1) % t.steps == 0
            mean = norms.sum() / jnp.maximum((norms > 0).sum(), 1)  # of a bin that has none yet
            chances = mixed(jnp.where(norms > 0, norms, mean), filled, (t.epoch + 1) / t.epochs)
            return {"norms": norms, "chances": jnp.where(ended, chances, extra["chances"])}

        def init(state):
            zeros = jnp.zeros(bins)
            return {"norms": zeros, "chances": mixed(zeros, filled, 0.0)}

        return Training(networks, init=init, after=after)

    return trained_by(method, training)


def cost_of(space: SearchSpace):
    """One-hot gates -> multiply-adds of their network; of a space without expected costs the sum of its operations' places
    in the order of their edges."""
    if space.expected is not None:
        return lambda gates: space.expected(gates)["macs"]
    order = costs_in_order(space)
    return lambda gates: sum((gates[name] * ranks).sum() for name, ranks in order.items())


def in_race(ops, allowed, others):
    """One-hot gates `[E, K]` of operations `[E]`; those of `others` where an edge lost its own from the race."""
    inside = jnp.take_along_axis(allowed, ops[:, None], -1)
    return jnp.where(inside, jax.nn.one_hot(ops, allowed.shape[-1]), others)


def bin_of(macs, ends, bins: int):
    """The bin of a cost, of `bins` of equal width between the two `ends`."""
    share = (macs - ends[0]) / max(ends[1] - ends[0], 1e-9)
    return jnp.clip(jnp.floor(bins * share).astype(jnp.int32), 0, bins - 1)


def networks_by_cost(space: SearchSpace, bins: int, seed: int = 0):
    """Networks of each bin: the operations' indices `[bins, POOL, E]` of each group, how many of them there are `[bins]`,
    and the multiply-adds of the smallest and of the largest network."""
    ranks = {name: jnp.asarray(rows) for name, rows in costs_in_order(space).items()}
    whole = Architecture(ranks, {name: jnp.asarray(group.allowed) for name, group in space.groups.items()}, space.groups)
    cost = cost_of(space)
    ops_of = lambda gates: {name: rows.argmax(-1) for name, rows in gates.items()}
    small, large = ops_of(smallest(whole)), ops_of(largest(whole))

    def lean(key):
        """A network drawn by chances that grow or fall along the ranks."""
        keys = jax.random.split(key, 1 + len(ranks))
        slope = jax.random.uniform(keys[0], minval=-LEAN, maxval=LEAN)
        logits = {name: jnp.where(whole.mask[name], slope * rows / (rows.shape[-1] - 1 or 1), -jnp.inf)
                  for name, rows in ranks.items()}
        return {name: jax.random.categorical(k, rows) for k, (name, rows) in zip(keys[1:], logits.items())}

    def macs(ops):
        return cost({name: jax.nn.one_hot(rows, space.groups[name].shape[1]) for name, rows in ops.items()})

    drawn = jax.jit(jax.vmap(lean))(jax.random.split(jax.random.key(seed), DRAWN))
    drawn = jax.tree.map(lambda small, large, rows: jnp.concatenate([small[None], large[None], rows]), small, large, drawn)
    costs = jax.jit(lambda ops: jax.lax.map(macs, ops, batch_size=256))(drawn)
    ends = float(costs[0]), float(costs[1])
    places = np.asarray(bin_of(costs, ends, bins))
    pool = {name: np.zeros((bins, POOL, len(group.edges)), np.int16) for name, group in space.groups.items()}
    counts = np.zeros(bins, np.int32)
    for b in range(bins):
        chosen = np.flatnonzero(places == b)[:POOL]
        counts[b] = len(chosen)
        for name, rows in drawn.items():
            pool[name][b, :len(chosen)] = np.asarray(rows)[chosen]
    return pool, counts, ends
