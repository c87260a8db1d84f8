"""Evolution in the supernet under hard limits on costs: as in SPOS (arXiv 1904.00420), by the operators of Once-for-All."""

from __future__ import annotations

from dnas.selection.pareto import by_evaluations, latency_cost
from dnas.selection.types import Selection


def evolution(*, evaluations: int = 200, limit: tuple[str, ...] = (), latency: str | None = None, device: str | None = None,
              table: str | None = None, population: int = 50, seed: int | None = None) -> Selection:
    """The best network by the task's metric in the supernet that evolution finds within the limits.

    Args:
        evaluations, limit, latency, device, table, seed: as for `dnas.selection.pareto.pareto`.
        population: Of a generation; its parents are a quarter of as many.

    Raises ValueError for an option out of range, and limits that leave too few networks.
    """
    return by_evaluations("evolution", (), latency_cost(latency, device, table), evaluations=evaluations, limit=limit,
                          population=population, seed=seed)
