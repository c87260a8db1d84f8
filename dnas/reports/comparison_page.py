"""A comparison of selections on runs, as it is shown: a text for a terminal, a page, and files to work with."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dnas.reports import comparison, html
from dnas.reports.cells import genotype_svg
from dnas.reports.comparison import Difference, Entry, Metric, Summary
from dnas.reports.figures import draw_dots
from dnas.reports.text import columns
from dnas.runs.files import write_atomic
from dnas.types import Group

KINDS = ("discrete", "gap", "tuned", "trained", "table"), (
    "params", "macs", "seconds", "kendall", "spearman", "ranked")
"""Metrics that stand side by side in one table."""
DRAWN = "table", "trained", "discrete", "gap"
"""Metrics of which the first three that are known are drawn."""


class ComparedRun(NamedTuple):
    """One of the runs. name: its folder, or which it is of those in memory; label: of runs that differ in nothing but their
    seed; groups: the edges that were searched, by name."""

    name: str
    label: str
    config: Mapping[str, Any]
    groups: Mapping[str, Group]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several selections on several trained supernets. `str` of it is a text for a terminal.

    entries: a row for each selection on each run, with the genotype and its `values` by the names of `metrics`; the task's
        metric in % where `percent`, else in its own units.
    runs: what was chosen from. metrics: the columns, by the names of values. percent: whether the task's metric is a share.
    notes: what a reader must know, such as selections that did not suit a run. environment: versions and the machine.
    settings: {"selections": [{"name", options}], "train_epochs", "table": {"name", "sha256", "column"} or None}.
    folder: where it is written, None in memory.
    """

    entries: Sequence[Entry]
    runs: Sequence[ComparedRun]
    metrics: Mapping[str, Metric]
    percent: bool
    notes: Sequence[str]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @functools.cached_property
    def summary(self) -> list[Summary]:
        """For each method and selection the means, deviations and number of runs of its values."""
        return comparison.summarise(self.entries)

    @functools.cached_property
    def differences(self) -> list[Difference]:
        """Of every two selections on the same runs, and of every two methods with the same seeds."""
        return comparison.differences(self.entries, comparison.compared(self.summary))

    @functools.cached_property
    def agreement(self) -> dict[str, dict[tuple[str, str], float]]:
        """For each method the share of edges, in [0, 1], that every two selections have in common, mean over its runs."""
        return comparison.agreements(self.entries)

    def to_csv(self) -> str:
        """A line for each selection on each run."""
        return comparison.to_csv(self.entries)

    def to_json(self) -> str:
        """Entries, summary, differences and agreement."""
        return json.dumps(comparison.to_json(self.entries, self.metrics), indent=1)

    def to_html(self) -> str:
        """A page that needs no network: all tables, every cell, the settings."""
        return _page(self)

    def write(self, folder: str | Path) -> Path:
        """Writes report.html, comparison.svg, comparison.csv and comparison.json into a folder, which it makes.

        Raises RunWriteError where the disk refuses."""
        folder = Path(folder).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        _draw(self, folder / "comparison.svg")
        write_atomic(folder / "report.html", self.to_html().encode(errors="replace"))
        write_atomic(folder / "comparison.csv", self.to_csv())
        write_atomic(folder / "comparison.json", self.to_json() + "\n")
        return folder

    def __str__(self) -> str:
        return _text(self)

    def __repr__(self) -> str:
        count = lambda names, noun: f"{len(set(names))} {noun}{'s' * (len(set(names)) > 1)}"
        where = f" in {self.folder}" if self.folder else ""
        return (f"<comparison{where} of {count([e.selection for e in self.entries], 'selection')} on "
                f"{count([e.run for e in self.entries], 'run')} of {count([e.method for e in self.entries], 'method')}>")

    def _repr_html_(self) -> str:
        return "".join(_tables(self))

    def spell(self, metric: str, row: Summary) -> str:
        """The mean and deviation of a row of the summary."""
        return comparison.spell(self.metrics[metric], row.values.get(metric))

    def spell_difference(self, difference: Difference) -> str:
        """A mean difference with its interval and the number of pairs."""
        form = (lambda value: f"{value:+z.2f}") if self.percent or difference.metric == "table" else (
            lambda value: f"{value:+z.4g}")
        low, high = difference.low, difference.high
        interval = "" if low is None else f" [{form(low)}, {form(high)}]"
        return f"{form(difference.mean)}{interval} ({difference.pairs})"


