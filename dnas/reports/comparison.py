"""Statistics of a comparison: several runs, several selections on each, and how sure one can be of a difference."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dnas.runs.index import Quality
from dnas.selection.types import TRIED
from dnas.types import Genotype, Group


class Metric(NamedTuple):
    """A column of the comparison. digits: shown after the point, None for four digits in all; better: +1 if more is better,
    -1 if less, 0 neither."""

    title: str
    meaning: str
    digits: int | None
    better: int

    def text(self, value: float) -> str:
        """A value as it is shown."""
        return f"{value:z.4g}" if self.digits is None else f"{value:z,.{self.digits}f}"


def metrics_of(quality: Quality) -> dict[str, Metric]:
    """The columns of runs that are judged by `quality`, in their order."""
    name, better = quality.metric, quality.better
    unit, digits = (" %", 2) if quality.percent else (f" {name}", None)
    lost = "points that" if quality.percent else "by how much"
    return {
        "discrete": Metric(f"discretised{unit}", f"hold-out {name} of the genotype in the supernet, as the search left it",
                           digits, better),
        "gap": Metric("gap", f"{lost} the supernet's hold-out {name} {'loses' if quality.percent else 'worsens'} by "
                      "discretising", digits, -1),
        "tuned": Metric(f"tuned{unit}", f"hold-out {name} of the genotype in the supernet that the selection fine-tuned",
                        digits, better),
        "trained": Metric(f"trained{unit}", f"hold-out {name} after a short training from scratch", digits, better),
        "table": Metric("table %", "accuracy in the table of a benchmark", 2, 1),
        "params": Metric("parameters", "of the network of its own, as wide and deep as searched", 0, 0),
        "macs": Metric("multiply-adds", "per example, of that network", 0, 0),
        "seconds": Metric("seconds", "that the selection took", 1, -1),
        "kendall": Metric("Kendall", "rank correlation (tau-b) of what the selection scored with the truth", 3, 1),
        "spearman": Metric("Spearman", "the same as Spearman's rho", 3, 1),
        "ranked": Metric("ranked", "architectures over which those two are computed", 0, 0),
    }


METRICS = metrics_of(Quality())
"""What is said of each selection on each run of classification, in the order of the columns."""


RANKS = "kendall", "spearman"
LEAST_RANKED = 5
"""Architectures from which on a rank correlation may count: of four, one order in twelve is perfect or perfectly wrong by
chance (2 / 4!), of five one in sixty."""
APART = ("Bold is the best mean of a column if it is apart from every other: the 95 % interval of their difference over "
         "pairs of runs excludes 0, or, where there are no two pairs, their deviations do not overlap. A rank correlation "
         f"over fewer than {LEAST_RANKED} architectures is never bold.")
"""For the reader of a table in which `apart` is bold."""


class Entry(NamedTuple):
    """One selection on one run. method: the label of runs that differ in nothing but their seed; values: by METRICS,
    those that are known; notation: the genotype in the space's own."""

    run: str
    method: str
    seed: int
    selection: str
    genotype: Genotype
    notation: str
    values: Mapping[str, float]


class Summary(NamedTuple):
    """A method and selection over its runs. values: {metric: (mean, standard deviation or None for one run, runs)}."""

    method: str
    selection: str
    runs: int
    values: Mapping[str, tuple[float, float | None, int]]


class Difference(NamedTuple):
    """Mean of `first` minus `second` over pairs that share all else, with a 95 % interval of Student's t.

    within: the method (of two selections on the same runs) or the selection (of two methods with the same seeds).
    low, high: None for a single pair.
    """

    metric: str
    within: str
    first: str
    second: str
    mean: float
    low: float | None
    high: float | None
    pairs: int


def summarise(entries: Sequence[Entry]) -> list[Summary]:
    """A row for each method and selection, in the order of their first entries. Deviations have n - 1 below."""
    rows = []
    for method, selection in dict.fromkeys((e.method, e.selection) for e in entries):
        members = [e for e in entries if (e.method, e.selection) == (method, selection)]
        values = {}
        for metric in METRICS:
            numbers = [e.values[metric] for e in members if metric in e.values]
            if numbers:
                deviation = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
                values[metric] = float(np.mean(numbers)), deviation, len(numbers)
        rows.append(Summary(method, selection, len(members), values))
    return rows


