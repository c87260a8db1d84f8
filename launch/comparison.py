"""What `dnas compare` shows of a comparison: a text for a terminal, and a page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dnas.reports.text import columns
from launch.trained import place

KINDS = ("discrete", "gap", "tuned", "trained", "table"), (
    "params", "macs", "seconds", "kendall", "spearman", "ranked")
"""Metrics that stand side by side in one table."""


class Presentation(NamedTuple):
    """metrics: the columns, by the names of values. percent: whether the task's metric is a share."""

    metrics: Mapping[str, Any]
    percent: bool

    def spell(self, metric: str, row: Any) -> str:
        """The mean and deviation of a row of the summary."""
        from dnas.reports.comparison import spell

        return spell(self.metrics[metric], row.values.get(metric))

    def difference(self, found: Any) -> str:
        """A mean difference with its interval and the number of pairs."""
        form = (lambda value: f"{value:+z.2f}") if self.percent or found.metric == "table" else (
            lambda value: f"{value:+z.4g}")
        interval = "" if found.low is None else f" [{form(found.low)}, {form(found.high)}]"
        return f"{form(found.mean)}{interval} ({found.pairs})"


def presentation_of(folders: Sequence[Path]) -> Presentation:
    """The columns of a comparison of the runs in `folders`. Raises ValueError where they are of several tasks."""
    from dnas.reports.comparison import metrics_of
    from dnas.runs.index import quality_of, read_json

    configs = [read_json(folder / "config.json") if (folder / "config.json").is_file() else {} for folder in folders]
    tasks = [str(config.get("task", "classification")) for config in configs]
    other = next((i for i, task in enumerate(tasks) if task != tasks[0]), None)
    if other is not None:
        raise ValueError(f"{folders[0]} is of task {tasks[0]}, and {folders[other]} of task {tasks[other]}; runs of one "
                         "task can be compared")
    quality = quality_of(folders[0], configs[0])
    return Presentation(metrics_of(quality), quality.percent)


def comparison_text(entries, notes: Sequence[str], view: Presentation) -> str:
    """The comparison for a terminal."""
    from dnas.reports import comparison

    rows = comparison.summarise(entries)
    metrics = comparison.shown(rows)
    text = []
    for method in dict.fromkeys(row.method for row in rows):
        members = [row for row in rows if row.method == method]
        text += ["", f"{method}, {max(row.runs for row in members)} runs"]
        for kind in KINDS:
            chosen = [m for m in metrics if m in kind]
            text.append(columns([["", *(view.metrics[m].title for m in chosen)], *(
                [row.selection, *(view.spell(m, row) for m in chosen)] for row in members)], left=1))
    pairs = [d for d in comparison.differences(entries, comparison.compared(rows)) if d.low is not None]
    if pairs:
        text += ["", f"differences{' in points' if view.percent else ''}, with 95 % intervals over pairs of runs",
                 columns([[_pair(d), view.metrics[d.metric].title, view.difference(d)] for d in pairs], left=2)]
    agreed = comparison.agreements(entries)
    if agreed:
        text += ["", "edges that two selections have in common", columns(
            [[method, f"{a}, {b}", f"{100 * share:.0f} %"] for method, found in agreed.items()
             for (a, b), share in found.items()], left=2)]
    return "\n".join([*text, "", *notes])


def _pair(difference) -> str:
    return f"{difference.within}: {difference.first} \N{MINUS SIGN} {difference.second}"


