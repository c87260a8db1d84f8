"""A picture of images that are in two splits, for whoever reads of a search."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnas.data import Dataset
from dnas.data.summary import PAIRS, counted, leaks, place
from dnas.reports.figures import FONT, saving
from dnas.runs.files import write_atomic

FILE = "duplicates.png"
LARGEST = 1_000_000
"""Bytes that no such file exceeds, whatever the images are."""
SIDE, ABOVE = 1.0, 0.45
"""Inches of an image, and of what stands above it."""
ACROSS = 3
"""Pairs side by side."""
LONGEST = 16
"""Letters of a file's name that are shown: its last."""


def draw_duplicates(data: Dataset, folders: Sequence[Path]) -> None:
    """Writes FILE into each of `folders`: at most PAIRS pairs of identical images of two splits, each image of SIDE inches
    whatever its size. Nothing where no image is in two splits, or the inputs are not images.
    """
    found = leaks(data) if data.kind == "images" and folders else []
    if not found:
        return
    from matplotlib.figure import Figure

    in_turn = itertools.zip_longest(*([(leak.of, leak.also, *pair) for pair in leak.pairs] for leak in found))
    pairs = list(filter(None, itertools.chain(*in_turn)))[:PAIRS]
    across, lines = min(ACROSS, len(pairs)), -(-len(pairs) // ACROSS)
    width = max(2 * across * SIDE + 0.3 * across, 4)
    title = textwrap.wrap(f"Identical images: {counted(found)}", int(13 * width))
    with saving(folders[0] / FILE) as save:
        figure = Figure(figsize=(width, lines * (SIDE + ABOVE) + 0.17 * len(title) + 0.15), layout="constrained")
        figure.suptitle("\n".join(title), size=FONT)
        for part, pair in zip(figure.subfigures(lines, across, squeeze=False).ravel(), pairs):
            for axes, split, row in zip(part.subplots(1, 2), pair[:2], pair[2:]):
                axes.set_title(f"{split}\n{_short(place(data, row))}", size=FONT - 1, pad=3, parse_math=False)
                axes.imshow(_shown(data.inputs[row]), cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
        save(figure)
    for folder in folders[1:]:
        write_atomic(folder / FILE, (folders[0] / FILE).read_bytes())


def _shown(image: np.ndarray) -> np.ndarray:
    """An image `[H, W, C]` as it can be seen: three channels, or the first of another number; in [0, 1]."""
    image = image if image.shape[-1] == 3 else image[..., 0]
    if image.dtype == np.uint8:
        return image / 255
    return (image - image.min()) / max(np.ptp(image), 1e-12)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else f"...{name[3 - LONGEST:]}"