def _text(compared: Comparison) -> str:
    """The comparison for a terminal."""
    rows, metrics = compared.summary, comparison.shown(compared.summary)
    text = []
    for method in dict.fromkeys(row.method for row in rows):
        members = [row for row in rows if row.method == method]
        runs = max(row.runs for row in members)
        text += ["", f"{method}, {runs} run{'s' * (runs > 1)}"]
        for kind in KINDS:
            chosen = [m for m in metrics if m in kind]
            text.append(columns([["", *(compared.metrics[m].title for m in chosen)], *(
                [row.selection, *(compared.spell(m, row) for m in chosen)] for row in members)], left=1))
    pairs = [d for d in compared.differences if d.low is not None]
    if pairs:
        text += ["", f"differences{' in points' if compared.percent else ''}, with 95 % intervals over pairs of runs",
                 columns([_difference(compared, d) for d in pairs], left=2)]
    if compared.agreement:
        text += ["", "edges that two selections have in common", columns(
            [[method, f"{a}, {b}", f"{100 * share:.0f} %"] for method, shares in compared.agreement.items()
             for (a, b), share in shares.items()], left=2)]
    return "\n".join([*text, "", *compared.notes]).strip("\n")


def _difference(compared: Comparison, difference: Difference) -> list[str]:
    between = f"{difference.within}: {difference.first} \N{MINUS SIGN} {difference.second}"
    return [between, compared.metrics[difference.metric].title, compared.spell_difference(difference)]


def _page(compared: Comparison) -> str:
    runs, selections = len(compared.runs), len({e.selection for e in compared.entries})
    intro = (f"{runs} trained supernets, {selections} ways of choosing an architecture from each. " if runs > 1 else
             f"One trained supernet, {selections} ways of choosing an architecture from it. ")
    intro += "A figure is the mean over the runs of a row ± their standard deviation; one run shows none."
    notes = [note[0].upper() + note[1:] if note.startswith("left") else note for note in compared.notes]
    with tempfile.TemporaryDirectory() as scratch:
        dots = Path(scratch) / "comparison.svg"
        _draw(compared, dots)
        picture = html.picture(dots, "Dots are runs, a bar is their mean, a line one standard deviation.")
    return html.page("Selections compared", [
        html.paragraph(intro), *_tables(compared), html.paragraph(comparison.APART, quiet=True),
        *(html.paragraph(note, quiet=True) for note in notes), picture,
        *_differences(compared), *_agreements(compared), *_cells(compared), *_meanings(compared), *_settings(compared)])


def _draw(compared: Comparison, path: Path) -> None:
    """A picture of the metrics DRAWN."""
    rows, metrics = compared.summary, comparison.shown(compared.summary)
    several = len({row.method for row in rows}) > 1
    label = lambda row: f"{row.method}: {row.selection}" if several else row.selection
    values = lambda metric, row: [e.values[metric] for e in compared.entries if (e.method, e.selection) == (
        row.method, row.selection) and metric in e.values]
    draw_dots({compared.metrics[m].title: {label(row): values(m, row) for row in rows}
               for m in [m for m in DRAWN if m in metrics][:3]}, path)