def write_report(out: Path, supernets, labels, entries, notes, argv, arguments, view: Presentation) -> None:
    """Writes comparison.svg and report.html."""
    from dnas.reports import comparison, html
    from dnas.reports.figures import draw_dots
    from dnas.runs.directory import write_atomic

    rows = comparison.summarise(entries)
    metrics = comparison.shown(rows)
    label = lambda e: f"{e.method}: {e.selection}" if len(set(labels)) > 1 else e.selection
    drawn = [m for m in ("table", "trained", "discrete", "gap") if m in metrics][:3]
    panels = {view.metrics[m].title: {label(row): [e.values[m] for e in entries if (e.method, e.selection) ==
                                                     (row.method, row.selection) and m in e.values] for row in rows}
              for m in drawn}
    draw_dots(panels, out / "comparison.svg")
    intro = (f"{len(supernets)} trained supernets, {len({e.selection for e in entries})} ways of choosing an architecture "
             "from each. A figure is the mean over the runs of a row ± their standard deviation; one run shows none.")
    parts = [
        html.paragraph(intro),
        *(_table(entries, rows, [m for m in metrics if m in kind], view) for kind in KINDS),
        html.paragraph(comparison.APART, quiet=True),
        *(html.paragraph(note[0].upper() + note[1:] if note.startswith("left") else note, quiet=True) for note in notes),
        html.picture(out / "comparison.svg", "Dots are runs, a bar is their mean, a line one standard deviation."),
    ]
    pairs = comparison.differences(entries, comparison.compared(rows))
    if pairs:
        parts += [html.heading("Differences"), html.paragraph(
            "Two selections on the same runs, or two methods with the same seeds: the mean difference"
            f"{' in points' if view.percent else ''}, and where there is more than one pair a 95 % interval (Student's t). "
            "An interval that holds 0 shows none."),
            html.table(["between", "of", "mean difference, 95 % interval (pairs)"],
                         [[_pair(d), view.metrics[d.metric].title, view.difference(d)] for d in pairs], text=2)]
    agreed = comparison.agreements(entries)
    for method, found in agreed.items():
        names = list(dict.fromkeys(name for pair in found for name in pair))
        share = lambda a, b, found=found: 1.0 if a == b else found.get((a, b), found.get((b, a)))
        parts += [html.heading(f"Edges in common: {method}"), html.table(
            ["", *names], [[a, *(f"{100 * share(a, b):.0f} %" if share(a, b) is not None else "\N{EN DASH}" for b in names)]
                           for a in names])]
    parts.append(html.heading("The cells"))
    for trained, method in zip(supernets, labels):
        here = [e for e in entries if e.run == str(trained.folder)]
        parts.append(html.paragraph(f"{method}, seed {trained.searched.seed}: {trained.folder}"))
        parts.append(html.grid(html.picture(place(trained.folder, name) / "cells.svg",
                                                f"{e.selection}: {_values(e, metrics, view)}")
                                 for e in here for name in arguments.selection if name.rpartition(":")[2] == e.selection))
        parts.append(html.table(["selection", "genotype"], [[e.selection, e.notation] for e in here], text=2))
    parts += [html.heading("What the columns mean"), html.table(
        ["column", "meaning"], [[view.metrics[m].title, _meaning(m, arguments, view)] for m in metrics], text=2)]
    environment = json.loads((out / "environment.json").read_text())
    parts += [html.heading("How it was made"), html.code(shlex.join(["dnas", "compare", *argv])),
              html.table(["", ""], [[key, value] for key, value in environment.items()], text=2)]
    for trained in supernets:
        parts.append(html.code(f"{trained.folder}/config.json\n{json.dumps(trained.ready.config)}"))
    write_atomic(out / "report.html", html.page("Selections compared", parts))


def _table(entries, rows, metrics: Sequence[str], view: Presentation) -> str:
    """A table of the report; a mean that is surely the best of its column is bold."""
    from dnas.reports import comparison, html

    best = []
    for column, m in enumerate(metrics, 3):
        bold = comparison.apart(entries, view.metrics[m], m) if m != "seconds" else ()
        best += [(r, column) for r, row in enumerate(rows) if (row.method, row.selection) in bold]
    return html.table(["method", "selection", "runs", *(view.metrics[m].title for m in metrics)],
                      [[row.method, row.selection, str(row.runs), *(view.spell(m, row) for m in metrics)]
                       for row in rows], text=2, best=best)


def _values(entry, metrics: Sequence[str], view: Presentation) -> str:
    return ", ".join(f"{view.metrics[m].title.removesuffix(' %')} {view.metrics[m].text(entry.values[m])}" for m in metrics
                     if m in ("discrete", "trained", "table") and m in entry.values)


def _meaning(metric: str, arguments: Any, view: Presentation) -> str:
    meaning = view.metrics[metric].meaning
    if metric == "table":
        return f"{meaning}: column {arguments.column} of {Path(arguments.table).name}"
    if metric == "trained":
        return f"{meaning}: {arguments.train_epochs} epochs"
    if metric in ("kendall", "spearman"):
        over = "all architectures of the table, or those it tried" if arguments.table else "the genotypes compared on a run"
        return f"{meaning}; over {over}"
    return meaning
