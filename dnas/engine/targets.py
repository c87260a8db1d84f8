"""Compiles programs for chips that this machine does not have, and reads what they would do there.

XLA compiles for a chip from a description of it. For a GPU that takes the package jax[cuda13], for a TPU jax[tpu], both
of the installed version of JAX, and no driver. Nothing is measured: a GPU's compiler picks among its kernels by trying
them, and without the GPU takes its defaults.

A compiler that fails may end the process, so `examine` compiles in one of its own. What is traced here is exported into it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from dnas.engine import hlo
from dnas.engine.devices import planned
from dnas.engine.programs import compile_lowered
from dnas.platform import platform as on_platform

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
               "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
"""Of a process that compiles for other chips: it uses none, does not ask the network for one, and may be one of several;
what it compiles is of no use to any other."""
PACKAGES = {"cuda": (("jax_cuda13_plugin", "jax_cuda12_plugin"), "jax[cuda13]"), "tpu": (("libtpu",), "jax[tpu]")}
"""Modules of which one is in the package that compiles for a platform, and the name of that package."""
H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
device_memory_size: 84942979072 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H100 80GB HBM3" """
"""XLA's description of the card, as text of its GpuTargetConfigProto: what the driver says of it."""


class Chip(NamedTuple):
    """A kind of device. topology: its description for XLA; "" for the machine's own CPU, of which nothing else is known.

    memory: bytes; bandwidth: of it, bytes per second; peak: operations per second of matrix products and convolutions by
    the type of their operands; launch: seconds that each kernel costs at least, however small.
    """

    name: str
    platform: str
    title: str
    topology: str
    memory: int | None = None
    bandwidth: float | None = None
    peak: Mapping[str, float] = {}
    launch: float = 0.0


CHIPS = {chip.name: chip for chip in (
    Chip("cpu", "cpu", "the CPU of this machine", ""),
    Chip("h100", "cuda", "NVIDIA H100 SXM", H100, 84942979072, 3.352e12, {"float32": 494.5e12, "bfloat16": 989.5e12},
         2.5e-6),
    Chip("v5e", "tpu", "TPU v5e", "v5e:2x2", 16 * 2**30, 819e9, {"float32": 197e12, "bfloat16": 197e12}))}
"""Chips by name; the first of a platform is its default.

h100: memory and bandwidth as its driver says, which are those of NVIDIA's data sheet (80 GB, 3.35 TB/s). Peaks are half of
the data sheet's, which counts products with half of their entries zero: 989 for TF32, which XLA uses for products in
float32, and 1,979 for bfloat16. Launch: 2 to 3 microseconds a kernel are usual; no data sheet names a number.
v5e: 16 GB at 819 GB/s and 197 TFLOP/s in bfloat16, of Google's documentation of the chip; XLA rounds operands of products in
float32 to bfloat16 by default. A program is one launch there, and nothing is published on what a kernel costs.
"""


class CompilerFailed(RuntimeError):
    """A program could not be compiled for a chip. The message says what the compiler said last."""


class Examined(NamedTuple):
    """A program that was compiled for a chip, not run. memory: bytes that it needs, as planned by XLA; None if it does not
    say. seconds: to compile."""

    chip: str
    work: hlo.Work
    memory: int | None
    seconds: float

    def least_seconds(self, dtype: str = "float32") -> dict[str, float]:
        """Seconds that each part takes by itself at best on this chip: "bandwidth", "launches", "operations". The program
        takes at least as long as the longest, except for bytes that a cache serves. {} for a chip without numbers.

        dtype: of the operands of products, float32 or bfloat16.
        """
        chip = CHIPS[self.chip]
        if chip.bandwidth is None:
            return {}
        return {"bandwidth": self.work.device_bytes / chip.bandwidth, "launches": self.work.kernels * chip.launch,
                "operations": self.work.operations / chip.peak[dtype]}


def chip_of(platform: str | None, chip: str | None = None) -> Chip:
    """The chip of this name, by default the first of the platform.

    Raises ValueError for a name that is not known, a chip of another platform, and a platform whose compiler is not
    installed.
    """
    platform = {"gpu": "cuda", None: chip in CHIPS and CHIPS[chip].platform}.get(platform, platform)
    first = {chip.platform: chip for chip in reversed(CHIPS.values())}
    if chip is not None and chip not in CHIPS:
        raise ValueError(f"chip {chip!r} is not known; those that are: {', '.join(CHIPS)}")
    if platform not in first:
        raise ValueError(f"platform must be one of {', '.join(reversed(first))}, not {platform!r}")
    if chip is not None and CHIPS[chip].platform != platform:
        raise ValueError(f"chip {chip} is of the platform {CHIPS[chip].platform}, not {platform}")
    if not installed(platform):
        package = PACKAGES[platform][1]
        raise ValueError(f"the compiler for {platform} is not installed: pip install '{package}=={version('jax')}'")
    return CHIPS[chip] if chip else first[platform]


