"""How much memory a compiled program needs, and how much the device has."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import jax

from dnas.platform import on_cpu
from dnas.types import Tree


def planned(compiled: jax.stages.Compiled) -> int | None:
    """Bytes of a program's arguments, results and everything between, as XLA plans it; None if unavailable."""
    plan = compiled.memory_analysis()
    return plan and (plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes
                     - plan.alias_size_in_bytes)


def available() -> int | None:
    """Bytes that programs may use on the first device: all of its allocator, or the free memory of the machine if the
    device is a CPU; None if unavailable."""
    if not on_cpu():
        return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    with contextlib.suppress(OSError, ValueError):
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return 1024 * int(lines.get("MemAvailable", "").removesuffix("kB"))
    return None


def size(tree: Tree) -> int:
    """Bytes of the arrays, or the shapes of arrays, in `tree`."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def spelled(count: int | None) -> str:
    """A number of bytes as text: 1.5 GiB."""
    if count is None:
        return "unknown"
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
