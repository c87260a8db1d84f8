"""A budget of parameters and multiply-adds: a penalty on the expected cost, and a selection within the budget.

    r       = max over the budgets of  E[cost] / budget
    penalty = weight * (log r if r > 1;  log((1 - BAND) / r) if r < 1 - BAND;  0 in between)

The three branches are those of TAS (Dong & Yang, NeurIPS 2019, arXiv 1905.09717), which picks the branch by the cost of
the most probable network and penalises the logarithm itself. Here the expected cost picks it, so that the penalty is
continuous; of a method that draws gates it is the cost expected of its draws, not of one of them. A network outside the
budget can still result, so `within` selects the most likely network inside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Method
from dnas.algorithms.projection import Problem, project
from dnas.types import REMOVED, Array, Gates, Genotype, SearchSpace

BAND = 0.05
"""A network meets a budget if its cost is between 1 - BAND times the budget and the budget."""
NAMES = {"params": "parameters", "macs": "multiply-adds"}


class Budget(NamedTuple):
    """Upper limits on the cost of the network, None for no limit. The tightest must be used up to within 5 %.

    Args:
        params: Most parameters of the stand-alone network.
        macs: Most multiply-adds per example, such as 20e6.
        weight: Weight of the penalty that pulls the architecture towards the budget. Published for TAS: 2.
    """

    params: float | None = None
    macs: float | None = None
    weight: float = 2.0

    @property
    def limits(self) -> dict[str, float]:
        """{"params", "macs": limit}: those that are set."""
        return {name: float(getattr(self, name)) for name in NAMES if getattr(self, name) is not None}

    def check(self) -> Budget:
        """The budget. Raises ValueError where a limit, or the weight, is not a positive number."""
        for name, value in self._asdict().items():
            if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
                raise ValueError(f"budget.{name} is {value!r}; it must be a positive number")
        if self.weight != Budget().weight and not self.limits:
            raise ValueError("budget.weight needs budget.params or budget.macs")
        return self


def budgeted(method: Method, space: SearchSpace, budget: Budget) -> Method:
    """`method` with a term that pulls its architecture player towards the budget, and a selection within it.

    Raises ValueError if the space has no `expected` cost, or no network that meets the budget is found.
    """
    limits = budget.limits
    if not limits:
        return method
    if space.expected is None:
        raise ValueError(f"space {space.name} has no expected cost, so it takes no budget")
    lowest, highest = bounds(space)
    for name, limit in limits.items():
        if not lowest[name] <= limit <= highest[name]:
            raise ValueError(f"a budget of {limit:,.0f} {NAMES[name]} is out of reach: networks of space {space.name} have "
                             f"{lowest[name]:,} to {highest[name]:,}")
    even = {g: group.allowed / group.allowed.sum(-1, keepdims=True) for g, group in space.groups.items()}
    nearest = within(space, budget, even, space.genotype(even))
    if not met(space, budget, nearest)["ok"]:
        said, cost = (" and ".join(f"{number:,.0f} {NAMES[name]}" for name, number in numbers.items())
                      for numbers in (limits, {name: space.cost(nearest)[name] for name in limits}))
        raise ValueError(f"found no network of space {space.name} that uses {100 - 100 * BAND:.0f} to 100 % of a budget of "
                         f"{said}; the nearest has {cost}")
    likely = likelihood(space)

    def value(hyper, t, arch, gates, forward, memory):
        cost = space.expected(likely(forward.average()))
        log = jnp.log(jnp.stack([cost[name] / hyper[f"budget_{name}"] for name in limits]).max())
        return hyper["budget_weight"] * (jnp.maximum(log, 0) + jnp.maximum(np.log(1 - BAND) - log, 0))

    def select(space, state, gates):
        edges = {name: gates[name] for name in space.groups}
        genotype = method.select(space, state, gates) if method.select else space.genotype(edges)
        return within(space, budget, edges, genotype)

    numbers = {f"budget_{name}": limit for name, limit in limits.items()} | {"budget_weight": budget.weight}
    return method.extend(arch={"terms": {"budget": value}}, hyper=numbers, select=select)


def likelihood(space: SearchSpace) -> Callable[[Gates], dict[str, Array]]:
    """`gates -> {group: [E, K]}`: the probability of each operation if the gates draw it.

    Rows sum to the share of a group's edges that the space's rule keeps.
    """
    share = {g: len(choices) / len(space.groups[g].edges) for g, choices in space.largest().choices.items()}

    def likely(gates):
        return {g: share[g] * gates[g] / (gates[g].sum(-1, keepdims=True) + 1e-30) for g in space.groups}

    return likely


def bounds(space: SearchSpace) -> tuple[dict[str, int], dict[str, int]]:
    """Smallest and largest cost of the space's networks, by the cost of each operation and the space's own rule."""
    lowest, highest = ({name: space.cost(_extreme(space, name, sign))[name] for name in NAMES} for sign in (-1, 1))
    return lowest, highest


def within(space: SearchSpace, budget: Budget, gates: Gates, genotype: Genotype) -> Genotype:
    """`genotype` if it meets the budget, else the network that meets it and is most likely by the gates.

    It has the edges of `genotype` if possible, else those of the smallest or largest network, and only operations that the
    space's rule would choose. If none meets the budget, it is the nearest that `dnas.algorithms.projection` reaches.
    """
    limits = budget.limits
    if not limits:
        return genotype
    logs = {g: np.log(np.maximum(np.asarray(rows, np.float64) / (np.sum(rows, -1, keepdims=True) + 1e-30), 1e-9))
            for g, rows in gates.items() if g in space.groups}
    nearest, excess = _projected(space, limits, logs, genotype)
    if excess > 0 and any(len(choices) < len(space.groups[g].edges) for g, choices in genotype.choices.items()):
        for name, sign in itertools.product(limits, (-1, 1)):
            other, there = _projected(space, limits, logs, _extreme(space, name, sign))
            if there < excess:
                nearest, excess = other, there
    return nearest


def _projected(space: SearchSpace, limits: Mapping[str, float], logs: Mapping[str, np.ndarray],
               genotype: Genotype) -> tuple[Genotype, float]:
    """The network to choose among those with the edges of `genotype`, and those that it skips, and its distance from the
    budget."""
    decisions = genotype.decisions(space.groups)
    for g, edges in space.skipped(decisions).items():  # another depth may need them
        decisions[g] = np.where(edges, np.where(space.groups[g].allowed, logs[g], -np.inf).argmax(-1), decisions[g])
    edges = [(g, e) for g, row in decisions.items() for e in np.flatnonzero(row != REMOVED)]

    def decided(ops):
        rows = {g: row.copy() for g, row in decisions.items()}
        for (g, e), k in zip(edges, ops):
            rows[g][e] = k
        return rows

    def ruled(ops):
        return space.genotype(_one_hot(space, decided(ops)))

    def possible(ops):
        chosen = ruled(ops).decisions(space.groups)
        return all((chosen[g] == row).all() for g, row in space.without_skipped(decided(ops)).items())

    own = tuple(int(decisions[g][e]) for g, e in edges)
    options = [[k for k in np.flatnonzero(space.groups[g].allowed[e]).tolist()
                if k == own[s] or possible(own[:s] + (k,) + own[s + 1:])] for s, (g, e) in enumerate(edges)]
    ops_of = lambda picks: tuple(ks[pick] for ks, pick in zip(options, picks))

    def cost(picks):
        costs = space.expected(_one_hot(space, decided(ops_of(picks))))
        return np.array([costs[name] for name in limits], np.float64)

    problem = Problem([logs[g][e, ks] for (g, e), ks in zip(edges, options)], cost, np.array(list(limits.values())), BAND,
                      lambda picks: possible(ops_of(picks)))
    start = tuple(ks.index(k) for ks, k in zip(options, own))
    excess = problem.excess(start)
    if excess == 0:
        return genotype, excess
    picks, excess = project(problem, start)
    return (genotype if picks == start else ruled(ops_of(picks))), excess


def met(space: SearchSpace, budget: Budget, genotype: Genotype) -> dict[str, Any]:
    """{"ok": whether the budget is met, "params", "macs": cost / limit of those that are set}."""
    cost = space.cost(genotype)
    ratios = {name: cost[name] / limit for name, limit in budget.limits.items()}
    return {"ok": 1 - BAND <= max(ratios.values()) <= 1, **ratios}


def _extreme(space: SearchSpace, name: str, sign: int) -> Genotype:
    """The network of smallest (-1) or largest (1) cost, by the space's rule on the cost of each operation."""
    return space.genotype({g: sign * rows / max(np.abs(rows).max(), 1e-30) for g, rows in _slopes(space, name).items()})


def _slopes(space: SearchSpace, name: str) -> dict[str, np.ndarray]:
    """What each operation `[E, K]` adds to the cost while all other edges mix their operations equally."""
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
