"""Write one page about a run: its result, its course, and its command and versions. It opens offline, and prints well."""

from __future__ import annotations

from collections.abc import Sequence

from dnas.api.report import report
from dnas.options import REQUIRED, Option
from launch.arguments import options_of, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown

RUN = Option("run", str, REQUIRED, "The run directory of a search or of a training, finished or not.")


def main(argv: Sequence[str]) -> int:
    """Runs `dnas report`. Raises ValueError for bad input."""
    values = read_command("report", __doc__, argv, [RUN, *options_of("dnas.api.report:report")],
                          shown={"run": Positional("RUN"), "out": Shown("FILE", "RUN/report.html")})
    with working():
        path = report(values["run"], out=values["out"])
    print(f"written    {path}")
    return 0
