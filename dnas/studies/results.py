"""The results of a study as numbers: a row for each method and selection, ranks, differences, curves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dnas.reports.comparison import Entry, Metric, agreement, metrics_of
from dnas.reports.ranking import NUMBERS, TOP, numbers_of, rank_statistics
from dnas.runs.index import Quality
from dnas.selection.scoring import NetworkScores
from dnas.studies import statistics
from dnas.studies.statistics import Interval
from dnas.studies.truth import Truth
from dnas.types import Genotype

JUDGED = "table", "valid", "trained", "discrete"
"""Metrics of quality, the most telling first."""
RANGES = dict.fromkeys(NUMBERS, (0.0, 100.0)) | dict.fromkeys(("kendall", "spearman", *TOP), (-1.0, 1.0))
"""What the numbers of a ranking can be: correlations, and percentages of the truth."""


class Row(NamedTuple):
    """A method and selection over its seeds. values: {metric: (mean, standard deviation or None for one seed, seeds)}.
    space: the label of the space, "" in a study of one."""

    method: str
    selection: str
    seeds: dict[int, dict[str, float]]
    values: dict[str, tuple[float, float | None, int]]
    space: str = ""


class Rank(NamedTuple):
    """The mean rank of a method and selection among all of a space, over the seeds that all have, with a bootstrap
    interval."""

    metric: str
    method: str
    selection: str
    rank: Interval
    seeds: int
    space: str = ""


class Paired(NamedTuple):
    """Mean of `first` minus `second` over the seeds that both have, with Student's 95 % interval. within: the selection (of
    two methods) or the method (of two selections). p: of the sign-flip test; corrected: by Holm for all of a metric that are
    counted: those in which at least two seeds differ. Of the others p is 1 whatever the signs, so they need no correction
    (Tarone, Biometrics 46, 1990)."""

    metric: str
    within: str
    first: str
    second: str
    difference: Interval
    pairs: int
    p: float
    corrected: float = 1.0
    space: str = ""
    counted: bool = True


class SupernetRank(NamedTuple):
    """How well the supernet of a search ranks the networks of the table by `score`, the task's metric or "loss". numbers: by
    the names of `dnas.reports.ranking.NUMBERS`; seconds: of scoring them."""

    method: str
    seed: int
    score: str
    numbers: dict[str, float]
    seconds: float


class Point(NamedTuple):
    """A search after an epoch. regret: points below the best of the table, None without one."""

    method: str
    seed: int
    epoch: int
    seconds: float
    entropy: float | None
    skips: int | None
    edges: int | None
    regret: float | None


def study_metrics(quality: Mapping[str, Any], truth: Truth | None) -> dict[str, Metric]:
    """The columns of a study, in their order."""
    usual = metrics_of(Quality(quality["name"], quality["better"], quality["percent"]))
    table = {"table": usual["table"]._replace(meaning=f"{truth.truth} of the table: a report, not to choose by"),
             "valid": Metric("valid %", f"{truth.choose} of the table", 2, 1)} if truth else {}
    of = "" if truth is None or truth.ranked is None else \
        f"of the supernet's {quality['name']} with {truth.truth}, over {len(truth.ranked):,} networks"
    ranks = {name: Metric(name.title(), f"{symbol} {of}", 3, 0) for name, symbol in (
        ("kendall", "tau-b"), ("spearman", "rho"))} if of else {}
    cost = {"search": Metric("search s", "seconds of the search, without compiling", 1, -1),
            "seconds": usual["seconds"]._replace(title="select s", meaning="seconds of the selection, compiling included"),
            "gradients": Metric("gradients", "evaluations of a gradient of the supernet by the search, at most: those of a "
                                "traced step times the steps; of a step that is sometimes cheaper, the most costly", 0, -1)}
    usual = {name: usual[name] for name in ("trained", "discrete", "gap", "tuned", "params", "macs")}
    return {**table, **usual, **ranks, **cost}


def entries_of(searches: Sequence[Mapping[str, Any]], truth: Truth | None, ranks: Sequence[SupernetRank] = (),
               metric: str = "") -> list[Entry]:
    """An entry for each choice from each search, with the rank correlations of its supernet's `metric`."""
    rows, ranked = [], {(each.method, each.seed): each.numbers for each in ranks if each.score == metric}
    for search in searches:
        for name, choice in search["selections"].items():
            if "genotype" in choice:
                genotype = Genotype.from_json(choice["genotype"])
                values = {key: value for key, value in choice["values"].items() if value is not None}
                if search.get("gradients") is not None:
                    values["gradients"] = search["gradients"]
                numbers = ranked.get((search["label"], search["seed"]), {})
                values |= {name: numbers[name] for name in ("kendall", "spearman") if name in numbers}
                values |= {"search": search["seconds"], **(truth.values(genotype) if truth else {})}
                rows.append(Entry(f"{search['label']}/{search['seed']}", search["label"], search["seed"], name, genotype,
                                  choice["notation"], values))
    return rows


def rows_of(entries: Sequence[Entry], metrics: Mapping[str, Metric], spaces: Mapping[str, Sequence[str]]) -> list[Row]:
    """A row for each method and selection, in the order of their first entries. Deviations have n - 1 below.

    spaces: the labels of the methods in each space."""
    of = {method: space for space, methods in spaces.items() for method in methods}
    rows = []
    for method, selection in dict.fromkeys((each.method, each.selection) for each in entries):
        seeds = {each.seed: dict(each.values) for each in entries if (each.method, each.selection) == (method, selection)}
        values = {}
        for metric in metrics:
            numbers = [row[metric] for row in seeds.values() if metric in row]
            if numbers:
                spread = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
                values[metric] = float(np.mean(numbers)), spread, len(numbers)
        rows.append(Row(method, selection, seeds, values, of.get(method, "")))
    return rows


