"""Normalisation by the statistics of a batch, in as few passes over the images as there can be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from dnas.platform import on_cpu
from search_spaces.layers.kernels import kernel


@jax.custom_vjp
def normalised(x, epsilon):
    """`x [..., C]` with mean 0 and variance 1 in every channel, the mean, and the biased variance `[C]`.

    Statistics are summed in float32 at least. Only the first result has a gradient.
    """
    return _forward(x, epsilon)[0]


def _forward(x, epsilon):
    mean, variance = _moments(x)
    scale = lax.rsqrt(variance + epsilon)
    return (((x - mean) * scale).astype(x.dtype), mean, variance), (x, mean, scale)


def _backward(saved, cotangents):
    return _to_input(*saved, cotangents[0]), None


normalised.defvjp(_forward, _backward)


@kernel
def _moments(x):
    wide = x.astype(_summing(x))
    total, squares = _sums(wide, wide)
    mean = total / _count(x)
    return mean, jnp.maximum(squares / _count(x) - mean**2, 0)


@kernel
def _to_input(x, mean, scale, g):
    centred = (x - mean) * scale
    total, along = _sums(g.astype(_summing(x)), centred)
    return (scale * (g - total / _count(x) - centred * (along / _count(x)))).astype(x.dtype)


def _summing(x):
    return jnp.promote_types(x.dtype, jnp.float32)


def _count(x):
    return x.size // x.shape[-1]


def _sums(a, b):
    """Sums of a and of a * b over all but the last axis.

    On a CPU first along long rows, of which it takes many at a time; elsewhere first within each image, and then both sums
    over the images as one, of which several devices exchange the `[2, C]` alone.
    """
    products = a * b
    if on_cpu():
        return _by_rows(a), _by_rows(products)
    inner = tuple(range(1, a.ndim - 1))
    return tuple(jnp.stack([a.sum(inner), products.sum(inner)]).sum(1))


def _by_rows(x):
    rows = x.reshape(-1, *x.shape[-2:]) if x.ndim > 2 else x[:, None]
    return rows.sum(0).sum(0)
