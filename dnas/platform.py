"""The platform for which programs are built: an argument, so that a machine without an accelerator can build for one.

Operations have a form for each platform, and loops on an accelerator are steps in turn on a CPU. Both ask `current()`,
never the machine. Names are those of `jax.jit(f).trace(...).lower(lowering_platforms=...)`: cpu, cuda, rocm, tpu.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax.export import default_export_platform

NAMES = ("cpu", "cuda", "rocm", "tpu")
ALIASES = {"gpu": "cuda"}

_platform = jax.make_user_context(None)
"""Part of the key by which JAX finds what it has traced."""


@contextlib.contextmanager
def platform(name: str | None) -> Iterator[None]:
    """Inside the block, in this thread, programs are traced for the platform `name`; "gpu" means "cuda", and None the
    platform of the machine. JAX traces a function again where the platform is another.

    Raises ValueError for any other name.
    """
    name = ALIASES.get(name, name)
    if name not in (None, *NAMES):
        raise ValueError(f"platform must be one of {', '.join(NAMES)}, not {name!r}")
    with _platform(name):
        yield


def current() -> str:
    """The platform for which programs are traced now: that of the block, else that of the machine."""
    return _platform.value or of_machine()


def on_cpu() -> bool:
    """Whether programs are traced for a CPU now."""
    return current() == "cpu"


def of_machine() -> str:
    """The platform of the machine's default device."""
    return default_export_platform()
