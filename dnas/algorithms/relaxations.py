"""Relaxations: how the logits of an architecture become the mixing weights of its operations.

A relaxation is a pair of pure functions. Its `gates` may hold entries beside those of the groups of edges, such as a scalar
`[]` that the space reads under its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.schedules import Ramp
from dnas.types import Array, Gates, Group, Logits


class Architecture(NamedTuple):
    """An architecture to relax. logits: `[E, K]` of each group, and what the relaxation's `init` added.

    mask: booleans `[E, K]` of each group: which operations are allowed. groups: the space's.
    """

    logits: Logits
    mask: Mapping[str, Array]
    groups: Mapping[str, Group]

    def allowed(self) -> dict[str, Array]:
        """Booleans `[E, K]` of each group: the mask. An edge with no operation left, such as a removed one, has all, so that
        its softmax is finite; `dnas.algorithms.decisions.decided` then sets its gates to zero."""
        return {name: jnp.where(self.mask[name].any(-1, keepdims=True), self.mask[name], group.allowed)
                for name, group in self.groups.items()}

    def masked(self) -> dict[str, Array]:
        """The groups' logits, -inf where an operation is not in `allowed`."""
        return {name: jnp.where(rows, self.logits[name], -jnp.inf) for name, rows in self.allowed().items()}


class Relaxation(NamedTuple):
    """init(key, groups) -> logits; gates(key, architecture, hyper, t) -> gates.

    With key None a relaxation that draws returns its average gates, by which networks are evaluated.
    edges: whether it is `edge_normalised`.
    one_hot: whether with a key each edge has at most one gate that is not zero. A step of the weights then computes that
        operation alone, where this saves time.
    alone: whether the gradient of the logits needs no other operation either (`dnas.one_hot.one_hot_gates`).
    """

    init: Callable[..., Logits]
    gates: Callable[..., Gates]
    edges: bool = False
    one_hot: bool = False
    alone: bool = False


def initial_logits(key: Array, groups: Mapping[str, Group], *, scale: float = 1e-3) -> dict[str, Array]:
    """Logits `[E, K]` of every group, drawn from scale * N(0, 1) (DARTS, arXiv 1806.09055)."""
    keys = jax.random.split(key, len(groups))
    return {name: scale * jax.random.normal(k, groups[name].shape) for k, name in zip(keys, sorted(groups))}


def softmax() -> Relaxation:
    """gates[e] = softmax(logits[e]) over the operations of edge e (DARTS, arXiv 1806.09055, eq. 2)."""
    def gates(key, architecture, hyper, t):
        return {name: jax.nn.softmax(row) for name, row in architecture.masked().items()}

    return Relaxation(initial_logits, gates)


def sparsemax() -> Relaxation:
    """gates[e] = sparsemax(logits[e]), the nearest point of the simplex (Martins & Astudillo, ICML 2016): operations whose
    logits lie far below the largest have gates, and gradients, of exactly 0. TangleNAS (arXiv 2312.10440) mixes weights so.
    """
    def gates(key, architecture, hyper, t):
        return {name: nearest_on_simplex(row) for name, row in architecture.masked().items()}

    return Relaxation(initial_logits, gates)


def nearest_on_simplex(logits: Array) -> Array:
    """max(logits - tau, 0) of `[..., K]`, with the tau at which they sum to 1; -inf gives 0."""
    ordered = -jnp.sort(-logits)
    positive = 1 + jnp.arange(1, logits.shape[-1] + 1) * ordered > jnp.cumsum(ordered, -1)
    tau = (jnp.where(positive, ordered, 0).sum(-1, keepdims=True) - 1) / positive.sum(-1, keepdims=True)
    return jnp.maximum(logits - tau, 0)


def gumbel(*, tau: Ramp, hard: bool = False) -> Relaxation:
    """gates[e] = softmax((logits[e] + noise) / tau), noise from a standard Gumbel distribution (arXiv 1611.01144).

    tau: the temperature, above 0. hard: forward the one-hot of the largest entry, backward the gradient of the softmax
    (straight through). Without a key the gates are softmax(logits), the probabilities of that draw.
    """
    def draw(key, logits, hyper, t):
        soft = jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape, logits.dtype)) / tau(hyper, t))
        one_hot = jax.nn.one_hot(soft.argmax(-1), logits.shape[-1], dtype=logits.dtype)
        return one_hot + (soft - jax.lax.stop_gradient(soft)) if hard else soft

    return drawn(draw, one_hot=hard)


def drawn(draw: Callable[..., Array], average: Callable[[Array], Array] = jax.nn.softmax, *,
          one_hot: bool = False) -> Relaxation:
    """The gates `[E, K]` of each group are draw(key, logits, hyper, t), with a key of its own, and average(logits) without
    a key. Logits of masked operations are -inf. one_hot: whether the draws are, see `Relaxation`."""
    def gates(key, architecture, hyper, t):
        logits = architecture.masked()
        if key is None:
            return {name: average(row) for name, row in logits.items()}
        return {name: draw(k, row, hyper, t) for k, (name, row) in zip(jax.random.split(key, len(logits)), logits.items())}

    return Relaxation(initial_logits, gates, one_hot=one_hot)


def uniform(key: Array, logits: Array, hyper=None, t=None) -> Array:
    """One operation an edge, drawn uniformly whatever the logits `[E, K]`, as one-hot gates; none whose logit is -inf."""
    return categorical(key, level(logits))


def categorical(key: Array, logits: Array, hyper=None, t=None) -> Array:
    """One operation an edge, drawn with chances in proportion to exp(logits `[E, K]`), as one-hot gates."""
    return jax.nn.one_hot(jax.random.categorical(key, logits), logits.shape[-1], dtype=logits.dtype)


def level(logits: Array) -> Array:
    """Logits `[E, K]` of equal chances; -inf stays."""
    return jnp.where(jnp.isneginf(logits), logits, 0)


EDGES = "/edges"
"""Ends the name of a group's edge logits."""


def edge_normalised(relaxation: Relaxation) -> Relaxation:
    """The gates of `relaxation` times each edge's share among those into its node, a softmax of edge logits.

    PC-DARTS (arXiv 1907.05737, eq. 2). `init` adds for each group logits `[E]`, named group + EDGES.
    """
    def init(key, groups, *, scale=1e-3):
        first, second = jax.random.split(key)
        keys = jax.random.split(second, len(groups))
        edges = {name + EDGES: scale * jax.random.normal(k, groups[name].shape[:1]) for k, name in zip(keys, sorted(groups))}
        return relaxation.init(first, groups) | edges

    def gates(key, architecture, hyper, t):
        relaxed = dict(relaxation.gates(key, architecture, hyper, t))
        for name, group in architecture.groups.items():
            targets = np.array([target for _, target in group.edges])
            same = targets[:, None] == targets
            shares = jax.nn.softmax(jnp.where(same, architecture.logits[name + EDGES], -jnp.inf), -1)
            relaxed[name] *= jnp.diagonal(shares)[:, None]
        return relaxed

    return relaxation._replace(init=init, gates=gates, edges=True)