def _tables(compared: Comparison) -> list[str]:
    """The summary; a mean that is surely the best of its column is bold."""
    rows, metrics, parts = compared.summary, comparison.shown(compared.summary), []
    for kind in KINDS:
        chosen, best = [m for m in metrics if m in kind], []
        for column, m in enumerate(chosen, 3):
            bold = comparison.apart(compared.entries, compared.metrics[m], m) if m != "seconds" else ()
            best += [(r, column) for r, row in enumerate(rows) if (row.method, row.selection) in bold]
        parts.append(html.table(["method", "selection", "runs", *(compared.metrics[m].title for m in chosen)],
                                [[row.method, row.selection, str(row.runs), *(compared.spell(m, row) for m in chosen)]
                                 for row in rows], text=2, best=best))
    return parts


def _differences(compared: Comparison) -> list[str]:
    if not compared.differences:
        return []
    intro = ("Two selections on the same runs, or two methods with the same seeds: the mean difference"
             f"{' in points' if compared.percent else ''}, and where there is more than one pair a 95 % interval (Student's "
             "t). An interval that holds 0 shows none.")
    return [html.heading("Differences"), html.paragraph(intro),
            html.table(["between", "of", "mean difference, 95 % interval (pairs)"],
                       [_difference(compared, d) for d in compared.differences], text=2)]


def _agreements(compared: Comparison) -> list[str]:
    parts = []
    for method, shares in compared.agreement.items():
        names = list(dict.fromkeys(name for pair in shares for name in pair))
        share = lambda a, b, shares=shares: 1.0 if a == b else shares.get((a, b), shares.get((b, a)))
        spell = lambda value: "\N{EN DASH}" if value is None else f"{100 * value:.0f} %"
        parts += [html.heading(f"Edges in common: {method}"),
                  html.table(["", *names], [[a, *(spell(share(a, b)) for b in names)] for a in names])]
    return parts


def _cells(compared: Comparison) -> list[str]:
    """Every genotype, run by run."""
    parts, metrics = [html.heading("The cells")], comparison.shown(compared.summary)
    for run in compared.runs:
        here = [e for e in compared.entries if e.run == run.name]
        parts += [html.paragraph(f"{run.label}, seed {run.config['seed']}: {run.name}"),
                  html.grid(html.svg(genotype_svg(e.genotype, run.groups), _caption(compared, e, metrics)) for e in here),
                  html.table(["selection", "genotype"], [[e.selection, e.notation] for e in here], text=2)]
    return parts


def _caption(compared: Comparison, entry: Entry, metrics: Sequence[str]) -> str:
    values = [f"{compared.metrics[m].title.removesuffix(' %')} {compared.metrics[m].text(entry.values[m])}" for m in metrics
              if m in ("discrete", "trained", "table") and m in entry.values]
    return f"{entry.selection}: {', '.join(values)}"


def _meanings(compared: Comparison) -> list[str]:
    rows = [[compared.metrics[m].title, _meaning(compared, m)] for m in comparison.shown(compared.summary)]
    return [html.heading("What the columns mean"), html.table(["column", "meaning"], rows, text=2)]


def _meaning(compared: Comparison, metric: str) -> str:
    meaning, settings = compared.metrics[metric].meaning, compared.settings
    if metric == "table":
        return f"{meaning}: column {settings['table']['column']} of {settings['table']['name']}"
    if metric == "trained":
        return f"{meaning}: {settings['train_epochs']} epochs"
    if metric in comparison.RANKS:
        return f"{meaning}; over " + ("all architectures of the table, or those it tried" if settings["table"] else
                                      "the genotypes compared on a run")
    return meaning


def _settings(compared: Comparison) -> list[str]:
    """The command if there was one, the selections with their options, the versions, and the config of every run."""
    command = compared.environment.get("command")
    selections = [[each["name"], ", ".join(f"{name} {value}" for name, value in each.items()
                                            if name != "name" and value is not None)]
                  for each in compared.settings["selections"]]
    versions = [[key, value] for key, value in compared.environment.items() if key != "command"]
    return [html.heading("How it was made"), *([html.code(command)] if command else []),
            html.table(["selection", "options"], selections, text=2),
            html.table(["versions and machine", ""], versions, text=2),
            *(html.code(f"{run.name}: config.json\n{json.dumps(run.config)}") for run in compared.runs)]
