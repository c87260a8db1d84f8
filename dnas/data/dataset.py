"""A labelled set of images with its fixed splits, and how arrays become one."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from dnas.data.graphs import Graph

SPLITS = ("train", "valid", "holdout", "test")
TEST, HOLDOUT = 0.2, 0.1
MIN_STD = 1e-5
MOST = 1e6


class Dataset(NamedTuple):
    """Images with labels, divided into four disjoint splits.

    images: [N, H, W, C] uint8 or float32, those of all splits; labels: [N] int32, 0..classes-1.
    splits: sorted int32 indices into them. train: weights; valid: architecture; holdout: reported while
        searching; test: for the network trained after the search, and nothing before.
    mean, std: [C] float32 over the train split, of the pixels divided by 255 if uint8, as they are if float.
    pad: pixels (a side) of the random crop that suits the data; flip: whether mirroring keeps the class.
    graph: what joins the images where they are numbers of nodes, for a space that asks for it.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    splits: Mapping[str, np.ndarray]
    classes: int
    mean: np.ndarray
    std: np.ndarray
    pad: int
    flip: bool
    graph: Graph | None = None

    @property
    def image(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.images.shape[1:]


def describe(dataset: Dataset) -> str:
    """Two lines for a person: shape, classes, pixels; then the sizes of the splits and the augmentation."""
    sizes = ", ".join(f"{name} {len(dataset.splits[name])}" for name in SPLITS)
    graph = dataset.graph
    if graph is not None:
        return (f"{dataset.name}: a graph of {graph.nodes} nodes and {graph.edges.shape[1]} edges, {graph.features} "
                f"features, {dataset.classes} classes\n{sizes} nodes")
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (dataset.mean, dataset.std))
    shape = "x".join(str(size) for size in dataset.image)
    empty = dataset.classes - len(np.unique(dataset.labels))
    absent = f" ({empty} of them without an image)" if empty else ""
    return (f"{dataset.name}: {len(dataset.labels)} images {shape} {dataset.images.dtype}, "
            f"{dataset.classes} classes{absent}, mean {mean}, std {std}\n"
            f"{sizes}; random crops with pad {dataset.pad}, {'flips' if dataset.flip else 'no flips'}")


def split(labels: np.ndarray, test: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Four disjoint, sorted int32 index arrays that cover `labels` [N], stratified by class.

    test: the indices of the given test set, or None to set 20 % of each class aside. Of the rest, 10 % of
    each class is the hold-out, and train and valid take half each of what is left. Depends on the labels
    alone, on no seed.
    """
    labels = np.asarray(labels)
    if test is None:
        test = _set_aside(labels)
    rest = np.setdiff1d(np.arange(len(labels)), test)
    place = quantiles(labels[rest])
    middle = (1 + HOLDOUT) / 2
    parts = {"train": rest[(place >= HOLDOUT) & (place < middle)], "valid": rest[place >= middle],
             "holdout": rest[place < HOLDOUT], "test": np.sort(test)}
    return {name: index.astype(np.int32) for name, index in parts.items()}


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
    if x_test is None and y_test is None:
        test = _set_aside(labels)
    else:
        x_test, y_test = _checked_test(name, images, classes, x_test, y_test)
        test = np.arange(len(images), len(images) + len(x_test))
        images, labels = np.concatenate([images, x_test]), np.concatenate([labels, y_test])
    if limit is not None:
        kept, test = _limited(name, labels, test, limit)
        images, labels = images[kept], labels[kept]
    splits = split(labels, test)
    for part, index in splits.items():
        if not len(index):
            raise ValueError(f"{name}: {len(labels) - len(test)} images outside the test set leave the "
                             f"{part} split empty; it takes at least 6 of some class")
    mean, std = _moments(images, splits["train"])
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


def _limited(name, labels, test, limit) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the test set and `limit` of the other images, and where the test set is among them."""
    rest = np.setdiff1d(np.arange(len(labels)), test)
    if _whole(f"{name}: limit", limit, 1) > len(rest):
        raise ValueError(f"{name}: limit {limit}, but it has {len(rest)} images outside the test set")
    first = np.argsort(quantiles(labels[rest]), kind="stable")[:limit]
    kept = np.union1d(rest[first], test)
    return kept, np.searchsorted(kept, test)


def _set_aside(labels: np.ndarray) -> np.ndarray:
    return np.flatnonzero(quantiles(labels) < TEST)


def quantiles(labels: np.ndarray) -> np.ndarray:
    """Place in (0, 1) of each image among those of its class, in a shuffled order that never changes."""
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(labels))
    place[by_class] = (ranks + 0.5) / np.repeat(counts, counts)
    return place


def _moments(images: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [C] float32, piece by piece: a float64 copy of all is 8 times the set."""
    scale = 255 if images.dtype == np.uint8 else 1
    pieces = np.array_split(train, -(-len(train) // 1024))
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
