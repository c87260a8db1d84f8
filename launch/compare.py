"""Compare selections on trained supernets: one table over runs of several methods and seeds, and a report."""

from __future__ import annotations

from collections.abc import Sequence

from dnas.options import REQUIRED, Option
from dnas.selection import COMPARED, SELECTIONS
from launch.arguments import flag_values, options_of, part_options, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown

RUNS = Option("runs", tuple[str, ...], REQUIRED, "Run directories of searches: several methods, several seeds. A folder "
              "stands for all searches in it.")
SELECTION = Option("selection", tuple[str, ...], COMPARED, "Selections to compare, each with options of its own.")
OUT = Option("out", str | None, None, "Folder of the report; an interrupted comparison in it continues. A selection is "
             "written in its run, RUN/selections, and read from there if it is done.")


def main(argv: Sequence[str]) -> int:
    """Runs `dnas compare`. Raises ValueError for bad input."""
    names = flag_values(argv, "--selection") or list(COMPARED)
    short = [name.rpartition(":")[2].replace("-", "_") for name in names]
    values = read_command(
        "compare", __doc__, argv, [RUNS, SELECTION, *options_of("dnas.api.compare:compare", without=["out"]), OUT],
        shown={"runs": Positional("RUN ..."), "selection": Shown("{" + ",".join(SELECTIONS) + "}|FACTORY ..."),
               "table": Shown("FILE", "none"), "out": Shown("DIR", "comparison in the folder, or beside the first run")},
        groups={group: part_options("selection", name) for group, name in zip(short, names)},
        titles={group: f"options of the selection {name}" for group, name in zip(short, names)})
    from dnas.api.compare import compare
    from dnas.api.comparison_plan import default_folder

    runs, out = values["runs"], values["out"] or default_folder(values["runs"])
    selections = [(name, values[f"{group}_options"]) for group, name in zip(short, names)]
    options = {name: values[name] for name in ("train_epochs", "table", "column", "trust", "cache", "progress")}
    with working("the same command continues from what is done"):
        result = compare(runs, selections, out=out, **options)
    print(f"\n{result}\n")
    print(f"written    {result.folder} (report.html, comparison.csv, comparison.json, comparison.svg)")
    return 0