def differences(entries: Sequence[Entry], metrics: Iterable[str]) -> list[Difference]:
    """Every pair of selections within a method, and every pair of methods within a selection (by seed)."""
    rows = []
    for metric in metrics:
        measured = [e for e in entries if metric in e.values]
        for within, across, pair in (("method", "selection", "run"), ("selection", "method", "seed")):
            for common in dict.fromkeys(getattr(e, within) for e in measured):
                table: dict[str, dict] = {}
                for e in measured:
                    if getattr(e, within) == common:
                        table.setdefault(getattr(e, across), {})[getattr(e, pair)] = e.values[metric]
                for first, second in itertools.combinations(table, 2):
                    both = [key for key in table[first] if key in table[second]]
                    if both:
                        gaps = np.array([table[first][key] - table[second][key] for key in both])
                        rows.append(Difference(metric, common, first, second, *_interval(gaps), len(both)))
    return rows


def _interval(values: np.ndarray) -> tuple[float, float | None, float | None]:
    from scipy.stats import t

    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def apart(entries: Sequence[Entry], metric: Metric, name: str) -> set[tuple[str, str]]:
    """The (method, selection) whose mean of the values called `name` is the best, and surely so: see APART. Several where
    they look the same."""
    having = [e for e in entries if name in e.values]
    if not metric.better or name in RANKS and any(e.values.get("ranked", 0) < LEAST_RANKED for e in having):
        return set()
    rows: dict[tuple[str, str], list[tuple[str, int, float]]] = {}
    for e in having:
        rows.setdefault((e.method, e.selection), []).append((e.run, e.seed, metric.better * e.values[name]))
    means = {row: float(np.mean([value for _, _, value in runs])) for row, runs in rows.items()}
    alike = {row for row, mean in means.items() if metric.text(mean) == metric.text(max(means.values()))}
    others = rows.keys() - alike
    sure = all(_surely_larger(rows[one], rows[other]) for one in alike for other in others)
    return alike if others and sure else set()


def _surely_larger(first: Sequence[tuple[str, int, float]], second: Sequence[tuple[str, int, float]]) -> bool:
    """Whether the first values are larger, each of a run and a seed: by pairs of one run, else of one seed; where there are
    no two pairs, by means and deviations."""
    for shared in 0, 1:
        values = {each[shared]: each[-1] for each in second}
        gaps = np.array([each[-1] - values[each[shared]] for each in first if each[shared] in values])
        if len(gaps) > 1:
            return _interval(gaps)[1] > 0
    if min(len(first), len(second)) < 2:
        return False
    one, other = (np.array([each[-1] for each in values]) for values in (first, second))
    return bool(one.mean() - one.std(ddof=1) > other.mean() + other.std(ddof=1))


def agreement(first: Genotype, second: Genotype) -> float:
    """Share of the kept edges, with their operations, that two genotypes of a space have in common, in [0, 1].

    Where they keep different numbers of edges, of the larger number.
    """
    one, other = ({(group, *choice) for group, choices in g.choices.items() for choice in choices} for g in (first, second))
    return len(one & other) / max(len(one), len(other), 1)


def agreements(entries: Sequence[Entry]) -> dict[str, dict[tuple[str, str], float]]:
    """For each method the mean agreement over its runs of every two selections."""
    shares: dict[str, dict[tuple[str, str], list[float]]] = {}
    for a, b in itertools.combinations(entries, 2):
        if a.run == b.run:
            shares.setdefault(a.method, {}).setdefault((a.selection, b.selection), []).append(
                agreement(a.genotype, b.genotype))
    return {method: {pair: float(np.mean(values)) for pair, values in pairs.items()} for method, pairs in shares.items()}


