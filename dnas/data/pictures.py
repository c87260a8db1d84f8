"""Labelled picture files of any sizes as a Dataset."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dnas.data.checks import moments
from dnas.data.dataset import Dataset, Pictures, default_padding
from dnas.data.decode import FITS, File, Fit, decode, headers
from dnas.data.splits import arranged

PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "valid", "valid": "valid",
         "validation": "valid", "dev": "valid"}
"""Common names of splits, and the part that each stands for."""
UNCHANGED, SIDE, FIT = 64, 32, "crop"
"""By default pictures of one size up to UNCHANGED stay as they are; all others become SIDE x SIDE by FIT."""
LARGEST = 4096


class Labelled(NamedTuple):
    """A picture, its class, and its split in the data set, one of the values of PARTS."""

    file: File
    label: int
    part: str


def from_pictures(where: str, name: str, pictures: Sequence[Labelled], class_names: Sequence[str], *,
                  limit: int | None = None, resize: Sequence[int] = (), fit: Fit | None = None,
                  skipped: Sequence[str] = ()) -> Dataset:
    """The Dataset of pictures: uint8, grey if all of them are, else RGB.

    Pictures of the part `test` are the test set, those of `valid` the hold-out, or the test set if there is none.
    limit: as for `dnas.data.load`; pictures beyond it are not decoded. resize: the side in pixels or (height, width); by
    default pictures of one size up to UNCHANGED stay as they are, all others become SIDE x SIDE. fit: default FIT.
    skipped: files beside the pictures, for the summary.
    Raises ValueError that names the file or begins with `where` for anything that does not fit.
    """
    fit = fit or FIT
    if fit not in FITS or len(resize) > 2 or not all(1 <= side <= LARGEST for side in resize):
        raise ValueError(f"{where}: resize {' '.join(map(str, resize))} {fit}; it must be a side or height and width in "
                         f"pixels, 1 to {LARGEST}, and one of {', '.join(FITS)}")
    _check_classes(where, pictures, class_names)
    labels = np.array([picture.label for picture in pictures], np.int32)
    parts = np.array([picture.part for picture in pictures])
    test, valid = (np.flatnonzero(parts == part) for part in ("test", "valid"))
    test, valid = (test, valid) if len(test) else (valid, test)
    rows, splits = arranged(where, labels, test if len(test) else None, valid if len(valid) else None, limit)
    files = [pictures[i].file for i in rows]
    before = headers(files)
    sizes = sorted({(header.height, header.width) for header in before}, key=np.prod)
    unchanged = len(sizes) == 1 and max(sizes[0]) <= UNCHANGED
    size = (resize[0], resize[-1]) if resize else sizes[0] if unchanged else (SIDE, SIDE)
    channels = 1 if all(header.grey for header in before) else 3
    _check_memory(where, len(files), size, channels)
    images = decode(files, size, fit, channels)
    origin = Pictures([file.where for file in files], fit, sizes[0], sizes[-1],
                      sum(header.transparent for header in before), tuple(skipped))
    return Dataset(name, images, labels[rows], splits, len(class_names), *moments(images, splits["train"]),
                   default_padding(size), False, class_names=tuple(class_names), pictures=origin)


def _check_classes(where: str, pictures: Sequence[Labelled], class_names: Sequence[str]) -> None:
    for name in class_names:
        if not name.isprintable() or not name:
            raise ValueError(f"{where}: class {ascii(name)} has a name that cannot be printed; call it something else")
    if len(class_names) < 2:
        raise ValueError(f"{where}: {' '.join(['one class only,', *class_names]) if class_names else 'no class'}; "
                         "a set needs at least two")
    if not any(picture.part == "train" for picture in pictures):
        raise ValueError(f"{where}: no pictures to train on")
    top = max(picture.label for picture in pictures)
    if top >= len(class_names):
        raise ValueError(f"{where}: label {top}; there are {len(class_names)} classes")


def _check_memory(where: str, images: int, size: tuple[int, int], channels: int) -> None:
    needed, there = images * size[0] * size[1] * channels, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 2 * needed > there:
        raise ValueError(f"{where}: {images:,} images of {size[0]}x{size[1]}x{channels} take {needed / 2**30:,.1f} GiB, and "
                         f"as much again to train; there are {there / 2**30:,.1f} GiB; use a smaller resize or a limit")
