"""Relaxations: `(key, arch, step) -> gates`, from logits `[E, K]` to mixing weights of every group."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from dnas.types import OPEN, Array, Gates, Group, Logits

Relaxation = Callable[[Array | None, Logits, Array], Gates]


def initial_logits(key: Array, groups: Mapping[str, Group], *, scale: float = 1e-3) -> dict[str, Array]:
    """Logits `[E, K]` of every group, drawn from scale * N(0, 1) (DARTS, arXiv 1806.09055)."""
    keys = jax.random.split(key, len(groups))
    return {name: scale * jax.random.normal(k, groups[name].shape) for k, name in zip(keys, sorted(groups))}


def softmax(groups: Mapping[str, Group]) -> Relaxation:
    """gates[e] = softmax(arch[e]) over the operations of edge e (DARTS, arXiv 1806.09055, eq. 2)."""

    def relax(key, arch, step):
        return {name: jax.nn.softmax(jnp.where(group.allowed, arch[name], -jnp.inf)) for name, group in groups.items()}

    return relax


EDGES = "/edges"
"""Ends the name of a group's edge logits in `arch`."""


def edge_logits(key: Array, groups: Mapping[str, Group], *, scale: float = 1e-3) -> dict[str, Array]:
    """`initial_logits`, and for each group `[E]` logits of its edges, named group + EDGES."""
    first, second = jax.random.split(key)
    keys = jax.random.split(second, len(groups))
    edges = {name + EDGES: scale * jax.random.normal(k, groups[name].shape[:1])
             for k, name in zip(keys, sorted(groups))}
    return initial_logits(first, groups, scale=scale) | edges


def edge_normalised(groups: Mapping[str, Group]) -> Relaxation:
    """gates[e] = softmax(arch[e]) * share of e among the edges into its node, a softmax of the edge logits.

    PC-DARTS (arXiv 1907.05737, eq. 2). `arch` is that of `edge_logits`.
    """
    mix = softmax(groups)

    def relax(key, arch, step):
        gates = mix(key, arch, step)
        for name, group in groups.items():
            targets = np.array([target for _, target in group.edges])
            same = targets[:, None] == targets
            shares = jax.nn.softmax(jnp.where(same, arch[name + EDGES], -jnp.inf), -1)
            gates[name] *= jnp.diagonal(shares)[:, None]
        return gates

    return relax


def decided(gates: Gates, decisions: Mapping[str, Array]) -> dict[str, Array]:
    """Gates with the rows of decided edges replaced: one-hot for an operation's index, zero for REMOVED.

    decisions: per group integers `[E]`, OPEN where the edge is still mixed. A replaced row passes no gradient.
    """
    def replace(row, choice):
        return jnp.where((choice == OPEN)[:, None], row, jax.nn.one_hot(choice, row.shape[-1], dtype=row.dtype))

    return {name: replace(row, decisions[name]) for name, row in gates.items()}


def undecided(groups: Mapping[str, Group]) -> dict[str, Array]:
    """Decisions that leave every edge open."""
    return {name: jnp.full(group.shape[0], OPEN, jnp.int32) for name, group in groups.items()}
