"""`dnas.estimate`: what a search would need, without a step of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from dnas.algorithms.budget import Budget, budgeted
from dnas.algorithms.decisions import undecided
from dnas.algorithms.method import Method
from dnas.api.search_plan import MOST, SearchPlan, plan_search
from dnas.data import Dataset
from dnas.engine import cache as caches
from dnas.engine.compile import Examples, shape_of, start_search
from dnas.engine.devices import spelled
from dnas.engine.estimate import estimate as estimate_search
from dnas.engine.mesh import create_mesh
from dnas.engine.programs import Listed, listed
from dnas.engine.search import state_shape
from dnas.engine.targets import CHIPS, Chip, Examined, chip_of, examine
from dnas.platform import platform as on_platform
from dnas.task import task_of
from dnas.types import SearchSpace


class Estimate(NamedTuple):
    """What a search needs.

    weights, macs: parameters and multiply-adds per example of the supernet. memory_bytes: peak of one step as XLA plans it,
    data included, on each device, None where it does not say. compile_seconds: of the step, from the cache where it is
    there. note: how several searches would go, and in how much memory.
    devices: how many there are. sent_bytes: that each of them sends to others in a step, at least.
    compiled: what the step does on a chip for which it was compiled, computed and not measured; None without a chip.
    step_seconds: how long the step takes on that chip at least, by part: see `Examined.least_seconds`.
    """

    weights: int
    macs: int
    memory_bytes: int | None
    compile_seconds: float
    note: str
    devices: int = 1
    sent_bytes: int = 0
    compiled: Examined | None = None
    step_seconds: Mapping[str, float] = {}

    def __repr__(self) -> str:
        least = f", at least {1e3 * max(self.step_seconds.values()):.2g} ms a step" if self.step_seconds else ""
        where = f" on {CHIPS[self.compiled.chip].title}, computed" if self.compiled else ""
        return (f"<estimate: {self.weights:,} weights, {self.macs:,} multiply-adds per example, "
                f"{spelled(self.memory_bytes)} of memory, {self.compile_seconds:.1f} s to compile{least}{where}>")


def estimate(space: str | SearchSpace = "nasbench201", method: str | Method = "darts", data: str | Dataset = "digits", *,
             batch: int | None = None, seeds: int = 1, budget: Budget | None = None,
             devices: int | Literal["all"] | None = None, cache: str | None = None, platform: str | None = None,
             chip: str | None = None) -> Estimate:
    """Compiles the step of a search, and neither trains nor writes anything but the cache. Arguments: as for `dnas.search`,
    and

    Args:
        platform: compile for cpu, cuda or tpu, in a process of its own, and say what the step does there; the device need
            not be there, but the compiler: the package jax[cuda13] or jax[tpu]. None for this machine.
        chip: of that platform: h100, v5e. None for the first of these.

    Raises ValueError, in one line, for whatever does not fit and for a compiler that is not installed, and
    `dnas.engine.targets.CompilerFailed`.
    """
    elsewhere = platform is not None or chip is not None
    devices = devices_for(elsewhere, devices)
    target = chip_of(platform, chip) if elsewhere else None
    several = seeds if type(seeds) is int and 1 < seeds <= MOST else None  # estimate_plan refuses what cannot be
    plan = plan_search(space, method, data, batch=batch, budget=budget, seeds=several,
                       devices=devices)
    return estimate_plan(plan, seeds=seeds, cache=cache, chip=target)


def devices_for(elsewhere: bool, devices: int | Literal["all"] | None) -> int | Literal["all"] | None:
    """Devices to plan an estimate for: those that are given; for a chip elsewhere one, and ValueError refuses more."""
    if elsewhere and devices not in (None, 1):
        raise ValueError(f"devices is {devices!r}; with a platform or a chip it must be 1, for one chip is estimated")
    return 1 if elsewhere else devices


def estimate_plan(plan: SearchPlan, *, seeds: int = 1, cache: str | None = None, chip: Chip | None = None) -> Estimate:
    """The same of a plan, of its first search for so many seeds."""
    if type(seeds) is not int or not 1 <= seeds <= MOST:
        raise ValueError(f"seeds is {seeds!r}; it must be a whole number, 1 to {MOST:,}")
    setting = plan.settings[0]
    method = budgeted(setting.method, setting.space, plan.budget)
    method.check_search(setting.space, {"epochs": 10**6, "diagnose": 1, "decisions": undecided(setting.space.groups),
                                        "weights": True})
    if chip is None:
        caches.enable(cache)
        return Estimate(**estimate_search(setting.space, method, plan.data, batch=plan.batch, searches=seeds,
                                          mesh=create_mesh(plan.devices, seeds)), devices=plan.devices)
    at_once = chip.platform != "cpu" and seeds > 1
    with on_platform(chip.platform):
        [step] = search_programs(setting.space, method, plan.data, plan.batch, seeds if at_once else None)
    compiled = examine(*step[:2], chip, donate_argnums=step.donate_argnums)
    cost, how = setting.space.cost(None), "at once, in one program" if at_once else "in turn, by one program"
    dtype = (setting.space.source or {}).get("dtype", "float32")
    return Estimate(cost["params"], cost["macs"], compiled.memory, compiled.seconds, f"{seeds} searches {how}",
                    compiled=compiled, step_seconds=compiled.least_seconds(dtype))


def search_programs(space: SearchSpace, method: Method, data: Dataset, batch: int, width: int | None = None) -> list[Listed]:
    """The program of a step of one search, or of `width` searches at once, not compiled."""
    algorithm, hyper = method.bind(space, task_of(data)), method.numbers_of(epochs=10**6, steps=1)
    examples = Examples(*shape_of((data.inputs, data.targets)))
    with listed() as programs:
        start_search(algorithm, data, examples, state_shape(space, method, data, batch), hyper, 1, batch, width)
    return programs
