"""Fixed splits of the examples, by the data alone, without a seed."""

from __future__ import annotations

import operator

import numpy as np

SPLITS = ("train", "valid", "holdout", "test")
TEST, HOLDOUT = 0.2, 0.1


def split(labels: np.ndarray, test: np.ndarray | None = None,
          holdout: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Four disjoint, sorted int32 index arrays that cover `labels` [N], stratified by class.

    For examples without classes all labels are 0, and the splits are those of a fixed random permutation.

    test, holdout: indices of existing sets. Default: 20 % of each class for the test set, and 10 % of each class of the
    rest for the hold-out; train and valid are half each of the remaining examples.
    """
    labels = np.asarray(labels)
    if test is None:
        test = _set_aside(labels, holdout)
    held_out = holdout is not None
    rest = np.setdiff1d(np.arange(len(labels)), np.union1d(test, holdout) if held_out else test)
    place = quantiles(labels[rest])
    first = 0 if held_out else HOLDOUT
    middle = (1 + first) / 2
    parts = {"train": rest[(place >= first) & (place < middle)], "valid": rest[place >= middle],
             "holdout": np.sort(holdout) if held_out else rest[place < first], "test": np.sort(test)}
    return {name: index.astype(np.int32) for name, index in parts.items()}


def arranged(name: str, labels: np.ndarray, test: np.ndarray | None = None, holdout: np.ndarray | None = None,
             limit: int | None = None, noun: str = "image") -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(rows, splits): which of `labels` are used, sorted, and the splits as indices into those.

    test, holdout: as for `split`. limit: how many to use outside these, evenly of each class; always the same ones.
    noun: for an example, in messages.
    Raises ValueError, beginning with `name`, for a limit out of range or a split that stays empty.
    """
    if test is None:
        test = _set_aside(labels, holdout)
    rows = np.arange(len(labels))
    apart = test if holdout is None else np.union1d(test, holdout)
    if limit is not None:
        rows = _limited(name, labels, apart, limit, noun)
        test, holdout = (None if index is None else np.searchsorted(rows, index) for index in (test, holdout))
    splits = split(labels[rows], test, holdout)
    for part, index in splits.items():
        if not len(index):
            outside = "the test set" if holdout is None else "the test set and the hold-out"
            raise ValueError(f"{name}: {len(rows) - len(apart)} {noun}s outside {outside} leave the "
                             f"{part} split empty; it needs at least 6{' of some class' if labels.any() else ''}")
    return rows, splits


def quantiles(labels: np.ndarray) -> np.ndarray:
    """Place in (0, 1) of each example among those of its class, in a fixed random order."""
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    ranks = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(labels))
    place[by_class] = (ranks + 0.5) / np.repeat(counts, counts)
    return place


def _limited(name, labels, apart, limit, noun) -> np.ndarray:
    """Indices of `apart` and of `limit` of the other examples."""
    rest = np.setdiff1d(np.arange(len(labels)), apart)
    if whole_number(f"{name}: limit", limit, 1) > len(rest):
        raise ValueError(f"{name}: limit {limit}, but it has {len(rest)} {noun}s outside the test set")
    first = np.argsort(quantiles(labels[rest]), kind="stable")[:limit]
    return np.union1d(rest[first], apart)


def _set_aside(labels: np.ndarray, holdout: np.ndarray | None = None) -> np.ndarray:
    rest = np.arange(len(labels)) if holdout is None else np.setdiff1d(np.arange(len(labels)), holdout)
    return rest[quantiles(labels[rest]) < TEST]


def whole_number(what: str, value, least: int) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise ValueError(f"{what} {value!r}; it must be a whole number, at least {least}") from None
    if value < least:
        raise ValueError(f"{what} {value}; it must be at least {least}")
    return value
