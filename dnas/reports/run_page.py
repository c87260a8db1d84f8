"""One page about a run: its result, how it went, and the settings to repeat it. It needs no network, and prints well."""

from __future__ import annotations

import json
import shlex
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dnas.fronts.front import load_front
from dnas.reports import duplicates, html
from dnas.reports.cells import draw_genotype, terminal_cell
from dnas.reports.children import children_parts
from dnas.reports.choices import front_parts, options_text
from dnas.reports.comparison import agreement
from dnas.reports.confusion import confusion_parts
from dnas.reports.figures import draw_curves, draw_logits
from dnas.reports.ranking import ranking_parts
from dnas.reports.tables import are_ranks, read_logits, share_rows
from dnas.reports.text import duration
from dnas.runs import index
from dnas.runs.directory import flatten, load_genotype
from dnas.runs.files import read_json, records
from dnas.runs.index import Quality, Summary, number
from dnas.runs.trust import config_digest

DRAWN = 120
"""Most edges whose logits are drawn."""
LARGEST = {".svg": 20_000_000, ".png": duplicates.LARGEST}
"""Bytes up to which a picture that lies in a run is carried in its page."""
MEASURED = {"eigenvalue": ("eigenvalue", "{:.4g}"), "sharpness": ("sharpness", "{:.4g}"), "gap": ("gap", "{:.4f}"),
            "skips": ("skips", "{:.0f}"), "edges": ("of edges", "{:.0f}")}
"""What a diagnosis says, with its title and form."""


class RunContent(NamedTuple):
    """A run as it was read. elastic: whether its search learns no architecture, by its logits. names: genotypes -> their
    notations, none where they are not known. scratch: a folder for pictures on their way into the page."""

    folder: Path
    summary: Summary
    config: dict[str, Any]
    results: dict[str, Any]
    environment: dict[str, Any]
    records: list[dict[str, Any]]
    timings: list[dict[str, Any]]
    genotype: Any
    groups: Any
    quality: Quality
    elastic: bool
    names: Callable[[Sequence[Any]], list[str]]
    scratch: Path

    @property
    def largest(self) -> bool:
        """Whether the genotype is the largest network, chosen by nothing."""
        return self.elastic and "selection" not in self.config


def run_page(folder: Path, names: Callable[[Sequence[Any]], list[str]] = lambda genotypes: []) -> str:
    """The page of the search or the training in `folder`, finished or not, as HTML. Imports nothing that a file names.

    names: genotypes of a front -> their notations, or none.
    Raises ValueError, in one line, for what cannot be read, and for the folder of anything else.
    """
    with tempfile.TemporaryDirectory() as scratch:
        run = _read(folder, names, Path(scratch))
        parts = [part for section in (ELASTIC if run.elastic else SECTIONS) for part in section(run)]
    path = folder.resolve()
    return html.page(f"{path.parent.name}/{path.name}" if path.name.isdigit() else path.name, parts)


def _read(folder: Path, names, scratch: Path) -> RunContent:
    one = index.summary(folder)
    if one.status == "broken":
        raise ValueError(one.note)
    if one.kind not in ("search", "train"):
        kinds = {"select": "a selection; the report of its run shows it", "compare": "a comparison, and has a report.html"}
        raise ValueError(f"{folder} is {kinds[one.kind]}; give the folder of a search or a training")
    config, results, environment = (read_json(path) if path.exists() else {} for path in (
        folder / "config.json", folder / "results.json", folder / "environment.json"))
    metrics, timings = ([record for record in records(folder / name) if number(record, "epoch") is not None]
                        for name in ("metrics.jsonl", "timing.jsonl"))
    genotype = load_genotype(folder) if (folder / "genotype.json").exists() else None
    groups = index.load_groups(folder)
    elastic = one.kind == "search" and bool(groups) and are_ranks(read_logits(folder, groups) or {})
    return RunContent(folder, one, config, results, environment, metrics, timings, genotype, groups,
                      index.quality_of(folder, config), elastic, names, scratch)


