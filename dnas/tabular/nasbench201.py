"""NAS-Bench-201's table: accuracies, sizes and latencies of all 15,625 cells, by row of a `.npz` file.

Sources: Dong & Yang, ICLR 2020, arXiv 2001.00326, and NATS-Bench's topology space, arXiv 2009.00437 (accuracies, sizes);
HELP, Lee et al., NeurIPS 2021, arXiv 2106.08630 (latencies).

Accuracies are columns named DATA_SPLIT_EPOCHS, such as cifar10_valid_12 and cifar10_test_200, of the published skeleton
(16 channels, 5 cells a stage). Those with `_test_` are test accuracies: they are for reports on finished
searches. No search and no selection of this library reads them; `dnas.front` chooses by the others.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnas.data.checks import checked_file
from dnas.types import Choice, Evaluator, Genotype, Group

SPACE, GROUP = "nasbench201", "cell"
OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""Meaning of the numbers in `ops` if the file has no `op_names`."""
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""Order of the columns of `ops`."""
CELLS = len(OPS) ** len(EDGES)
WEIGHTS = len(OPS) ** np.arange(len(EDGES))[::-1]
SKELETON = {"channels": 16, "cells": 5}
"""Options of the space for the networks of the table."""
DATA = {"cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100), "imagenet16": ((16, 16, 3), 120)}
"""Data sets of the table: (height, width, channels) of the images, and classes."""
INDEXING = ("ops", "code", "op_names", "code_to_index")
BROKEN = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


class Table(NamedTuple):
    """A table of N cells.

    path: the file; ops: `[N, 6]` operation of each edge in EDGES, as index into op_names; rows: `[15625]` row of each
    code sum_k ops[k] 5^(5-k), -1 if the table lacks the cell; columns: `{name: [N]}` floats, NaN if unknown.
    """

    path: str
    ops: np.ndarray
    op_names: tuple[str, ...]
    rows: np.ndarray
    columns: Mapping[str, np.ndarray]


class Accuracy(NamedTuple):
    """The meaning of a column of accuracies (%): trained for `epochs` on data set `data`, measured on `split`."""

    data: str
    split: str
    epochs: int


class Standing(NamedTuple):
    """A cell's value in a column. rank: 1 is the best, ties share the better rank; of: number of cells with a value;
    regret: percentage points below the best accuracy, None in other columns."""

    value: float
    rank: int
    of: int
    regret: float | None


class Latencies(NamedTuple):
    """Milliseconds `[devices, N]` of each device, in the order of the table's rows."""

    devices: tuple[str, ...]
    ms: np.ndarray


def load(path: str | Path) -> Table:
    """Reads a table from a `.npz` with `ops` `[N, 6]`, `code` `[N]`, perhaps `op_names`, and columns `[N]` of numbers.

    A column named `..._firstM_...` has values of the first M cells only. Raises ValueError if the file cannot be read,
    lacks `ops` or `code`, or an array has a wrong shape or value.
    """
    arrays = _arrays(path)
    for name in ("ops", "code"):
        if name not in arrays:
            raise ValueError(f"{path}: no array {name}; it has {', '.join(arrays) or 'none'}, and a table of NAS-Bench-201 "
                             "needs ops [N, 6] and code [N] (`dnas table import` makes one)")
    ops, names = _checked_ops(path, arrays["ops"]), _op_names(path, arrays.get("op_names"))
    codes = ops.astype(np.int64) @ WEIGHTS
    if not np.array_equal(arrays["code"], codes):
        raise ValueError(f"{path}: code does not fit ops; code[i] must be the sum of ops[i, k] * 5^(5-k)")
    rows = np.full(CELLS, -1, np.int64)
    rows[codes] = np.arange(len(codes))
    if (rows >= 0).sum() < len(codes):
        raise ValueError(f"{path}: ops names {len(codes) - (rows >= 0).sum()} cells more than once")
    columns = {name: _column(path, name, array, len(ops)) for name, array in arrays.items() if name not in INDEXING}
    return Table(str(path), ops, names, rows, columns)


