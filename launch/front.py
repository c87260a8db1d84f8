"""Find a Pareto front of the networks in a table of NAS-Bench-201, by few look-ups; no supernet is needed.

The front of a supernet of yours is found by `dnas select RUN --selection pareto`. Test accuracies of a table are never read.
"""

from __future__ import annotations

from collections.abc import Sequence

from dnas.options import REQUIRED, Option
from launch.arguments import options_of, read_command
from launch.parser import Positional, Shown

TABLE = Option("table", str, REQUIRED, "The table, a .npz of `dnas table import`.")
SHOWN = {"table": Positional("TABLE.npz"), "out": Shown("DIR", "none"), "latency": Shown("FILE.npz", "none"),
         "device": Shown("NAME", "the only one"), "limit": Shown("NAME<=NUMBER ...", "none")}


def main(argv: Sequence[str]) -> int:
    """Runs `dnas front`. Raises ValueError for bad input."""
    values = read_command("front", __doc__, argv, [TABLE, *options_of("dnas.api.front:front")], shown=SHOWN)
    import dnas
    from dnas import registry
    from launch.text import front_text

    front = dnas.front(values.pop("table"), **values)
    space = registry.resolve(front.networks[0].genotype.space, "space")()
    print("", front_text(front, [space.format(each.genotype) for each in front.networks]), sep="\n")
    if values["out"]:
        print(f"written    {values['out']}")
    return 0
