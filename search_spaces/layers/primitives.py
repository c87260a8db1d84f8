"""The operations of searched networks, as Flax modules called `(x, train)` on images `[B, H, W, C]`.

Torch's conventions throughout (bias-free convolutions, explicit symmetric padding, batch norm with eps 1e-5 and
momentum 0.1), so that published numbers can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from search_spaces.layers.batch_norm import normalised
from search_spaces.layers.convolution import conv
from search_spaces.layers.depthwise import depthwise
from search_spaces.layers.forms import number_of
from search_spaces.layers.mixed import strided
from search_spaces.layers.pooling import avg_pool, max_pool


def torch_uniform(key, shape, dtype=jnp.float32, fan_in=None):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's default for convolutions `[..., C, D]` and linear layers.

    Drawn by NumPy: jax.random compiles a program for every shape, half a second each on a CPU.
    """
    limit = (fan_in or math.prod(shape[:-1])) ** -0.5

    def draw(keys):
        keys = np.asarray(keys, np.uint64)
        draws = [np.random.Generator(np.random.Philox(key=key)).uniform(-limit, limit, shape)
                 for key in keys.reshape(-1, keys.shape[-1])[:, :2]]
        return np.asarray(draws, dtype).reshape(*keys.shape[:-1], *shape)

    result = jax.ShapeDtypeStruct(shape, dtype)
    return jax.pure_callback(draw, result, jax.random.key_data(key), vmap_method="expand_dims")


class Conv(nn.Module):
    """Bias-free convolution of images, padded by (kernel - 1) / 2 on both sides; with a kernel of 1 of any `[B, ..., C]`."""

    channels: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
        weight = self.param("kernel", torch_uniform, shape).astype(x.dtype)
        if self.kernel == 1 and x.ndim != 4:
            return strided(x, self.stride) @ weight[0, 0]
        return conv(x, weight, self.stride)


class BatchNorm(nn.Module):
    """Batch norm of `[B, ..., C]` with torch's momentum and epsilon; batch statistics while training, running averages
    otherwise."""

    affine: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, train):
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if train:
            y, *moments = normalised(x, self.epsilon)
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                for average, moment in zip((mean, var), moments):
                    average.value = 0.9 * average.value + 0.1 * lax.stop_gradient(moment)
        else:
            y = ((x - mean.value) * lax.rsqrt(var.value + self.epsilon)).astype(x.dtype)
        if not self.affine:
            return y
        scale, bias = (self.param(name, start, channels).astype(x.dtype)
                       for name, start in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros)))
        return y * scale + bias


class Linear(nn.Module):
    """Matrix product and bias, both drawn as torch does."""

    features: int

    @nn.compact
    def __call__(self, x):
        bias = partial(torch_uniform, fan_in=x.shape[-1])
        return nn.Dense(self.features, kernel_init=torch_uniform, bias_init=bias, name="dense")(x)


class Zero(nn.Module):
    """`none`: zeros of the shape that the edge puts out."""

    channels: int
    stride: int = 1

    def __call__(self, x, train):
        return jnp.zeros_like(strided(x, self.stride))


class Identity(nn.Module):
    """`skip_connect` where neither size nor channels change."""

    channels: int
    stride: int = 1

    def __call__(self, x, train):
        return x


class ReLUConvBN(nn.Module):
    """ReLU, convolution, batch norm."""

    channels: int
    stride: int = 1
    kernel: int = 3
    affine: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = Conv(self.channels, self.kernel, self.stride, name="conv")(nn.relu(x))
        return BatchNorm(self.affine, name="bn")(x, train)


class AvgPool(nn.Module):
    """3x3 average over the real pixels only (torch's count_include_pad=False)."""

    channels: int
    stride: int = 1

    def __call__(self, x, train):
        return avg_pool(x, self.stride)


class MaxPool(nn.Module):
    """3x3 maximum over the real pixels."""

    channels: int
    stride: int = 1

    def __call__(self, x, train):
        return max_pool(x, self.stride)


class PoolBN(nn.Module):
    """A pooling operation, then batch norm without scale and shift: what supernets of the DARTS family pool with."""

    channels: int
    stride: int = 1
    pool: Callable[..., nn.Module] = MaxPool

    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(name="bn")(self.pool(self.channels, self.stride, name="pool")(x, train), train)


class FactorizedReduce(nn.Module):
    """Halves the image: ReLU, two 1x1 convolutions at stride 2, the second of the image moved by a pixel, batch norm.

    Where a side is odd the moved image is one pixel short, and is filled up with zeros.
    """

    channels: int
    stride: int = 2
    affine: bool = False

    @nn.compact
    def __call__(self, x, train):
        half, x = self.channels // 2, nn.relu(x)
        shifted = jnp.pad(x[:, 1:, 1:], ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        parts = (Conv(half, 1, 2, name="conv_a")(x), Conv(self.channels - half, 1, 2, name="conv_b")(shifted))
        return BatchNorm(self.affine, name="bn")(jnp.concatenate(parts, -1), train)


class DepthwiseConv(nn.Module):
    """Bias-free convolution of every channel with a kernel of its own, with torch's padding."""

    kernel: int = 3
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x):
        weight = self.param("kernel", torch_uniform, (self.kernel, self.kernel, 1, x.shape[-1])).astype(x.dtype)
        return depthwise(x, weight, self.stride, self.dilation)


class DilConv(nn.Module):
    """ReLU, depthwise convolution of dilation 2, 1x1 convolution, batch norm."""

    channels: int
    stride: int = 1
    kernel: int = 3
    dilation: int = 2
    affine: bool = False

    @nn.compact
    def __call__(self, x, train):
        x = DepthwiseConv(self.kernel, self.stride, self.dilation, name="depthwise")(nn.relu(x))
        return BatchNorm(self.affine, name="bn")(Conv(self.channels, 1, name="pointwise")(x), train)


class SepConv(nn.Module):
    """Twice ReLU, depthwise convolution, 1x1 convolution, batch norm; only the first one strides."""

    channels: int
    stride: int = 1
    kernel: int = 3
    affine: bool = False

    @nn.compact
    def __call__(self, x, train):
        part = partial(DilConv, kernel=self.kernel, dilation=1, affine=self.affine)
        return part(self.channels, name="second")(part(self.channels, self.stride, name="first")(x, train), train)


class Noise(nn.Module):
    """Independent N(0, 1) of the shape that the edge puts out, whatever the input (S4, arXiv 1909.09656).

    Drawn from the stream `dropout`; the same noise at every call without that stream, another one in every module.
    """

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        key = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(number_of(self.path))
        shape = jax.eval_shape(lambda x: strided(x, self.stride), x).shape
        return jax.random.normal(key, (*shape[:-1], self.channels), x.dtype)
