"""Data sets of Hugging Face's `datasets`: by their name on the hub, or from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dnas.data.checks import checked_labels
from dnas.data.dataset import Dataset
from dnas.data.decode import File, Fit
from dnas.data.files import expanded
from dnas.data.pictures import PARTS, Labelled, from_pictures

PREFIX = "hf:"
SAVED = ("dataset_dict.json", "state.json")
"""A folder that `save_to_disk` wrote has one of these files."""
FACTORY = "instead, name a function of yours that returns (x, y), as file.py:function"


def is_saved(folder: Path) -> bool:
    """Whether `folder` was written by `datasets`, or holds parquet files."""
    return any((folder / name).is_file() for name in SAVED) or any(folder.rglob("*.parquet"))


def hugging_face(source: str, *, limit: int | None = None, resize: Sequence[int] = (), fit: Fit | None = None) -> Dataset:
    """The Dataset of `source`: a name on the hub, or a folder that `save_to_disk` wrote or that holds parquet files.

    It must have one column of images, and one of classes or one called label. Pictures are decoded as those of folders.
    Options: see `from_pictures`. Raises ValueError, beginning with `source`, if it cannot be loaded or lacks the columns.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(f"{source}: it needs the package datasets; pip install 'dnas[hf]'") from None
    place = expanded(source)
    datasets.config.HF_DATASETS_TRUST_REMOTE_CODE = False  # older versions ask whether to run its code
    try:
        saved = any((place / name).is_file() for name in SAVED)
        loaded = (datasets.load_from_disk if saved else datasets.load_dataset)(str(place) if place.is_dir() else source)
    except Exception as error:  # of the network, of the hub, of files
        first = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"{source}: datasets could not load it ({type(error).__name__}: {first})") from None
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    parts = {PARTS[name]: rows for name, rows in splits.items() if name in PARTS}
    if "train" not in parts:
        raise ValueError(f"{source}: its splits are {', '.join(splits)}; one must be called train")
    image, label = _columns(source, parts["train"].features, datasets)
    names, pictures = getattr(parts["train"].features[label], "names", None), []
    for part, rows in parts.items():
        labels = checked_labels(f"{source}, {part}", rows.with_format("numpy")[label][:], len(rows))
        encoded = rows.cast_column(image, datasets.Image(decode=False))
        pictures += [Labelled(File(f"{source}, {part} {i}", partial(_content, encoded, i, image)), int(number), part)
                     for i, number in enumerate(labels)]
    names = names or [str(i) for i in range(1 + max((picture.label for picture in pictures), default=0))]
    return from_pictures(source, place.name, pictures, names, limit=limit, resize=resize, fit=fit)


def _columns(source: str, features: Any, datasets: Any) -> tuple[str, str]:
    """Names of the columns of images and of labels."""
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    classes = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [name for name in ("label", "labels") if name in features and "int" in getattr(features[name], "dtype", "")]
    labels = classes if len(classes) == 1 else named
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(f"{source}: its columns are {', '.join(features)}; it must have one of images, and one of classes "
                         f"or one called label; {FACTORY}")
    return images[0], labels[0]


def _content(rows: Any, i: int, column: str) -> bytes:
    picture = rows[i][column]
    return picture["bytes"] if picture["bytes"] is not None else Path(picture["path"]).read_bytes()
