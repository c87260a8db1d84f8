"""Which examples make up each mini-batch: index arrays, pure functions of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dnas.data.dataset import Dataset


def steps_per_epoch(data: Dataset | Mapping[str, int], batch: int) -> int:
    """Full training batches in an epoch.

    data: a Dataset, or the sizes {"train": ..., "valid": ...}, of which "valid" may be absent.
    Raises ValueError if `batch` is below 1 or larger than the train or the valid split.
    """
    if isinstance(data, Dataset):
        data = {name: len(data.splits[name]) for name in ("train", "valid")}
    if batch < 1:
        raise ValueError(f"batch {batch}: it must be at least 1")
    for name, size in data.items():
        if batch > size:
            raise ValueError(f"batch {batch} is larger than the {name} split; it has {size} examples")
    return data["train"] // batch


def epoch_indices(seed: int, epoch: int, train: np.ndarray, valid: np.ndarray,
                  batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Batches of one epoch: (train rows, valid rows), int32 arrays [S, B], S = len(train) // B.

    The train rows are a permutation of `train` cut into full batches, without the rest.
    Each valid row is a new draw from `valid` without replacement, as in the reference DARTS. The train
    rows depend on neither `valid` nor its size.
    Raises ValueError if `batch` is below 1 or larger than a split, or `seed` or `epoch` is negative.
    """
    steps = steps_per_epoch({"train": len(train), "valid": len(valid)}, batch)
    rows = train_indices(seed, epoch, train, batch)
    draw = np.random.default_rng([seed, epoch, 1])
    draws = np.stack([draw.choice(len(valid), batch, replace=False) for _ in range(steps)])
    return rows, np.asarray(valid)[draws].astype(np.int32)


def train_indices(seed: int, epoch: int, train: np.ndarray, batch: int) -> np.ndarray:
    """The train rows of `epoch_indices` alone, int32 [S, B]: a permutation of `train` cut into full batches.

    Raises ValueError if `batch` is below 1 or larger than `train`, or `seed` or `epoch` is negative.
    """
    steps = steps_per_epoch({"train": len(train)}, batch)
    for name, value in (("seed", seed), ("epoch", epoch)):
        if value < 0:
            raise ValueError(f"{name} {value}: it must be 0 or more")
    order = np.random.default_rng([seed, epoch, 0]).permutation(len(train))[:steps * batch]
    return np.asarray(train)[order].reshape(steps, batch).astype(np.int32)


def by_importance(scores: np.ndarray, share: float) -> np.ndarray:
    """Chances `[N]`: a share of them in proportion to the scores, which are at least 0, the rest even. Where all scores are
    0 they are even."""
    total = scores.sum()
    return share * (scores / total if total > 0 else 1 / len(scores)) + (1 - share) / len(scores)


def drawn_indices(seed: int, epoch: int, train: np.ndarray, batch: int, chances: np.ndarray) -> np.ndarray:
    """Train rows of an epoch `[S, B]`, as many as of `train_indices`, drawn with replacement by the chances `[len(train)]`,
    which sum to 1. Raises ValueError as `train_indices` does."""
    steps, batch = train_indices(seed, epoch, train, batch).shape
    places = np.random.default_rng([seed, epoch, 2]).choice(len(train), steps * batch, p=chances)
    return np.asarray(train)[places].reshape(steps, batch).astype(np.int32)


def mixed(split: np.ndarray) -> np.ndarray:
    """A split in a fixed random order: data are often sorted by class, and a network is not trained on the statistics of
    batches of one class."""
    return np.random.default_rng(0).permutation(split)


def evaluation_indices(split: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Batches that go once through a split, in order: indices int32 and weights float32, both [M, B'].

    M = ceil(n / batch) batches of one size B' = ceil(n / M) <= batch, so that the step compiles once. The
    last batch is filled up with the first examples at weight 0; all other weights are 1.
    Raises ValueError if `batch` is below 1 or the split is empty.
    """
    examples = len(split)
    if batch < 1:
        raise ValueError(f"batch {batch}: it must be at least 1")
    if not examples:
        raise ValueError("a split of 0 examples cannot be evaluated; it needs at least 1")
    rows = -(-examples // batch)
    places = np.arange(rows * -(-examples // rows)).reshape(rows, -1)
    return np.asarray(split)[places % examples].astype(np.int32), (places < examples).astype(np.float32)
