"""Estimate what a search needs, without training: the same options as `dnas search`.

With --platform the step is compiled for another device, which need not be there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from launch.arguments import load_data
from launch.search_options import SPLIT, read_search, settings_of


def main(argv: Sequence[str]) -> int:
    """Runs `dnas estimate`, which writes nothing but the compilation cache."""
    values = read_search("estimate", __doc__, argv)
    elsewhere = values["platform"] is not None or values["chip"] is not None
    if elsewhere:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # it uses no device, and a compiler's package looks for one
    import dnas
    from dnas import config as configs
    from dnas.api.estimate import devices_for, estimate_plan
    from dnas.api.search_plan import plan_search
    from dnas.data import describe
    from dnas.engine.devices import spelled
    from dnas.engine.targets import chip_of

    devices = devices_for(elsewhere, values["devices"])
    chip = chip_of(values["platform"], values["chip"]) if elsewhere else None
    data = load_data(values)
    (space, *others), (method, *more) = settings_of(values, argv, data)
    if others or more:
        raise ValueError("--sweep has several settings, and an estimate is of one; give one value of each option")
    own = {name: values[name] for name in ("epochs", "batch", "seconds", "preset", *SPLIT)}
    if values["selection"] is not None:
        own["selection"] = values["selection"], values.get("selection_options", {})
    plan = plan_search(space, method, data, **own, budget=dnas.Budget(**values["budget_options"]),
                       seeds=values["seeds"] if values["seeds"] > 1 else None, devices=devices)
    chosen = plan.settings[0].config.get("selection")
    print(describe(data))
    print(f"space         {configs.label(space.source, 'space')}")
    print(f"method        {configs.label(method.source, 'method')}, batch {plan.batch}"
          + (f", at most {plan.seconds:g} seconds" if plan.seconds else ""), flush=True)
    if chosen:
        print(f"selection     {configs.label(chosen, 'selection')} ends the search; its own needs are not in the following")
    if plan.split:
        print(f"split         {plan.split.by}, {plan.split.splits} times: the needs are those of the first supernet")
    need = estimate_plan(plan, seeds=values["seeds"], cache=values["cache"], chip=chip)
    print(f"weights       {need.weights:,}")
    print(f"multiply-adds {need.macs:,} per example, forwards through the supernet")
    there = f", of {spelled(chip.memory)} there" if chip and chip.memory else ""
    print(f"peak memory   {spelled(need.memory_bytes)} of a step, data included{there}")
    if need.devices > 1:
        sent = f"each sends at least {need.sent_bytes:,} bytes a step" if need.sent_bytes else "they exchange nothing"
        print(f"devices       {need.devices}: the memory is that of each; {sent}")
    print(f"compile time  {need.compile_seconds:.1f} s")
    if values["seeds"] > 1:
        print(f"seeds         {need.note}")
    for line in on_chip(need, chip, plan.steps, plan.epochs) if chip else []:
        print(line)
    return 0


def on_chip(need, chip, steps: int, epochs: int) -> list[str]:
    """Lines on what a step does on a chip for which it was compiled."""
    from dnas.reports.text import duration

    work = need.compiled.work
    lines = [f"chip          {chip.title}: compiled for it and not run; all numbers below are computed, not measured",
             f"kernels       {work.kernels:,} a step",
             f"bytes         {work.bytes / 1e9:.3g} GB a step, read and written by kernels",
             f"operations    {work.operations / 1e9:.3g} G a step, of convolutions and matrix products"]
    if need.step_seconds:
        least = max(need.step_seconds.values())
        parts = ", ".join(f"{1e3 * seconds:.2g} ms for {name}" for name, seconds in need.step_seconds.items()
                          if seconds > least / 100)
        whole = least * steps * epochs
        lines.append(f"time          at least {1e3 * least:.2g} ms a step, "
                     f"{duration(whole) if whole >= 10 else f'{whole:.2g} s'} for {epochs} "
                     f"epochs of {steps} steps ({parts})")
    return lines
