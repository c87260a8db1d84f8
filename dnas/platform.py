"""The platform to compile for, so that a machine without an accelerator can compile for one.

Operations have a form for each platform, and loops on an accelerator are steps on a CPU. Both depend on `current()`, not
on the machine. Names are those of `jax.jit(f).trace(...).lower(lowering_platforms=...)`: cpu, cuda, rocm, tpu.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
from jax.export import default_export_platform

NAMES = ("cpu", "cuda", "rocm", "tpu")
ALIASES = {"gpu": "cuda"}

_platform = jax.make_user_context(None)
"""Part of the key of JAX's caches of traced functions."""


@contextlib.contextmanager
def platform(name: str | None) -> Iterator[None]:
    """A block in which this thread traces programs for the platform `name`; "gpu" means "cuda", and None the platform of
    the machine. JAX traces a function again for another platform.

    Raises ValueError for any other name.
    """
    name = ALIASES.get(name, name)
    if name not in (None, *NAMES):
        raise ValueError(f"platform must be one of {', '.join(NAMES)}, not {name!r}")
    with _platform(name):
        yield


def current() -> str:
    """The platform to trace for: that of the block, else that of the machine."""
    return _platform.value or of_machine()


def on_cpu() -> bool:
    """Whether programs are traced for a CPU now."""
    return current() == "cpu"


def of_machine() -> str:
    """The platform of the machine's default device."""
    return default_export_platform()
