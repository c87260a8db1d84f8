"""A budget of parameters and multiply-adds: a penalty on what the gates make one expect, and a choice that keeps to it.

    r       = max over the budgets of  E[cost] / budget
    penalty = weight * (log r if r > 1;  log((1 - BAND) / r) if r < 1 - BAND;  0 in between)

The three branches are those of TAS (Dong & Yang, NeurIPS 2019, arXiv 1905.09717), which takes them by the cost of the
most probable network and penalises the logarithm itself. Here the expectation decides, so that the penalty is
continuous; and because a mixture that is right on average can still round to a network that is not, `within` moves the
choice into the band by the changes that cost the gates' likelihood least.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Method
from dnas.types import REMOVED, Array, Gates, Genotype, SearchSpace

BAND = 0.05
"""A network meets a budget from this share below it up to the budget itself."""
NAMES = {"params": "parameters", "macs": "multiply-adds"}


class Budget(NamedTuple):
    """What the network may cost at most, where not None; of several the one that binds is to be used up, all but 5 %.

    Args:
        params: Parameters at most, as a network of its own.
        macs: Multiply-adds per example at most, such as 20e6.
        weight: Of the penalty that pulls the architecture towards the budget. Published for TAS: 2.
    """

    params: float | None = None
    macs: float | None = None
    weight: float = 2.0

    @property
    def given(self) -> dict[str, float]:
        """{"params" and "macs": limit}, those that are set."""
        return {name: float(getattr(self, name)) for name in NAMES if getattr(self, name) is not None}


def budgeted(method: Method, space: SearchSpace, budget: Budget) -> Method:
    """`method`, whose architecture player is pulled towards the budget by a term of its own, and which selects within it.

    Raises ValueError, in one line, where the space cannot tell what it expects to cost, or no network meets the budget.
    """
    limits = budget.given
    if not limits:
        return method
    if space.expected is None:
        raise ValueError(f"space {space.name} does not say what its gates make one expect to cost; it takes no budget")
    lowest, highest = bounds(space)
    for name, limit in limits.items():
        if not lowest[name] <= limit <= highest[name]:
            raise ValueError(f"a budget of {limit:,.0f} {NAMES[name]} is out of reach: networks of space {space.name} have "
                             f"{lowest[name]:,} to {highest[name]:,}")
    likely = likelihood(space)

    def value(hyper, t, arch, gates, forward, memory):
        cost = space.expected(likely(gates))
        log = jnp.log(jnp.stack([cost[name] / hyper[f"budget_{name}"] for name in limits]).max())
        return hyper["budget_weight"] * (jnp.maximum(log, 0) + jnp.maximum(np.log(1 - BAND) - log, 0))

    def select(space, state, gates):
        edges = {name: gates[name] for name in space.groups}
        genotype = method.select(space, state, gates) if method.select else space.genotype(edges)
        return within(space, budget, edges, genotype)

    numbers = {f"budget_{name}": limit for name, limit in limits.items()} | {"budget_weight": budget.weight}
    return method.extend(arch={"terms": {"budget": value}}, hyper=numbers, select=select)


def likelihood(space: SearchSpace) -> Callable[[Gates], dict[str, Array]]:
    """`gates -> {group: [E, K]}`: how likely each operation is, were it drawn by the gates.

    Rows sum to 1, or, where the space's rule keeps only some edges of a group, to the share that it keeps.
    """
    even = {g: np.full(group.shape, 1 / group.shape[1]) for g, group in space.groups.items()}
    kept = {g: len(choices) / len(space.groups[g].edges) for g, choices in space.genotype(even).choices.items()}

    def likely(gates):
        return {g: kept[g] * gates[g] / (gates[g].sum(-1, keepdims=True) + 1e-30) for g in space.groups}

    return likely


def bounds(space: SearchSpace) -> tuple[dict[str, int], dict[str, int]]:
    """Smallest and largest cost of the space's networks, as its own rule finds them by the cost of each operation."""
    def extreme(name, sign):
        return space.cost(space.genotype({g: sign * rows / max(np.abs(rows).max(), 1e-30)
                                          for g, rows in _slopes(space, name).items()}))[name]

    lowest, highest = ({name: extreme(name, sign) for name in NAMES} for sign in (-1, 1))
    return lowest, highest


def within(space: SearchSpace, budget: Budget, gates: Gates, genotype: Genotype) -> Genotype:
    """`genotype`, changed until it meets the budget: one edge at a time, the least likelihood lost for what is gained.

    Only operations change, not which edges are kept, and only to what the space's rule would choose. Comes back as near
    as it gets where no change of one edge leads further.
    """
    limits = budget.given
    if not limits:
        return genotype
    logs = {g: np.log(np.maximum(np.asarray(rows, np.float64) / (np.sum(rows, -1, keepdims=True) + 1e-30), 1e-9))
            for g, rows in gates.items() if g in space.groups}

    def excess(decisions):
        cost = space.expected(_one_hot(space, decisions))
        log = np.log(max(cost[name] / limit for name, limit in limits.items()))
        return max(log, np.log(1 - BAND) - log, 0.0)

    decisions = genotype.decisions(space.groups)
    now = excess(decisions)
    while now > 0:
        found = []
        for g, e, k in _changes(space, decisions):
            there = excess(_changed(decisions, g, e, k))
            if there < now:
                lost = logs[g][e, decisions[g][e]] - logs[g][e, k]
                found.append(((lost + 1e-6) / (now - there) if there else lost - 1e3, g, e, k))
        for _, g, e, k in sorted(found):
            changed = _changed(decisions, g, e, k)
            candidate = space.genotype(_one_hot(space, changed))
            if all((candidate.decisions(space.groups)[g] == row).all() for g, row in changed.items()):
                decisions, now, genotype = changed, excess(changed), candidate
                break
        else:
            break
    return genotype


def met(space: SearchSpace, budget: Budget, genotype: Genotype) -> dict[str, Any]:
    """{"ok": whether the budget is met, "params" and "macs": cost over limit, of those that are set}."""
    cost = space.cost(genotype)
    ratios = {name: cost[name] / limit for name, limit in budget.given.items()}
    return {"ok": 1 - BAND <= max(ratios.values()) <= 1, **ratios}


def _slopes(space: SearchSpace, name: str) -> dict[str, np.ndarray]:
    """What each operation `[E, K]` adds to the cost, beside a mixture of all others in equal parts."""
    even = {g: group.allowed / group.allowed.sum(-1, keepdims=True) for g, group in space.groups.items()}

    def cost(g, e, row):
        rows = even[g].copy()
        rows[e] = row
        return space.expected({**even, g: rows})[name]

    return {g: np.array([[cost(g, e, np.eye(group.shape[1])[k]) if group.allowed[e, k] else 0.0
                          for k in range(group.shape[1])] for e in range(group.shape[0])])
            - np.array([[cost(g, e, np.zeros(group.shape[1]))] for e in range(group.shape[0])])
            for g, group in space.groups.items()}


def _one_hot(space: SearchSpace, decisions: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {g: (row[:, None] == np.arange(space.groups[g].shape[1])).astype(np.float64) for g, row in decisions.items()}


def _changes(space: SearchSpace, decisions: Mapping[str, np.ndarray]):
    for g, group in space.groups.items():
        for e, k in zip(*np.nonzero(group.allowed)):
            if decisions[g][e] not in (k, REMOVED):
                yield g, e, k


def _changed(decisions: Mapping[str, np.ndarray], g: str, e: int, k: int) -> dict[str, np.ndarray]:
    row = decisions[g].copy()
    row[e] = k
    return {**decisions, g: row}
