"""How well scores rank networks whose truth is known: rank correlations, in the whole and at the top, and the best by score.

Kendall's tau-b (Kendall, Biometrika 33, 1945): (C - D) / sqrt((P - S)(P - T)) of P = n(n - 1)/2 pairs, of which C are in the
same order by both, D in the opposite, S tied in the scores and T tied in the truth. Spearman's rho is the linear correlation
of ranks, of which ties share the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.reports import html
from dnas.reports.comparison import correlation
from dnas.runs.files import read_json

RESAMPLES = 500
"""Bootstrap samples of networks."""
BEST = 10
"""How many of the best networks by score are looked up."""
TOP = {"tenth": 10, "quarter": 4}
"""Parts of the networks, the best by the truth, within which the order is judged as well."""
FEWEST = 5
"""Networks of which a rank correlation within a part says something."""
HEADER = ["Kendall", "Spearman", *(f"in best {name}" for name in TOP), f"mean of {BEST} best", "best of them", "regret"]
"""Titles of `cells`. Regret is of the best of them."""
NUMBERS = "kendall", "spearman", *TOP, "mean", "best", "regret"
"""Their names, in the same order."""
DASH = "\N{EN DASH}"


class Correlation(NamedTuple):
    """A rank correlation, None where scores or truth are constant, with its 95 % bootstrap interval, None without one."""

    value: float | None
    low: float | None = None
    high: float | None = None


class RankStatistics(NamedTuple):
    """How well scores rank networks.

    kendall (tau-b), spearman: over all. top: {part of TOP: Spearman within the best of this part by the truth}. mean, best:
    truth of the BEST networks by score, on average and of the best of them, in the units of the truth; regret: by how much
    that is worse than the best of the table.
    """

    kendall: Correlation
    spearman: Correlation
    top: Mapping[str, Correlation]
    mean: float
    best: float
    regret: float


def rank_statistics(scores: Any, truth: Any, *, among: Any = None, better: int = 1, resamples: int = RESAMPLES,
                    seed: int = 0) -> RankStatistics:
    """The statistics of scores `[N]`, of which more is better; one that is not finite is the worst.

    truth: `[N]`, finite. among: the truth of all networks of which the best counts for the regret; default: these. better:
    1 where more of the truth is better, -1 where less is. resamples: of networks, for intervals; 0 for none. Equal scores,
    and equal truths at the edge of a part, go by the order of the networks, which should have nothing to do with either.
    Raises ValueError for arrays of other shapes and a truth that is not finite.
    """
    scores, worth = np.asarray(scores, np.float64), better * np.asarray(truth, np.float64)
    if scores.ndim != 1 or scores.shape != worth.shape or not len(scores) or not np.isfinite(worth).all():
        raise ValueError(f"scores are {list(scores.shape)}, truth is {list(worth.shape)}; they must be [N], the truth "
                         "finite")
    finite = np.isfinite(scores)
    scores = np.where(finite, scores, scores[finite].min() - 1 if finite.any() else 0.0)
    whole = _correlations(scores, worth, resamples, seed)
    order = np.argsort(-worth, kind="stable")
    parts = {name: order[:-(-len(order) // share)] for name, share in TOP.items()}
    top = {name: _correlations(scores[rows], worth[rows], resamples, seed)["spearman"] if len(rows) >= FEWEST
           else Correlation(None) for name, rows in parts.items()}
    chosen = worth[np.argsort(-scores, kind="stable")[:BEST]]
    most = (worth if among is None else better * np.asarray(among, np.float64)).max()
    return RankStatistics(whole["kendall"], whole["spearman"], top, better * float(chosen.mean()),
                          better * float(chosen.max()), float(most - chosen.max()))


def _correlations(scores: np.ndarray, worth: np.ndarray, resamples: int, seed: int) -> dict[str, Correlation]:
    """Both rank correlations with percentile intervals over resampled networks."""
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(resamples):
        rows = rng.integers(len(scores), size=len(scores))
        drawn.append(correlation(scores[rows], worth[rows]))
    found, drawn = correlation(scores, worth), [each for each in drawn if each]
    if not found or len(drawn) < resamples / 2 or not drawn:
        return {name: Correlation(found.get(name)) for name in ("kendall", "spearman")}
    return {name: Correlation(found[name], *map(float, np.percentile([each[name] for each in drawn], [2.5, 97.5])))
            for name in ("kendall", "spearman")}


def numbers_of(found: RankStatistics) -> dict[str, float]:
    """The statistics that are known, without intervals, by the names NUMBERS."""
    flat = dict(zip(NUMBERS, (found.kendall.value, found.spearman.value, *(found.top[part].value for part in TOP),
                              found.mean, found.best, found.regret)))
    return {name: value for name, value in flat.items() if value is not None}


def rows_of(result: Mapping[str, Any]) -> list[list[str]]:
    """A row for each score of a ranking, which is as its file has it, and for the multiply-adds, below a header."""
    return [["score", *HEADER], *([name, *cells(found)] for name, found in result["statistics"].items())]


def cells(found: Mapping[str, Any]) -> list[str]:
    """Statistics, as JSON knows them, as texts below HEADER."""
    top = (found["top"][name] for name in TOP)
    return [*map(spelled, (found["kendall"], found["spearman"], *top)),
            *(f"{found[name]:.4g}" for name in ("mean", "best", "regret"))]


def spelled(found: Mapping[str, Any]) -> str:
    """A correlation with its interval, "0.51 [0.49, 0.53]"; a dash where there is none."""
    value, low, high = (found.get(key) for key in ("value", "low", "high"))
    if value is None:
        return DASH
    return f"{value:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def ranking_parts(folder: Path, picture: Callable[[Path, str], str]) -> list[str]:
    """The part of a run's page about the rankings that lie in its folder; [] where there are none.

    picture: the HTML of a picture there with its caption. Raises ValueError for a damaged file.
    """
    parts = []
    for file in sorted(folder.glob("rank-*.json")):
        result = read_json(file)
        try:
            header, *rows = rows_of(result)
            about = (f"{result['table']}: {result['networks']:,} networks, truth {result['truth']}, {result['examples']:,} "
                     f"examples each, after epoch {result['epoch']}; {result['cost']['seconds']:.1f} s. In brackets 95 % by "
                     "bootstrap.")
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ValueError(f"{file} is not a ranking; remove it, and `dnas rank` writes it anew") from None
        parts += [html.paragraph(about), html.table(header, rows),
                  picture(file.with_suffix(".png"), "A dot for each network: its score in the supernet and its truth")]
    return [html.heading("How the supernet ranks networks"), *parts] if parts else []
