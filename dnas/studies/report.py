"""The report of a study: a text for a terminal, CSV, JSON and a page."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import itertools
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnas.reports.comparison import Entry, Metric, spell
from dnas.reports.ranking import BEST, DASH
from dnas.reports.text import columns
from dnas.runs.files import as_json, read_json, write_atomic, write_json
from dnas.runs.study_folder import entry_file, failures
from dnas.selection.scoring import NetworkScores, read_scores
from dnas.studies import claims, results
from dnas.studies.folder import declared
from dnas.studies.plan import methods_in_spaces
from dnas.studies.results import Paired, Point, Rank, Row, SupernetRank
from dnas.studies.statistics import Interval
from dnas.studies.truth import Truth, load_truth

WIDTH = 80
"""Columns of the text."""
LONGEST = 18
"""Letters of a method's label and of a selection's name in the text."""


@dataclass(frozen=True, eq=False)
class Study:
    """A study as far as it is done. `str` of it is a text for a terminal.

    declared: all that is declared or was begun, methods as in a plan. searches: what is known of each search
    that ended, with the choices from it. failures: {(method, seed): why it did not end}, of those that are declared now.
    truth: the table, if there is one. scored: of {(method, seed)} the scores of the networks that supernets rank.
    """

    folder: Path
    declared: Mapping[str, Any]
    searches: Sequence[Mapping[str, Any]]
    failures: Mapping[tuple[str, int], str]
    truth: Truth | None
    scored: Mapping[tuple[str, int], NetworkScores] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def metrics(self) -> dict[str, Metric]:
        """The columns, by the names of values."""
        return results.study_metrics(self.declared["quality"], self.truth)

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """A row for each choice from each search: genotype and values."""
        return results.entries_of(self.searches, self.truth, self.supernet_ranks, self.declared["quality"]["name"])

    @functools.cached_property
    def rows(self) -> list[Row]:
        """For each method and selection the values of each seed, their means and deviations; of `failed` methods none."""
        rows, order = results.rows_of(self.entries, self.metrics, self.spaces), [*itertools.chain(*self.spaces.values())]
        rows += [Row(method, selection, {}, {}, space) for space, methods in self.spaces.items() for method in methods
                 if method in self.failed for selection in self.declared["selections"]]
        return sorted(rows, key=lambda row: order.index(row.method))

    @functools.cached_property
    def spaces(self) -> dict[str, list[str]]:
        """The labels of the methods in each space, by its label, which is "" in a study of one."""
        return methods_in_spaces(self.declared["methods"])

    @property
    def judged(self) -> list[str]:
        """The metrics of quality that are known, the most telling first."""
        return results.judged(self.rows)

    @functools.cached_property
    def ranks(self) -> list[Rank]:
        """Mean ranks by each metric of quality."""
        return [rank for name in self.judged for space in self.spaces for rank in results.ranks_of(
            [row for row in self.rows if row.space == space], name, self.metrics[name].better)]

    @functools.cached_property
    def differences(self) -> list[Paired]:
        """Methods against the first, and selections against the first, by each metric of quality."""
        percent = lambda name: name in ("table", "valid") or self.declared["quality"]["percent"]
        return [pair for name in self.judged for pair in results.paired_of(
            self.rows, name, self.spaces, list(self.declared["selections"]), 100.0 if percent(name) else math.inf)]

    @functools.cached_property
    def supernet_ranks(self) -> list[SupernetRank]:
        """How well the supernet of each search ranks networks of the table, where the study asks for that."""
        return results.supernet_ranks(self.scored, self.truth, self.declared["quality"]) if self.truth else []

    @functools.cached_property
    def supernet_means(self) -> dict[tuple[str, str], dict[str, Interval]]:
        """The same of each method and score, means over the seeds."""
        return results.mean_ranks(self.supernet_ranks)

    @functools.cached_property
    def supernet_differences(self) -> list[Paired]:
        """Kendall's tau of methods against the first by each score, and of scores against the first, over the same seeds."""
        return results.paired_ranks(self.supernet_ranks, self.spaces, "kendall")

    @property
    def ranked(self) -> str:
        """Of which networks that is, in words."""
        return f"{len(self.truth.ranked):,} networks with {self.truth.truth}"

    @functools.cached_property
    def points(self) -> list[Point]:
        """Every search after every epoch: regret, skips, entropy."""
        return results.points_of(self.searches, self.truth)

    @functools.cached_property
    def agreement(self) -> dict[tuple[str, str], float]:
        """{(method, selection): share of the edges that two seeds have in common}."""
        return results.agreements_of(self.entries)

    @functools.cached_property
    def claims(self) -> list[str]:
        """Sentences that the numbers support: by the most telling metric, and by the one to choose by."""
        selections, lines = list(self.declared["selections"]), []
        first = [results.judged([row for row in self.rows if row.space == space])[:1] for space in self.spaces]
        for name in dict.fromkeys([*(name for names in first for name in names), *(
                name for name in self.judged if name == "valid")]):
            of = lambda rows, name=name: [each for each in rows if each.metric == name]
            lines += claims.of_metric(self.metrics[name], of(self.differences), of(self.ranks), selections)
        return [*lines, *claims.collapsed(self.points)]

    @property
    def missing(self) -> list[tuple[str, int]]:
        """Methods and seeds that are declared now, have no entry yet and did not fail."""
        there = {(each["label"], each["seed"]) for each in self.searches} | self.failures.keys()
        return [key for key in _latest(self.declared) if key not in there]

    @property
    def failed(self) -> set[str]:
        """Methods of which a search failed and none ended."""
        return {label for label, _ in self.failures} - {each["label"] for each in self.searches}

    def spell_difference(self, pair: Paired) -> str:
        """A mean difference with its interval."""
        return spell_interval(pair.difference, "+.4g" if self.metrics[pair.metric].digits is None else "+.2f")

    def to_csv(self) -> str:
        """A line for each choice from each search."""
        text, names = io.StringIO(), [name for name in self.metrics if any(name in each.values for each in self.entries)]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["method", "selection", "seed", *names, "genotype"])
        for each in self.entries:
            writer.writerow([each.method, each.selection, each.seed, *(each.values.get(name, "") for name in names),
                             each.notation])
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """All of the report as JSON knows it."""
        plain = lambda rows, part: [{**each._asdict(), part: getattr(each, part)._asdict()} for each in rows]
        spread = lambda row: {name: {"mean": mean, "std": std, "seeds": seeds}
                              for name, (mean, std, seeds) in row.values.items()}
        table = self.truth and {"file": Path(self.truth.table.path).name, "truth": self.truth.truth,
                                "choose": self.truth.choose, **{name: self.declared["table"].get(name) for name in (
                                    "rank", "networks", "examples")}}
        return as_json({
            "declared": {**self.declared, "table": table},
            "metrics": {name: metric._asdict() for name, metric in self.metrics.items()},
            "entries": [{**each._asdict(), "genotype": json.loads(each.genotype.to_json())} for each in self.entries],
            "summary": [{"method": row.method, "selection": row.selection, **spread(row)} for row in self.rows],
            "ranks": plain(self.ranks, "rank"), "differences": plain(self.differences, "difference"),
            "points": [each._asdict() for each in self.points],
            "supernet_ranks": [each._asdict() for each in self.supernet_ranks],
            "supernet_means": [{"method": method, "score": score, **{name: mean._asdict() for name, mean in means.items()}}
                               for (method, score), means in self.supernet_means.items()],
            "supernet_differences": plain(self.supernet_differences, "difference"),
            "agreement": [{"method": method, "selection": selection, "share": share}
                          for (method, selection), share in self.agreement.items()],
            "claims": self.claims,
            "unsuitable": [{"method": each["label"], "seed": each["seed"], "selection": name, "why": choice["unsuitable"]}
                           for each in self.searches for name, choice in each["selections"].items()
                           if "unsuitable" in choice],
            "failures": [{"method": label, "seed": seed, "error": error} for (label, seed), error in self.failures.items()]})

    def to_html(self) -> str:
        """A page that needs no network."""
        from dnas.studies.page import page

        return page(self)

    def write(self, folder: str | Path) -> None:
        """Writes report.html, report.json and study.csv into a folder. Raises RunWriteError where the disk refuses."""
        folder = Path(folder).expanduser()
        write_atomic(folder / "report.html", self.to_html().encode(errors="replace"))
        write_atomic(folder / "study.csv", self.to_csv())
        write_json(folder / "report.json", self.to_json())

    def __str__(self) -> str:
        return _text(self)

    def __repr__(self) -> str:
        return f"<study in {self.folder}: {len(self.searches)} searches, {len(self.entries)} choices>"