def _head(run: RunContent) -> list[str]:
    """What the run is, how far it has come, and its figures."""
    one = run.summary
    begun = "the weights of a supernet" if run.config.get("inherit") else "scratch"
    what = f"Search of {one.space} by {one.method}" if one.kind == "search" else \
        f"Training from {begun} of a network of {one.space}"
    state = {"done": "done", "running": f"running in {one.note}", "interrupted": "interrupted",
             "failed": f"failed ({one.note})"}[one.status]
    intro = f"{what} on {one.data}, seed {one.seed}: {state}, after epoch {one.epoch} of {one.epochs}."
    seconds = [value for record in run.timings if (value := number(record, "seconds")) is not None]
    rates = [value for record in run.timings if (value := number(record, "examples_per_second")) is not None]
    facts = [("test", _judged(run, "test")), ("hold-out", _judged(run, "holdout")),
             ("largest network" if run.largest else "cell", run.results.get("cell") or _name(run.config)),
             ("size", _size(run.results)),
             ("margin", not run.elastic and _spelled(
                 run.results, "margin", "{:.1f} points by which the gate of an edge's first operation leads that of its "
                                        "second (median)", 100)),
             ("examples", _spelled(run.results, "train_examples", "{:,.0f} trained on")),
             ("time", seconds and f"{duration(sum(seconds))}, {statistics.median(seconds):.3g} s an epoch (median), "
                                  "without compiling"),
             ("speed", rates and f"{statistics.median(rates):,.0f} examples per second (median)"),
             ("begun", one.date)]
    return [html.paragraph(intro), *_not_learned(run), *_decided(run),
            html.table(["", ""], [[name, text] for name, text in facts if text], text=2)]


def _decided(run: RunContent) -> list[str]:
    """What chose in the end, or that the search has decided nothing, where its results say so."""
    from dnas.config import chosen_by

    chosen = index.selection_of(run.folder, run.config, run.results)
    if chosen:
        return [html.paragraph(f"Chosen in the end by {chosen_by(chosen)}.")]
    largest, uniform = number(run.results, "largest_gate"), number(run.results, "uniform")
    if largest is None or uniform is None:
        return []
    from dnas.engine.margin import undecided, what_decides

    text = undecided(largest, uniform)
    method = run.config.get("method")
    return [html.paragraph(f"{text[0].upper()}{text[1:]}; {what_decides(method if isinstance(method, dict) else {})}.")] \
        if text else []


def _not_learned(run: RunContent) -> list[str]:
    """That an elastic search learns no architecture, and how to come to one."""
    if not run.elastic:
        return []
    text = "No architecture is learned here: one supernet is trained of which all networks work, small and large. "
    if index.choices(run.folder):
        return [html.paragraph(f"{text}Take one of those below, or choose again by dnas select.")]
    return [html.paragraph(f"{text}This command looks for the front of them, from which one is taken:"),
            html.code(shlex.join(["dnas", "select", str(run.folder), "--selection", "pareto"]))]


def _duplicates(run: RunContent) -> list[str]:
    """The pairs of identical images that the search drew when it began."""
    caption = "Some of them, each with its split: a split that holds images of another judges too kindly"
    picture = _lying(run.folder / duplicates.FILE, caption)
    return [html.heading("Identical images in two splits"), picture] if picture else []


def _lying(path: Path, caption: str) -> str:
    """The picture that lies in a run; empty where there is none. A link is none: the page carries nothing from elsewhere."""
    if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST[path.suffix]:
        return ""
    return html.picture(path, caption)


def _judged(run: RunContent, split: str) -> str:
    """The metrics and the loss on a split, of the results or else of the last epoch; empty where there are none."""
    quality, values, last = run.quality, run.results.get(split), run.records[-1] if run.records else {}
    if number(values, quality.metric) is None:
        values = {name: value for name in last if (value := number(last, name, split)) is not None}
    value, error = number(values, quality.metric), number(values, "standard_error")
    if value is None:
        return ""
    spell = lambda *names: quality.text(number(values, *names))
    spread = "" if error is None else f" ± {100 * error:.2f}" if quality.percent else f" ± {error:.3g}"
    first = spell(quality.metric) + (f" {quality.metric}" if quality.percent else "")
    apart = {quality.metric, "loss", "standard_error", "examples", "inherited"}
    others = {name: value for name in values if name not in apart and (value := number(values, name)) is not None}
    parts = [first + (spread and f"{spread} by the number of its examples") + _spelled(values, "examples", " ({:,.0f})"),
             *(f"{name} {value:.4g}" for name, value in others.items()),
             _spelled(values, "loss", "loss {:.3f}"), _of(run),
             "" if number(values, "best", quality.metric) is None else f"the best was {spell('best', quality.metric)}" +
             _spelled(values["best"], "epoch", " after epoch {:.0f}"),
             "" if number(values, "inherited") is None else f"as inherited {spell('inherited')}"]
    return ", ".join(part for part in parts if part)


