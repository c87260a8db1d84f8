"""How an operation is traced: for one edge, or for all edges of a bundle."""

from __future__ import annotations

import contextlib
import contextvars
import zlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
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


def number_of(path: tuple[str, ...]) -> jax.Array | int:
    """A number in 32 bits of an operation's module, of which `path` are the names from the top. In a bundle it is traced:
    on each edge that of the module which the edge would have alone."""
    if not in_bundle():
        return zlib.crc32("/".join(path).encode())
    edges = max(map(str.count, path, [SEPARATOR] * len(path))) + 1
    names = ["/".join(name.split(SEPARATOR)[e] if SEPARATOR in name else name for name in path) for e in range(edges)]
    return jnp.array([zlib.crc32(name.encode()) for name in names], jnp.uint32)[lax.axis_index(AXIS)]


def unstack(x: jax.Array, count: int) -> list[jax.Array]:
    """The `count` arrays that `x [count, ...]` holds."""
    return [lax.squeeze(part, (0,)) for part in lax.split(x, (1,) * count)]
