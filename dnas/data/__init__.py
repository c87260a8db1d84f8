"""Data sets as arrays with fixed splits, their mini-batches as index arrays, and augmentation.

`import dnas.data` does not import jax; `augment` and `normalise` do when they are first used.
"""

from dnas.data.batches import epoch_indices, evaluation_indices, mixed, steps_per_epoch, train_indices
from dnas.data.dataset import Dataset, balanced, from_arrays
from dnas.data.sources import DATASETS, load
from dnas.data.splits import SPLITS, split
from dnas.data.summary import describe

__all__ = ["DATASETS", "SPLITS", "Dataset", "augment", "balanced", "check_augment", "cutout", "describe", "epoch_indices",
           "evaluation_indices", "from_arrays", "load", "mixed", "normalise", "split", "steps_per_epoch", "train_indices"]


def __getattr__(name: str):
    if name in ("augment", "check_augment", "cutout", "normalise"):
        from dnas.data import augmentation

        return getattr(augmentation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
