"""Write one page about a run: what was found, how it went, and how it was made. It needs no network, and prints well."""

from __future__ import annotations

import json
import shlex
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from dnas.reports import html
from dnas.runs import index
from dnas.runs.index import Quality, Summary, number
from launch.arguments import parsed

DRAWN = 120
"""Most edges whose logits are drawn."""
MEASURED = {"eigenvalue": ("eigenvalue", "{:.4g}"), "sharpness": ("sharpness", "{:.4g}"), "gap": ("gap", "{:.4f}"),
            "skips": ("skips", "{:.0f}"), "edges": ("of edges", "{:.0f}")}
"""What a diagnosis says, with its title and form."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory of a search or of a training, finished or not; report.html is written there."""


class Told(NamedTuple):
    """A run as it was read. scratch: a folder for pictures on their way into the page."""

    folder: Path
    one: Summary
    config: dict[str, Any]
    results: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    timings: list[dict[str, Any]]
    genotype: Any
    groups: Any
    scratch: Path
    quality: Quality


def main(argv: Sequence[str]) -> int:
    """Runs `dnas report`. Raises ValueError, in one line, for what it cannot read."""
    arguments = parsed(Arguments(tyro.MISSING), "dnas report", __doc__, list(argv))
    folder = Path(arguments.folder).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no run directory: it has no config.json; give the folder of a search or a training")
    from dnas.runs.directory import write_atomic

    with tempfile.TemporaryDirectory() as scratch:
        told = _read(folder, Path(scratch))
        parts = [*_head(told), *_duplicates(told), *_cells(told), *_course(told), *_logits(told), *_diagnoses(told),
                 *_classes(told), *_selections(told), *_made(told)]
    out = folder / "report.html"
    write_atomic(out, html.page(folder.resolve().name, parts).encode(errors="replace"))
    print(f"written    {out}")
    return 0


def _read(folder: Path, scratch: Path) -> Told:
    from dnas.runs.directory import load_genotype, records

    one = index.summary(folder)
    if one.status == "broken":
        raise ValueError(one.note)
    if one.kind not in ("search", "train"):
        kinds = {"select": "a selection; the report of its run shows it", "compare": "a comparison, and has a report.html"}
        raise ValueError(f"{folder} is {kinds[one.kind]}; give the folder of a search or a training")
    config, results, environment = (index.read_json(path) if path.exists() else {} for path in (
        folder / "config.json", folder / "results.json", folder / "environment.json"))
    metrics, timings = ([record for record in records(folder / name) if number(record, "epoch") is not None]
                        for name in ("metrics.jsonl", "timing.jsonl"))
    genotype = load_genotype(folder) if (folder / "genotype.json").exists() else None
    return Told(folder, one, config, results, environment, metrics, timings, genotype, index.load_groups(folder), scratch,
                index.quality_of(folder, config))


def _head(told: Told) -> list[str]:
    """What the run is, how far it has come, and its figures."""
    one = told.one
    begun = "the weights of a supernet" if told.config.get("inherit") else "scratch"
    what = f"Search of {one.space} by {one.method}" if one.kind == "search" else \
        f"Training from {begun} of a network of {one.space}"
    state = {"done": "done", "running": f"running in {one.note}", "interrupted": "interrupted",
             "failed": f"failed ({one.note})"}[one.status]
    intro = f"{what} on {one.data}, seed {one.seed}: {state}, after epoch {one.epoch} of {one.epochs}."
    seconds = [value for record in told.timings if (value := number(record, "seconds")) is not None]
    rates = [value for record in told.timings if (value := number(record, "examples_per_second")) is not None]
    facts = [("test", _judged(told, "test")), ("hold-out", _judged(told, "holdout")),
             ("cell", told.results.get("cell") or _name(told.config)),
             ("size", _size(told.results)),
             ("margin", _spelled(told.results, "margin", "{:.1f} points by which the gate of an edge's first operation "
                                                         "leads that of its second (median)", 100)),
             ("examples", _spelled(told.results, "train_examples", "{:,.0f} trained on")),
             ("time", seconds and f"{_duration(sum(seconds))}, {statistics.median(seconds):.3g} s an epoch (median), "
                                  "without compiling"),
             ("speed", rates and f"{statistics.median(rates):,.0f} examples per second (median)"),
             ("begun", one.date)]
    return [html.paragraph(intro), *_decided(told),
            html.table(["", ""], [[name, text] for name, text in facts if text], text=2)]


def _decided(told: Told) -> list[str]:
    """That the search has decided nothing, where its results say so."""
    largest, uniform = number(told.results, "largest_gate"), number(told.results, "uniform")
    if largest is None or uniform is None:
        return []
    from dnas.engine.margin import undecided, what_decides

    text = undecided(largest, uniform)
    method = told.config.get("method")
    return [html.paragraph(f"{text[0].upper()}{text[1:]}; {what_decides(method if isinstance(method, dict) else {})}.")] \
        if text else []