def index(table: Table, genotype: Genotype) -> int:
    """Row of the cell of `genotype`; an edge that it leaves out counts as `none`.

    Raises ValueError if it is of another space, has other edges or operations, or the table lacks the cell.
    """
    if genotype.space != SPACE:
        raise ValueError(f"the genotype is of space {genotype.space!r}; {table.path} is a table of {SPACE}")
    (ops,) = genotype.decisions({GROUP: Group(EDGES, table.op_names)}).values()
    row = int(table.rows[np.where(ops < 0, table.op_names.index("none"), ops) @ WEIGHTS])
    if row < 0:
        raise ValueError(f"{table.path} has {len(table.ops)} of the {CELLS} cells, and not this one")
    return row


def choices(table: Table, row: int) -> dict[str, tuple[Choice, ...]]:
    """The cell of a row, as the choices of a genotype of the space. Raises ValueError if there is no such row."""
    return {GROUP: tuple(Choice(s, t, table.op_names[op]) for (s, t), op in zip(EDGES, table.ops[_row(table, row)]))}


def row_values(table: Table, row: int) -> dict[str, float]:
    """The values of a row, `{column: value}`, without unknown ones.

    Raises ValueError if there is no such row.
    """
    _row(table, row)
    return {name: _decimal(values[row]) for name, values in table.columns.items() if not np.isnan(values[row])}


def evaluator(table: Table) -> Evaluator:
    """The function from a genotype to the values of its cell, `{column: value}`. It raises ValueError as `index` does.
    """
    return lambda genotype: row_values(table, index(table, genotype))


def standings(table: Table, row: int) -> dict[str, Standing]:
    """The values of a row with their rank among all cells, and the accuracies' regret.

    Accuracies are better when higher; losses, seconds, parameters and multiply-adds when lower.
    """
    return {name: standing(table.columns[name], row, higher=accuracy(name) is not None or "_acc_" in name)
            for name in row_values(table, row)}


def standing(values: np.ndarray, row: int, *, higher: bool) -> Standing:
    """The standing of row `row` of `values` `[N]`, NaN left out. higher: these are accuracies in %, more is better."""
    others = values[~np.isnan(values)]
    better = int((others > values[row] if higher else others < values[row]).sum())
    value = _decimal(values[row])
    return Standing(value, 1 + better, len(others), round(_decimal(others.max()) - value, 6) if higher else None)


def accuracy(column: str) -> Accuracy | None:
    """The meaning of a column named DATA_SPLIT_EPOCHS; None for other columns. split: "valid" or "test"."""
    match = re.fullmatch(r"(\w+)_(valid|test)_(\d+)", column)
    return Accuracy(match[1], match[2], int(match[3])) if match else None


def without_test(table: Table) -> Table:
    """The table without its test columns (named ..._test_...): what may be chosen by."""
    return table._replace(columns={name: values for name, values in table.columns.items() if "_test_" not in name})


def latencies(path: str | Path) -> Latencies:
    """Reads `help_devices` `[D]` and `help_latency_ms` `[D, N]` of a `.npz`, in the order of the table's rows.

    A cell without a path from its input to its output takes nearly no time on some devices. Raises ValueError if
    the file cannot be read, or an array is missing or has a wrong shape or value.
    """
    arrays = _arrays(path)
    if not {"help_devices", "help_latency_ms"} <= arrays.keys():
        raise ValueError(f"{path}: it has {', '.join(arrays) or 'no arrays'}, and latencies need help_devices [D] and "
                         "help_latency_ms [D, N]")
    devices, ms = arrays["help_devices"], arrays["help_latency_ms"]
    if devices.dtype.kind != "U" or devices.ndim != 1 or len(set(devices.tolist())) != len(devices):
        raise ValueError(f"{path}: help_devices is {devices.dtype} {list(devices.shape)}; it must list different names")
    if ms.dtype.kind != "f" or ms.ndim != 2 or len(ms) != len(devices):
        raise ValueError(f"{path}: help_latency_ms is {ms.dtype} {list(ms.shape)}; it must be floats [{len(devices)}, N]")
    if not (np.isfinite(ms) & (ms >= 0)).all():
        raise ValueError(f"{path}: help_latency_ms has values that are negative or not finite; they are milliseconds")
    return Latencies(tuple(devices.tolist()), ms)


