"""How an operation is traced: for one edge, or for all edges of a bundle."""

from __future__ import annotations

import contextlib
import contextvars
import zlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

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


def check_name(edge: str) -> None:
    """Raises ValueError for a name that only a bundle can have."""
    if SEPARATOR in edge:
        raise ValueError(f"the name of edge {edge!r} has a {SEPARATOR!r} in it, which names of bundles have")


def by_edges(one: Callable, of_all: Callable) -> Callable:
    """`one(x, weight)`, which for the edges of a bundle that read one `x` is `of_all(x, weights [E, ...])`."""
    function = custom_vmap(one)

    @function.def_vmap
    def rule(edges, batched, x, weight):
        if batched == [False, True]:
            return of_all(x, weight), True
        return jax.vmap(one, [0 if axis else None for axis in batched])(x, weight), True

    return function


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
