"""Say what a cell is worth: its size, and what a table of NAS-Bench-201 knows of it. Reads, and trains nothing.

A table is a .npz of `dnas table import`. It answers for the published networks of 16 channels and 5 cells a stage, trained
from scratch. Test accuracies are for reports: no search or selection reads a table.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from launch.arguments import parsed


def _file(metavar: str):
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(default: none)")


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    cell: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|GENOTYPE|STRING")]
    """A run, a folder of `dnas select`, a genotype.json, or a cell such as '|none~0|+|...|' in quotes."""
    table: Annotated[str | None, _file("FILE.npz")] = None
    """Table of NAS-Bench-201: accuracies with their rank among all cells and the regret to the best."""
    latency: Annotated[str | None, _file("FILE.npz")] = None
    """Latencies by device (help_devices, help_latency_ms) in the order of the table's rows."""
    json: Annotated[str | None, _file("FILE")] = None
    """Where to write the same as JSON."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas evaluate`. Raises ValueError, in one line, for what it cannot read or use."""
    arguments = parsed(Arguments(tyro.MISSING), "dnas evaluate", __doc__, list(argv))
    if arguments.latency and not arguments.table:
        raise ValueError("--latency needs --table, which says which row the cell is")
    out = Path(arguments.json).expanduser() if arguments.json else None
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise ValueError(f"--json {out}: it must be a file in a folder that exists")
    inputs = [Path(p).expanduser() for p in (arguments.cell, arguments.table, arguments.latency) if p]
    if out and any(out.resolve() in (p.resolve(), (p / "genotype.json").resolve()) for p in inputs):
        raise ValueError(f"--json {out} would replace what is evaluated; choose another file")
    genotype, found = _genotype(arguments.cell)
    if arguments.table:
        found |= _tabulated(genotype, arguments)
    if genotype.space == "nasbench201":
        found["published"] = _published(genotype, found.get("table", {}).get("columns", {}))
    _print(found)
    if out:
        from dnas.runs.directory import write_atomic

        write_atomic(out, json.dumps({"source": arguments.cell, **found}, indent=1) + "\n")
        print(f"\nwritten    {out}")
    return 0


def _genotype(text: str) -> tuple:
    """The genotype that a string in the published notation, a file or a folder holds, and what is told of it alone."""
    if "|" in text:
        from dnas.tabular.nasbench201 import SKELETON
        from search_spaces.nasbench201 import nasbench201

        space = nasbench201(**SKELETON)
        genotype = space.parse(text)
        return genotype, {"space": space.name, "cell": space.format(genotype)}
    from dnas.runs.directory import load_genotype

    path = Path(text).expanduser()
    try:
        genotype = load_genotype(path)
    except ValueError as error:
        hint = "" if path.exists() else ", or a NAS-Bench-201 cell '|op~0|+|...|' in quotes"
        raise ValueError(f"{error}{hint}") from None
    return genotype, _searched(genotype)


def _searched(genotype) -> dict:
    """Notation and size of the network of a genotype, in its space with the options with which it was searched."""
    import inspect

    from dnas import registry
    from search_spaces import SPACES

    known = registry.names(SPACES, "space")
    if genotype.space not in known:  # a name in a file is never a place to import from
        raise ValueError(f"the genotype is of space {genotype.space[:60]!r}; `dnas evaluate` knows {', '.join(known)}")
    factory = registry.resolve(genotype.space, SPACES, "space")
    options = {name: value for name, value in genotype.options.items() if name in inspect.signature(factory).parameters}
    try:
        space = factory(**options)
        cost = space.cost(genotype)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the genotype's options build no {genotype.space}: {type(error).__name__}: {error}") from error
    return {"space": genotype.space, "cell": space.format(genotype), "options": dict(genotype.options), "searched": cost}


def _published(genotype, columns: dict) -> dict:
    """Parameters and multiply-adds of the published networks of a NAS-Bench-201 cell: the table's, or else counted."""
    from dnas.tabular.nasbench201 import DATA, SKELETON
    from search_spaces.nasbench201 import nasbench201

    sizes = {}
    for data, (image, classes) in DATA.items():
        if {f"params_{data}", f"flops_{data}"} <= columns.keys():
            sizes[data] = {"params": round(columns[f"params_{data}"]["value"]),
                           "macs": round(columns[f"flops_{data}"]["value"])}
        else:
            sizes[data] = nasbench201(image, classes, **SKELETON).cost(genotype)
    return {**SKELETON, "size": sizes}


def _tabulated(genotype, arguments: Arguments) -> dict:
    """What the table, and the latencies if there are any, know of the genotype's cell."""
    from dnas.tabular import nasbench201 as benchmark

    table = benchmark.load(Path(arguments.table).expanduser())
    row = benchmark.index(table, genotype)
    columns = {name: standing._asdict() for name, standing in benchmark.standings(table, row).items()}
    found = {"table": {"path": table.path, "row": row, "cells": len(table.ops), "columns": columns}}
    if arguments.latency:
        devices, ms = benchmark.latencies(Path(arguments.latency).expanduser())
        if ms.shape[1] != len(table.ops):
            raise ValueError(f"{arguments.latency} has {ms.shape[1]} cells, {table.path} has {len(table.ops)}; "
                             "they go together only row by row")
        found["latency_ms"] = {device: benchmark.standing(values, row, higher=False)._asdict()
                               for device, values in zip(devices, ms)}
    return found


def _print(found: dict) -> None:
    from dnas.tabular.nasbench201 import accuracy

    print(f"cell       {found['cell']}")
    if "searched" in found:
        options = ", ".join(f"{name} {found['options'][name]}" for name in ("image", "classes", "channels", "cells")
                            if name in found["options"])
        print(f"searched   {found['space']} ({options}): {_size(found['searched'])}")
    if "published" in found:
        published = found["published"]
        print(f"published  skeleton of {published['channels']} channels, {published['cells']} cells in each of 3 stages:")
        _rows([(f"  {data}", _size(size)) for data, size in published["size"].items()])
    if "table" not in found:
        return
    table = found["table"]
    print(f"table      {table['path']}, row {table['row']} of {table['cells']:,}\n")
    accuracies, others = [], []
    for name, standing in table["columns"].items():
        rank = f"{standing['rank']:,} of {standing['of']:,}"
        if accuracy(name):
            data, split, epochs = accuracy(name)
            accuracies.append((data, split, f"{epochs}", f"{standing['value']:.2f}", rank, f"{standing['regret']:.2f}"))
        elif not name.startswith(("params_", "flops_")):
            others.append((name, f"{standing['value']:,.10g}", rank))
    if accuracies:
        _rows([("data set", "split", "epochs", "accuracy %", "rank", "regret, points"), *accuracies], left=2)
        print("\nTest accuracies are for reports: neither a search nor a selection reads a table.")
    if others:
        print()
        _rows([("column", "value", "rank"), *others])
    if "latency_ms" in found:
        print()
        _rows([("latency on", "ms", "rank"), *((device, f"{s['value']:.4g}", f"{s['rank']:,} of {s['of']:,}")
                                               for device, s in found["latency_ms"].items())])
    print("\nRanks: 1 is the best (highest accuracy, else lowest value); ties share the better rank.")


def _size(cost: dict) -> str:
    return f"{cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example"


def _rows(rows: list[tuple], left: int = 1) -> None:
    """Prints columns of text, the first `left` of them aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (text.ljust(width) if k < left else text.rjust(width) for k, (text, width) in enumerate(zip(row, widths)))
        print("  ".join(cells).rstrip())
