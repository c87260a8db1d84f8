"""Choose an architecture from a trained supernet, by one of many selections, or by one of yours.

Of an elastic network, whose architecture is not learned, one is chosen within limits (evolution), or a front (pareto).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from dnas.options import REQUIRED, Option
from dnas.selection import SELECTIONS, USUAL
from launch.arguments import flag_value, has_option, options_of, part_options, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown

RUN = Option("run", str, REQUIRED, "The run directory of a search. Only its folder `selections` is written to.")
SELECTION = Option("selection", str | None, None, f"Selection: {', '.join(SELECTIONS)}, package.module:factory or "
                   "file.py:factory.")


def main(argv: Sequence[str]) -> int:
    """Runs `dnas select`. Raises ValueError for bad input."""
    name = flag_value(argv, "--selection") or _of_method(argv) or USUAL
    own = options_of("dnas.api.select:select", without=["progress"])
    values = read_command("select", __doc__, argv, [RUN, SELECTION, *own],
                          shown={"run": Positional("RUN"), "out": Shown("DIR", "RUN/selections/SELECTION"),
                                 "selection": Shown("NAME", f"{USUAL}, or evolution of an elastic network")},
                          groups={"selection": part_options("selection", name)},
                          titles={"selection": f"options of the selection {name}"})
    from dnas.api.select import cost_parts, select
    from dnas.reports.cells import terminal_cell
    from launch.text import budget_lines, front_of_search, size_text

    options = values.pop("selection_options")
    values["selection"] = name
    with working("the same command continues from the last step"):
        chosen = select(values.pop("run"), **values, **options)
    supernet = chosen.run.supernet
    print("", terminal_cell(chosen.genotype, supernet.space.groups), supernet.space.format(chosen.genotype), "", sep="\n")
    if chosen.front:
        print(front_of_search(chosen.front, supernet), "", sep="\n")
    print(f"size       {size_text(supernet.space.cost(chosen.genotype))} as a network of its own")
    for line in budget_lines(supernet.config, supernet.space, chosen.genotype):
        print(f"budget     {line}")
    print("cost       " + ", ".join([*cost_parts(chosen.cost), f"{chosen.cost['seconds']:.1f} s"]))
    print(f"written    {chosen.folder}")
    pick = " --pick 'NAME<=NUMBER'   (the best of the front without it)" if chosen.front else ""
    print(f"next       dnas train {shlex.quote(str(chosen.folder))}{pick}")
    return 0


def _of_method(argv: Sequence[str]) -> str | None:
    """The selection with which the method of the run in `argv` ends, whose options are then those of the command."""
    run = next((word for word in argv if os.path.isfile(os.path.join(os.path.expanduser(word), "config.json"))), None)
    if run is None:
        return None
    from dnas.api.supernet import selection_of_method

    return selection_of_method(run, method=flag_value(argv, "--method"), trust=has_option(argv, "trust"))
