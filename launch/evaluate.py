"""Show the size of a network, and its results in a benchmark's table. Trains nothing.

A table is a .npz of `dnas table import`, of NAS-Bench-201 or NAS-Bench-Macro: the published networks, trained from scratch.
Test accuracies are for reports: no search or selection reads a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dnas.options import REQUIRED, Option
from launch.arguments import JSON, json_file, options_of, read_command
from launch.parser import Positional, Shown

if TYPE_CHECKING:
    from dnas import Evaluation

WHAT = Option("what", str, REQUIRED, "A run, a folder of `dnas select`, a genotype.json, a published name, a cell such "
              "as '|none~0|+|...|' in quotes, or eight digits such as 22212202, a network of NAS-Bench-Macro.")
SHOWN = {"what": Positional("RUN|GENOTYPE|STRING"), "table": Shown("FILE.npz", "none"), "latency": Shown("FILE.npz", "none")}


def main(argv: Sequence[str]) -> int:
    """Runs `dnas evaluate`. Raises ValueError for bad input."""
    options = [WHAT, *options_of("dnas.api.evaluate:evaluate"), JSON]
    values = read_command("evaluate", __doc__, argv, options, shown=SHOWN)
    out = json_file(values.pop("json"), [value for value in values.values() if value])
    import dnas
    from dnas.runs.files import write_atomic

    evaluation = dnas.evaluate(values.pop("what"), **values)
    _print(evaluation)
    if out:
        write_atomic(out, evaluation.to_json())
        print(f"\nwritten    {out}")
    return 0


def _print(result: Evaluation) -> None:
    from launch.text import plain, size_text

    print(f"cell       {result.cell}")
    if result.searched:
        options = ", ".join(f"{name} {result.options[name]}" for name in ("image", "classes", "channels", "cells")
                            if name in result.options)
        print(plain(f"searched   {result.space} ({options}): {size_text(result.searched)}"))
    if result.published:
        skeleton = ", ".join(f"{value} {name}" for name, value in result.published.items() if name != "size")
        print(f"published  networks with {skeleton}:")
        _rows([(f"  {data}", size_text(size)) for data, size in result.published["size"].items()], left=2)
    if result.table:
        print(plain(f"table      {result.table['path']}, row {result.table['row']} of {result.table['cells']:,}"))
        _print_standings(result)
    if result.latency_ms:
        print()
        _rows([("latency on", "ms", "rank"), *((device, f"{s.value:.4g}", f"{s.rank:,} of {s.of:,}")
                                               for device, s in result.latency_ms.items())], left=1)
    if result.table or result.latency_ms:
        print("\nRanks: 1 is the best (highest accuracy, else lowest value); ties share the better rank.")


def _print_standings(result: Evaluation) -> None:
    from dnas.tabular.table import accuracy

    accuracies, others = [], []
    for name, standing in result.table["columns"].items():
        rank = f"{standing.rank:,} of {standing.of:,}"
        if accuracy(name):
            data, split, epochs = accuracy(name)
            accuracies.append((data, split, f"{epochs}", f"{standing.value:.2f}", rank, f"{standing.regret:.2f}"))
        elif not name.startswith(("params_", "flops_")):
            others.append((name, f"{standing.value:,.10g}", rank))
    if accuracies:
        print()
        _rows([("data set", "split", "epochs", "accuracy %", "rank", "regret, points"), *accuracies], left=2)
        print("\nTest accuracies are for reports: neither a search nor a selection reads a table.")
    if others:
        print()
        _rows([("column", "value", "rank"), *others], left=1)


def _rows(rows: list[tuple[str, ...]], left: int) -> None:
    from dnas.reports.text import columns
    from launch.text import plain

    print(columns([[plain(cell) for cell in row] for row in rows], left=left))
