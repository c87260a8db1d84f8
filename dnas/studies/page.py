"""The page of a study: what can be said, tables, curves, every choice, and what was declared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from dnas import config as configs
from dnas.reports import html
from dnas.reports.comparison import spell
from dnas.reports.figures import FONT, SERIES, draw_dots, saving
from dnas.reports.ranking import BEST, DASH, HEADER, NUMBERS
from dnas.runs.index import short
from dnas.studies.report import Study, spell_interval
from dnas.studies.results import JUDGED, judged, mean_points

CURVES = {"regret": "regret, points", "skips": "edges that carry a skip", "entropy": "entropy of the gates, nats"}
"""What is drawn epoch by epoch, by the field of a point."""


def page(study: Study) -> str:
    """The whole page."""
    title = f"Study {study.folder.name}"
    if not study.judged:
        return html.page(title, [html.paragraph("Nothing is done yet."), *_failures(study), *_declared(study)])
    return html.page(title, [
        *map(html.paragraph, _subject(study)), *map(html.paragraph, study.claims),
        *(part for space in study.spaces for of in (_supernets, _summary, _pictures, _ranks) for part in of(study, space)),
        *_differences(study), *_agreement(study), *_seeds(study), *_failures(study), *_meanings(study), *_declared(study)])


def _subject(study: Study) -> list[str]:
    """What was searched, by what, and on what data, in sentences."""
    said, spaces = study.declared, {}
    for label, _, space, *_ in said["methods"]:
        spaces.setdefault(configs.label(space, "space").replace(space["name"], short(space), 1), []).append(label)
    where = [f"Space {space}" + (f": {', '.join(labels)}." if len(spaces) > 1 else ".") for space, labels in spaces.items()]
    options = ", ".join(f"{key} {value}" for key, value in said["data"].items() if key != "data")
    sizes = ", ".join(f"{count:,} {'hold-out' if name == 'holdout' else name}" for name, count in said["sizes"].items())
    data = ", ".join(Path(name).name for name in said["data"]["data"]) + (f" ({options})" if options else "")
    limit = f", or {said['seconds']:g} seconds" if said["seconds"] else ""
    names = {label.removesuffix(f",{space}") for space, labels in study.spaces.items() for label in labels}
    methods, selections, searches, epochs = (f"{number} {one if number == 1 else more}" for number, one, more in (
        (len(names), "method", "methods"), (len(said["selections"]), "selection", "selections"),
        (len(study.searches), "search", "searches"), (said["epochs"], "epoch", "epochs")))
    within = f" in {len(study.spaces)} spaces" if len(study.spaces) > 1 else ""
    return [f"{methods}{within}, {selections}, {searches} of {epochs}{limit}, each epoch of {said['steps']} steps of "
            f"{said['batch']} examples.", *where, f"Data {data}" + (f": {sizes} examples." if sizes else ".")]


def _summary(study: Study, space: str) -> list[str]:
    parts, shown = [], [row for row in study.rows if row.space == space]
    for kind in (*JUDGED, "gap", "tuned"), ("search", "seconds", "gradients", "params", "macs"):
        names = [name for name in kind if any(name in row.values for row in shown)]
        rows = [[f"{row.method}: {row.selection}", str(len(row.seeds)), *(
            spell(study.metrics[name], row.values.get(name)) for name in names)] for row in shown]
        parts.append(html.table(["method: selection", "seeds", *(study.metrics[name].title for name in names)], rows))
    note = "Means over the seeds ± their standard deviation; one seed shows none."
    title = "Methods and selections" + (f": {space}" if space else "")
    return [html.heading(title), *parts, html.paragraph(note, quiet=True)] if shown else []


def _ranks(study: Study, space: str) -> list[str]:
    here = [each for each in study.ranks if each.space == space]
    names = [name for name in study.judged if any(each.metric == name for each in here)]
    keys = dict.fromkeys((each.method, each.selection) for each in here)
    ranks = {(each.metric, each.method, each.selection): spell_interval(each.rank) for each in here}
    if not keys:
        return []
    seeds = {each.metric: each.seeds for each in here}
    titles = [f"{study.metrics[name].title} ({seeds[name]} seeds)" if name in seeds else study.metrics[name].title
              for name in names]
    return [html.heading("Mean ranks" + (f": {space}" if space else "")),
            html.table(["method", "selection", *titles],
                       [[*key, *(ranks.get((name, *key), DASH) for name in names)] for key in keys], text=2),
            html.paragraph("1 is the best within a seed, of those seeds that all rows have; ties share their rank. In "
                           "brackets the 95 % bootstrap interval over the seeds, too narrow for few of them.", quiet=True)]


def _supernets(study: Study, space: str) -> list[str]:
    """How well the supernets of a space rank networks of the table."""
    ranks, first = [each for each in study.supernet_ranks if each.method in study.spaces[space]], study.spaces[space][0]
    if not ranks:
        return []
    numbers = {(method, score): study.supernet_means.get((method, score), {}) for method in study.spaces[space]
               for score in dict.fromkeys(each.score for each in ranks)}
    means = {key: row for key, row in numbers.items() if row or key[0] in study.failed}
    gaps = {(each.first, each.within): study.spell_difference(each) for each in study.supernet_differences}
    seeds = lambda key: str(sum((each.method, each.score) == key for each in ranks))
    spelled = lambda row, names: [spell_interval(row[name]) if name in row else DASH for name in names]
    rows = [[": ".join(key), seeds(key), *spelled(row, NUMBERS[:1]), gaps.get(key, DASH), *spelled(row, NUMBERS[1:])]
            for key, row in means.items()]
    singles = [[each.method, each.score, str(each.seed), *(
        f"{each.numbers[name]:.3f}" if name in each.numbers else DASH for name in NUMBERS), f"{each.seconds:.1f}"]
        for each in ranks]
    return [html.heading("How supernets rank networks" + (f": {space}" if space else "")),
            html.paragraph(f"Rank correlations of scores in the supernet with the truth, over {study.ranked}."),
            html.table(["method: score", "seeds", HEADER[0], f"{HEADER[0]} \N{MINUS SIGN} {first}", *HEADER[1:]], rows),
            html.paragraph("Means over the seeds with Student's 95 % interval, cut at what there can be: -1 and 1 of "
                           "correlations, -2 and 2 of their difference to the first method, which is over the seeds that "
                           "both have, 0 and 100 of percentages. Kendall is tau-b; Spearman is given as well within the "
                           f"best tenth and quarter by the truth. The {BEST} best are those by the supernet, and the regret "
                           "is that of the best of them to the best of the table.", quiet=True),
            html.table(["method", "score", "seed", *HEADER, "seconds"], singles, text=2)]


def _differences(study: Study) -> list[str]:
    differences = [*study.differences, *study.supernet_differences]
    if not differences:
        return []
    rows = [[f"{each.first} \N{MINUS SIGN} {each.second}", each.within, study.metrics[each.metric].title,
             study.spell_difference(each), str(each.pairs), f"{each.p:.3g}", f"{each.corrected:.3g}"]
            for each in differences]
    return [html.heading("Differences by seed"),
            html.table(["difference", "within", "of", "mean, 95 % interval", "seeds", "p", "corrected p"], rows, text=3),
            html.paragraph("Methods against the first, selections and scores against the first. Intervals are Student's t, "
                           "cut at the largest difference there can be; p is that of the two-sided sign-flip test, "
                           "corrected by Holm for all differences of its metric in which at least two seeds differ.",
                           quiet=True)]


def _agreement(study: Study) -> list[str]:
    if not study.agreement:
        return []
    return [html.heading("Agreement of seeds"),
            html.table(["method", "selection", "edges in common"],
                       [[*key, f"{100 * share:.0f} %"] for key, share in study.agreement.items()], text=2),
            html.paragraph("The share of edges with the same operation, mean over pairs of seeds.", quiet=True)]


def _seeds(study: Study) -> list[str]:
    rows = [[f"{each.method}: {each.selection}", each.notation, str(each.seed), *(
        study.metrics[name].text(each.values[name]) if name in each.values else DASH for name in study.judged)]
        for each in study.entries]
    header = ["method: selection", "genotype", "seed", *(study.metrics[name].title for name in study.judged)]
    return [html.heading("Every choice"), html.table(header, rows, text=2)]


def _failures(study: Study) -> list[str]:
    rows = [[label, str(seed), error] for (label, seed), error in study.failures.items()]
    rows += [[label, str(seed), "it has not ended"] for label, seed in study.missing]
    return [html.heading("Failed or missing"), html.table(["method", "seed", "why"], rows, text=3)] if rows else []


def _meanings(study: Study) -> list[str]:
    names = [name for name in study.metrics if any(name in row.values for row in study.rows)]
    return [html.heading("Columns"), html.table(
        ["column", "meaning"], [[study.metrics[name].title, study.metrics[name].meaning] for name in names], text=2)]


def _declared(study: Study) -> list[str]:
    said = {**study.declared, "methods": {label: {"method": method, "space": space}
                                          for label, method, space, *_ in study.declared["methods"]}}
    return [html.heading("Declared"), html.code(json.dumps(said, indent=1))]


def _pictures(study: Study, space: str) -> list[str]:
    shown = [row for row in study.rows if row.space == space]
    points = [point for point in study.points if point.method in study.spaces[space]]
    if not shown:
        return []
    with tempfile.TemporaryDirectory() as scratch:
        dots, lines = Path(scratch) / "dots.svg", Path(scratch) / "curves.svg"
        draw_dots({study.metrics[name].title: {
            f"{row.method}: {row.selection}": [values[name] for values in row.seeds.values() if name in values]
            for row in shown} for name in judged(shown)[:3]}, dots)
        parts = [html.picture(dots, "Dots are seeds, a bar is their mean, a line one standard deviation.")]
        curves = {what: mean_points(points, what) for what in CURVES}
        if any(curves.values()):
            draw_epochs({CURVES[what]: rows for what, rows in curves.items() if rows}, lines)
            parts.append(html.picture(lines, "Epoch by epoch, means over the seeds, by the method's own rule of "
                                             "choosing; regret is to the best cell of the table, over seconds."))
    return parts


def draw_epochs(panels: Mapping[str, Mapping[str, Sequence[tuple[int, float, float]]]], path: str | Path) -> None:
    """Writes a panel a title with a curve a method through (epoch, seconds, value): regret over seconds, others over
    epochs. Only the axis of entropy, of which small differences matter, need not begin at 0."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with saving(path) as save:
        figure = Figure(figsize=(3.4 * len(panels) + 0.4, 2.8), layout="constrained")
        for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
            over = title == CURVES["regret"]
            for number, (method, rows) in enumerate(curves.items()):
                style = "-" if number < len(SERIES) else "--"
                axes.plot([row[1 if over else 0] for row in rows], [row[2] for row in rows], style, linewidth=1.3,
                          label=method, color=SERIES[number % len(SERIES)], marker="o", markersize=2.5)
            axes.set_title(title, size=FONT + 1)
            axes.set_xlabel("seconds" if over else "epoch", size=FONT)
            axes.tick_params(labelsize=FONT - 1)
            axes.ticklabel_format(useOffset=False)
            if not over:
                axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
            if title != CURVES["entropy"]:
                axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
            axes.legend(frameon=False, fontsize=FONT - 1)
        save(figure)
