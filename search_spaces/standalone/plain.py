"""What searched networks come down to, in Flax's and JAX's own words, for the files that `search_spaces.export` writes.

What has these names elsewhere in this toolkit is for searches, and fast on a CPU. This computes the same.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from dnas.types import REMOVED
from search_spaces.layers.mixed import channel_shuffle, strided

PARTIAL_CHANNELS = 1
SCAN = "auto"


class MixedOp(nn.Module):
    """The operation that was chosen for an edge: number `gate` of `ops`; REMOVED gives zeros."""

    ops: Mapping[str, Callable[..., nn.Module]]
    channels: int | None = None
    stride: int = 1

    def __post_init__(self):
        self.ops = tuple(dict(self.ops).items())  # Flax sorts dicts where a module is repeated in a loop
        super().__post_init__()

    @nn.compact
    def __call__(self, x, gate, train):
        channels = self.channels or x.shape[-1]
        if gate == REMOVED:
            return jnp.zeros((*strided(x, self.stride).shape[:-1], channels), x.dtype)
        name, operation = self.ops[gate]
        return operation(channels=channels, stride=self.stride, name=name)(x, train)


class PartialMixedOp(MixedOp):
    """The same; the operation sees the first 1 / PARTIAL_CHANNELS of the channels, the others pass by."""

    @nn.compact
    def __call__(self, x, gate, train):
        channels, own = self.channels or x.shape[-1], x.shape[-1] // PARTIAL_CHANNELS
        if gate == REMOVED:
            return jnp.zeros((*strided(x, self.stride).shape[:-1], channels), x.dtype)
        name, operation = self.ops[gate]
        y = operation(channels=channels // PARTIAL_CHANNELS, stride=self.stride, name=name)(x[..., :own], train)
        passed, window = x[..., own:], (self.stride,) * (x.ndim - 2)
        if self.stride > 1 and window:
            passed = nn.max_pool(passed, window, window, "SAME")
        passed = [passed] * (channels // x.shape[-1])
        return channel_shuffle(jnp.concatenate([y, *passed], -1), PARTIAL_CHANNELS)


def bundle(ops, edges, x, gates, train, **options):
    """What edges of these names put out, all of which read x."""
    return [MixedOp(ops, name=edge, **options)(x, gate, train) for edge, gate in zip(edges, gates)]


def partial_bundle(ops, edges, x, gates, train, **options):
    """What edges of these names put out, all of which read x."""
    return [PartialMixedOp(ops, name=edge, **options)(x, gate, train) for edge, gate in zip(edges, gates)]


def of_cell(gates, cell):
    """What a cell is called with: all cells have the same operations."""
    return gates


def of_cells(gates, first, count):
    """The same of several cells."""
    return gates


class Repeated(nn.Module):
    """Equal cells one after another; where their weights are stacked, [count, ...], as one loop."""

    cell: Callable[..., nn.Module]
    count: int
    scan: bool | None = None

    @nn.compact
    def __call__(self, x, *args):
        by_option = SCAN == "on" or (SCAN == "auto" and self.count > 1)
        if not (by_option if self.scan is None else self.scan):
            for i in range(self.count):
                x = self.cell(name=f"cell_{i}")(x, *args)
            return x
        loop = nn.scan(lambda cell, x, _: (cell(x, *args), None), length=self.count,
                       variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True, "dropout": True})
        return loop(self.cell(name="cells"), x, None)[0]


def torch_uniform(key, shape, dtype=jnp.float32, fan_in=None):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's default."""
    limit = (fan_in or math.prod(shape[:-1])) ** -0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def number_of(path):
    """A number in 32 bits of the module at this path."""
    return zlib.crc32("/".join(path).encode())


def conv(x, weight, stride=1, dilation=1, groups=1):
    """The convolution of x [B, H, W, C] with weight [k, k, C / groups, D], torch's padding for odd k."""
    pad = dilation * (weight.shape[0] // 2)
    return lax.conv_general_dilated(x, weight, (stride, stride), ((pad, pad), (pad, pad)),
                                    rhs_dilation=(dilation, dilation), feature_group_count=groups,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


def depthwise(x, weight, stride=1, dilation=1):
    """The convolution of every channel with a kernel of its own, weight [k, k, 1, C]."""
    return conv(x, weight, stride, dilation, groups=x.shape[-1])


def normalised(x, epsilon):
    """x [B, ..., C] with mean 0 and variance 1 in every channel, the mean, and the variance [C]."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    return (x - mean) * lax.rsqrt(variance + epsilon), mean, variance


def avg_pool(x, stride=1):
    """3x3 mean, padding left out of the mean."""
    return nn.avg_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)), count_include_pad=False)


def max_pool(x, stride=1):
    """3x3 maximum."""
    return nn.max_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)))