def judged(rows: Sequence[Row]) -> list[str]:
    """The metrics of quality that any row has."""
    return [metric for metric in JUDGED if any(metric in row.values for row in rows)]


def ranks_of(rows: Sequence[Row], metric: str, better: int) -> list[Rank]:
    """The ranks of the rows of a space that have the metric, over the seeds that all of those have; [] where there are
    none."""
    rows = [row for row in rows if metric in row.values]
    each = [{seed for seed, values in row.seeds.items() if metric in values} for row in rows]
    seeds = sorted(set.intersection(*each)) if each else []
    if not seeds or len(rows) < 2:
        return []
    values = statistics.ranks(np.array([[row.seeds[seed][metric] for row in rows] for seed in seeds]), better)
    return [Rank(metric, row.method, row.selection, statistics.bootstrap(values[:, column]), len(seeds), row.space)
            for column, row in enumerate(rows)]


def paired_of(rows: Sequence[Row], metric: str, spaces: Mapping[str, Sequence[str]],
              selections: Sequence[str], reach: float = math.inf) -> list[Paired]:
    """The comparisons of a study by seed, p corrected for all of them. spaces: as for `rows_of`. reach: the largest
    difference there can be, at which intervals are cut."""
    table = {(row.method, row.selection): {seed: values[metric] for seed, values in row.seeds.items() if metric in values}
             for row in rows}
    tests = []
    for space, within, first, second, one, other in statistics.comparisons(spaces, selections):
        both = sorted(table.get(one, {}).keys() & table.get(other, {}).keys())
        if both:
            gaps = [table[one][seed] - table[other][seed] for seed in both]
            mean = statistics.student(np.array(gaps)).within(-reach, reach)
            tests.append(Paired(metric, within, first, second, mean, len(both), statistics.sign_flip(gaps), space=space,
                                counted=sum(map(bool, gaps)) > 1))
    corrected = iter(statistics.holm([each.p for each in tests if each.counted]))
    return [each._replace(corrected=next(corrected)) if each.counted else each for each in tests]


def supernet_ranks(scored: Mapping[tuple[str, int], NetworkScores], truth: Truth,
                   quality: Mapping[str, Any]) -> list[SupernetRank]:
    """How well each supernet ranks. scored: of each search, the scores of the networks `truth.ranked` in their order."""
    values = truth.table.columns[truth.truth]
    signs = {quality["name"]: quality["better"], "loss": -1}
    return [SupernetRank(method, seed, score, numbers_of(rank_statistics(
        sign * scores.values[score], values[truth.ranked], among=values[~np.isnan(values)], resamples=0)), scores.seconds)
        for (method, seed), scores in scored.items() for score, sign in signs.items()]


def mean_ranks(ranks: Sequence[SupernetRank]) -> dict[tuple[str, str], dict[str, Interval]]:
    """{(method, score): {each number: mean over the seeds that know it, with Student's interval, cut at RANGES}}."""
    means = {}
    for key in dict.fromkeys((each.method, each.score) for each in ranks):
        rows = [each.numbers for each in ranks if (each.method, each.score) == key]
        means[key] = {name: statistics.student(np.array([row[name] for row in rows if name in row])).within(*RANGES[name])
                      for name in NUMBERS if any(name in row for row in rows)}
    return means


def paired_ranks(ranks: Sequence[SupernetRank], spaces: Mapping[str, Sequence[str]], number: str) -> list[Paired]:
    """The comparisons of supernets by seed in a number of their ranking: methods against the first by each score, scores
    against the first of each method. spaces: as for `rows_of`."""
    keys, scores = (list(dict.fromkeys(each)) for each in (((each.method, each.score) for each in ranks),
                                                           (each.score for each in ranks)))
    rows = [Row(*key, {each.seed: each.numbers for each in ranks if (each.method, each.score) == key}, {}) for key in keys]
    low, high = RANGES[number]
    return paired_of(rows, number, spaces, scores, high - low)


def points_of(searches: Sequence[Mapping[str, Any]], truth: Truth | None) -> list[Point]:
    """Every search after every epoch, by the method's own rule of choosing."""
    points = []
    for search in searches:
        for each in search["epochs"]:
            regret = truth.regret(Genotype.from_json(each["genotype"])) if truth and each["genotype"] else None
            points.append(Point(search["label"], search["seed"], each["epoch"], each["seconds"], each["entropy"],
                                each["skips"], each["edges"], regret))
    return points


def agreements_of(entries: Sequence[Entry]) -> dict[tuple[str, str], float]:
    """For each method and selection of several seeds, the share of edges that two seeds have in common, mean over pairs."""
    shares = {}
    for key in dict.fromkeys((each.method, each.selection) for each in entries):
        genotypes = [each.genotype for each in entries if (each.method, each.selection) == key]
        if len(genotypes) > 1:
            shares[key] = float(np.mean([agreement(*pair) for pair in itertools.combinations(genotypes, 2)]))
    return shares


def mean_points(points: Sequence[Point], what: str) -> dict[str, list[tuple[int, float, float]]]:
    """{method: [(epoch, mean seconds, mean of `what`)]} over the seeds that know it at that epoch."""
    curves: dict[str, list] = {}
    for method in dict.fromkeys(each.method for each in points):
        for epoch in sorted({each.epoch for each in points if each.method == method}):
            here = [each for each in points if (each.method, each.epoch) == (method, epoch)
                    and getattr(each, what) is not None]
            if here:
                curves.setdefault(method, []).append((epoch, float(np.mean([each.seconds for each in here])),
                                                      float(np.mean([getattr(each, what) for each in here]))))
    return curves
