"""Attention and the MLP of a transformer, whose sizes are searched in weights that all sizes share.

    Attention(x) = sum over heads h of softmax(s x Q_h (x K_h)') x V_h O_h,     s = 1 / sqrt(head width)

Weights lie as `[embed, heads, head width]`, so that fewer heads, narrower heads and a narrower embedding are the first
entries along each axis, and a mask of each multiplies (`search_spaces.layers.entangled`). A head that is absent has queries,
keys and values of zero, and puts out zero. `s` is the mean over the head widths.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from search_spaces.layers.entangled import Dense, Size, fixed, masked, mean, prefix, product, report
from search_spaces.layers.primitives import torch_uniform


class Attention(nn.Module):
    """Multi-head self-attention of sequences `[B, T, embed]`, without biases (Vaswani et al., arXiv 1706.03762).

    causal: whether a position sees only itself and those before it.
    """

    embed: Size
    heads: Size
    head_width: Size
    causal: bool = False

    @nn.compact
    def __call__(self, x):
        sizes = self.embed, self.heads, self.head_width
        shape, length = tuple(size.largest for size in sizes), x.shape[1]

        def weight(name, order, fan_in):
            start = partial(torch_uniform, fan_in=fan_in)
            array = self.param(name, start, tuple(shape[n] for n in order)).astype(x.dtype)
            return masked(array, *(prefix(sizes[n]) for n in order))

        queries, keys, values = (jnp.einsum("btc,chd->bthd", x, weight(name, (0, 1, 2), shape[0]))
                                 for name in ("query", "key", "value"))
        scale = mean(np.asarray(self.head_width.table) ** -0.5, self.head_width.gates)
        scores = jnp.einsum("bqhd,bkhd->bhqk", queries * jnp.asarray(scale, x.dtype), keys)
        if self.causal:
            scores = jnp.where(np.tri(length, dtype=bool), scores, -jnp.inf)
        shares = jax.nn.softmax(scores.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", shares, values)
        report(*sizes, params=4, macs=4 * length)
        report(*sizes[1:], macs=2 * length**2)
        return jnp.einsum("bqhd,hdc->bqc", mixed, weight("out", (1, 2, 0), shape[1] * shape[2]))


class MLP(nn.Module):
    """Dense layer of ratio * embed units, GELU, and back: `[..., embed]` to the same."""

    embed: Size
    ratio: Size

    @nn.compact
    def __call__(self, x):
        hidden = product(self.embed, self.ratio)
        return Dense(self.embed, name="narrow")(nn.gelu(Dense(hidden, name="widen")(x, self.embed)), hidden)


class FixedAttention(nn.Module):
    """Attention of one number of heads, as an operation of a `MixedOp`."""

    channels: int
    stride: int = 1
    heads: int = 1
    head_width: int = 16
    causal: bool = False

    @nn.compact
    def __call__(self, x, train):
        sizes = map(fixed, (self.channels, self.heads, self.head_width))
        return Attention(*sizes, self.causal, name="attention")(x)


class FixedMLP(nn.Module):
    """The MLP of one ratio, as an operation of a `MixedOp`."""

    channels: int
    stride: int = 1
    ratio: int = 4

    @nn.compact
    def __call__(self, x, train):
        return MLP(fixed(self.channels), fixed(self.ratio), name="mlp")(x)