def _of(run: RunContent) -> str:
    """What was judged in a search."""
    return "" if run.summary.kind == "train" else "of the largest network" if run.elastic else "of the supernet"


def _size(results: Mapping[str, Any]) -> str:
    return _spelled(results, "params", "{:,.0f} parameters, ") + _spelled(
        results, "macs", "{:,.0f} multiply-adds per example, as a network of its own")


def _spelled(tree: Any, name: str, form: str, factor: float = 1) -> str:
    value = number(tree, name)
    return "" if value is None else form.format(factor * value)


def _name(config: Mapping[str, Any]) -> str:
    genotype = config.get("genotype")
    return str(genotype.get("name", "")) if isinstance(genotype, dict) else ""


def _cells(run: RunContent) -> list[str]:
    if run.genotype is None:
        return []
    text = [html.code(terminal_cell(run.genotype, run.groups))] if run.groups else []
    title = "The network's cells" if run.summary.kind == "train" else "The largest network" if run.largest else "The cells"
    return [html.heading(title),
            _drawn(run, run.genotype, run.folder, "The operation on each edge that is kept"), *text]


def _drawn(run: RunContent, genotype, folder: Path, caption: str) -> str:
    """A genotype's cells, drawn now if the groups are known, else as they lie in `folder`."""
    if run.groups:
        path = run.scratch / "cells.svg"
        draw_genotype(genotype, run.groups, path)
        return html.picture(path, caption)
    return _lying(folder / "cells.svg", caption) or html.paragraph(
        f"{caption}: not drawn yet; dnas show {folder} draws it", quiet=True)


def _curves(run: RunContent) -> list[str]:
    """The curves."""
    if not run.records:
        return []
    path = run.scratch / "curves.svg"
    draw_curves(run.records, path)
    quality = run.quality
    says = "a share" if quality.percent else "more is better" if quality.better > 0 else "less is better"
    about = {"search": "Of the supernet: train is what the weights learn from, valid the architecture, holdout neither; "
                       f"loss, and {quality.metric} ({says}).",
             "elastic": f"Loss, and {quality.metric} ({says}): holdout of the largest network; train and valid of the first "
                        "network of each step, on what weights learn from and on what networks are chosen by.",
             "train": f"Loss, and {quality.metric} ({says}); the training loss has what regularises it in it."}
    return [html.heading("How it went"), html.picture(path, about["elastic" if run.elastic else run.summary.kind])]


def _logits(run: RunContent) -> list[str]:
    """The logits of every edge over the epochs; as the picture that lies in the run where the groups are not known."""
    title, logits = html.heading("How the logits went"), read_logits(run.folder, run.groups or {})
    if run.groups is None or logits is None:
        picture = _lying(run.folder / "logits.svg", "Softmax of each edge's logits, epoch by epoch")
        return [title, picture] if picture else []
    parts = [title]
    for name, group in run.groups.items():
        if len(group.edges) > DRAWN:
            parts.append(html.paragraph(f"{name} has {len(group.edges)} edges, too many to draw.", quiet=True))
            continue
        path = run.scratch / "logits.svg"
        draw_logits(logits, {name: group}, path, most=4)
        parts.append(html.picture(path, f"{name}: softmax of each edge's logits, epoch by epoch"))
    rows = share_rows(logits, run.groups)
    return [*parts, html.table(rows[0], rows[1:], text=len(rows[0]))]


def _diagnoses(run: RunContent) -> list[str]:
    """What --diagnose found, and what it says of a collapse."""
    measured = [record for record in run.records if all(number(record, name) is not None for name in (
        "eigenvalue", "skips", "edges"))]
    if not measured:
        return []
    from dnas.engine.diagnose import collapse

    sign = collapse(measured)
    verdict = sign.reason if sign else f"no sign of a collapse in {len(measured)} " + (
        "diagnosis" if len(measured) == 1 else "diagnoses")
    if run.summary.status == "done" and run.summary.epoch < run.summary.epochs:
        verdict += f"; the search was stopped after epoch {run.summary.epoch}"
    path = run.scratch / "diagnoses.svg"
    draw_curves(measured, path, ("eigenvalue", "sharpness", "gap"))
    rows = [[f"{record['epoch']}", *(_spelled(record, name, form) or "\N{EN DASH}"
                                     for name, (_, form) in MEASURED.items())] for record in measured]
    return [html.heading("Diagnoses"), html.paragraph(verdict[0].upper() + verdict[1:] + "."),
            html.picture(path, "Largest eigenvalue of the architecture's Hessian, sharpness of the loss in the weights, "
                                 f"and by how much discretising worsens the supernet's {run.quality.metric} on the "
                                 "hold-out split (gap)"),
            html.table(["epoch", *(title for title, _ in MEASURED.values())], rows)]


