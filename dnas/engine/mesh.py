"""Several devices for one program: what is sharded over them, what is replicated, and what they exchange.

The devices of a program form a mesh ("lane", "data"). The examples of a batch are sharded over `data`, and XLA adds the
exchange that sums over a whole batch need, of gradients and of batch statistics. Lanes are sharded over `lane`, by
`jax.shard_map`, and exchange nothing. On one device there is no mesh, and the programs are those without this module.

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

from dnas.engine.hlo import parse
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
    lane. most: the largest possible batch."""
    _, data = layout(devices, lanes)
    if batch % data:
        below = batch // data * data
        near = [size for size in (below, below + data) if 0 < size <= (most or size)]
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


def _constrained(tree, *axes):
    divided = jax.sharding.get_abstract_mesh().shape.get(DATA, 1) > 1
    return jax.lax.with_sharding_constraint(tree, P(*axes)) if divided else tree


def collectives(program: jax.stages.Compiled) -> dict[str, tuple[int, int]]:
    """{"all-reduce": (how many, bytes of their results), ...}: what the devices of a program exchange; loops count once."""
    exchanged = {}
    for computation in parse(program.as_text())[0].values():
        for line in computation.values():
            kind = line.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                number, count = exchanged.get(kind, (0, 0))
                exchanged[kind] = number + 1, count + sum(array.size for array in line.shapes)
    return exchanged
