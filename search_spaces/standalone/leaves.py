"""What the operations of searched networks come down to, in Flax's and JAX's own words: source of the files that `source`
writes.

The functions of these names that `search_spaces.layers.primitives` calls are made for fast searches on a CPU. These
compute the same.
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
    """x [B, H, W, C] with mean 0 and variance 1 in every channel, the mean, and the variance [C]."""
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * lax.rsqrt(variance + epsilon), mean, variance


def avg_pool(x, stride=1):
    """3x3 mean, padding left out of the mean."""
    return nn.avg_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)), count_include_pad=False)


def max_pool(x, stride=1):
    """3x3 maximum."""
    return nn.max_pool(x, window_shape=(3, 3), strides=(stride, stride), padding=((1, 1), (1, 1)))
