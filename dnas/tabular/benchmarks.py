"""The benchmarks whose tables can be read, by the name of their space."""

from __future__ import annotations

from pathlib import Path

from dnas.tabular import macro, nasbench201
from dnas.tabular.table import Table, of_arrays, read_arrays

BENCHMARKS = {benchmark.space: benchmark for benchmark in (nasbench201.BENCHMARK, macro.BENCHMARK)}


def load(path: str | Path) -> Table:
    """Reads a table from a `.npz`: `ops` `[N, E]` and columns, see `dnas.tabular.table.of_arrays`. The number E of edges
    says of which benchmark it is.

    Raises ValueError if the file cannot be read, has no `ops`, or an array has a wrong shape or value.
    """
    arrays = read_arrays(path)
    lengths = {len(benchmark.edges): benchmark for benchmark in BENCHMARKS.values()}
    forms = " or ".join(f"[N, {edges}] of {benchmark.title}" for edges, benchmark in lengths.items())
    if "ops" not in arrays:
        raise ValueError(f"{path}: no array ops; it has {', '.join(arrays) or 'none'}, and a table needs ops {forms} "
                         "(`dnas table import` makes one)")
    ops = arrays["ops"]
    if ops.ndim != 2 or ops.shape[1] not in lengths:
        raise ValueError(f"{path}: ops is {ops.dtype} {list(ops.shape)}; it must be integers {forms}")
    return of_arrays(path, arrays, lengths[ops.shape[1]])
