"""From a Flax Linen module and its groups to a SearchSpace."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dnas.shared_options import SharedOptions, current_options, shared_options
from dnas.types import Group, SearchSpace
from search_spaces.adapter import Functions, search_space
from search_spaces.layers.bundle import one_at_a_time, stack_edges, unstack_edges
from search_spaces.layers.mixed import READS, reading
from search_spaces.layers.mixed import drop_path as dropping


def flax_space(name: str, module: nn.Module, groups: Mapping[str, Group], *, image: tuple[int, ...],
               input_dtype: str = "float32", options: Mapping | None = None, standalone: nn.Module | None = None,
               auxiliary: nn.Module | None = None, rule: Callable | None = None, format: Callable | None = None,
               parse: Callable | None = None, expected: Callable | None = None,
               inherit: Callable | None = None, skipped: Callable | None = None, reorder: Callable | None = None,
               cells: Mapping[str, int] = {}) -> SearchSpace:
    """Makes a SearchSpace of a Linen module called `(images, gates, train)` that returns outputs `[B, ..., classes]`.

    `gates` holds for each group an array `[E, K]`, or a tuple of E operation indices (REMOVED for an edge that is
    left out); the module hands `gates[group][edge]` to the `MixedOp` of that edge. With `cells`, of which `gates` may hold
    `[cells, E, K]`, it gives each cell its own (`search_spaces.repeated.of_cell`).

    Args:
        standalone: the module of the final network, where it differs from the supernet's.
        auxiliary: that module with a second head, whose logits it returns beside its own while training.
        image, input_dtype, options, rule, format, parse, expected, inherit, skipped, reorder, cells: as
            for `search_spaces.adapter.search_space`.
    """
    shared, plain = current_options(), SharedOptions()
    changed = {name: value for name, value in shared._asdict().items() if value != getattr(plain, name)}
    return search_space(name, functions(module, shared), groups, image=image, input_dtype=input_dtype, reads=READS,
                        options={**(options or {}), **changed},
                        standalone=functions(standalone or module, plain),
                        auxiliary=auxiliary and functions(auxiliary, plain),
                        inherited=functions(module, shared._replace(drop_path=plain.drop_path)), rule=rule,
                        format=format, parse=parse, expected=expected, inherit=inherit, skipped=skipped, reorder=reorder,
                        cells=cells)


def functions(module: nn.Module, mixed: SharedOptions) -> Functions:
    """A Linen module whose `MixedOp`s have the options `mixed`."""

    def init(key, images, gates):
        with shared_options(mixed):
            variables = module.init(key, images, gates, True)
        return variables.get("params", {}), variables.get("batch_stats", {})

    def apply(weights, stats, gates, images, train, key, drop_path=None):
        probability = drop_path if drop_path is not None else (key is not None and mixed.drop_path) or None
        if mixed.dtype != "float32":
            narrow = lambda leaf: leaf.astype(mixed.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
            weights, images = jax.tree.map(narrow, (weights, images))
        alone = one_at_a_time()
        if alone:
            weights, stacked, stats = unstack_edges(weights), stats, unstack_edges(stats)
        variables = jax.tree.map(jnp.asarray, {"params": weights, "batch_stats": stats})
        rngs = {} if key is None else {"dropout": key}
        with shared_options(mixed), dropping(probability), reading(gates):
            if not train:
                logits, updated = module.apply(variables, images, gates, False), {}
            else:
                logits, updated = module.apply(variables, images, gates, True, rngs=rngs, mutable=["batch_stats"])
        if mixed.dtype != "float32":
            logits = logits.astype("float32")
        stats = updated.get("batch_stats", stats)
        return logits, stack_edges(stats, stacked) if alone else stats

    return Functions(init, apply, drops=True, source=lambda gates: (module, mixed, gates))
