"""`dnas.estimate`: what a search would need, without a step of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from dnas.algorithms.budget import Budget, budgeted
from dnas.algorithms.method import Method
from dnas.api.search_plan import MOST, SearchPlan, plan_search
from dnas.data import Dataset
from dnas.engine import cache as caches
from dnas.engine.devices import spelled
from dnas.engine.mesh import create_mesh
from dnas.engine.search import estimate as estimate_search
from dnas.types import SearchSpace


class Estimate(NamedTuple):
    """What a search needs.

    weights, macs: parameters and multiply-adds per example of the supernet. memory_bytes: peak of one step as XLA plans it,
    data included, on each device, None where it does not say. compile_seconds: of the step, from the cache where it is
    there. note: how several searches would go, and in how much memory. devices: how many there are. exchanged_bytes: of the
    arrays that they sum or gather in a step.
    """

    weights: int
    macs: int
    memory_bytes: int | None
    compile_seconds: float
    note: str
    devices: int = 1
    exchanged_bytes: int = 0

    def __repr__(self) -> str:
        return (f"<estimate: {self.weights:,} weights, {self.macs:,} multiply-adds per example, "
                f"{spelled(self.memory_bytes)} of memory, {self.compile_seconds:.1f} s to compile>")


def estimate(space: str | SearchSpace = "nasbench201", method: str | Method = "darts", data: str | Dataset = "digits", *,
             batch: int | None = None, seeds: int = 1, budget: Budget | None = None,
             devices: int | Literal["all"] | None = None, cache: str | None = None) -> Estimate:
    """Compiles the step of a search, and neither trains nor writes anything but the cache. Arguments: as for `dnas.search`.

    Raises ValueError, in one line, for whatever does not fit.
    """
    several = seeds if type(seeds) is int and 1 < seeds <= MOST else None  # estimate_plan refuses what cannot be
    plan = plan_search(space, method, data, batch=batch, budget=budget, seeds=several, devices=devices)
    return estimate_plan(plan, seeds=seeds, cache=cache)


def estimate_plan(plan: SearchPlan, *, seeds: int = 1, cache: str | None = None) -> Estimate:
    """The same of a plan, of its first search for so many seeds."""
    if type(seeds) is not int or not 1 <= seeds <= MOST:
        raise ValueError(f"seeds is {seeds!r}; it must be a whole number, 1 to {MOST:,}")
    caches.enable(cache)
    setting, mesh = plan.settings[0], create_mesh(plan.devices, seeds)
    return Estimate(**estimate_search(setting.space, budgeted(setting.method, setting.space, plan.budget), plan.data,
                                      batch=plan.batch, searches=seeds, mesh=mesh), devices=plan.devices)
