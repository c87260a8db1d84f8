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


def avg_pool(x, stride=1):
    """3x3 mean, padding left out of the mean."""
    return nn.avg_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)), count_include_pad=False)


def max_pool(x, stride=1):
    """3x3 maximum."""
    return nn.max_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)))
