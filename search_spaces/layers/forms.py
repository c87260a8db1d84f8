"""How an operation is traced: for one edge, or for all edges of a bundle."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax
from jax import lax

SEPARATOR, AXIS = "+", "edge"
"""Between the names of edges in the name of their bundle; the name of the axis of edges."""

_bundled = contextvars.ContextVar("bundled", default=False)


@contextlib.contextmanager
def bundled() -> Iterator[None]:
    """Inside the block operations are traced once for all edges of a bundle, under `jax.vmap`."""
    token = _bundled.set(True)
    try:
        yield
    finally:
        _bundled.reset(token)


def in_bundle() -> bool:
    """Whether an operation is traced for a bundle."""
    return _bundled.get()


def edge_index() -> jax.Array | int:
    """The number of the edge within its bundle, traced; 0 of an edge that is in none."""
    return lax.axis_index(AXIS) if in_bundle() else 0


def paths_of_edges(path: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The path of an operation's module on each edge of its bundle; that of the module itself if it is in none."""
    count = max(name.count(SEPARATOR) for name in ("", *path)) + 1
    return [tuple(name.split(SEPARATOR)[e] if SEPARATOR in name else name for name in path) for e in range(count)]


def unstack(x: jax.Array, count: int) -> list[jax.Array]:
    """The `count` arrays that `x [count, ...]` holds."""
    return [lax.squeeze(part, (0,)) for part in lax.split(x, (1,) * count)]
