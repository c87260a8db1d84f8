"""Sentences about a study: only those that its numbers support."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dnas.reports.comparison import Metric
from dnas.studies.results import Paired, Point, Rank
from dnas.studies.statistics import LEVEL, least_p

LEAST_SEEDS = 5
"""Seeds from which on bootstrap intervals of ranks are compared; of fewer they are too narrow."""


def of_metric(metric: Metric, pairs: Sequence[Paired], ranks: Sequence[Rank], selections: Sequence[str]) -> list[str]:
    """What can be said by a metric: differences that are sure, and in each space a first rank that is apart."""
    spaces = dict.fromkeys(each.space for each in ranks)
    return [*_differences(metric, pairs, selections), *(
        line for space in spaces for line in _first(metric, [each for each in ranks if each.space == space]))]


def _differences(metric: Metric, pairs: Sequence[Paired], selections: Sequence[str]) -> list[str]:
    lines = []
    for each in pairs:
        if each.corrected <= LEVEL:
            better = each.difference.mean * metric.better > 0
            what = "chosen by" if each.within in selections else "of method"
            lines.append(f"{each.first} is {'better' if better else 'worse'} than {each.second}, {what} {each.within}: "
                         f"{metric.title} differs by {metric.text(abs(each.difference.mean))} over {each.pairs} seeds "
                         f"(corrected p {each.corrected:.3g}).")
    if pairs and not lines:
        most, count = max(each.pairs for each in pairs), sum(each.counted for each in pairs)
        least, noun = min(1.0, count * least_p(most)), f"comparison{'s' * (count > 1)}"
        why = ": in no comparison two seeds differ." if not count else \
            f": with {most} seeds and {count} {noun} no corrected p can be below {least:.2g}." if least > LEVEL else \
            f" (no corrected p is at most {LEVEL:g})."
        lines.append(f"No difference in {metric.title} is sure{why}")
    return lines


def _first(metric: Metric, ranks: Sequence[Rank]) -> list[str]:
    if len(ranks) < 2 or ranks[0].seeds < LEAST_SEEDS:
        return []
    first, *others = sorted(ranks, key=lambda each: each.rank.mean)
    if any(first.rank.high >= other.rank.low for other in others):
        return []
    return [f"{first.method} with {first.selection} has the first mean rank in {metric.title}, {first.rank.mean:.1f}, and "
            f"its 95 % interval is apart from all others ({first.seeds} seeds)."]


def collapsed(points: Sequence[Point]) -> list[str]:
    """Which searches ended with skips on most edges."""
    last: Mapping[tuple[str, int], Point] = {(each.method, each.seed): each for each in points if each.skips is not None}
    lines = []
    for method in dict.fromkeys(name for name, _ in last):
        ends = [each for (name, _), each in last.items() if name == method]
        many = sum(each.edges > 0 and 2 * each.skips > each.edges for each in ends)
        if many:
            lines.append(f"{many} of {len(ends)} searches of {method} ended with skips on more than half of the edges that "
                         "their own rule keeps.")
    return lines
