"""Pictures of a search: the cell found, the logits' trajectory, the learning curves. Equal input gives equal files.

A cell is drawn as a metro map. Nodes stand on one line, in topological order. An edge to the next node is straight; one
that skips nodes runs on a lane of its own above or below them, leaves and enters through a port of its own, and carries
its name between two nodes, where no other edge rises or falls. So names never overlap, whatever the cell.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.runs.directory import flatten, write_atomic
from dnas.types import Choice, Genotype, Group

FAMILIES = {"none": "#767676", "skip": "#0a7a4a", "pool": "#b04a00", "dil": "#7b3aa8", "sep": "#1c5fb0",
            "conv": "#1c5fb0"}
"""Colour of an operation: that of the first of these words its name contains. Contrast on white is at least 4.5."""
OTHER = "#a3195b"
SERIES = ("#1c5fb0", "#d1660a", "#0a7a4a", "#a3195b", "#7b3aa8", "#6b4f2a", "#2a9db0", "#3a3a3a")
ROLES = {"input": "#dcefdc", "node": "#e3ecf7", "output": "#fbeec9"}
NODE, PORT, LANE, CORNER, MARGIN = 0.34, 0.11, 0.33, 0.13, 0.22
"""Inches: height of a node, distance of ports, of lanes, radius of a bend, white border."""
FONT = 9
SHOWN = ("train", "valid", "holdout", "test")
"""Splits whose values are curves."""


class Cell(NamedTuple):
    """Where the parts of one cell stand, in inches; the line of the nodes is y = 0.

    x, width: of each node; lanes: of each edge that skips nodes, positive above the line and negative below it;
    ports: (x at the source, x at the target) of each of those; slots: where each edge's name is centred;
    exits: x at which a concatenated node leaves for the output.
    """

    x: dict[Any, float]
    width: float
    lanes: dict[Choice, int]
    ports: dict[Choice, tuple[float, float]]
    slots: dict[Choice, float]
    exits: dict[Any, float]


def draw_genotype(genotype: Genotype, groups: Mapping[str, Group], path: str | Path) -> None:
    """Writes the cells of `genotype` as SVG or PNG, after the suffix of `path`: one panel a group.

    A cell of several inputs is drawn with an output that concatenates its other nodes, as in the DARTS family; the
    output of a cell of one input is its last node.
    Raises ValueError for a genotype that does not fit `groups` and for any other suffix.
    """
    from matplotlib.figure import Figure

    genotype.decisions(groups)
    with saving(path) as save:
        orders = {name: _order(group) for name, group in groups.items()}
        joined = {name: _joined(group, orders[name]) for name, group in groups.items()}
        cells = {name: _cell(orders[name], genotype.choices[name], joined[name]) for name in groups}
        tops = {name: _height(cell.lanes.values()) + 0.3 for name, cell in cells.items()}
        bottoms = {name: _height((-lane for lane in cell.lanes.values()), rail=LANE * bool(cell.exits))
                   for name, cell in cells.items()}
        width = max(max(cell.x.values()) + cell.width / 2 for cell in cells.values()) + MARGIN
        height = sum(tops.values()) + sum(bottoms.values()) + MARGIN * (len(groups) + 1)
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height), frame_on=False, xticks=[], yticks=[])
        above = height
        for name, cell in cells.items():
            above -= MARGIN
            axes.text(MARGIN, above, f"{genotype.space}: {name}", va="top", weight="bold", size=FONT + 1)
            baseline = above - tops[name]
            above = baseline - bottoms[name]
            _draw_cell(axes, cell, genotype.choices[name], groups[name], joined[name], baseline, above)
        save(figure)


def draw_logits(trajectory: Mapping[str, np.ndarray], groups: Mapping[str, Group], path: str | Path, *,
                most: int = 7) -> None:
    """Writes the softmax over operations of every edge, epoch by epoch; `trajectory` is `[T, E, K]` per group.

    most: panels side by side.
    Raises ValueError for a shape that does not fit `groups` and for a suffix other than .svg and .png.
    """
    from matplotlib.figure import Figure

    panels = []
    for name, group in groups.items():
        found = np.shape(trajectory.get(name, ()))
        if len(found) != 3 or found[1:] != group.shape or not found[0]:
            raise ValueError(f"logits of group {name!r} have shape {found}; they need [epochs, {group.shape[0]}, "
                             f"{group.shape[1]}]")
        rows = np.moveaxis(softmaxed(trajectory[name], group), 1, 0)
        label = f"{name}: " if len(groups) > 1 else ""
        panels += [(f"{label}{s} \N{RIGHTWARDS ARROW} {t}", group.edge_ops(e), row)
                   for e, ((s, t), row) in enumerate(zip(group.edges, rows))]
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
            axes.set_ylim(-0.03, 1.03)
            axes.xaxis.get_major_locator().set_params(integer=True)
            _quiet(axes)
        figure.supxlabel("epoch", size=FONT - 1)
        figure.supylabel("softmax of the logits", size=FONT - 1)
        handles = {h.get_label(): h for axes in grid for h in axes.get_lines()}
        figure.legend([handles[op] for op in ops], ops, loc="outside upper center", frameon=False, fontsize=FONT - 1,
                      ncols=max(1, int(width / (0.6 + max(map(_text_width, ops))))))
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
        left = max(map(_text_width, labels))
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


def terminal_cell(genotype: Genotype, groups: Mapping[str, Group]) -> str:
    """The cells as text: a line per node, "3 <- 0 skip_connect  1 nor_conv_3x3", in columns.

    Raises ValueError for a genotype that does not fit `groups`.
    """
    genotype.decisions(groups)
    lines = []
    for name, group in groups.items():
        rows = {node: [f"{c.source} {c.op}" for c in sorted(genotype.choices[name]) if c.target == node]
                for node in _order(group)}
        width = max((len(item) for row in rows.values() for item in row), default=0)
        digits = max(len(str(node)) for node in rows)
        lines += [name, *(f"  {node:>{digits}} <- {'  '.join(item.ljust(width) for item in row)}".rstrip()
                          for node, row in rows.items() if row)]
    return "\n".join(lines)


def softmaxed(logits: Any, group: Group) -> np.ndarray:
    """Softmax over operations of logits `[..., E, K]`; zero where an edge has fewer than K of them."""
    masked = np.where(group.allowed, np.asarray(logits, np.float64), -np.inf)
    powers = np.exp(masked - masked.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _order(group: Group) -> list[int]:
    """Nodes in topological order, inputs first."""
    sources = {node: [] for node in sorted({node for edge in group.edges for node in edge})}
    for source, target in group.edges:
        sources[target].append(source)
    return list(TopologicalSorter(sources).static_order())


def _joined(group: Group, order: Sequence[int]) -> list[int]:
    """Nodes that a cell with several inputs concatenates; none for a cell with one."""
    targets = {target for _, target in group.edges}
    return [node for node in order if node in targets] if len(order) - len(targets) > 1 else []


def _cell(order: Sequence[Any], choices: Sequence[Choice], joined: Sequence[int]) -> Cell:
    """The layout of one cell. From left to right a side has entering edges, inner first, then leaving, outer first."""
    order = [*order, "out"] if joined else order
    place = {node: i for i, node in enumerate(order)}
    spans = {c: (place[c.source], place[c.target]) for c in choices}
    lanes = _lanes({c: span for c, span in spans.items() if span[1] - span[0] > 1})
    legs = {(node, side): [] for node in order for side in (1, -1)}
    for c, lane in lanes.items():
        legs[c.target, np.sign(lane)].append(((False, abs(lane)), c))
        legs[c.source, np.sign(lane)].append(((True, -abs(lane)), c))
    rail = [node for node in joined if node != order[-2]]
    for node in rail:
        legs[node, -1].append(((True, -np.inf), node))
    width = max(0.42, PORT * (1 + max(len(row) for row in legs.values())))
    pitch = width + max((_text_width(c.op) for c in choices), default=0) + 0.5
    x = {node: MARGIN + width / 2 + pitch * i for node, i in place.items()}
    ports = {}
    for (node, _), row in legs.items():
        for i, ((leaving, _), c) in enumerate(sorted(row, key=lambda leg: leg[0])):
            ports[c, leaving] = x[node] + PORT * (i - (len(row) - 1) / 2)
    slots = {c: x[order[(start + end) // 2]] + pitch / 2 for c, (start, end) in spans.items()}
    ends = {c: (ports[c, True], ports[c, False]) for c in lanes}
    return Cell(x, width, lanes, ends, slots, {node: ports[node, True] for node in rail})


def _lanes(spans: Mapping[Choice, tuple[int, int]]) -> dict[Choice, int]:
    """A lane for every edge: on the side where it crosses fewer edges, then the emptier one, outside what it spans."""
    sides = {}
    for edge, (start, end) in sorted(spans.items(), key=lambda item: (item[1][0] - item[1][1], item)):
        crossed, shared = {1: 0, -1: 0}, {1: 0, -1: 0}
        for other, side in sides.items():
            s, e = spans[other]
            crossed[side] += s < start < e < end or start < s < end < e
            shared[side] += s < end and start < e
        sides[edge] = min((1, -1), key=lambda side: (crossed[side], shared[side]))
    lanes = {}
    for edge in reversed(sides):
        start, end = spans[edge]
        under = [abs(lane) for other, lane in lanes.items()
                 if sides[other] == sides[edge] and spans[other][0] < end and start < spans[other][1]]
        lanes[edge] = sides[edge] * (1 + max(under, default=0))
    return lanes


def _height(lanes: Iterable[int], rail: float = 0) -> float:
    """Inches between the line of the nodes and the border of the cell on one side."""
    return max([0, *lanes]) * LANE + NODE / 2 + 0.12 + rail


def _draw_cell(axes, cell: Cell, choices, group: Group, joined, baseline: float, bottom: float) -> None:
    targets = {target for _, target in group.edges}
    sources = {source for source, _ in group.edges}
    for choice in choices:
        colour, faint = _colour(choice.op), choice.op == "none"
        level = baseline + cell.lanes.get(choice, 0) * LANE + (NODE / 2) * np.sign(cell.lanes.get(choice, 0))
        if choice in cell.lanes:
            route = _detour(*cell.ports[choice], baseline, level)
        else:
            route = _straight(cell, choice.source, choice.target, level)
        _arrow(axes, *route, color=colour, linestyle=(0, (4, 3)) if faint else "-", alpha=0.55 if faint else 1)
        axes.text(cell.slots[choice], level, choice.op, color=colour, size=FONT, ha="center", va="center", zorder=4,
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5})
    _draw_output(axes, cell, joined, baseline, bottom)
    for node, x in cell.x.items():
        last = node == "out" if joined else node not in sources
        role = "output" if last else "node" if node in targets else "input"
        _node(axes, node, x, baseline, cell.width, ROLES[role])


def _draw_output(axes, cell: Cell, joined, baseline: float, bottom: float) -> None:
    """The concatenation: a grey rail under the cell that collects the joined nodes."""
    style = {"color": "#9a9a9a", "linewidth": 1, "zorder": 1}
    for node in joined:
        if node in cell.exits:
            _arrow(axes, *_detour(cell.exits[node], cell.x["out"], baseline, bottom + 0.1), **style)
        else:
            _arrow(axes, *_straight(cell, node, "out", baseline), **style)


def _straight(cell: Cell, source, target, level: float):
    """Vertices and codes of the path from a node to the next."""
    return [(cell.x[source] + cell.width / 2, level), (cell.x[target] - cell.width / 2, level)], [1, 2]


def _detour(start: float, end: float, baseline: float, level: float):
    """Vertices and codes of a path that leaves a node, turns onto its lane, and turns into another node."""
    side = np.sign(level - baseline)
    edge, bend = baseline + side * NODE / 2, level - side * CORNER
    return ([(start, edge), (start, bend), (start, level), (start + CORNER, level), (end - CORNER, level), (end, level),
             (end, bend), (end, edge)], [1, 2, 3, 3, 2, 3, 3, 2])


def _arrow(axes, vertices, codes, **style) -> None:
    """A line along the path, with a head of its own: matplotlib's would take part in the dashes."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path as Route

    tip, before = np.array(vertices[-1]), np.array(vertices[-2])
    along = 0.085 * (tip - before) / np.linalg.norm(tip - before)
    across = 0.45 * np.array([-along[1], along[0]])
    style = {"linewidth": 1.4, "zorder": 2} | style
    axes.add_patch(PathPatch(Route([*vertices[:-1], tip - along], codes), fill=False, capstyle="butt", **style))
    axes.add_patch(Polygon([tip, tip - along + across, tip - along - across], color=style["color"], linewidth=0,
                           alpha=style.get("alpha"), zorder=style["zorder"]))


def _node(axes, name, x: float, y: float, width: float, colour: str) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x - width / 2, y - NODE / 2), width, NODE, boxstyle="round,pad=0,rounding_size=0.08",
                                  facecolor=colour, edgecolor="#555555", linewidth=0.8, zorder=3))
    axes.text(x, y, str(name), ha="center", va="center_baseline", size=FONT + 1, zorder=4)


def _colour(op: str) -> str:
    return next((colour for word, colour in FAMILIES.items() if word in op), OTHER)


def _series(name: str, names: Sequence[str]) -> dict[str, Any]:
    """Colour and dashes that tell one line of a plot from the others."""
    if name == "none":
        return {"color": FAMILIES["none"], "linestyle": ":", "linewidth": 1.4}
    turn, i = divmod([n for n in names if n != "none"].index(name), len(SERIES))
    return {"color": SERIES[i], "linestyle": ("-", "--", "-.")[turn % 3], "linewidth": 1.4}


def _quiet(axes) -> None:
    axes.tick_params(labelsize=FONT - 2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)


def _text_width(text: str) -> float:
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

    with style.context(["default", {"svg.hashsalt": "dnas", "svg.fonttype": "none"}]):
        yield save
