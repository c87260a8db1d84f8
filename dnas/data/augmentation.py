"""Random crops, flips and normalisation, as pure functions inside the compiled step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from dnas.data.dataset import Dataset, padding
from dnas.types import Array


def augment(key: Array, images: Array, *, pad: int | Sequence[int], flip: bool) -> Array:
    """Crops each image at random out of itself padded by zeros on every side, and mirrors half of them.

    images: [B, H, W, C] of any dtype; the result has the same shape and dtype. pad: pixels a side, for both axes or as
    (rows, columns). The offset of an image along an axis is uniform over 0..2 pad, as in torchvision's RandomCrop; the flip
    is horizontal, with probability 1/2. The offsets do not depend on `flip`. Without pad and flip, inputs of any shape are
    returned unchanged. Raises ValueError if pad is neither.
    """
    above, beside = padding("augment", pad)
    if not (above or beside or flip):
        return images
    batch, height, width, _ = images.shape
    crop_key, flip_key = jax.random.split(key)
    rows = jnp.arange(height)[None, :, None, None]
    columns = jnp.arange(width)[None, None, :, None]
    if flip:
        mirrored = jax.random.bernoulli(flip_key, 0.5, (batch, 1, 1, 1))
        columns = jnp.where(mirrored, width - 1 - columns, columns)
    ends = jnp.array([2 * above + 1, 2 * beside + 1]).reshape(2, 1, 1, 1, 1)
    top, left = jax.random.randint(crop_key, (2, batch, 1, 1, 1), 0, ends)
    images = jnp.pad(images, ((0, 0), (above, above), (beside, beside), (0, 0)))
    if above:
        images = jnp.take_along_axis(images, top + rows, 1, mode="promise_in_bounds")
    if beside or flip:
        images = jnp.take_along_axis(images, left + columns, 2, mode="promise_in_bounds")
    return images


def cutout(key: Array, images: Array, size: int) -> Array:
    """Sets a square of each image `[B, H, W, C]` to zero (arXiv 1708.04552), the mean once images are normalised.

    Its centre is a uniformly random pixel, and it is clipped at the image's border, as in DARTS; the side is
    2 (size // 2) pixels.
    """
    batch, height, width, _ = images.shape
    y_key, x_key = jax.random.split(key)

    def inside(key, length):
        from_centre = jnp.arange(length) - jax.random.randint(key, (batch, 1), 0, length)
        return (-(size // 2) <= from_centre) & (from_centre < size // 2)

    square = inside(y_key, height)[:, :, None, None] & inside(x_key, width)[:, None, :, None]
    return jnp.where(square, jnp.zeros((), images.dtype), images)


def augment_by(function: Callable[[Array, Array], Array], key: Array, images: Array) -> Array:
    """function(key, images), a pure function of images `[B, H, W, C]` or features `[B, F]` float32 that keeps their shape.

    uint8 images are divided by 255 first and stay so for `normalise`. Tokens `[B, T]` int32 must stay int32.
    Raises ValueError if it fails or returns another shape or type.
    """
    tokens = jnp.issubdtype(images.dtype, jnp.signedinteger)
    pixels = images if tokens else images.astype(jnp.float32) / (255 if images.dtype == jnp.uint8 else 1)
    name = getattr(function, "__name__", repr(function))
    try:
        result = function(key, pixels)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"augmentation {name}(key, images) failed on images {pixels.shape} {pixels.dtype}: "
                         f"{type(error).__name__}: {reason}") from error
    shape, dtype = getattr(result, "shape", None), getattr(result, "dtype", type(result).__name__)
    if shape != pixels.shape or not jnp.issubdtype(dtype, jnp.signedinteger if tokens else jnp.floating):
        raise ValueError(f"augmentation {name} returned {dtype} {shape} for {pixels.dtype} {pixels.shape}; it must return "
                         f"{'tokens' if tokens else 'float images'} of the same shape")
    return result.astype(pixels.dtype)


def check_augment(data: Dataset, batch: int) -> None:
    """Traces the data's own augmentation, if it has one, on `batch` of its inputs.

    Raises ValueError if it fails or changes their shape or type.
    """
    if data.augment is not None:
        inputs = jax.ShapeDtypeStruct((batch, *data.image), data.inputs.dtype)
        jax.eval_shape(partial(augment_by, data.augment), jax.random.key(0), inputs)


def normalise(images: Array, mean: Array, std: Array) -> Array:
    """(images - mean) / std as float32, of images `[B, H, W, C]` or features `[B, ..., F]`; uint8 images are divided by
    255 first. Tokens, which are int32, are returned unchanged.

    mean, std: [C], in the units of the pixels after that division, as in `Dataset`.
    """
    if jnp.issubdtype(images.dtype, jnp.signedinteger):
        return images
    scale = 255 if images.dtype == jnp.uint8 else 1
    return (images.astype(jnp.float32) / scale - mean) / std