def read_study(folder: Path) -> Study:
    """The study in a folder as far as it is done. Loads no run. Raises ValueError where there is none."""
    said = declared(folder)
    searches = []
    for label, *_ in said["methods"]:
        seeds = sorted(int(file.stem) for file in (folder / "entries" / label).glob("*.json") if file.stem.isdigit())
        searches += [_entry(entry_file(folder, label, seed), list(said["selections"])) for seed in seeds]
    latest = set(_latest(said))
    failed = {key: error for key, error in failures(folder).items() if key in latest}
    truth = load_truth(said["table"])
    return Study(folder, said, searches, failed, truth, _scored(folder, searches, truth))


def _scored(folder: Path, searches: Sequence[Mapping[str, Any]],
            truth: Truth | None) -> dict[tuple[str, int], NetworkScores]:
    """The scores of the networks that are ranked, of each search that has all of them."""
    if truth is None or truth.ranked is None:
        return {}
    found = {}
    for search in searches:
        file = entry_file(folder, search["label"], search["seed"]).with_suffix(".npz")
        scores = read_scores(file).of(truth.table.ops[truth.ranked]) if file.exists() else None
        if scores:
            found[search["label"], search["seed"]] = scores
    return found


def _entry(file: Path, selections: Sequence[str]) -> dict[str, Any]:
    """What is known of a search, its choices in the order of `selections`. Raises ValueError for the file of something
    else."""
    entry = read_json(file)
    missing = [key for key in ("label", "seed", "seconds", "epochs", "selections") if key not in entry]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}; remove it, and `dnas study` writes it anew")
    return entry | {"selections": {name: entry["selections"][name] for name in selections if name in entry["selections"]}}


