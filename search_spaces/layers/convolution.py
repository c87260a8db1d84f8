"""Dense convolution, with gradients that XLA's CPU backend runs at full speed."""

from __future__ import annotations

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dnas.platform import on_cpu
from search_spaces.layers.forms import by_edges, in_bundle
from search_spaces.layers.mixed import strided


def conv(x, weight, stride=1):
    """Convolves `x [B, H, W, C]` with `weight [k, k, C, D]`, torch's padding for odd k."""
    if len(weight) == 1 and on_cpu():
        return strided(x, stride) @ weight[0, 0]
    return _bundle(stride)(x, weight) if in_bundle() else _single(x, weight, stride)


def _single(x, weight, stride):
    return _conv(x, weight, stride) if on_cpu() else plain_conv(x, weight, stride)


@functools.cache
def _bundle(stride):
    """A convolution for the edges of a bundle: where they read one array it is one convolution, whose kernel holds those of
    all edges side by side, and so are both gradients."""
    one = partial(_single, stride=stride)

    def of_all(x, weight):
        kernel = weight.transpose(1, 2, 3, 0, 4)
        y = one(x, kernel.reshape(*kernel.shape[:3], -1))
        return y.reshape(*y.shape[:3], len(weight), -1).transpose(3, 0, 1, 2, 4)

    return by_edges(one, of_all)


def plain_conv(x, weight, stride=1):
    """The same, with the gradients that jax derives."""
    pad = weight.shape[0] // 2
    return _general(x, weight, ((pad, pad), (pad, pad)), stride)


def _general(x, weight, pads, stride=1, dilation=1):
    return lax.conv_general_dilated(x, weight, (stride, stride), pads, rhs_dilation=(dilation, dilation),
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, weight, stride):
    return plain_conv(x, weight, stride)


def _forward(x, weight, stride):
    return plain_conv(x, weight, stride), (x, weight)


def _backward(stride, saved, g):
    """Both gradients as convolutions of that layout for which the backend has a fast one. It brings others into it by
    itself, but not inside a loop or a call, where they are an order of magnitude slower (jax issue 12868)."""
    x, weight = saved
    kernel, pad = len(weight), len(weight) // 2
    pads = [(pad, stride * (back - 1) + kernel - pad - size) for back, size in zip(g.shape[1:3], x.shape[1:3])]
    to_weight = _general(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), pads, dilation=stride)
    return _to_input(g, weight, stride)[:, :x.shape[1], :x.shape[2]], to_weight.transpose(1, 2, 0, 3)


def _to_input(g, weight, stride):
    """Gradient to every pixel whose window is whole. Pixel stride * q + r gathers pixel q + d of `g` from the one tap that
    brought it there, for every r below the stride: a convolution with stride**2 kernels, zero where there is no such tap."""
    kernel, pad = len(weight), len(weight) // 2
    first, last = -((kernel - 1 - pad) // stride), (stride - 1 + pad) // stride
    taps = np.array([[r + pad - stride * d for r in range(stride)] for d in range(first, last + 1)])
    taps = np.where((taps >= 0) & (taps < kernel), taps, kernel)
    kernels = jnp.pad(weight, ((0, 1), (0, 1), (0, 0), (0, 0)))[taps[:, None, :, None], taps[None, :, None, :]]
    kernels = kernels.transpose(0, 1, 5, 2, 3, 4).reshape(len(taps), len(taps), g.shape[3], -1)
    phases = _general(g, kernels, ((-first, last),) * 2).reshape(*g.shape[:3], stride, stride, -1)
    return phases.transpose(0, 1, 3, 2, 4, 5).reshape(len(g), stride * g.shape[1], stride * g.shape[2], -1)


_conv.defvjp(_forward, _backward)