def installed(platform: str) -> bool:
    """Whether the compiler for a platform is installed."""
    return platform not in PACKAGES or any(map(importlib.util.find_spec, PACKAGES[platform][0]))


def compile_for(function: Callable, args: Sequence, chip: Chip, *,
                donate_argnums: Sequence[int] = ()) -> jax.stages.Compiled:
    """The compiled `function(*args)` for a chip, in this process, which must have been started with ENVIRONMENT. args:
    arrays or `jax.ShapeDtypeStruct`, in any containers."""
    placed = jax.sharding.SingleDeviceSharding(_device(chip))
    shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)
    with on_platform(chip.platform):
        jitted = jax.jit(function, donate_argnums=tuple(donate_argnums), keep_unused=True)
        return compile_lowered(jitted.lower(*jax.tree.map(shape, tuple(args))))


def _device(chip: Chip):
    from jax.experimental import topologies

    if chip.platform == "cpu":
        return jax.devices("cpu")[0]
    if chip.platform == "cuda":
        return topologies.get_topology_desc(platform="cuda", target_config=chip.topology, topology="1x1x1").devices[0]
    return topologies.get_topology_desc(platform=chip.platform, topology_name=chip.topology,
                                        chip_config_name="default").devices[0]


def examine(function: Callable, args: Sequence, chip: Chip, *, donate_argnums: Sequence[int] = (),
            text: str | Path | None = None) -> Examined:
    """Compiles `function(*args)` for a chip in a process of its own, and says what the program does. Arguments: as for
    `compile_for`. text: a file into which the program is written, as XLA's text.

    Raises the errors of tracing, ValueError for a function that JAX cannot export, and CompilerFailed.
    """
    leaves, tree = jax.tree.flatten(tuple(args))
    firsts = [len(jax.tree.leaves(tuple(args)[:number])) for number in range(len(args) + 1)]
    donated = [leaf for number in donate_argnums for leaf in range(firsts[number], firsts[number + 1])]
    flat = lambda *leaves: jax.tree.leaves(function(*jax.tree.unflatten(tree, leaves)))
    with on_platform(chip.platform):
        jitted = jax.jit(flat)
        jitted.trace(*leaves)  # raises the function's own errors
        try:
            program = bytes(export.export(jitted, platforms=[chip.platform])(*leaves).serialize())
        except Exception as error:
            said = _first_line(error)
            raise ValueError(f"JAX cannot export the program, to compile it for {chip.title}: {said}") from error
    order = {"chip": chip.name, "donated": donated, "text": text and str(Path(text).absolute())}
    return _compiled_apart(chip, json.dumps(order).encode() + b"\n" + program)


def _compiled_apart(chip: Chip, order: bytes) -> Examined:
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-m", __name__], input=order, capture_output=True, env=environment)
    lines = done.stderr.decode(errors="replace").splitlines()
    answer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    if "error" in answer or not answer:
        ended = f"ended by {signal.Signals(-done.returncode).name}: " if done.returncode < 0 else "failed: "
        last = next((line for line in lines if "Check failed" in line), lines[-1] if lines else "it said nothing")
        said = answer.get("error", last)
        raise CompilerFailed(f"the compiler of jaxlib {version('jaxlib')} for {chip.title} {ended}{said}")
    return Examined(chip.name, hlo.Work(*answer["work"]), answer["memory"], answer["seconds"])


def _first_line(error: Exception) -> str:
    return next(filter(None, str(error).splitlines()), type(error).__name__)


def main() -> None:
    """The process of `examine`: reads an order and a program, and prints what it is like once compiled."""
    order = json.loads(sys.stdin.buffer.readline())
    program = export.deserialize(bytearray(sys.stdin.buffer.read()))
    began = time.monotonic()
    try:
        compiled = compile_for(program.call, program.in_avals, CHIPS[order["chip"]], donate_argnums=order["donated"])
    except Exception as error:
        answer: dict[str, Any] = {"error": _first_line(error)}
    else:
        seconds, text = time.monotonic() - began, compiled.as_text()
        if order["text"]:
            Path(order["text"]).write_text(text)
        answer = {"work": hlo.work(text), "memory": planned(compiled), "seconds": seconds}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
