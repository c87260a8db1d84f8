"""Equal cells one after another, unrolled or as one scan over stacked weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dnas.platform import on_cpu
from dnas.shared_options import current_options

UNROLL = 5
"""Cells up to which a loop is written out, for every turn copies all that its gradient needs. Five cells of NAS-Bench-201
then take a third of the memory and up to a third of the time of a loop on a CPU, and 57 % of the kernels on an H100. On a
CPU more are computed again for their gradient, which takes 15 to 40 % longer a cell, and hardly more memory than one does
(docs/speed.md)."""


def use_scan(option: str, cells: int) -> bool:
    """Whether to scan: `on`, `off`, or `auto`, which scans wherever there is more than one cell."""
    if option not in ("auto", "on", "off"):
        raise ValueError(f"scan is auto, on or off, not {option!r}")
    return option == "on" or (option == "auto" and cells > 1)


class Each(NamedTuple):
    """An argument of `Repeated` of which each cell gets one: values `[count, ...]`."""

    values: jax.Array


def of_cell(gates, cell: int):
    """What cell number `cell` is called with: its own of gates `[cells, E, K]`, other gates as they are."""
    return gates[cell] if getattr(gates, "ndim", 2) == 3 else gates


def of_cells(gates, first: int, count: int):
    """The same of `count` cells beginning with `first`, for `Repeated`."""
    return Each(gates[first:first + count]) if getattr(gates, "ndim", 2) == 3 else gates


class Repeated(nn.Module):
    """`count` cells made by `cell()`, each called `(x, *args)` and returning the next `x` of the same shape. Of an argument
    that is an `Each` every cell gets its own.

    scan: whether they are one loop, for which they must be equal; by the space's option `scan` if None.

    Unrolled, their variables are `cell_0`, `cell_1`, ...; scanned they are `cells`, stacked along a leading axis, and
    the program holds one cell whatever their number. `stack_cells` and `unstack_cells` convert.
    """

    cell: Callable[..., nn.Module]
    count: int
    scan: bool | None = None

    @nn.compact
    def __call__(self, x, *args):
        if not (use_scan(current_options().scan, self.count) if self.scan is None else self.scan):
            for i in range(self.count):
                x = self.cell(name=f"cell_{i}")(x, *(arg.values[i] if isinstance(arg, Each) else arg for arg in args))
            return x
        written_out = self.count <= UNROLL
        again = on_cpu() and not written_out
        own = {place: arg.values for place, arg in enumerate(args) if isinstance(arg, Each)}
        run = lambda cell, x, own: (cell(x, *(own.get(place, arg) for place, arg in enumerate(args))), None)
        body = nn.scan(nn.remat(run, prevent_cse=False) if again else run, length=self.count,
                       unroll=self.count if written_out else 1,
                       variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True, "dropout": True})
        return body(self.cell(name="cells"), x, own)[0]


def stack_cells(tree):
    """Weights or stats of an unrolled network in the form of a scanned one."""
    if not isinstance(tree, dict):
        return tree
    cells = sorted((k for k in tree if k.startswith("cell_")), key=lambda k: int(k[5:]))
    if cells:
        return {"cells": jax.tree.map(lambda *leaves: jnp.stack(leaves), *[tree[k] for k in cells])}
    return {k: stack_cells(v) for k, v in tree.items()}


def unstack_cells(tree):
    """Weights or stats of a scanned network in the form of an unrolled one."""
    if not isinstance(tree, dict):
        return tree
    if set(tree) == {"cells"}:
        count = jax.tree.leaves(tree)[0].shape[0]
        return {f"cell_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], tree["cells"]) for i in range(count)}
    return {k: unstack_cells(v) for k, v in tree.items()}
