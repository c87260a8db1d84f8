"""What a classifier takes for what: counts, a table of classes, a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnas.reports import html
from dnas.reports.figures import FONT, saving

HEADER = "class", "images", "recall %", "precision %", "taken for"
"""Columns of the table of classes; the last is the class that one is most often taken for."""
NUMBERS = 20
"""Most classes that are told apart by a number in each field of the picture, and shown in the table."""
LONGEST = 24
"""Most letters of a class's name that are shown."""


def accuracy(counts: np.ndarray) -> float:
    """The share of all images on the diagonal, in [0, 1]."""
    return float(np.trace(counts) / counts.sum())


def shares(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(recall, precision) of each class `[K]` in [0, 1]: of the images that belong to it, and of those given to it.

    NaN for a class without such images.
    """
    with np.errstate(invalid="ignore"):
        return tuple(np.diag(counts) / counts.sum(axis) for axis in (1, 0))


def rows(counts: np.ndarray, names: Sequence[str] = ()) -> list[list[str]]:
    """Of each class, of more than NUMBERS of those with the lowest recall, what HEADER says, as texts. names: of all
    classes, if they have any."""
    recall, precision = shares(counts)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(np.where(np.isnan(recall), np.inf, recall), kind="stable")[:NUMBERS]
    shown, found = _shown(names, len(counts)), []
    for k in sorted(order) if len(counts) <= NUMBERS else order:
        other = f"{shown[wrong[k].argmax()]} ({wrong[k].max()} times)" if wrong[k].any() else "-"
        percents = [f"{100 * value:.1f}" if np.isfinite(value) else "-" for value in (recall[k], precision[k])]
        found.append([shown[k], str(counts[k].sum()), *percents, other])
    return found


def table(counts: np.ndarray, names: Sequence[str] = ()) -> str:
    """The same as lines of text."""
    found = rows(counts, names)
    width = max(len(HEADER[0]), *(len(row[0]) for row in found))
    first = str.ljust if names else str.rjust
    lines = [[first(row[0], width), *(cell.rjust(len(title)) for cell, title in zip(row[1:], HEADER[1:-1])), row[-1]]
             for row in found]
    return "\n".join(["  ".join([HEADER[0].ljust(width), *HEADER[1:]]), *map("  ".join, lines), *left_out(counts)])


def left_out(counts: np.ndarray) -> list[str]:
    """A sentence about the classes that `rows` leaves out, if it does."""
    return [f"the {NUMBERS} of {len(counts)} classes with the lowest recall"] if len(counts) > NUMBERS else []


def _shown(names: Sequence[str], classes: int) -> list[str]:
    """The names of all classes, their numbers where they have none."""
    return [name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…" for name in names or map(str, range(classes))]


def draw_confusion(counts: np.ndarray, path: str | Path, names: Sequence[str] = ()) -> None:
    """Writes the confusion matrix as SVG or PNG, after the suffix of `path`: a field is darker the larger the share of
    the images of its true class, and holds their number where there are at most NUMBERS classes. names: of all classes.

    Raises ValueError for any other suffix.
    """
    from matplotlib.figure import Figure

    classes = len(counts)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    numbered = classes <= NUMBERS
    shown = _shown(names, classes)
    margin = 0.08 * max(map(len, shown)) if names and numbered else 0
    side = 0.36 * classes + 1.3 + margin if numbered else 6.5
    with saving(path) as save:
        figure = Figure(figsize=(side + 0.6, side + margin / 20), layout="constrained")
        axes = figure.subplots()
        picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        if numbered:
            axes.set_xticks(range(classes), shown, rotation="vertical" if names else None, parse_math=False)
            axes.set_yticks(range(classes), shown, parse_math=False)
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    axes.text(j, i, str(count), ha="center", va="center_baseline", size=FONT - (2 if count < 1000 else 4),
                              color="white" if share[i, j] > 0.5 else "black")
        axes.tick_params(labelsize=FONT - 1, length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("class given", size=FONT)
        axes.set_ylabel("true class", size=FONT)
        axes.set_title(f"accuracy {100 * accuracy(counts):.2f} % of {counts.sum():,} images", size=FONT + 1)
        bar = figure.colorbar(picture, shrink=0.7, label="share of the true class")
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=FONT - 2)
        bar.ax.yaxis.label.set_size(FONT - 1)
        save(figure)


def confusion_parts(results: Mapping[str, Any], where: Path, scratch: Path) -> list[str]:
    """The table of what a trained network takes for what, as HTML; nothing where the results have none. where: their file.
    scratch: a folder for the picture. Raises ValueError, in one line, for what is no such table."""
    if "confusion" not in results:
        return []
    try:
        counts = np.array(results["confusion"])
    except ValueError:
        counts = np.zeros(0)
    if counts.ndim != 2 or len(set(counts.shape)) > 1 or counts.dtype.kind != "i" or counts.min(initial=0) < 0:
        raise ValueError(f"{where}: confusion must be a square table of counts")
    names = results.get("class_names", ())
    if names and not (isinstance(names, list) and len(names) == len(counts) and all(isinstance(n, str) for n in names)):
        raise ValueError(f"{where}: class_names are not the names of {len(counts)} classes")
    path = scratch / "confusion.svg"
    draw_confusion(counts, path, names)
    return [html.heading("What is taken for what, on the test set"), html.picture(path, "Rows are the true classes"),
            html.table(HEADER, rows(counts, names)),
            *(html.paragraph(f"These are {line}.", quiet=True) for line in left_out(counts))]
