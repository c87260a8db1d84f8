"""Say what a search would need, without training: the same options as `dnas search`."""

from __future__ import annotations

from collections.abc import Sequence

from dnas.engine import cache
from launch.arguments import parse
from launch.prepare import named, prepare


def main(argv: Sequence[str]) -> int:
    """Runs `dnas estimate`, which writes nothing but the compilation cache."""
    arguments = parse("estimate", __doc__, argv)
    prepared = prepare(arguments)
    from dnas import estimate
    from dnas.data import describe
    from dnas.engine.devices import spelled

    cache.enable(arguments.cache)
    print(describe(prepared.data))
    print(f"space         {named(prepared.config, 'space')}")
    print(f"method        {named(prepared.config, 'method')}, batch {arguments.batch}", flush=True)
    found = estimate(prepared.space, prepared.method, prepared.data, batch=arguments.batch,
                     searches=arguments.seeds)
    print(f"weights       {found['weights']:,}")
    print(f"multiply-adds {found['macs']:,} per example, forwards through the supernet")
    print(f"peak memory   {spelled(found['memory_bytes'])} of a step, data included")
    print(f"compile time  {found['compile_seconds']:.1f} s")
    if arguments.seeds > 1:
        print(f"seeds         {found['note']}")
    return 0
