"""A labelled set of images with its fixed splits, and how arrays become one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dnas.data.graphs import Graph

SPLITS = ("train", "valid", "holdout", "test")
TEST, HOLDOUT = 0.2, 0.1
MIN_STD = 1e-5
MOST = 1e6
PIECE = 2**25


class Pictures(NamedTuple):
    """What the images of a Dataset were before they became arrays.

    files: where each is from. fit: how they were brought to one size, see `dnas.data.decode.FITS`.
    smallest, largest: (H, W) before that, by area. transparent: how many had transparent parts, laid on white.
    """

    files: Sequence[str]
    fit: str
    smallest: tuple[int, int]
    largest: tuple[int, int]
    transparent: int


class Dataset(NamedTuple):
    """Images with labels, divided into four disjoint splits.

    inputs: [N, H, W, C] uint8 or float32 images, those of all splits; targets: [N] int32, classes 0..classes-1.
    splits: sorted int32 indices into them. train: weights; valid: architecture; holdout: reported while
        searching; test: for the network trained after the search, and nothing before.
    mean, std: [C] float32 over the train split, of the pixels divided by 255 if uint8, as they are if float.
    pad: pixels (a side) of the random crop that suits the data; flip: whether mirroring keeps the class.
    graph: what joins the images where they are numbers of nodes, for a space that asks for it.
    class_names: of all classes, () where they are numbers only. pictures: what is known of data that came as pictures.
    class_weights: [classes] float32, by which the losses of training and search are multiplied; None for equal ones.
    augment: (key, images [B, H, W, C] float) -> images, instead of crops and flips; uint8 pixels come divided by 255.
    """

    name: str
    inputs: np.ndarray
    targets: np.ndarray
    splits: Mapping[str, np.ndarray]
    classes: int
    mean: np.ndarray
    std: np.ndarray
    pad: int
    flip: bool
    graph: Graph | None = None
    class_names: tuple[str, ...] = ()
    pictures: Pictures | None = None
    class_weights: np.ndarray | None = None
    augment: Callable | None = None

    @property
    def image(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.inputs.shape[1:]


def split(labels: np.ndarray, test: np.ndarray | None = None,
          holdout: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Four disjoint, sorted int32 index arrays that cover `labels` [N], stratified by class.

    test, holdout: the indices of the given sets. Without a test set 20 % of each class become it; of the rest, without
    a hold-out, 10 % of each class; train and valid take half each of what is left. Depends on the labels alone, on no
    seed.
    """
    labels = np.asarray(labels)
    if test is None:
        test = _set_aside(labels, holdout)
    given = holdout is not None
    rest = np.setdiff1d(np.arange(len(labels)), np.union1d(test, holdout) if given else test)
    place = quantiles(labels[rest])
    first = 0 if given else HOLDOUT
    middle = (1 + first) / 2
    parts = {"train": rest[(place >= first) & (place < middle)], "valid": rest[place >= middle],
             "holdout": np.sort(holdout) if given else rest[place < first], "test": np.sort(test)}
    return {name: index.astype(np.int32) for name, index in parts.items()}


