"""Evolution on a predictor of the supernet's metric, under hard limits on costs, as in Once-for-All (arXiv 1908.09791).

Nine tenths of the evaluations are of networks drawn uniformly, to which the predictor is fitted; the rest are of those that
evolution finds to be best by it. The predictor is ridge regression or support vectors on one-hot features, theirs a network
of three layers for 16,000 evaluations.
"""

from __future__ import annotations

from dnas.fronts.search import POPULATION
from dnas.selection.pareto import by_evaluations, latency_cost
from dnas.selection.types import Selection


def predictor(*, evaluations: int = 200, limit: tuple[str, ...] = (), latency: str | None = None, device: str | None = None,
              table: str | None = None, seed: int | None = None) -> Selection:
    """The best network by the task's metric in the supernet among those drawn and those that a predictor finds to be best.

    Args:
        evaluations, limit, latency, device, table, seed: as for `dnas.selection.pareto.pareto`.

    Raises ValueError for an option out of range, and limits that leave too few networks.
    """
    return by_evaluations("predictor", (), latency_cost(latency, device, table), evaluations=evaluations, limit=limit,
                          population=POPULATION, seed=seed)
