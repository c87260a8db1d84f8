"""The mixed operation: one module for the supernet and for the discrete network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from dnas.types import REMOVED


class MixedOp(nn.Module):
    """The operations of one edge, mixed by a gate or reduced to one of them (DARTS, arXiv 1806.09055, eq. 2).

    ops: name -> constructor, called with `channels`, `stride` and `name`; what it makes is called `(x, train)`.
    channels: of the input, unless given.

    Called with `gate`: an array `[K]` gives sum_k gate[k] * op_k(x); a Python integer gives that operation alone and
    builds no other; REMOVED gives zeros.
    """

    ops: Mapping[str, Callable[..., nn.Module]]
    channels: int | None = None
    stride: int = 1

    @nn.compact
    def __call__(self, x, gate, train):
        names = list(self.ops)
        channels = self.channels or x.shape[-1]
        build = lambda k: self.ops[names[k]](channels=channels, stride=self.stride, name=names[k])
        if isinstance(gate, int):
            shown = build(gate if gate != REMOVED else 0)
            if gate != REMOVED:
                return shown(x, train)
            shape = jax.eval_shape(lambda x: x[:, ::self.stride, ::self.stride], x).shape
            return jnp.zeros((*shape[:-1], channels), x.dtype)
        if gate.shape != (len(names),):
            raise ValueError(f"edge {self.name!r} mixes {len(names)} operations, its gate has shape {gate.shape}")
        return sum(gate[k].astype(x.dtype) * build(k)(x, train) for k in range(len(names)))