def arranged(name: str, labels: np.ndarray, test: np.ndarray | None = None, holdout: np.ndarray | None = None,
             limit: int | None = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(kept, splits): which of `labels` are kept, sorted, and the splits as indices into those.

    test, holdout: as for `split`. limit: how many to keep outside these, evenly of each class; always the same ones.
    Raises ValueError, in one line that begins with `name`, for a limit out of range or a split that stays empty.
    """
    if test is None:
        test = _set_aside(labels, holdout)
    kept = np.arange(len(labels))
    given = test if holdout is None else np.union1d(test, holdout)
    if limit is not None:
        kept = _limited(name, labels, given, limit)
        test, holdout = (None if index is None else np.searchsorted(kept, index) for index in (test, holdout))
    splits = split(labels[kept], test, holdout)
    for part, index in splits.items():
        if not len(index):
            outside = "the test set" if holdout is None else "the test set and the hold-out"
            raise ValueError(f"{name}: {len(kept) - len(given)} images outside {outside} leave the "
                             f"{part} split empty; it takes at least 6 of some class")
    return kept, splits


def balanced(data: Dataset, splits: Sequence[str] = ("train",)) -> np.ndarray:
    """Weights [classes] float32 inverse to the number of images a class has in `splits`; their mean over those is 1.

    images / (classes with images * images of the class), as scikit-learn's; 1 for a class without images.
    """
    counts = np.bincount(np.concatenate([data.targets[data.splits[name]] for name in splits]), minlength=data.classes)
    return np.where(counts, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1).astype(np.float32)


def from_arrays(name: str, x, y, x_test=None, y_test=None, *, pad: int | None = None,
                flip: bool | None = None, limit: int | None = None) -> Dataset:
    """A Dataset of arrays.

    x: [N, H, W, C] or [N, H, W], float, or integers 0..255; y: [N] integers, 0..classes-1.
    x_test, y_test: the test set; without one, 20 % of the images become it.
    pad: default H // 8 pixels; flip: default False.
    limit: how many images outside the test set to keep, evenly of each class; always the same ones.
    Raises ValueError, in one line that begins with `name`, on anything that does not fit.
    """
    images = checked_images(name, x)
    labels = checked_labels(name, y, len(images))
    classes = _classes(name, labels)
    test = None
    if x_test is not None or y_test is not None:
        x_test, y_test = _checked_test(name, images, classes, x_test, y_test)
        test = np.arange(len(images), len(images) + len(x_test))
        images, labels = np.concatenate([images, x_test]), np.concatenate([labels, y_test])
    kept, splits = arranged(name, labels, test, limit=limit)
    if limit is not None:
        images, labels = images[kept], labels[kept]
    mean, std = moments(images, splits["train"])
    pad = _whole(f"{name}: pad", images.shape[1] // 8 if pad is None else pad, 0)
    return Dataset(name, images, labels, splits, classes, mean, std, pad, bool(flip))


def checked_images(where: str, x) -> np.ndarray:
    """`x` as [N, H, W, C] uint8 or float32. Raises ValueError, beginning with `where`, if it is no images."""
    x = np.ascontiguousarray(x)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{where}: x has dtype {x.dtype}; pixels are uint8 or float")
    if x.ndim not in (3, 4):
        raise ValueError(f"{where}: x has shape {x.shape}; images are [N, H, W, C] or [N, H, W]")
    if not x.size:
        raise ValueError(f"{where}: x has shape {x.shape}; it needs at least one image of at least one pixel")
    x = x if x.ndim == 4 else x[..., None]
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        bad = ~np.isfinite(x)
        if bad.any():
            raise ValueError(f"{where}: {bad.sum()} NaN or infinite pixels, the first in image "
                             f"{np.argmax(bad.any((1, 2, 3)))}; pixels are finite numbers")
        large = np.abs(x).max((1, 2, 3))
        if large.max() > MOST:
            raise ValueError(f"{where}: image {large.argmax()} has a pixel of size {large.max():g}; "
                             f"float pixels beyond {MOST:g} are refused")
        return x
    if x.dtype != np.uint8 and (x.min() < 0 or x.max() > 255):
        raise ValueError(f"{where}: x holds integers {x.min()}..{x.max()}; integer pixels are 0..255, "
                         f"others are stored as float")
    return x.astype(np.uint8, copy=False)


def checked_labels(where: str, y, images: int) -> np.ndarray:
    """`y` as [images] int32. Raises ValueError, beginning with `where`, if it is no such labels."""
    y = np.asarray(y)
    if y.dtype.kind not in "iu":
        raise ValueError(f"{where}: y has dtype {y.dtype}; labels are integers 0..classes-1")
    if y.ndim != 1:
        raise ValueError(f"{where}: y has shape {y.shape}; labels are [{images}], one integer an image")
    if len(y) != images:
        raise ValueError(f"{where}: {len(y)} labels for {images} images; each image needs one")
    bad = (y < 0) | (y > np.iinfo(np.int32).max)
    if bad.any():
        first = np.argmax(bad)
        raise ValueError(f"{where}: label {y[first]} of image {first}; labels are 0..classes-1")
    return y.astype(np.int32)


def _classes(name: str, labels: np.ndarray) -> int:
    top = int(labels.max())
    if top >= len(labels):
        raise ValueError(f"{name}: label {top} among only {len(labels)} images; labels are 0..classes-1")
    if labels.min() == top:
        raise ValueError(f"{name}: every label is {top}; a set needs at least two classes")
    return top + 1


def _checked_test(name, images, classes, x_test, y_test) -> tuple[np.ndarray, np.ndarray]:
    if x_test is None or y_test is None:
        missing = "x_test" if x_test is None else "y_test"
        raise ValueError(f"{name}: x_test and y_test come together; {missing} is missing")
    where = f"{name}, test set"
    x_test = checked_images(where, x_test)
    y_test = checked_labels(where, y_test, len(x_test))
    if (x_test.shape[1:], x_test.dtype) != (images.shape[1:], images.dtype):
        raise ValueError(f"{where}: images of {x_test.shape[1:]} {x_test.dtype}; "
                         f"the others are {images.shape[1:]} {images.dtype}")
    if y_test.max() >= classes:
        raise ValueError(f"{where}: label {y_test.max()}; the other labels end at {classes - 1}")
    return x_test, y_test


def _limited(name, labels, given, limit) -> np.ndarray:
    """Indices of the given sets and of `limit` of the other images."""
    rest = np.setdiff1d(np.arange(len(labels)), given)
    if _whole(f"{name}: limit", limit, 1) > len(rest):
        raise ValueError(f"{name}: limit {limit}, but it has {len(rest)} images outside the test set")
    first = np.argsort(quantiles(labels[rest]), kind="stable")[:limit]
    return np.union1d(rest[first], given)


def _set_aside(labels: np.ndarray, holdout: np.ndarray | None = None) -> np.ndarray:
    rest = np.arange(len(labels)) if holdout is None else np.setdiff1d(np.arange(len(labels)), holdout)
    return rest[quantiles(labels[rest]) < TEST]


def quantiles(labels: np.ndarray) -> np.ndarray:
    """Place in (0, 1) of each image among those of its class, in a shuffled order that never changes."""
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(labels))
    place[by_class] = (ranks + 0.5) / np.repeat(counts, counts)
    return place


def moments(images: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] float32, piece by piece: a float64 copy of all is 8 times the set."""
    scale = 255 if images.dtype == np.uint8 else 1
    pieces = np.array_split(train, -(-len(train) // max(1, min(1024, PIECE // images[0].size))))
    pixels = len(train) * images.shape[1] * images.shape[2]
    mean = sum((images[p] / np.float64(scale)).sum((0, 1, 2)) for p in pieces) / pixels
    square = sum(((images[p] / np.float64(scale) - mean) ** 2).sum((0, 1, 2)) for p in pieces) / pixels
    return mean.astype(np.float32), np.maximum(np.sqrt(square), MIN_STD).astype(np.float32)


def _whole(what: str, value, least: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise ValueError(f"{what} {value!r}; it is a whole number, at least {least}") from None
    if value < least:
        raise ValueError(f"{what} {value}; it is at least {least}")
    return value
