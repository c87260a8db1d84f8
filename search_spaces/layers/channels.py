"""Channels in the order of their importance, of which a width keeps the first (Once-for-All, arXiv 1908.09791)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Path = tuple[str, ...]


class Channels(NamedTuple):
    """Channels, or heads, that all these arrays have in the same order. Any order is the same largest network.

    axes: along which axis each array has them, by the names that lead to it, or to several such. reader: the array that
    reads them: a channel is as important as the sum of the absolute values that it is multiplied by there.
    """

    reader: Path
    axes: Mapping[Path, int]


def reordered(channels: Sequence[Channels]) -> Callable:
    """`SearchSpace.reorder` of a network with these channels."""
    def reorder(weights, trees):
        orders = {path: (order_of(weights, each), axis) for each in channels for path, axis in each.axes.items()}

        def moved(path, leaf):
            names = tuple(entry.key for entry in path)
            for length in range(len(names), 0, -1):
                if names[:length] in orders:
                    order, axis = orders[names[:length]]
                    return jnp.take(leaf, order, axis)
            return leaf

        return [jax.tree_util.tree_map_with_path(moved, tree) for tree in trees]

    return reorder


def order_of(weights, channels: Channels):
    """The channels' indices, the most important first; equal ones stay in their order."""
    array = weights
    for name in channels.reader:
        array = array[name]
    axis = channels.axes[channels.reader] % array.ndim
    importance = jnp.abs(array).sum([other for other in range(array.ndim) if other != axis])
    return jnp.argsort(-importance, stable=True)
