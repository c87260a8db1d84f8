"""The most important channels first, so that narrow networks of an entangled supernet have those.

As for the elastic width of Once-for-All (Cai et al., ICLR 2020, arXiv 1908.09791): the channels between two layers are
sorted by the l1 norm of the weights with which the following layer reads them. The largest network computes what it did
before, and a smaller one, of the first channels, something else. Sizes that are trained already must keep their channels:
these are sorted among themselves, and so are those that each larger size adds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from search_spaces.adapter import flat


class Channels(NamedTuple):
    """The channels between two layers, of which a network has the first ones.

    axes: {path from the top: axis} of every array with an axis of these channels, in the weights and the stats.
    reader: the path among them of the array whose norm counts.
    sizes: how many a network has, an axis for each choice that this depends on.
    choices: (group, edge) of each of these.
    """

    axes: Mapping[tuple[str, ...], int]
    reader: tuple[str, ...]
    sizes: np.ndarray
    choices: tuple[tuple[str, int], ...]


def by_norm(places: Sequence[Channels]) -> Callable:
    """`SearchSpace.reorder` of a space with these channels."""
    def reorder(weights, trees, trained=None):
        leaves, moves = flat(weights), {}
        for place in places:
            order = order_of(place, leaves[place.reader], trained)
            moves |= {path: (order, axis) for path, axis in place.axes.items()}

        def moved(path, leaf):
            names = tuple(key.key for key in path if isinstance(key, jax.tree_util.DictKey))
            return jnp.take(leaf, *moves[names]) if names in moves else leaf

        return [jax.tree.map_with_path(moved, tree) for tree in trees]

    return reorder


def order_of(place: Channels, array, trained=None):
    """The number `[C]` of the channel that comes first, second, ...: of falling norm in the array that reads them, ties as
    they were, within what the sizes that are trained let move."""
    axis = place.axes[place.reader]
    norms = jnp.abs(array).sum([other for other in range(array.ndim) if other != axis])
    if trained is None:
        return jnp.argsort(-norms)
    beyond = np.arange(len(norms)) >= place.sizes[..., None]
    shares = functools.reduce(jnp.multiply.outer, [jnp.asarray(trained[name])[edge] for name, edge in place.choices])
    return jnp.lexsort((-norms, jnp.tensordot(shares.astype(int), beyond.astype(int), shares.ndim)))
