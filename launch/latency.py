"""Measure how long networks take on this machine: the median of many runs of each compiled network, in turn.

With --save it measures many networks of one space instead, and writes a table that a selection can read; see
`dnas latency --save FILE.npz --help`.
"""

from __future__ import annotations

from collections.abc import Sequence

from dnas.options import Option
from dnas.reports.text import columns
from launch import arguments
from launch.arguments import JSON, has_option, json_file, options_of, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown
from launch.search_options import SPACE
from launch.text import plain

WHAT = Option("what", tuple[str, ...], (), "Run directories, folders of selections, genotype.json files, published names "
              "such as darts-v2, or trained networks.")
TABLE = "Measure networks of a space, and write a table of their latencies."


def main(argv: Sequence[str]) -> int:
    """Runs `dnas latency`. Raises ValueError for bad input."""
    if has_option(argv, "save"):
        return _table(argv)
    values = read_command("latency", __doc__, argv, [WHAT, *options_of("dnas.api.latency:latency"), JSON],
                          shown={"what": Positional("RUN|MODEL|GENOTYPE ..."), "cells": Shown("INT", "as searched"),
                                 "channels": Shown("INT", "as searched")})
    what, out = list(values.pop("what")), values.pop("json")
    if not what:
        raise ValueError("RUN|MODEL|GENOTYPE ... is missing; or --save FILE.npz for a table (dnas latency --help describes "
                         "both)")
    out = json_file(out, what)
    import dnas
    from dnas.runs.files import write_atomic

    latencies = dnas.latency(what, **values)
    print(f"device     {plain(latencies.device)}")
    print(f"runs       {latencies.repetitions:,} of each network, batch {latencies.batch}\n")
    print(columns([[plain(cell) for cell in row] for row in latencies.rows()], left=1))
    if out:
        write_atomic(out, latencies.to_json())
        print(f"\nwritten    {out}")
    return 0


def _table(argv: Sequence[str]) -> int:
    """Runs `dnas latency --save`."""
    name = arguments.flag_value(argv, "--space") or SPACE.default
    own = options_of("dnas.api.latency_table:latency_table", without=["progress"])
    values = read_command("latency", TABLE, argv, [SPACE, *own, *arguments.data_options(("digits",))],
                          shown={"save": Shown("FILE.npz"), "draws": Shown("N", "none"), "genotypes": Shown("FILE", "none"),
                                 "space": Shown("NAME")},
                          groups={"space": arguments.part_options("space", name)},
                          titles={"space": f"options of the space {name}"})
    import dnas

    data = arguments.load_data(values)
    space = dnas.space(values["space"], data, **values["space_options"])
    with working("the same command goes on"):
        table = dnas.latency_table(space, data, **{option.name: values[option.name] for option in own})
    print(f"device     {plain(table.device)}, batch {table.batch}, {table.repetitions:,} runs of each network")
    print(f"latency    {table.ms.min():.4g} to {table.ms.max():.4g} ms, of {len(table.ms):,} networks")
    print(f"written    {plain(values['save'])}")
    return 0