def _latest(said: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The methods and seeds that are declared now, without those that were before."""
    return [(label, seed) for label in said["latest"]["methods"] for seed in said["latest"]["seeds"]]


def spell_interval(interval: Interval, form: str = ".2f") -> str:
    """A mean with its interval, "1.50 [1.00, 2.00]"."""
    between = "" if interval.low is None else f" [{interval.low:{form}}, {interval.high:{form}}]"
    return f"{interval.mean:{form}}{between}"


def shortened(text: str, most: int = LONGEST) -> str:
    """A text of at most so many letters."""
    return text if len(text) <= most else f"{text[:most - 3]}..."


def _text(study: Study) -> str:
    parts = [part for space in study.spaces for part in _text_of(study, space)]
    parts += [textwrap.fill(each, WIDTH) for each in study.claims]
    if study.missing:
        parts.append(f"missing: {len(study.missing)} searches that were declared have not ended")
    parts += [f"failed: {label}, seed {seed}: {error}" for (label, seed), error in study.failures.items()]
    lines = "\n\n".join(parts).splitlines() or ["nothing is done yet"]
    return "\n".join(piece for line in lines for piece in ([line] if len(line) <= WIDTH else textwrap.wrap(
        line, WIDTH, subsequent_indent="    ", break_on_hyphens=False)))


def _text_of(study: Study, space: str) -> list[str]:
    """Tables of a space, the ranking by its supernets first, then by its most telling metric; [] while it has no rows."""
    rows = [row for row in study.rows if row.space == space]
    judged, method_of = results.judged(rows), lambda row: shortened(row.method.removesuffix(f",{space}"))
    if not judged:
        return []
    metric, ranked = study.metrics[judged[0]], {
        (each.method, each.selection): each for each in study.ranks if (each.metric, each.space) == (judged[0], space)}
    table = [["method", "selection", metric.title, "rank, 95 %", "s"]]
    for row in rows:
        rank = ranked.get((row.method, row.selection))
        seconds = sum(row.values[each][0] for each in ("search", "seconds") if each in row.values)
        table.append([method_of(row), shortened(row.selection, 14), spell(metric, row.values.get(judged[0])),
                      spell_interval(rank.rank, ".1f") if rank else DASH, f"{seconds:,.1f}" if row.values else DASH])
    parts = [*([f"space {space}"] if space else []), *_supernets(study, space),
             f"{metric.title}: {metric.meaning}", columns(table, left=2)]
    parts += ["s: seconds of the search without compiling, and of the selection with it"]
    fewer = [rank.seeds for rank in ranked.values() if rank.seeds < max(len(row.seeds) for row in rows)]
    parts += [f"ranks are over the {fewer[0]} seeds that all rows have"] if fewer else []
    for name in judged[1:]:
        other = study.metrics[name]
        parts += [f"{other.title}: {other.meaning}", columns([
            [method_of(row), shortened(row.selection, 14), spell(other, row.values.get(name))] for row in rows], left=2)]
    parts += [f"each seed, {metric.title}", "\n".join(
        f"{method_of(row):<{LONGEST}}  {shortened(row.selection, 14):<14}  " + (", ".join(
            f"{seed}: {metric.text(values[judged[0]])}" for seed, values in sorted(row.seeds.items())
            if judged[0] in values) or DASH) for row in rows)]
    pairs = [each for each in study.differences if (each.metric, each.space) == (judged[0], space)]
    short = lambda text: shortened(text.removesuffix(f",{space}"), 14)
    if pairs:
        parts += ["differences by seed, with 95 % intervals (t) and p of a sign-flip test, corrected (Holm)", columns(
            [["difference", "within", "mean", "p"], *(
                [f"{short(each.first)} \N{MINUS SIGN} {short(each.second)}", short(each.within),
                 study.spell_difference(each), f"{each.corrected:.2g}"] for each in pairs)], left=2)]
    return parts


def _supernets(study: Study, space: str) -> list[str]:
    """How well the supernets of a space rank networks, by each score, and how methods differ; [] where none was asked."""
    ranks = [each for each in study.supernet_ranks if each.method in study.spaces[space]]
    if not ranks:
        return []
    short, (first, *others) = lambda method: shortened(method.removesuffix(f",{space}")), study.spaces[space]
    scores, seeds = dict.fromkeys(each.score for each in ranks), {each.method: set() for each in ranks}
    for each in ranks:
        seeds[each.method].add(each.seed)
    parts = [f"how supernets rank {study.ranked}: Kendall's tau and Spearman's rho with 95 % intervals over the seeds (t, "
             f"cut at -1 and 1), rho within the best tenth, and the truth of the {BEST} best by the supernet"]
    for score in scores:
        rows = [["by " + score, "Kendall", "Spearman", "tenth", f"{BEST} best"]]
        for method in (each for each in study.spaces[space] if each in seeds or each in study.failed):
            means = study.supernet_means.get((method, score), {})
            whole = (spell_interval(means[name]) if name in means else DASH for name in ("kendall", "spearman"))
            top = (f"{means[name].mean:.2f}" if name in means else DASH for name in ("tenth", "mean"))
            rows.append([short(method), *whole, *top])
        parts.append(columns(rows, left=1))
    pairs = {(each.first, each.within): study.spell_difference(each) for each in study.supernet_differences}
    rows = [[short(method), *(pairs.get((method, score), DASH) for score in scores)] for method in others
            if method in study.failed or any((method, score) in pairs for score in scores)]
    if pairs.keys() & set(itertools.product(others, scores)):
        parts += [f"Kendall's tau \N{MINUS SIGN} that of {short(first)} over the same seeds, with 95 % intervals (t, cut at "
                  "-2 and 2)", columns([["", *(f"by {score}" for score in scores)], *rows], left=1)]
    fewer = [f"{short(method)} ({len(some)})" for method, some in seeds.items() if len(some) < max(map(len, seeds.values()))]
    return [*parts, *([f"over fewer seeds than the others: {', '.join(fewer)}"] if fewer else [])]
