"""Zero-cost proxies: the best of many drawn networks by a number of untrained ones (Abdelfattah et al., ICLR 2021).

    grad-norm  sum over weights of |d L / d w|_2, one norm for each array
    snip       sum of |w d L / d w|                                                 (SNIP, arXiv 1810.02340)
    synflow    sum of |w d R / d w| of the network with |w| and without normalisation, where R is the sum of what it puts
               out for an input of ones                                             (SynFlow, arXiv 2006.05467)
    naswot     logarithm of the determinant of a matrix of how differently the ReLUs see the examples of a batch
                                                                    (`dnas.selection.naswot`, arXiv 2006.04647)

L is the loss on one training batch. Each network is the supernet with fresh weights under one-hot gates, of which only
the chosen operations have gradients: so one program serves all networks. Synflow evaluates with the running averages
that fresh weights begin with, mean 0 and variance 1, by which batch norm does nothing.

In `zero-cost-gates`, which is ours, the search has a say. Of the draws the one is chosen with the largest

    z(log of the proxy) + weight z(mean over edges of the log of the chosen operation's gate)

where z takes away the mean over all draws and divides by the standard deviation, and naswot, a logarithm already, stays as
it is. A proxy knows one batch or nothing of the data, and likes what is large; the gates of a short search know the data,
and are noisy.

The networks have the supernet's size and its weights are drawn at once, which is ours: the papers draw each network's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.schedules import refuse_negative
from dnas.one_hot import one_hot_gates
from dnas.platform import platform
from dnas.selection.naswot import code_kernel, log_determinant
from dnas.selection.sampling import best_draw, check_draws, copied, no_draws, put_draw, uniform_draw
from dnas.selection.types import PROXY, TRIED, Context, Progress, Selection, refuse_seed, timed
from dnas.types import Genotype

PROXIES = "grad-norm", "naswot", "snip", "synflow"
AT_ONCE = 500
"""Networks between two checkpoints."""


def zero_cost(*, proxy: Literal["grad-norm", "naswot", "snip", "synflow"] = "synflow", draws: int = 100,
              without: tuple[str, ...] = (), seed: int | None = None) -> Selection:
    """The best of many untrained networks by a zero-cost proxy (Abdelfattah et al., ICLR 2021), drawn uniformly.

    Args:
        proxy: The number by which they are compared; more is better.
        draws: How many networks to try.
        without: Operations that are not drawn, such as none.
        seed: Seed of the draws and of the fresh weights; default: the search's seed.

    Raises ValueError for another proxy, fewer than one draw, more than MOST, or a seed out of range; and where an edge has
    no other operation than those left out, or the space none of such a name. With naswot `begin` raises Unsuitable where
    the network has no ReLU, or one that does not keep the examples along its first axis.
    """
    return best_of_draws(proxy, draws, 0.0, without, seed)


def zero_cost_gates(*, proxy: Literal["grad-norm", "naswot", "snip", "synflow"] = "synflow", draws: int = 2000,
                    weight: float = 1.0, without: tuple[str, ...] = ("none",), seed: int | None = None) -> Selection:
    """The best of many untrained networks by a zero-cost proxy and the gates of the search, drawn uniformly.

    Args:
        proxy: The number by which they are compared; more is better.
        draws: How many networks to try.
        weight: Of the gates beside the proxy, both with standard deviation 1 over the draws.
        without: Operations that are not drawn.
        seed: Seed of the draws and of the fresh weights; default: the search's seed.

    Raises as `zero_cost`, and for a negative weight.
    """
    return best_of_draws(proxy, draws, weight, without, seed)


def best_of_draws(proxy: str, draws: int, weight: float, without: Sequence[str], seed: int | None) -> Selection:
    """The best of several networks by a proxy, and by the gates unless their weight is 0. Raises as `zero_cost_gates`."""
    if proxy not in PROXIES:
        raise ValueError(f"proxy must be one of {', '.join(PROXIES)}, not {proxy!r}")
    check_draws(draws)
    refuse_negative(weight=weight)
    refuse_seed(seed)

    def check(space):
        there = {op for group in space.groups.values() for e in range(len(group.edges)) for op in group.edge_ops(e)}
        for op in without:
            if op not in there and op != "none":
                raise ValueError(f"without has {op!r}, and the operations of space {space.name} are "
                                 f"{', '.join(sorted(there))}")
        for group in space.groups.values():
            for e, (source, target) in enumerate(group.edges):
                if not set(group.edge_ops(e)) - set(without):
                    raise ValueError(f"without {', '.join(without)} edge {source}->{target} has no operation left")

    def begin(context):
        check(context.space)
        if proxy == "naswot":  # it may refuse this network
            inputs, gates = context.batch.inputs, context.gates(context.state)
            variables = jax.eval_shape(partial(_init, context.space.init), jax.random.key(0), inputs)
            jax.eval_shape(partial(_kernel, context.space.apply), *variables, gates, inputs)
        empty = {PROXY: np.full(draws, np.nan, np.float32)}
        return Progress(context.state, np.int32(0), no_draws(context.space, draws) | empty, np.int64(0))

    def step(key, context, progress):
        start, first = int(progress.step) * AT_ONCE, context.seed if seed is None else seed
        value, scores, known = proxy_of(context, proxy, first), copied(progress.scores), {}
        last = min(start + AT_ONCE, draws)
        for number in range(start, last):
            genotype = uniform_draw(context, np.random.default_rng([first, number]), without)
            if genotype not in known:
                known[genotype] = value(genotype)
            put_draw(scores, number, genotype, known[genotype], context.space)
        scores[PROXY][start:last] = scores[TRIED][start:last]
        if weight:
            logs = (finite if proxy == "naswot" else log)(scores[PROXY][:last])
            scores[TRIED][:last] = standard(logs) + weight * standard(log_gates(context, scores, last))
        return progress._replace(step=np.int32(progress.step + 1), scores=scores)

    def seconds(context):
        first = context.seed if seed is None else seed
        value, genotype = proxy_of(context, proxy, first), uniform_draw(context, np.random.default_rng([first, 0]), without)
        return draws * timed(lambda: value(genotype))

    return Selection(lambda context: -(-draws // AT_ONCE), begin, step, best_draw,
                     lambda context: {"evaluations": 0, "epochs": 0, "untrained": draws}, check, seconds=seconds)


def log(values: np.ndarray) -> np.ndarray:
    """Logarithms of numbers of at least 0; those of 0, infinity and NaN are the least, the largest and the least of the
    others."""
    with np.errstate(divide="ignore"):
        return finite(np.log(values.astype(np.float64)))


def finite(logs: np.ndarray) -> np.ndarray:
    """Numbers, of which infinity is the largest of the others, and -infinity and NaN the least; all 0 if there is none."""
    usual = logs[np.isfinite(logs)].astype(np.float64)
    low, high = (usual.min(), usual.max()) if usual.size else (0.0, 0.0)
    return np.nan_to_num(logs.astype(np.float64), nan=low, posinf=high, neginf=low)


def standard(values: np.ndarray) -> np.ndarray:
    """Values `[N]` with mean 0 and standard deviation 1, or all 0 if they are equal."""
    return (values - values.mean()) / (values.std() or 1)


def log_gates(context: Context, scores: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """The mean over its edges of the logarithm of the chosen operation's gate, of the first `count` genotypes `[count]`."""
    logs = []
    for name, rows in context.gates(context.state).items():
        chosen = scores[f"{TRIED}/{name}"][:count]
        each = np.take_along_axis(np.asarray(rows, np.float64)[None], np.maximum(chosen, 0)[..., None], -1)[..., 0]
        logs.append(np.where(chosen >= 0, np.log(np.maximum(each, 1e-30)), np.nan))
    return np.nanmean(np.concatenate(logs, 1), 1)


def proxy_of(context: Context, proxy: str, seed: int) -> Callable[[Genotype], float]:
    """The proxy of the network of a genotype, with weights that are drawn by `seed`."""
    space = context.space
    others, inputs = context.gates(context.state), np.asarray(context.batch.inputs)
    weights, stats = _init(space.init, jax.random.key(seed), context.batch.inputs)

    def value(genotype):
        gates = jax.tree.map(jnp.asarray, {**others, **genotype.gates(space.groups)})
        if proxy == "naswot":
            return log_determinant(_kernel(space.apply, weights, stats, gates, context.batch.inputs), inputs)
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


@partial(jax.jit, static_argnums=0)
def _kernel(apply, weights, stats, gates, inputs):
    """The matrix `[B, B]` of naswot of the supernet's network under one-hot gates. Traced for a CPU, for which operations
    that are not chosen are not computed: elsewhere edges of one source share what they compute, and so a ReLU."""
    with one_hot_gates(), platform("cpu"):
        return code_kernel(lambda *args: apply(*args, train=True, key=jax.random.key(0))[0], weights, stats, gates, inputs)
