"""Checks of arrays as inputs of a network, and their mean and standard deviation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from dnas.task import named

Kind = Literal["images", "features", "tokens", "nodes"]
NOUNS = {"images": "image", "features": "row", "tokens": "sequence", "nodes": "node"}
"""Noun for an example of each kind of inputs."""
MIN_STD = 1e-5
MOST = 1e6
PIECE = 2**25
COLOURS = (1, 3, 4)
"""Channels of grey, RGB and RGBA pictures."""
TURNED = "x.transpose(0, 2, 3, 1)"
"""Python that turns channels-first images into [N, H, W, C]."""


def checked_file(path: Path) -> Path:
    """`path`. Raises ValueError if it is a folder, or a pipe or device, which could block or never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not an ordinary file")
    return path


def kind_of(inputs: np.ndarray) -> Kind:
    """The kind of checked inputs: images [N, H, W, C], tokens [N, T] integers, or features [N, ...] float."""
    if inputs.ndim == 4:
        return "images"
    return "tokens" if inputs.dtype.kind in "iu" else "features"


def checked_inputs(where: str, x, kind: Kind | None = None) -> np.ndarray:
    """`x` as it is stored: images [N, H, W, C] uint8 or float32, features [N, F] (or [N, T, F]) float32, or tokens
    [N, T] int32.

    kind: which of these; default: [N, H, W], [N, H, W, C] are images, other floats features, other integers tokens. Raises
    ValueError, beginning with `where`, if it is none of these, or without `kind` if it must be [N, C, H, W].
    """
    x = np.ascontiguousarray(x)
    if kind is None and x.ndim == 4 and _surely_channels_first(x.shape[1:]):
        raise ValueError(f"{where}: x of shape {x.shape} looks channels-first, [N, C, H, W], and images are [N, H, W, C]: "
                         f"{TURNED} turns it; from_arrays with kind=\"images\" takes it unchanged")
    if kind == "images" or kind is None and (x.ndim in (3, 4) or x.dtype.kind not in "biuf"):
        return checked_images(where, x)
    if kind == "tokens" or kind is None and x.dtype.kind != "f":
        return _tokens(where, x)
    if x.dtype.kind not in "biuf" or x.ndim == 4:
        raise ValueError(f"{where}: x is {x.dtype} {x.shape}; features must be numbers [N, F] or [N, T, F]")
    x = x if x.ndim > 1 else x[:, None]
    return _finite(where, x, "features", "row")


def channels_first(image: Sequence[int]) -> bool:
    """Whether images (H, W, C) could be (C, H, W): as many rows as pictures have channels, and more of the others."""
    first, *others = image
    return first in COLOURS and min(others) > max(COLOURS)


def _surely_channels_first(image: Sequence[int]) -> bool:
    """Whether they must be (C, H, W): a series (1, T, C) or a flat feature map need not be, a square must."""
    first, height, width = image
    return channels_first(image) and min(height, width) >= 8 and (first == 3 or height == width)


def checked_images(where: str, x) -> np.ndarray:
    """`x` as [N, H, W, C] uint8 or float32. Raises ValueError, beginning with `where`, if it cannot be images."""
    x = np.ascontiguousarray(x)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{where}: x has dtype {x.dtype}; pixels must be uint8 or float")
    if x.ndim not in (3, 4):
        raise ValueError(f"{where}: x has shape {x.shape}; images must be [N, H, W, C] or [N, H, W]")
    if not x.size:
        raise ValueError(f"{where}: x has shape {x.shape}; it needs at least one image of at least one pixel")
    x = x if x.ndim == 4 else x[..., None]
    if x.dtype.kind == "f":
        x = _finite(where, x, "pixels", "image")
        large = np.abs(x).max((1, 2, 3))
        if large.max() > MOST:
            raise ValueError(f"{where}: image {large.argmax()} has a pixel of size {large.max():g}; "
                             f"float pixels beyond {MOST:g} are refused")
        return x
    if x.dtype != np.uint8 and (x.min() < 0 or x.max() > 255):
        raise ValueError(f"{where}: x holds integers {x.min()}..{x.max()}; integer pixels must be 0..255, "
                         f"others must be float")
    return x.astype(np.uint8, copy=False)


def _tokens(where: str, x) -> np.ndarray:
    if x.dtype.kind not in "iu" or x.ndim != 2 or not x.size:
        raise ValueError(f"{where}: x is {x.dtype} {x.shape}; tokens must be integers [N, T], other numbers float")
    if x.min() < 0 or x.max() >= 2**31 - 1:
        raise ValueError(f"{where}: x holds integers {x.min()}..{x.max()}; tokens must be 0 or more, and other "
                         "numbers float")
    return x.astype(np.int32, copy=False)


def _finite(where: str, x: np.ndarray, things: str, noun: str) -> np.ndarray:
    if not x.size:
        raise ValueError(f"{where}: x has shape {x.shape}; it needs at least one {noun} of at least one number")
    with np.errstate(over="ignore"):
        x = x.astype(np.float32, copy=False)
    bad = ~np.isfinite(x)
    if bad.any():
        first = np.argmax(bad.reshape(len(x), -1).any(1))
        raise ValueError(f"{where}: {bad.sum()} NaN or infinite {things}, the first in {noun} {first}; "
                         f"{things} must be finite numbers")
    return x


def checked_count(where: str, y, inputs: np.ndarray) -> np.ndarray:
    """`y` as an array. Raises ValueError, beginning with `where`, where it has not as many rows as `inputs`."""
    y, noun = np.asarray(y), NOUNS[kind_of(inputs)]
    if y.ndim and len(y) != len(inputs):
        raise ValueError(f"{where}: {len(y)} labels for {len(inputs)} {noun}s; each {noun} needs one")
    return y


def checked_labels(where: str, y, inputs: int) -> np.ndarray:
    """`y` as [inputs] int32 classes. Raises ValueError, beginning with `where`, if it is not."""
    y = np.asarray(y)
    if y.ndim == 1 and len(y) != inputs:
        raise ValueError(f"{where}: {len(y)} labels for {inputs} images; each image needs one")
    return named("classification").check(where, y, 2**31 - 1)


def moments(inputs: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the last axis [C] float32, in pieces, as a float64 copy takes 8 times the memory.

    Bytes are divided by 255 first. The standard deviation of a constant feature is 1, of constant pixels MIN_STD.
    """
    scale, axes = 255 if inputs.dtype == np.uint8 else 1, tuple(range(inputs.ndim - 1))
    pieces = np.array_split(train, -(-len(train) // max(1, min(1024, PIECE // inputs[0].size))))
    count = len(train) * (inputs[0].size // inputs.shape[-1])
    mean = sum((inputs[p] / np.float64(scale)).sum(axes) for p in pieces) / count
    std = np.sqrt(sum(((inputs[p] / np.float64(scale) - mean) ** 2).sum(axes) for p in pieces) / count)
    if kind_of(inputs) == "images":
        return mean.astype(np.float32), np.maximum(std, MIN_STD).astype(np.float32)
    return mean.astype(np.float32), np.where(std > 1e-6 * np.abs(mean), std, 1).astype(np.float32)
