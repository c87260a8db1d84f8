"""What searched networks are made of in the end, in Flax's and JAX's own words: source of the files that `source` writes.

The forms in `search_spaces.primitives` are made for fast searches on a CPU. These have the same variables under the same
names, and compute the same.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax


def torch_uniform(key, shape, dtype=jnp.float32, fan_in=None):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), torch's default."""
    limit = (fan_in or math.prod(shape[:-1])) ** -0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


def convolved(x, weight, stride, dilation=1, groups=1):
    """The convolution of x [B, H, W, C] with weight [k, k, C / groups, D], torch's padding for odd k."""
    pad = dilation * (weight.shape[0] // 2)
    return lax.conv_general_dilated(x, weight, (stride, stride), ((pad, pad), (pad, pad)),
                                    rhs_dilation=(dilation, dilation), feature_group_count=groups,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Conv(nn.Module):
    """Bias-free convolution."""

    channels: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, x.shape[-1], self.channels)
        return convolved(x, self.param("kernel", torch_uniform, shape), self.stride)


class DepthwiseConv(nn.Module):
    """Bias-free convolution of every channel with a kernel of its own."""

    kernel: int = 3
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x):
        weight = self.param("kernel", torch_uniform, (self.kernel, self.kernel, 1, x.shape[-1]))
        return convolved(x, weight, self.stride, self.dilation, groups=x.shape[-1])


class BatchNorm(nn.Module):
    """Batch norm with torch's momentum and epsilon; batch statistics while training, running averages otherwise."""

    affine: bool = False

    @nn.compact
    def __call__(self, x, train):
        channels = x.shape[-1:]
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        now = mean.value, var.value
        if train:
            now = x.mean((0, 1, 2)), x.var((0, 1, 2))
            if not self.is_initializing():
                mean.value, var.value = (0.9 * average + 0.1 * batch for average, batch in zip((mean.value, var.value), now))
        x = (x - now[0]) * lax.rsqrt(now[1] + 1e-5)
        if not self.affine:
            return x
        return x * self.param("scale", nn.initializers.ones, channels) + self.param("bias", nn.initializers.zeros, channels)


def avg_pool(x, stride=1):
    """3x3 mean, padding left out of the mean."""
    return nn.avg_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)), count_include_pad=False)


def max_pool(x, stride=1):
    """3x3 maximum."""
    return nn.max_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)))