def _duplicates(told: Told) -> list[str]:
    """The pairs of identical images that the search drew when it began."""
    from dnas.reports.duplicates import FILE, LARGEST

    path = told.folder / FILE
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST:
        return []
    return [html.heading("Identical images in two splits"),
            html.picture(path, "Some of them, each with its split: a split that holds images of another judges too kindly")]


def _judged(told: Told, split: str) -> str:
    """The metrics and the loss on a split, of the results or else of the last epoch; empty where there are none."""
    quality, found, last = told.quality, told.results.get(split), told.records[-1] if told.records else {}
    if number(found, quality.metric) is None:
        found = {name: value for name in last if (value := number(last, name, split)) is not None}
    value, error = number(found, quality.metric), number(found, "standard_error")
    if value is None:
        return ""
    spell = lambda *names: quality.text(number(found, *names))
    spread = "" if error is None else f" ± {100 * error:.2f}" if quality.percent else f" ± {error:.3g}"
    first = spell(quality.metric) + (f" {quality.metric}" if quality.percent else "")
    known = {quality.metric, "loss", "standard_error", "examples", "inherited"}
    others = {name: value for name in found if name not in known and (value := number(found, name)) is not None}
    parts = [first + (spread and f"{spread} by the number of its examples") + _spelled(found, "examples", " ({:,.0f})"),
             *(f"{name} {value:.4g}" for name, value in others.items()),
             _spelled(found, "loss", "loss {:.3f}"), "of the supernet" if told.one.kind == "search" else "",
             "" if number(found, "best", quality.metric) is None else f"the best was {spell('best', quality.metric)}" +
             _spelled(found["best"], "epoch", " after epoch {:.0f}"),
             "" if number(found, "inherited") is None else f"as inherited {spell('inherited')}"]
    return ", ".join(part for part in parts if part)


def _size(results: Mapping[str, Any]) -> str:
    return _spelled(results, "params", "{:,.0f} parameters, ") + _spelled(
        results, "macs", "{:,.0f} multiply-adds per example, as a network of its own")


def _spelled(tree: Any, name: str, form: str, factor: float = 1) -> str:
    value = number(tree, name)
    return "" if value is None else form.format(factor * value)


def _name(config: Mapping[str, Any]) -> str:
    genotype = config.get("genotype")
    return str(genotype.get("name", "")) if isinstance(genotype, dict) else ""


def _duration(seconds: float) -> str:
    from launch.trained import duration

    return duration(seconds)


def _cells(told: Told) -> list[str]:
    from dnas.reports.cells import terminal_cell

    if told.genotype is None:
        return []
    text = [html.code(terminal_cell(told.genotype, told.groups))] if told.groups else []
    return [html.heading("What was found" if told.one.kind == "search" else "The network's cells"),
            _drawn(told, told.genotype, told.folder, "The operation on each edge that is kept"), *text]


def _drawn(told: Told, genotype, folder: Path, caption: str) -> str:
    """A genotype's cells, drawn now if the groups are known, else as they lie in `folder`."""
    from dnas.reports.cells import draw_genotype

    path = folder / "cells.svg"
    if told.groups:
        path = told.scratch / "cells.svg"
        draw_genotype(genotype, told.groups, path)
    return html.picture(path, caption) if path.exists() else html.paragraph(
        f"{caption}: not drawn yet; dnas show {folder} draws it", quiet=True)


def _course(told: Told) -> list[str]:
    """The curves."""
    from dnas.reports.figures import draw_curves

    if not told.records:
        return []
    path = told.scratch / "curves.svg"
    draw_curves(told.records, path)
    quality = told.quality
    says = "a share" if quality.percent else "more is better" if quality.better > 0 else "less is better"
    about = {"search": "Of the supernet: train is what the weights learn from, valid the architecture, holdout neither; "
                       f"loss, and {quality.metric} ({says}).",
             "train": f"Loss, and {quality.metric} ({says}); the training loss has what regularises it in it."}
    return [html.heading("How it went"), html.picture(path, about[told.one.kind])]


def _logits(told: Told) -> list[str]:
    """The logits of every edge over the epochs; as the picture that lies in the run where the groups are not known."""
    from dnas.reports.figures import draw_logits
    from launch.show import history, shares

    title, logits = html.heading("How the logits went"), history(told.folder, told.groups or {})
    if told.groups is None or logits is None:
        path = told.folder / "logits.svg"
        return [title, html.picture(path, "Softmax of each edge's logits, epoch by epoch")] if path.exists() else []
    parts = [title]
    for name, group in told.groups.items():
        if len(group.edges) > DRAWN:
            parts.append(html.paragraph(f"{name} has {len(group.edges)} edges, too many to draw.", quiet=True))
            continue
        path = told.scratch / "logits.svg"
        draw_logits(logits, {name: group}, path, most=4)
        parts.append(html.picture(path, f"{name}: softmax of each edge's logits, epoch by epoch"))
    rows = shares(logits, told.groups)
    return [*parts, html.table(rows[0], rows[1:], text=len(rows[0]))]