def _classes(run: RunContent) -> list[str]:
    """What the trained network takes for what."""
    return confusion_parts(run.results, run.folder / "results.json", run.scratch)


def _selections(run: RunContent) -> list[str]:
    """The choices made afterwards from the same supernet; one that cannot be read is a line."""
    rows, pictures, notes, fronts = [], [], [], []
    for folder in index.choices(run.folder):
        one = index.summary(folder)
        if one.status != "done":
            notes.append(html.paragraph(f"{folder.name}: {one.status}{one.note and f', {one.note}'}", quiet=True))
            continue
        chosen = read_json(folder / "config.json")
        if chosen.get("config") != config_digest(run.config):
            notes.append(html.paragraph(f"{folder.name}: chosen from another search than this one", quiet=True))
            continue
        try:
            genotype, cost = load_genotype(folder), read_json(folder / "cost.json")
            pictures.append(_drawn(run, genotype, folder, folder.name))
            front = load_front(folder)
        except ValueError as error:
            notes.append(html.paragraph(f"{folder.name}: broken, {error}", quiet=True))
            continue
        if front:
            names = run.names([network.genotype for network in front.networks])
            fronts += front_parts(front, folder, run.folder, run.quality, names, _lying)
        options = chosen["selection"] if isinstance(chosen["selection"], dict) else {}
        alike = f"{100 * agreement(genotype, run.genotype):.0f} %" if run.genotype else ""
        rows.append([folder.name, options_text(options),
                     _spelled(chosen, "epoch", "{:.0f}"), alike, _spelled(cost, "evaluations", "{:,.0f}"),
                     _spelled(cost, "epochs", "{:.0f}"), _spelled(cost, "seconds", "{:.1f}")])
    if not rows and not notes:
        return []
    alike = f"edges as {'below' if run.elastic else 'above'}"
    header = ["selection", "options", "of epoch", alike, "examples forward", "epochs tuned", "seconds"]
    table = [html.table(header, rows, text=2)] if rows else []
    return [html.heading("Chosen afterwards from the same supernet"), *table, *notes, html.grid(pictures), *fronts]


def _rankings(run: RunContent) -> list[str]:
    """How well the supernet ranks the networks of tables."""
    return ranking_parts(run.folder, _lying)


def _settings(run: RunContent) -> list[str]:
    """The command, all options, and the versions."""
    folder = shlex.quote(str(run.folder))
    again = f"dnas search --config {folder}/config.json" if run.summary.kind == "search" else f"dnas train {folder}"
    command = run.environment.get("command")
    lines = ([f"{command}", ""] if command else []) + ["# the same again, elsewhere", f"{again} --run OTHER"]
    options = {name: value for name, value in flatten(run.config, ".").items() if not name.startswith("genotype.")}
    spell = lambda value: value if isinstance(value, str) else json.dumps(value)
    versions = {name: value for name, value in run.environment.items() if name != "command"}
    return [html.heading("How it was made"), html.code("\n".join(lines)), html.grid(
        html.table([title, ""], [[name, spell(value)] for name, value in shown.items()], text=2)
        for title, shown in (("options", options), ("versions and machine", versions)))]


def _children(run: RunContent) -> list[str]:
    """The sub-supernets of a few-shot search."""
    return children_parts(run.results, run.quality, run.folder)


SECTIONS = _head, _duplicates, _cells, _children, _curves, _logits, _diagnoses, _classes, _selections, _rankings, \
    _settings
ELASTIC = _head, _duplicates, _curves, _selections, _cells, _children, _diagnoses, _rankings, _settings
"""The parts of a page, and of an elastic search's, in order: each takes a RunContent and returns pieces of HTML, or none."""
