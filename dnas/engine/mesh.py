"""Several devices for one program: what is sharded over them, what is replicated, and what they exchange.

The devices of a program form a mesh ("lane", "data"). The examples of a batch are sharded over `data`, and XLA adds the
exchange that sums over a whole batch need, of gradients and of batch statistics. Lanes are sharded over `lane`, by
`jax.shard_map`, and exchange nothing. Programs for one device have no mesh, and nothing here changes them.

A compiled program is for the mesh on which its examples lie, see `mesh_of`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dnas.engine.hlo import scheduled
from dnas.types import Tree

LANE, DATA = "lane", "data"
"""The axes of a mesh."""
COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"}
"""Operations by which devices exchange arrays."""


def device_count(devices: int | Literal["all"] | None) -> int:
    """How many devices to use. None: all of an accelerator's, one on a CPU.

    Raises ValueError, in one line, unless it is "all" or a number of devices that there are.
    """
    there = jax.devices()
    if devices is None:
        return 1 if there[0].platform == "cpu" else len(there)
    if devices == "all":
        return len(there)
    if type(devices) is not int or not 1 <= devices <= len(there):
        raise ValueError(f"devices is {devices!r}; it must be all, or a whole number from 1 to {len(there)}, the number of "
                         f"{there[0].platform} devices that JAX finds")
    return devices


def layout(devices: int, lanes: int = 1) -> tuple[int, int]:
    """Sizes (lane, data) of the mesh of some devices for so many searches: as few groups of devices as there must be for
    each search to have a group of its own, where there are enough devices."""
    groups = next((size for size in range(1, devices + 1) if devices % size == 0 and size >= lanes), devices)
    return groups, devices // groups


def create_mesh(devices: int, lanes: int = 1) -> Mesh | None:
    """The mesh of the first `devices` of JAX's devices for so many searches; None of a single device."""
    if devices == 1:
        return None
    return jax.make_mesh(layout(devices, lanes), (LANE, DATA), axis_types=(AxisType.Auto,) * 2,
                         devices=jax.devices()[:devices])


def refuse_undivided(batch: int, devices: int, lanes: int = 1, *, most: int | None = None) -> None:
    """Raises ValueError, which names the nearest batch that would do, if `batch` does not divide among the devices of a
    lane. most: the largest possible batch; 0 where it cannot be chosen."""
    _, data = layout(devices, lanes)
    if batch % data:
        below = batch // data * data
        near = [size for size in (below, below + data) if 0 < size <= (size if most is None else most)]
        nearest = min(near, key=lambda size: abs(size - batch), default=None)
        instead = f"the nearest that does is {nearest}; or " if nearest else ""
        raise ValueError(f"batch {batch} does not divide among {data} devices; {instead}choose fewer devices")


def mesh_of(tree: Tree) -> Mesh | None:
    """The mesh on which the arrays of `tree`, or the shapes of arrays with a sharding, lie; None on a single device."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    return next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)


def sizes_of(mesh: Mesh | None) -> dict[str, int]:
    """{"lane": number of groups of devices, "data": devices in each}."""
    return {axis: mesh.shape[axis] if mesh else 1 for axis in (LANE, DATA)}


def describe(sizes: Mapping[str, int]) -> str:
    """The number of devices of a mesh of these sizes as text, such as: 4 (2 to a search)."""
    return f"{math.prod(sizes.values())}{f' ({sizes[DATA]} to a search)' if sizes[LANE] > 1 else ''}"


def put(tree: Tree, mesh: Mesh | None, *axes: str | None) -> Tree:
    """`tree` as arrays on the mesh, their leading axes sharded over `axes`, the others replicated; without a mesh as arrays
    of the default device."""
    return jax.device_put(tree, NamedSharding(mesh, P(*axes))) if mesh else jax.tree.map(jnp.asarray, tree)


def on_one(tree: Tree) -> Tree:
    """Arrays of a mesh as arrays of the default device, so that what is computed of them is not computed on the mesh; others
    as they are."""
    return jax.tree.map(jnp.asarray, jax.device_get(tree)) if mesh_of(tree) else tree


def shape(tree: Tree, mesh: Mesh | None, *axes: str | None) -> Tree:
    """The shapes of the arrays that `put` would return, from which a program is compiled; without a mesh `tree` itself."""
    if not mesh:
        return tree
    sharding = NamedSharding(mesh, P(*axes))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding), tree)


def sharded(function: Callable, mesh: Mesh, args: Sequence[Tree], specs: Sequence[tuple], result: tuple,
            axes: Collection[str] = (LANE, DATA)) -> tuple[Callable, list[Tree]]:
    """`function` of the part of its arguments that lies on a device, and the shapes of the whole arguments.

    specs: for each argument, over which axes of the mesh its leading axes are sharded; result: that of all results. axes:
    those that the function is free of; over the others XLA divides its work.
    """
    parts = jax.shard_map(function, mesh=mesh, in_specs=tuple(P(*spec) for spec in specs), out_specs=P(*result),
                          axis_names={*axes}, check_vma=False)
    return parts, [shape(arg, mesh, *spec) for arg, spec in zip(args, specs, strict=True)]


def tracing(mesh: Mesh | None) -> AbstractContextManager:
    """A block in which programs are traced for a mesh: `spread` and `replicated` constrain them."""
    return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


def spread(batch: Tree) -> Tree:
    """Arrays of a batch `[B, ...]`, their examples sharded over the devices of a lane; elsewhere as they are. Without it
    every device would compute the whole batch."""
    return _constrained(batch, DATA)


def replicated(tree: Tree) -> Tree:
    """`tree`, whole on each device of a lane; outside of a mesh as it is."""
    return _constrained(tree)


def by_example(function: Callable, x: jax.Array, *whole: Tree) -> jax.Array:
    """`function(x, *whole)` of `x [B, ...]` and with a result `[B, ...]`, of which each device of a lane computes its own
    examples: for operations that XLA would compute whole on every device, such as grouped convolutions."""
    if not _divided():
        return function(x, *whole)
    return jax.shard_map(function, in_specs=(P(DATA), *[P()] * len(whole)), out_specs=P(DATA), axis_names={DATA},
                         check_vma=False)(x, *whole)


def _constrained(tree, *axes):
    return jax.lax.with_sharding_constraint(tree, P(*axes)) if _divided() else tree


def _divided() -> bool:
    """Whether a program is traced for several devices of a lane, among which XLA divides its work."""
    mesh = jax.sharding.get_abstract_mesh()
    return DATA in mesh.auto_axes and mesh.shape[DATA] > 1


def collectives(program: jax.stages.Compiled) -> dict[str, tuple[int, int]]:
    """{"all-reduce": (how many, bytes of their results), ...}: what the devices of a program exchange in one run; the steps
    of an epoch count as one."""
    exchanged = {}
    for line, times in scheduled(program.as_text()):
        kind = line.opcode.removesuffix("-done")  # of one in two lines this has the result
        if kind in COLLECTIVES:
            number, count = exchanged.get(kind, (0, 0))
            exchanged[kind] = number + times, count + times * sum(array.size for array in line.shapes)
    return exchanged


def bytes_sent(exchanged: Mapping[str, tuple[int, int]], devices: int) -> int:
    """Bytes that each of the devices of a lane must send at least for these `collectives`: what it sends in a ring."""
    others = (devices - 1) / devices
    each = {"all-reduce": 2 * others, "all-gather": others, "reduce-scatter": devices - 1, "all-to-all": others,
            "collective-permute": 1}
    return round(sum(each[kind] * count for kind, (_, count) in exchanged.items()))
