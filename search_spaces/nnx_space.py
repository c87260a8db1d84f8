"""From a Flax NNX module and its groups to a SearchSpace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import nnx

from dnas.types import Group, SearchSpace
from search_spaces.adapter import nested
from search_spaces.pure_space import pure_space


def nnx_space(name: str, build: Callable[[nnx.Rngs], nnx.Module], groups: Mapping[str, Group], *,
              image: tuple[int, ...], **settings) -> SearchSpace:
    """Makes a SearchSpace of an NNX module called `(images, gates, train, rngs)` that returns logits `[B, classes]`.

    `gates[group][edge]` is an array `[K]`, or a Python integer: `search_spaces.pure_space.mix` takes either. `rngs` is
    for dropout and the like, None where nothing is random.

    Args:
        build: rngs -> the module with the weights of every operation.
        image, settings: as for `search_spaces.adapter.search_space`.

    Raises ValueError where the module keeps variables that are neither Param nor BatchStat.
    """
    graph, params, averages, rest = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param, nnx.BatchStat, ...)
    other = sorted({type(variable).__name__ for _, variable in nnx.to_flat_state(rest)})
    if other:
        raise ValueError(f"space {name!r}: its module keeps variables of type {', '.join(other)}; a space has Param and "
                         "BatchStat only, and rngs are an argument of the call")

    def init(key, images):
        _, weights, stats, _ = nnx.split(build(nnx.Rngs(key)), nnx.Param, nnx.BatchStat, ...)
        return _dicts(weights), _dicts(stats)

    def apply(weights, stats, gates, images, train, key):
        # Without a copy the module's statistics belong to another trace under jvp of grad, and under vmap.
        module = nnx.merge(graph, _like(params, weights), _like(averages, stats), copy=True)
        logits = module(images, gates, train, None if key is None else nnx.Rngs(key))
        return logits, _dicts(nnx.state(module, nnx.BatchStat)) if train else stats

    return pure_space(name, init, apply, groups, image=image, **settings)


def _dicts(state: nnx.State) -> dict:
    return nested({_names(path): variable[...] for path, variable in nnx.to_flat_state(state)})


def _like(state: nnx.State, tree: dict) -> nnx.State:
    """`state` with the values of `tree`, as `_dicts` returns it."""
    def value(path):
        here = tree
        for name in _names(path):
            here = here[name]
        return jnp.asarray(here)  # a module writes its statistics in place, which would alter a numpy array

    return nnx.from_flat_state([(path, variable.replace(value(path))) for path, variable in nnx.to_flat_state(state)])


def _names(path) -> tuple[str, ...]:
    return tuple(map(str, path))
