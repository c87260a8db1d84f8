"""What the device is called, how much memory it has, and how much a compiled program needs."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

import jax

from dnas.platform import on_cpu
from dnas.types import Tree


def device_name() -> str:
    """The first device for a person: the name of an accelerator; of a CPU its model and how many cores this process has."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    with contextlib.suppress(AttributeError, IndexError, OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")][0]
        return f"{model}, {len(os.sched_getaffinity(0))} cores"
    return f"CPU, {os.cpu_count()} cores"


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
