"""Edges that leave one node, computed at once.

They read the same array, so one program serves them all: their weights are stacked along a leading axis, what has no
weights (pooling with its batch norm, a skip) is computed once, and what has weights is one operation on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dnas.one_hot import gates_are_one_hot
from dnas.platform import on_cpu
from dnas.types import Tree
from search_spaces.layers.forms import AXIS, SEPARATOR, bundled, check_name, unstack
from search_spaces.layers.mixed import MixedOp


def bundle(ops: Mapping[str, Callable[..., nn.Module]], edges: Sequence[str], x: jax.Array, gates: Sequence, train: bool,
           **options: Any) -> list[jax.Array]:
    """What the edges called `edges` put out, all of which read `x` and have the operations `ops`: for each an array, as
    `MixedOp(ops, name=edge, **options)(x, gate, train)` gives it.

    Call it in a module's `__call__`. With arrays of gates the variables of several edges are those of one module, which
    has all their names, along a leading axis; `unstack_edges` gives each edge its own. A discrete network has only those.

    edges: names, which differ and have no "+" in them. gates: one for each edge: arrays `[K]`, or indices. options: of
    `MixedOp`: channels, stride.

    Raises ValueError for anything else.
    """
    _check(edges, gates)
    if len(edges) == 1 or isinstance(gates[0], int) or one_at_a_time():
        return [MixedOp(ops, name=edge, **options)(x, gate, train) for edge, gate in zip(edges, gates, strict=True)]
    stacked = nn.vmap(MixedOp, variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True, "dropout": True},
                      in_axes=(None, 0, None), axis_size=len(edges), axis_name=AXIS)
    with bundled():
        y = stacked(ops, name=SEPARATOR.join(edges), **options)(x, jnp.stack(gates), train)
    return unstack(y, len(edges))


def one_at_a_time() -> bool:
    """Whether edges are computed each for itself, with variables as `unstack_edges` gives them: one operation of each, so
    that there is little to share."""
    return gates_are_one_hot() and on_cpu()


def _check(edges, gates):
    if isinstance(edges, str) or not edges or len(set(edges)) < len(edges):
        raise ValueError(f"bundle takes the names of one or more edges, each once, not {edges!r}")
    for edge in edges:
        check_name(edge)
    if len(gates) != len(edges):
        raise ValueError(f"bundle got {len(edges)} edges, {', '.join(edges)}, and {len(gates)} gates")
    kinds = {"an index" if isinstance(gate, int) else f"an array {list(gate.shape)}" for gate in gates}
    if len(kinds) > 1 and kinds != {"an index"}:
        raise ValueError(f"bundle of {', '.join(edges)}: gates must be alike, not {' and '.join(sorted(kinds))}")


def unstack_edges(tree: Tree) -> Tree:
    """Weights or stats of a supernet with bundles as they are with a module for each edge."""
    return _unstacked(tree, 0)


def _unstacked(tree, axis):
    if not isinstance(tree, Mapping):
        return tree
    edges = {}
    for name, value in tree.items():
        names = name.split(SEPARATOR)
        if len(names) == 1:
            edges[name] = _unstacked(value, axis + (name == "cells"))
            continue
        for e, edge in enumerate(names):
            edges[edge] = jax.tree.map(lambda leaf, e=e: leaf[(*[slice(None)] * axis, e)], value)
    return edges


def stack_edges(tree: Tree, like: Tree) -> Tree:
    """The opposite: weights or stats of a module for each edge in the form of `like`."""
    return _stacked(tree, like, 0)


def _stacked(tree, like, axis):
    if not isinstance(like, Mapping):
        return tree
    return {name: _stacked(tree[name], part, axis + (name == "cells")) if SEPARATOR not in name else
            jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *map(tree.get, name.split(SEPARATOR)))
            for name, part in like.items()}
