"""Estimate what a search needs, without training: the same options as `dnas search`."""

from __future__ import annotations

from collections.abc import Sequence

from launch.arguments import load_data
from launch.search_options import read_search


def main(argv: Sequence[str]) -> int:
    """Runs `dnas estimate`, which writes nothing but the compilation cache."""
    values = read_search("estimate", __doc__, argv)
    import dnas
    from dnas import config as configs
    from dnas.api.estimate import estimate_plan
    from dnas.api.search_plan import plan_search
    from dnas.data import describe
    from dnas.engine.devices import spelled

    data = load_data(values)
    space = dnas.space(values["space"], data, **values["space_options"])
    method = dnas.method(values["method"], **values["method_options"])
    plan = plan_search(space, method, data, batch=values["batch"], budget=dnas.Budget(**values["budget_options"]),
                       seeds=values["seeds"] if values["seeds"] > 1 else None, devices=values["devices"])
    print(describe(data))
    print(f"space         {configs.label(space.source, 'space')}")
    print(f"method        {configs.label(method.source, 'method')}, batch {plan.batch}", flush=True)
    need = estimate_plan(plan, seeds=values["seeds"], cache=values["cache"])
    print(f"weights       {need.weights:,}")
    print(f"multiply-adds {need.macs:,} per example, forwards through the supernet")
    print(f"peak memory   {spelled(need.memory_bytes)} of a step, data included")
    if need.devices > 1:
        print(f"devices       {need.devices}: the memory is that of each; they sum or gather arrays of "
              f"{need.exchanged_bytes:,} bytes a step")
    print(f"compile time  {need.compile_seconds:.1f} s")
    if values["seeds"] > 1:
        print(f"seeds         {need.note}")
    return 0