def _diagnoses(told: Told) -> list[str]:
    """What --diagnose found, and what it says of a collapse."""
    from dnas.reports.figures import draw_curves

    measured = [record for record in told.records if all(number(record, name) is not None for name in (
        "eigenvalue", "skips", "edges"))]
    if not measured:
        return []
    from dnas.engine.diagnose import collapse

    found = collapse(measured)
    verdict = found.reason if found else f"no sign of a collapse in {len(measured)} " + (
        "diagnosis" if len(measured) == 1 else "diagnoses")
    if told.one.status == "done" and told.one.epoch < told.one.epochs:
        verdict += f"; the search was stopped after epoch {told.one.epoch}"
    path = told.scratch / "diagnoses.svg"
    draw_curves(measured, path, ("eigenvalue", "sharpness", "gap"))
    rows = [[f"{record['epoch']}", *(_spelled(record, name, form) or "\N{EN DASH}"
                                     for name, (_, form) in MEASURED.items())] for record in measured]
    return [html.heading("Diagnoses"), html.paragraph(verdict[0].upper() + verdict[1:] + "."),
            html.picture(path, "Largest eigenvalue of the architecture's Hessian, sharpness of the loss in the weights, "
                                 f"and by how much discretising worsens the supernet's {told.quality.metric} on the "
                                 "hold-out split (gap)"),
            html.table(["epoch", *(title for title, _ in MEASURED.values())], rows)]


def _classes(told: Told) -> list[str]:
    """What the trained network takes for what."""
    if "confusion" not in told.results:
        return []
    import numpy as np

    from dnas.reports import confusion

    try:
        counts = np.array(told.results["confusion"])
    except ValueError:
        counts = np.zeros(0)
    if counts.ndim != 2 or len(set(counts.shape)) > 1 or counts.dtype.kind != "i" or counts.min(initial=0) < 0:
        raise ValueError(f"{told.folder / 'results.json'}: confusion is no square table of counts")
    names = told.results.get("class_names", ())
    if names and not (isinstance(names, list) and len(names) == len(counts) and all(isinstance(n, str) for n in names)):
        raise ValueError(f"{told.folder / 'results.json'}: class_names are not the names of {len(counts)} classes")
    path = told.scratch / "confusion.svg"
    confusion.draw_confusion(counts, path, names)
    return [html.heading("What is taken for what, on the test set"), html.picture(path, "Rows are the true classes"),
            html.table(confusion.HEADER, confusion.rows(counts, names)),
            *(html.paragraph(f"These are {line}.", quiet=True) for line in confusion.left_out(counts))]


def _selections(told: Told) -> list[str]:
    """The choices made afterwards from the same supernet; one that cannot be read is a line."""
    from dnas.reports.comparison import agreement
    from dnas.runs.directory import load_genotype

    rows, pictures, notes = [], [], []
    for folder in sorted(path.parent for path in told.folder.glob("selections/*/config.json")):
        one = index.summary(folder)
        if one.status != "done":
            notes.append(html.paragraph(f"{folder.name}: {one.status}{one.note and f', {one.note}'}", quiet=True))
            continue
        try:
            genotype, cost = load_genotype(folder), index.read_json(folder / "cost.json")
            pictures.append(_drawn(told, genotype, folder, folder.name))
        except ValueError as error:
            notes.append(html.paragraph(f"{folder.name}: broken, {error}", quiet=True))
            continue
        chosen = index.read_json(folder / "config.json")
        options = chosen["selection"] if isinstance(chosen["selection"], dict) else {}
        alike = f"{100 * agreement(genotype, told.genotype):.0f} %" if told.genotype else ""
        rows.append([folder.name, ", ".join(f"{name} {value}" for name, value in options.items()
                                            if name != "name" and value is not None),
                     _spelled(chosen, "epoch", "{:.0f}"), alike, _spelled(cost, "evaluations", "{:,.0f}"),
                     _spelled(cost, "epochs", "{:.0f}"), _spelled(cost, "seconds", "{:.1f}")])
    if not rows and not notes:
        return []
    header = ["selection", "options", "of epoch", "edges as above", "examples forward", "epochs tuned", "seconds"]
    table = [html.table(header, rows, text=2)] if rows else []
    return [html.heading("Chosen afterwards from the same supernet"), *table, *notes, html.grid(pictures)]


def _made(told: Told) -> list[str]:
    """The command, all options, and the versions."""
    from dnas.runs.directory import flatten

    folder = shlex.quote(str(told.folder))
    again = f"dnas search --config {folder}/config.json" if told.one.kind == "search" else f"dnas train {folder}"
    command = told.environment.get("command")
    lines = ([f"{command}", ""] if command else []) + ["# the same again, elsewhere", f"{again} --run OTHER"]
    options = {name: value for name, value in flatten(told.config, ".").items() if not name.startswith("genotype.")}
    spell = lambda value: value if isinstance(value, str) else json.dumps(value)
    versions = {name: value for name, value in told.environment.items() if name != "command"}
    return [html.heading("How it was made"), html.code("\n".join(lines)), html.grid(
        html.table([title, ""], [[name, spell(value)] for name, value in found.items()], text=2)
        for title, found in (("options", options), ("versions and machine", versions)))]
