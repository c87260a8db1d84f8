"""Figures of numbers: the logits' trajectory, learning curves, dots of several runs. Equal input gives equal files."""

from __future__ import annotations

import contextlib
import io
import itertools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnas.fronts.front import Front
from dnas.runs.directory import flatten
from dnas.runs.files import write_atomic
from dnas.types import Group

SERIES = ("#1c5fb0", "#d1660a", "#0a7a4a", "#a3195b", "#7b3aa8", "#6b4f2a", "#2a9db0", "#3a3a3a")
NONE = "#767676"
"""Colour of the operation that is none."""
FONT = 9
LEAST_SPAN = 5e-3
"""Of an axis of shares, so that the noise with which logits begin, a tenth of it, does not fill the figure."""
UNIFORM = "uniform"
STYLE = {"svg.hashsalt": "dnas", "svg.fonttype": "none", "text.parse_math": False}
"""Of all figures. A dollar sign in a name begins no formula."""
SHOWN = ("train", "valid", "holdout", "test")
"""Splits whose values are curves."""


def draw_logits(trajectory: Mapping[str, np.ndarray], groups: Mapping[str, Group], path: str | Path, *,
                most: int = 7) -> None:
    """Writes the softmax over operations of every edge, epoch by epoch; `trajectory` is `[T, E, K]` per group.

    The axis, one for all panels, holds what is in them and no more. A line says where all operations of an edge are equal.

    most: panels side by side.
    Raises ValueError for a shape that does not fit `groups` and for a suffix other than .svg and .png.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    panels = []
    for name, group in groups.items():
        found = np.shape(trajectory.get(name, ()))
        if len(found) != 3 or found[1:] != group.shape or not found[0]:
            raise ValueError(f"logits of group {name!r} have shape {found}; they need [epochs, {group.shape[0]}, "
                             f"{group.shape[1]}]")
        rows = np.moveaxis(group.softmax(trajectory[name]), 1, 0)
        label = f"{name}: " if len(groups) > 1 else ""
        panels += [(f"{label}{s} \N{RIGHTWARDS ARROW} {t}", group.edge_ops(e), row[:, group.allowed[e]])
                   for e, ((s, t), row) in enumerate(zip(group.edges, rows))]
    limits = _limits([row for _, _, row in panels])
    ops = list(dict.fromkeys(op for _, names, _ in panels for op in names))
    columns = min(len(panels), 3 if len(panels) <= 9 else most)
    lines = -(-len(panels) // columns)
    with saving(path) as save:
        width = max(1.75 * columns, 5) + 0.4
        figure = Figure(figsize=(width, 1.45 * lines + 0.9), layout="constrained")
        grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (title, names, row) in itertools.zip_longest(grid, panels, fillvalue=("", (), ())):
            axes.set_axis_on() if title else axes.set_axis_off()
            axes.set_title(title, size=FONT - 1, pad=3)
            for op, values in zip(names, np.transpose(row)):
                axes.plot(values, label=op, marker="." if len(values) == 1 else "", **_series(op, ops))
            if title:
                axes.axhline(1 / len(names), label=UNIFORM, color="#1c1c1c", linewidth=0.7, zorder=1.5)
            axes.set_ylim(*limits)
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=None))
            axes.xaxis.get_major_locator().set_params(integer=True)
            _quiet(axes)
        figure.supxlabel("epoch", size=FONT - 1)
        figure.supylabel("softmax of the logits, %", size=FONT - 1)
        handles, labels = {h.get_label(): h for axes in grid for h in axes.get_lines()}, [*ops, UNIFORM]
        figure.legend([handles[label] for label in labels], labels, loc="outside upper center", frameon=False,
                      fontsize=FONT - 1, ncols=max(1, int(width / (0.6 + max(map(text_width, labels))))))
        save(figure)


def draw_curves(records: Sequence[Mapping[str, Any]], path: str | Path, kinds: Sequence[str] = ()) -> None:
    """Writes a panel for each of `kinds` over the epochs: the values of metrics records named loss/..., accuracy/...

    kinds: default the loss and each metric of the task, which are those with a value for a split.
    Names may be nested; null is a gap. Raises ValueError if there is none, or for a suffix other than .svg and .png.
    """
    from matplotlib.figure import Figure

    rows = [flatten(record, "/") for record in records]
    tags = list(dict.fromkeys(tag for row in rows for tag in row))
    if not kinds:
        of_splits = [tag.rpartition("/")[0] for tag in tags if tag.rpartition("/")[2] in SHOWN]
        kinds = list(dict.fromkeys(["loss", *(kind for kind in of_splits if kind)]))
    panels = {kind: found for kind in kinds if (found := [t for t in tags if kind in t.split("/")])}
    if not panels:
        raise ValueError(f"no record names {' or '.join(kinds)}; curves need names such as {kinds[0]}/train")
    with saving(path) as save:
        figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
        for axes, (kind, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
            for tag in found:
                epochs, values = zip(*((row["epoch"], row[tag]) for row in rows if tag in row))
                label = "/".join(part for part in tag.split("/") if part != kind) or kind
                axes.plot(epochs, np.array(values, float), label=label, marker="." if len(values) < 30 else "",
                          **_series(tag, found))
            axes.set_title(kind, size=FONT + 1)
            axes.set_xlabel("epoch", size=FONT)
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(frameon=False, fontsize=FONT - 1)
            _quiet(axes)
        save(figure)


def draw_dots(panels: Mapping[str, Mapping[str, Sequence[float]]], path: str | Path) -> None:
    """Writes a panel a title, with a row a label: its values as dots, their mean as a bar, one deviation as a line.

    All panels have the labels of the first, those that they lack stay empty; the first label stands on top.
    Raises ValueError for a suffix other than .svg and .png.
    """
    from matplotlib.figure import Figure

    labels = list(next(iter(panels.values())))
    with saving(path) as save:
        left = max(map(text_width, labels))
        figure = Figure(figsize=(left + 2.6 * len(panels) + 0.4, 0.34 * len(labels) + 0.9), layout="constrained")
        for axes, (title, rows) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items()):
            for y, label in enumerate(labels):
                values = np.array(rows.get(label, ()), float)
                if not len(values):
                    continue
                mean, style = values.mean(), {"color": SERIES[0], "zorder": 3}
                if len(values) > 1:
                    spread = values.std(ddof=1)
                    axes.plot([mean - spread, mean + spread], [y, y], linewidth=1.2, **style)
                axes.plot([mean, mean], [y - 0.22, y + 0.22], linewidth=2, **style)
                axes.plot(values, np.full(len(values), y), "o", color=SERIES[1], markersize=4, alpha=0.75, zorder=2)
            axes.set_title(title, size=FONT)
            axes.set_yticks(range(len(labels)), labels, size=FONT)
            axes.set_ylim(len(labels) - 0.4, -0.6)
            _quiet(axes)
        save(figure)


def draw_front(front: Front, path: str | Path) -> None:
    """Writes a panel for each objective but the first one, which is on the vertical axis: all networks that were evaluated
    as dots, those of the front marked; of two objectives a line bounds what the front dominates.

    Raises ValueError for a suffix other than .svg and .png.
    """
    from matplotlib.figure import Figure

    (first, better), *others = front.objectives.items()
    with saving(path) as save:
        figure = Figure(figsize=(4.2 * len(others), 3.2), layout="constrained")
        for number, (axes, (name, _)) in enumerate(zip(figure.subplots(1, len(others), sharey=True, squeeze=False)[0],
                                                       others), 1):
            axes.plot(front.evaluated[:, number], front.evaluated[:, 0], "o", color=NONE, markersize=3, alpha=0.5,
                      label=f"{len(front.evaluated):,} evaluated")
            x, y = (np.array([each.values[key] for each in front.networks]) for key in (name, first))
            order = np.lexsort((better * y, x))
            steps = {"drawstyle": "steps-post", "linewidth": 1.2} if len(others) == 1 else {"linestyle": ""}
            axes.plot(x[order], y[order], marker="o", color=SERIES[0], markersize=4.5, label=f"front of {len(x)}", **steps)
            axes.set_xlabel(name, size=FONT)
            _quiet(axes)
        figure.axes[0].set_ylabel(first, size=FONT)
        figure.axes[0].legend(frameon=False, fontsize=FONT - 1)
        save(figure)


def draw_ranking(scores: Mapping[str, np.ndarray], truth: np.ndarray, column: str, path: str | Path,
                 better: int = 1) -> None:
    """Writes a panel for each of scores {title: [N]}, with a dot for each network: its score, and its truth `[N]`, a column
    of a table of which more is better, or less with `better` -1. The axis of the truth leaves out the worst twentieth, which
    may lie far away; scores that are not finite are left out.

    Raises ValueError for a suffix other than .svg and .png.
    """
    from matplotlib.figure import Figure

    with saving(path) as save:
        figure = Figure(figsize=(4.2 * len(scores), 3.4), layout="constrained")
        for axes, (title, values) in zip(figure.subplots(1, len(scores), sharey=True, squeeze=False)[0], scores.items()):
            finite = np.isfinite(values)
            axes.plot(values[finite], truth[finite], "o", color=SERIES[0], markersize=2.5, markeredgewidth=0,
                      alpha=max(0.15, min(0.8, 300 / len(truth))), rasterized=True)
            axes.set_xlabel(title, size=FONT)
            low, high = (np.percentile(truth, 5), truth.max()) if better > 0 else (truth.min(), np.percentile(truth, 95))
            if low < high:
                axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            _quiet(axes)
        figure.axes[0].set_ylabel(column, size=FONT)
        save(figure)


def _limits(shares: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of an axis that shows shares `[T, K]` of edges, and 1 / K of each, with a little room around them."""
    values = np.concatenate([[1 / row.shape[1], row.min(), row.max()] for row in shares])
    low, high = values.min(), values.max()
    room = max(0.06 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    return max(low - room, -0.03), min(high + room, 1.03)


def _series(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Colour and dashes that tell one line of a plot from the others."""
    if name == "none":
        return {"color": NONE, "linestyle": ":", "linewidth": 1.4}
    turn, i = divmod([n for n in names if n != "none"].index(name), len(SERIES))
    return {"color": SERIES[i], "linestyle": ("-", "--", "-.")[turn % 3], "linewidth": 1.4}


def _quiet(axes) -> None:
    axes.tick_params(labelsize=FONT - 2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)


def text_width(text: str) -> float:
    """Inches that a text of size FONT takes."""
    from matplotlib.textpath import TextPath

    return TextPath((0, 0), text, size=FONT).get_extents().width / 72


@contextlib.contextmanager
def saving(path: str | Path):
    """Yields save(figure); figures must be built inside, where the user's matplotlib settings do not reach."""
    from matplotlib import style

    suffix = Path(path).suffix.lower()
    if suffix not in (".svg", ".png"):
        raise ValueError(f"a picture is written as .svg or .png, not as {Path(path).name}")

    def save(figure):
        content = io.BytesIO()
        unset = {"Date": None, "Creator": None} if suffix == ".svg" else {"Software": None}
        figure.savefig(content, format=suffix[1:], dpi=160, metadata=unset)
        write_atomic(path, content.getvalue())

    with style.context(["default", STYLE]), warnings.catch_warnings(action="ignore"):
        yield save