def _arrays(path: str | Path) -> dict[str, np.ndarray]:
    if isinstance(path, (str, Path)):  # `dnas table import` reads from memory
        checked_file(Path(path))
    try:
        file = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file; it should be a .npz") from None
    except BROKEN as error:
        # numpy takes other files for pickles, and its message then recommends to allow those
        why = "it is not an archive" if isinstance(error, ValueError) else getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: not a whole .npz file ({why})") from None
    if isinstance(file, np.ndarray):
        raise ValueError(f"{path}: a single array; it should be a .npz of several")
    with file:
        return {name: _member(path, file, name) for name in file.files}


def _member(path, file, name: str) -> np.ndarray:
    try:
        return np.asarray(file[name])
    except BROKEN as error:
        if "pickle" in str(error):
            raise ValueError(f"{path}: array {name} holds pickled objects, which are never loaded") from None
        raise ValueError(f"{path}: array {name} is truncated or corrupt ({error or type(error).__name__})") from None


def _checked_ops(path, ops: np.ndarray) -> np.ndarray:
    if ops.dtype.kind not in "iu" or ops.ndim != 2 or ops.shape[1] != len(EDGES) or not 0 < len(ops) <= CELLS:
        raise ValueError(f"{path}: ops is {ops.dtype} {list(ops.shape)}; it must be integers [N, 6], N from 1 to {CELLS}")
    if ops.min() < 0 or ops.max() >= len(OPS):
        raise ValueError(f"{path}: ops has {ops.min()} to {ops.max()}; operations are 0 to {len(OPS) - 1}")
    return ops


def _op_names(path, names: np.ndarray | None) -> tuple[str, ...]:
    ops = OPS if names is None else tuple(np.ravel(names).tolist())
    if sorted(map(str, ops)) != sorted(OPS):
        raise ValueError(f"{path}: op_names is {', '.join(map(str, ops))[:80]}; it must be {', '.join(OPS)}, in any order")
    return ops


def _column(path, name: str, values: np.ndarray, n: int) -> np.ndarray:
    """`values` as `[n]` floats, NaN after the first M of a column of M values."""
    first = re.search(r"_first(\d+)(?=_|$)", name)
    rows = min(int(first[1]), n) if first else n
    if values.dtype.kind not in "iuf" or values.shape != (rows,):
        raise ValueError(f"{path}: column {name} is {values.dtype} {list(values.shape)}; it must be numbers [{rows}]")
    column = np.full(n, np.nan, values.dtype if values.dtype.kind == "f" else np.float64)
    column[:rows] = values
    present = column[~np.isnan(column)]
    most = 100 if accuracy(name) or "_acc_" in name else np.finfo(np.float64).max
    if len(present) and not 0 <= present.min() <= present.max() <= most:
        bounds = "accuracies must be 0 to 100 %" if most == 100 else "they must be finite and not negative"
        raise ValueError(f"{path}: column {name} has {present.min():g} to {present.max():g}; {bounds}")
    return column


def _row(table: Table, row: int) -> int:
    if not 0 <= row < len(table.ops):
        raise ValueError(f"{table.path}: no row {row}; its rows are 0 to {len(table.ops) - 1}")
    return row


def _decimal(value: np.floating) -> float:
    """The shortest decimal equal to `value` in its precision: 54.297 rather than 54.29700088500977."""
    return float(str(value))
