"""Depthwise convolution: the operation as one convolution, and as shifted products, which are fast on a CPU."""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from dnas.engine.mesh import by_example
from dnas.platform import on_cpu
from search_spaces.layers.forms import by_edges, in_bundle, unstack
from search_spaces.layers.kernels import kernel_of

_form = contextvars.ContextVar("depthwise_form", default=None)


@contextlib.contextmanager
def depthwise_form(name: str | None) -> Iterator[None]:
    """Inside the block `depthwise` has the form "plain" or "taps"; None for the platform's own."""
    if name not in (None, *FORMS):
        raise ValueError(f"a depthwise convolution has the forms {', '.join(FORMS)}, not {name!r}")
    token = _form.set(name)
    try:
        yield
    finally:
        _form.reset(token)


def depthwise(x, weight, stride=1, dilation=1):
    """Convolves every channel of `x [B, H, W, C]` with a kernel of its own, `weight [k, k, 1, C]`; torch's padding for
    odd k. A stride s leaves ceil(H / s) rows."""
    form = _form.get() or ("taps" if on_cpu() else "plain")
    if form == "taps" and in_bundle():
        return _bundle(stride, dilation)(x, weight)
    return FORMS[form](x, weight, stride, dilation)


@functools.cache
def _bundle(stride, dilation):
    """Taps for the edges of a bundle."""
    return by_edges(lambda x, weight: taps(x, weight, stride, dilation),
                    lambda x, weight: _shared(x, weight, stride, dilation))


def plain(x, weight, stride, dilation):
    """The operation in one call."""
    pad = dilation * (weight.shape[0] // 2)
    grouped = partial(lax.conv_general_dilated, window_strides=(stride, stride), padding=((pad, pad), (pad, pad)),
                      rhs_dilation=(dilation, dilation), feature_group_count=x.shape[-1],
                      dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return by_example(grouped, x, weight)


def _sum_of_taps(x, weight, stride, dilation):
    images = _shifted(x, weight.shape[0], stride, dilation)
    return sum(image * kernel for image, kernel in zip(images, weight.reshape(len(images), -1)))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def taps(x, weight, stride, dilation):
    """The same as a sum over the taps of the kernel, each a shifted image times one weight a channel.

    On XLA's CPU backend an order of magnitude faster than `plain`, and more so inside a loop (jax issue 12868). Both
    gradients are shifts too, and compute only what a stride leaves.
    """
    return _forward(x, weight, stride, dilation)[0]


def _shifted(x, kernel, stride, dilation):
    """What each tap of the kernel sees, row by row: kernel**2 images `[B, ceil(H / stride), ceil(W / stride), C]`."""
    padded = _padded(x, dilation * (kernel // 2))
    height, width = (-(-n // stride) for n in x.shape[1:3])
    return [_window(padded, dilation * i, dilation * j, height, width, stride)
            for i in range(kernel) for j in range(kernel)]


def _padded(x, pad):
    """`x` in zeros; the barrier stops it from being padded (and computed) again for every tap."""
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))))


def _window(x, top, left, height, width, stride=1):
    last = top + stride * (height - 1) + 1, left + stride * (width - 1) + 1
    return lax.slice(x, (0, top, left, 0), (x.shape[0], *last, x.shape[3]), (1, stride, stride, 1))


def _forward(x, weight, stride, dilation):
    return kernel_of(_sum_of_taps, stride, dilation)(x, weight), (x, weight)


def _backward(stride, dilation, saved, g):
    x, weight = saved
    to_weight = kernel_of(_to_weight, weight.shape[0], stride, dilation)(x, g)
    to_input = kernel_of(_to_input, x.shape, stride, dilation)(g[None], weight[None])
    return to_input, to_weight.astype(weight.dtype)


def _to_input(g, weight, shape, stride, dilation):
    """Gradient to an input of `shape`, of which `g [E, B, h, w, C]` comes back from the kernels `weight [E, k, k, 1, C]`:
    row stride * q + r gathers row q + d of g from every tap that reached it."""
    (edges, kernel), (height, width) = weight.shape[:2], g.shape[2:4]
    pad = dilation * (kernel // 2)
    margin = -(-(pad + stride - 1) // stride)
    padded = [_padded(part, margin) for part in g]

    def reached(r):
        moves = [(i, r + pad - i * dilation) for i in range(kernel)]
        return [(i, move // stride) for i, move in moves if move % stride == 0]

    def phase(r, c):
        parts = [_window(padded[e], margin + down, margin + right, height, width) * weight[e, i, j, 0]
                 for e in range(edges) for i, down in reached(r) for j, right in reached(c)]
        return sum(parts) if parts else jnp.zeros_like(g[0])

    phases = jnp.stack([jnp.stack([phase(r, c) for c in range(stride)], 3) for r in range(stride)], 2)
    whole = phases.reshape(shape[0], height * stride, width * stride, g.shape[-1])
    return whole[:, :shape[1], :shape[2]]


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def _to_weight(x, g, kernel, stride, dilation):
    """Gradient to the weight: all taps in one pass over the images, summed in float32 at least."""
    products = _products(x, g, kernel, stride, dilation)
    zeros = (jnp.zeros((), products[0].dtype),) * len(products)
    sums = lax.reduce(products, zeros, lambda a, b: tuple(map(jnp.add, a, b)), (0, 1, 2))
    return jnp.stack(sums).reshape(kernel, kernel, 1, -1)


def _products(x, g, kernel, stride, dilation):
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return tuple(image.astype(dtype) * g.astype(dtype) for image in _shifted(x, kernel, stride, dilation))


@_to_weight.defjvp
def _to_weight_jvp(kernel, stride, dilation, primals, tangents):
    """With a sum for every tap: slower, but transposable."""
    (x, g), (dx, dg) = primals, tangents
    sums = [p.sum((0, 1, 2)) for p in map(jnp.add, _products(dx, g, kernel, stride, dilation),
                                          _products(x, dg, kernel, stride, dilation))]
    return _to_weight(x, g, kernel, stride, dilation), jnp.stack(sums).reshape(kernel, kernel, 1, -1)


taps.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _shared(x, weight, stride, dilation):
    """`x [B, H, W, C]` convolved with each of `weight [E, k, k, 1, C]`: `[E, B, H, W, C]`. Its image at each tap is read
    once for all, and so are the gradients that come back."""
    return _shared_forward(x, weight, stride, dilation)[0]


def _sums_of_taps(x, weight, stride, dilation):
    images = _shifted(x, weight.shape[1], stride, dilation)
    kernels = weight.reshape(len(weight), len(images), 1, 1, 1, -1)
    return sum(image * kernels[:, tap] for tap, image in enumerate(images))


def _shared_forward(x, weight, stride, dilation):
    return kernel_of(_sums_of_taps, stride, dilation)(x, weight), (x, weight)


def _shared_backward(stride, dilation, saved, g):
    x, weight = saved
    one = kernel_of(_to_weight, weight.shape[1], stride, dilation)
    to_weight = jnp.stack([one(x, part) for part in unstack(g, len(g))])
    return kernel_of(_to_input, x.shape, stride, dilation)(g, weight), to_weight.astype(weight.dtype)


_shared.defvjp(_shared_forward, _shared_backward)
FORMS = {"plain": plain, "taps": taps}
