"""Say what a search would need, without training: the same options as `dnas search`."""

from __future__ import annotations

from collections.abc import Sequence

from launch import cache
from launch.arguments import parse
from launch.prepare import named, prepare


def main(argv: Sequence[str]) -> int:
    """Runs `dnas estimate`, which writes nothing but the compilation cache."""
    arguments = parse("estimate", __doc__, argv)
    prepared = prepare(arguments)
    from dnas import estimate
    from dnas.data import describe

    cache.enable(arguments.cache)
    print(describe(prepared.data))
    print(f"space         {named(prepared.config, 'space')}")
    print(f"method        {named(prepared.config, 'method')}, batch {arguments.batch}", flush=True)
    found = estimate(prepared.space, prepared.method, prepared.data, batch=arguments.batch)
    memory = found["memory_bytes"]
    print(f"weights       {found['weights']:,}")
    print(f"multiply-adds {found['macs']:,} per image, forwards through the supernet")
    print(f"peak memory   {'unknown' if memory is None else f'{memory / 2**20:,.1f} MiB'} of a step, data included")
    print(f"compile time  {found['compile_seconds']:.1f} s")
    return 0