def scored(scores: Mapping[str, np.ndarray], decisions: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """What `scores` say of architectures with operation indices `decisions` `[N, E]` by group: the sum `[N]` of the
    scores of their operations (a removed edge adds nothing); None unless every such score is finite."""
    total = np.zeros(len(next(iter(decisions.values()))))
    for name, rows in decisions.items():
        if np.ndim(scores.get(name)) != 2:
            return None
        values = np.where(rows >= 0, np.asarray(scores[name], np.float64)[np.arange(rows.shape[1]), rows], 0)
        total += values.sum(1)
    return total if np.isfinite(total).all() else None


def tried(scores: Mapping[str, np.ndarray], groups: Mapping[str, Group]):
    """The architectures that a selection tried as wholes: decisions `[N, E]` by group and scores `[N]`, or None."""
    if TRIED not in scores:
        return None
    return {name: np.asarray(scores[f"{TRIED}/{name}"]) for name in groups}, np.asarray(scores[TRIED])


def correlation(scores: np.ndarray | None, truth: np.ndarray) -> dict[str, float]:
    """{"kendall", "spearman", "ranked": how many} of two arrays `[N]`; {} where fewer than three are finite or one is
    constant."""
    from scipy.stats import kendalltau, rankdata

    if scores is None:
        return {}
    finite = np.isfinite(scores) & np.isfinite(truth)
    scores, truth = scores[finite], truth[finite]
    if len(scores) < 3 or np.ptp(scores) == 0 or np.ptp(truth) == 0:
        return {}
    tau = kendalltau(scores, truth, method="asymptotic").statistic  # which is the p that is not used, and quick
    rho = np.corrcoef(rankdata(scores), rankdata(truth))[0, 1]
    return {"kendall": float(tau), "spearman": float(rho), "ranked": len(scores)}


def shown(metrics: Iterable[Summary]) -> list[str]:
    """The metrics that any row knows, in the order of the columns."""
    present = {metric for row in metrics for metric in row.values}
    return [metric for metric in METRICS if metric in present]


def spell(metric: Metric, value: tuple[float, float | None, int] | None) -> str:
    """A mean with its deviation, "93.12 ± 0.40", or alone for one run; a dash where nothing is known."""
    if value is None:
        return "\N{EN DASH}"
    mean, deviation, _ = value
    return metric.text(mean) + ("" if deviation is None else f" ± {metric.text(deviation)}")


def to_csv(entries: Sequence[Entry]) -> str:
    """A line for each selection on each run."""
    text = io.StringIO()
    columns = [metric for metric in METRICS if any(metric in e.values for e in entries)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "method", "seed", "selection", *columns, "genotype"])
    for e in entries:
        values = [e.values.get(metric, "") for metric in columns]
        writer.writerow([e.run, e.method, e.seed, e.selection, *values, e.notation])
    return text.getvalue()


def to_json(entries: Sequence[Entry], metrics: Mapping[str, Metric] = METRICS) -> dict[str, Any]:
    """All of a comparison as JSON knows it. metrics: of the runs' task."""
    rows = summarise(entries)
    plain = lambda e: {**e._asdict(), "genotype": json.loads(e.genotype.to_json()), "values": dict(e.values)}
    spread = lambda row: {m: {"mean": mean, "std": std, "runs": runs} for m, (mean, std, runs) in row.values.items()}
    return {
        "metrics": {metric: metrics[metric]._asdict() for metric in shown(rows)},
        "entries": [plain(e) for e in entries],
        "summary": [{"method": row.method, "selection": row.selection, "runs": row.runs, **spread(row)} for row in rows],
        "differences": [d._asdict() for d in differences(entries, compared(rows))],
        "agreement": [{"method": method, "first": a, "second": b, "share": share}
                      for method, pairs in agreements(entries).items() for (a, b), share in pairs.items()],
    }


def compared(rows: Iterable[Summary]) -> list[str]:
    """The metrics whose differences are worth telling: those of quality."""
    return [metric for metric in shown(rows) if metric in ("discrete", "trained", "table")]
