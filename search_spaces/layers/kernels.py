"""Boundaries that XLA's CPU backend may not fuse across.

Left alone it fuses a chain of cheap operations into each of its readers, and computes it again for every one of them:
the value of a node, which a dozen operations read, is a chain of all that led to it. An `optimization_barrier` does not
help, for it is gone before fusion; a call that may not be inlined does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import jax
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


_same = kernel(lambda x: x)


@jax.custom_vjp
def kept(x):
    """`x`, computed once however many read it, and so its gradient."""
    return _same(x)


kept.defvjp(lambda x: (_same(x), None), lambda _, g: (_same(g),))
