"""One-hot gates, of which a supernet need compute one operation an edge only."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax

_one_hot = jax.make_user_context(False)
"""Part of the key of JAX's caches of traced functions."""


@contextlib.contextmanager
def one_hot_gates(are: bool = True) -> Iterator[None]:
    """A block in which each edge of a supernet that is traced has at most one operation whose gate is not zero. Spaces of
    `MixedOp`s then compute that operation alone where this saves time, on a CPU.

    An operation that is not computed stands for its gate, which is zero, in every number that the edge puts out: so the
    gradient of its gate is the sum of the gradient of the output. Inside `jax.vmap` every operation is computed.
    """
    with _one_hot(are):
        yield


def gates_are_one_hot() -> bool:
    """Whether gates are one-hot in what is traced now."""
    return _one_hot.value
