"""Say how well the supernet of a search ranks networks whose truth a table knows: Kendall's tau, Spearman's rho, the best.

Every network is scored in the supernet at one-hot gates, on the same examples. Test accuracies of a table are the truth
that is reported here; nothing is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

from dnas.options import REQUIRED, Option
from launch.arguments import options_of, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown

RUN = Option("run", str, REQUIRED, "The run directory of a search of NAS-Bench-201 or NAS-Bench-Macro.")
SHOWN = {"run": Positional("RUN"), "table": Shown("FILE.npz"), "truth": Shown("COLUMN", "the benchmark's test accuracy"),
         "networks": Shown("N", "all"), "examples": Shown("M", "the whole validation split")}


def main(argv: Sequence[str]) -> int:
    """Runs `dnas rank`. Raises ValueError for bad input."""
    values = read_command("rank", __doc__, argv, [RUN, *options_of("dnas.api.rank:rank", without=["progress"])], shown=SHOWN)
    import dnas
    from dnas.reports.text import columns
    from launch.text import plain

    with working("the same command goes on"):
        ranking = dnas.rank(values.pop("run"), **values)
    header, *rows = ranking.rows()
    print(f"truth      {plain(ranking.truth)} of {plain(ranking.table)}; in brackets 95 % by bootstrap\n")
    print(columns([[title, *(row[at] for row in rows)] for at, title in enumerate(header)], left=1))
    cost = ranking.cost
    print(f"\ncost       {cost['evaluations']:,} examples forward, {cost['seconds']:.1f} s, "
          f"{len(ranking.genotypes) / cost['seconds']:,.1f} networks a second")
    print(f"written    {ranking.file} and .npz, .svg, .png")
    return 0
