"""Dense convolution, with gradients that XLA's CPU backend runs at full speed."""

from __future__ import annotations

import jax
from jax import lax

from dnas.platform import on_cpu


def conv(x, weight, stride=1):
    """Convolves `x [B, H, W, C]` with `weight [k, k, C, D]`, torch's padding for odd k."""
    if stride != 1 or not on_cpu():
        return plain_conv(x, weight, stride)
    return _conv(x, weight)


def plain_conv(x, weight, stride=1, pad=None):
    """The same, with the gradients that jax derives. pad: pixels of zeros on every side, for any k."""
    pad = weight.shape[0] // 2 if pad is None else pad
    return lax.conv_general_dilated(x, weight, (stride, stride), ((pad, pad), (pad, pad)),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _conv(x, weight):
    return plain_conv(x, weight)


def _forward(x, weight):
    return plain_conv(x, weight), (x, weight)


def _backward(saved, g):
    """Both gradients as convolutions of that layout for which the backend has a fast one. It brings others into it by
    itself, but not inside a loop or a call, where they are an order of magnitude slower (jax issue 12868)."""
    x, weight = saved
    to_weight = plain_conv(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), pad=weight.shape[0] // 2)
    return plain_conv(g, weight[::-1, ::-1].swapaxes(2, 3)), to_weight.transpose(1, 2, 0, 3)


_conv.defvjp(_forward, _backward)
