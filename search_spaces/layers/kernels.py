"""Boundaries that XLA's CPU backend may not fuse across.

Left alone it fuses a chain of cheap operations into each of its readers, and computes it again for every one of them:
the value of a node, which a dozen operations read, is a chain of all that led to it. An `optimization_barrier` does not
help, for it is gone before fusion; a call that may not be inlined does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, wraps

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from dnas.platform import on_cpu


def kernel(function: Callable) -> Callable:
    """`function` of arrays, whose arguments and results are in memory on a CPU; elsewhere as it is."""
    compiled = jax.jit(function)

    @wraps(function)
    def call(*args):
        if not on_cpu():
            return function(*args)
        with set_xla_metadata(inlineable="false"):
            return compiled(*args)

    return call


@cache
def kernel_of(function: Callable, *static: Hashable) -> Callable:
    """`function(*arrays, *static)` of `arrays` as a kernel, traced once for all arrays of the same shapes."""
    return kernel(wraps(function)(lambda *arrays: function(*arrays, *static)))


@kernel
def _copy(x):
    """`x` in memory of its own. Were the result of a call its very argument, XLA's CPU backend would take the two for two
    arrays, and overwrite one in place while it still reads the other: `x + shuffle(materialised(x))` was wrong. Nothing
    removes a `reduce_precision`, not even to the precision that `x` has."""
    kind = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(x, kind.nexp, kind.nmant)


@jax.custom_vjp
def _materialised(x):
    return _copy(x)


_materialised.defvjp(lambda x: (_copy(x), None), lambda _, g: (_copy(g),))


def materialised(x):
    """`x`, computed once however many read it, and so its gradient."""
    return _materialised(x) if jnp.issubdtype(x.dtype, jnp.floating) else x
