"""Options that every search space has, whoever wrote it: they change how the operations on its edges compute."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal, NamedTuple


class SharedOptions(NamedTuple):
    """Options of every `MixedOp` of a space, your own spaces included.

    Args:
        partial_channels: K of PC-DARTS: operations see the first 1/K of the channels, the others pass by.
        drop_path: Probability with which a search step leaves out the output of an operation for an image.
        dtype: In which the supernet computes; weights and statistics stay float32.
        scan: Run equal cells (`search_spaces.repeated.Repeated`) as one loop over stacked weights: auto, on, off.
        remat: Compute operations again in the backward pass instead of keeping their results: less memory, more time.
    """

    partial_channels: int = 1
    drop_path: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan: Literal["auto", "on", "off"] = "auto"
    remat: bool = False


_current = contextvars.ContextVar("shared_options")


@contextlib.contextmanager
def shared_options(options: SharedOptions) -> Iterator[None]:
    """Spaces built inside the block have these options. Raises ValueError where one is out of range."""
    if options.partial_channels < 1:
        raise ValueError(f"partial_channels is {options.partial_channels}, it must be at least 1")
    if not 0 <= options.drop_path < 1:
        raise ValueError(f"drop_path is {options.drop_path}, it must be at least 0 and below 1")
    if options.dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype is {options.dtype}; it must be float32 or bfloat16")
    token = _current.set(options)
    try:
        yield
    finally:
        _current.reset(token)


def current_options() -> SharedOptions:
    """The options in force."""
    return _current.get(SharedOptions())
