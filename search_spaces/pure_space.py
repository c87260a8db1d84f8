"""From two pure functions and their groups to a SearchSpace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from dnas.types import REMOVED, Group, SearchSpace
from search_spaces.adapter import Functions, flat, nested, search_space


def pure_space(name: str, init: Callable, apply: Callable, groups: Mapping[str, Group], *,
               image: tuple[int, ...], input_dtype: str = "float32", **settings) -> SearchSpace:
    """Makes a SearchSpace of two pure functions that know of no framework.

    Tracing tells which weights a choice of operations needs, so that neither function has to. `mix` takes a gate in both of
    its forms.

    Args:
        init: (key, images) -> weights, stats: nested dicts with names as keys; of the images only the shape counts.
        apply: (weights, stats, gates, images, train, key) -> logits `[B, classes]`, stats; `gates[group][edge]` is an
            array `[K]`, or a Python integer.
        image, input_dtype, settings: as for `search_spaces.adapter.search_space`. A discrete network has the arrays of the
            supernet whole, so that `inherit` is never called.
    """
    example = jax.ShapeDtypeStruct((1, *image), jnp.dtype(input_dtype))
    whole = jax.eval_shape(init, jax.random.key(0), example)

    def needed(gates):
        function = lambda variables, images: apply(*variables, gates, images, False, None)[0]
        jaxpr = jax.make_jaxpr(function)(whole, example).jaxpr
        _, used = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
        return jax.tree.unflatten(jax.tree.structure(whole), used[:-1])

    def init_part(key, images, gates):
        weights, stats = init(key, images)
        if not _chosen(gates):
            return weights, stats
        part = lambda tree, used: nested({path: leaf for path, leaf in flat(tree).items() if flat(used)[path]})
        return tuple(map(part, (weights, stats), needed(gates)))

    def apply_part(weights, stats, gates, images, train, key):
        if not _chosen(gates):
            return apply(weights, stats, gates, images, train, key)
        filled = (nested({path: flat(part).get(path, jnp.zeros(leaf.shape, leaf.dtype))
                          for path, leaf in flat(like).items()}) for part, like in zip((weights, stats), whole))
        logits, updated = apply(*filled, gates, images, train, key)
        return logits, nested({path: leaf for path, leaf in flat(updated).items() if path in flat(stats)})

    return search_space(name, Functions(init_part, apply_part), groups, image=image, input_dtype=input_dtype, **settings)


def mix(gate, branches):
    """sum_k gate[k] * branches[k]() of an array `[K]`; of a Python integer that branch alone, and 0 of REMOVED."""
    if isinstance(gate, int):
        return 0.0 if gate == REMOVED else branches[gate]()
    return sum(gate[k] * branch() for k, branch in enumerate(branches))


def _chosen(gates) -> bool:
    return any(isinstance(row, tuple) for row in gates.values())
