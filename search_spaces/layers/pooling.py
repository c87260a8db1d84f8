"""3x3 pooling over the real pixels, as sums and maxima of shifted slices: faster on a CPU than a window reduction."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def avg_pool(x, stride=1):
    """3x3 mean of `x [B, H, W, C]`, padding left out of the mean; a stride s leaves ceil(H / s) rows."""
    return _avg_pool(x, stride, x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _avg_pool(x, stride, size):
    return _avg_forward(x, stride, size)[0]


def _avg_forward(x, stride, size):
    return _box(x, stride) / _pixels(size, stride, x.dtype), None


def _avg_backward(stride, size, _, g):
    """A sum over the same windows, of what each pixel of the result passes back."""
    return _box(_spread(g / _pixels(size, stride, g.dtype), stride, size), 1),


_avg_pool.defvjp(_avg_forward, _avg_backward)


def max_pool(x, stride=1):
    """3x3 maximum of the real pixels, as `avg_pool`. Of equal pixels the first, row by row, receives the gradient."""
    return _max_pool(x, stride, x.shape[1:3])


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x, stride, size):
    return _max_forward(x, stride, size)[0]


def _max_forward(x, stride, size):
    """The maximum, and for the gradient which of the nine pixels it is, one byte each."""
    best, which = None, None
    for number, pixel in enumerate(_windows(x, stride, -jnp.inf)):
        if best is None:
            best, which = pixel, jnp.zeros(pixel.shape, jnp.int8)
        else:
            larger = (pixel > best) | jnp.isnan(pixel)
            best, which = jnp.where(larger, pixel, best), jnp.where(larger, jnp.int8(number), which)
    return best, which


def _max_backward(stride, size, which, g):
    """Every pixel looks at the nine windows it is in, and takes from those whose maximum it is."""
    seen = zip(_windows(_spread(g, stride, size), 1, 0), _windows(_spread(which, stride, size), 1, -1))
    return sum(jnp.where(chosen == 8 - number, back, 0) for number, (back, chosen) in enumerate(seen)),


_max_pool.defvjp(_max_forward, _max_backward)


def _box(x, stride):
    """Sums over the 3x3 pixels around every `stride`-th one."""
    for axis in (1, 2):
        x = sum(_neighbours(x, axis, stride, 0))
    return x


def _spread(x, stride, size):
    """`x` with zeros between its pixels, where a stride left some out of images of `size`."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((0, (n - 1) % stride, stride - 1) for n in size), (0, 0, 0)])


def _windows(x, stride, outside):
    """What the nine pixels of each window are, row by row, `outside` beyond the edges."""
    return [pixel for row in _neighbours(x, 1, stride, outside) for pixel in _neighbours(row, 2, stride, outside)]


def _pixels(size, stride, dtype):
    """Real pixels in each window `[h, w, 1]`."""
    along = [np.minimum(np.arange(n) + 2, n) - np.maximum(np.arange(n) - 1, 0) for n in size]
    return jnp.asarray(np.outer(*(pixels[::stride] for pixels in along))[..., None], dtype)


def _neighbours(x, axis, stride, outside):
    """The pixel before, at and after every `stride`-th one along `axis`, `outside` beyond the edges."""
    n = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)], constant_values=outside)
    return [lax.slice_in_dim(padded, i, i + n, stride, axis) for i in range(3)]
