"""A benchmark's table: what is known of trained networks of a space, by row.

Accuracies are columns named DATA_SPLIT_EPOCHS, such as cifar10_valid_12 and cifar10_test_200, of the published networks.
Those with `_test_` are test accuracies: they are for reports on finished searches. No search
and no selection of this library reads them; `dnas.front` chooses by the others.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnas.data.checks import checked_file
from dnas.types import Choice, Evaluator, Genotype, Group

INDEXING = ("ops", "code", "op_names", "code_to_index")
"""Arrays of a table's file that are not columns."""
BROKEN = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)


class Benchmark(NamedTuple):
    """Published networks of a space of one group of edges, all with the same operations.

    space: its name; title: of the benchmark, for people. group, edges, ops: the group's name, its edges in the order of the
    columns of `ops` in a file, and the meaning of the numbers there. notation: the pattern of its texts. reported: the
    accuracy that a report shows unless another is chosen. skeleton: options of the space for the published networks; data:
    {name: ((height, width, channels) of the images, classes)}. columns: (path, arrays that are no index, number of rows) ->
    {name: [N] numbers}.
    """

    space: str
    title: str
    group: str
    edges: tuple[tuple[int, int], ...]
    ops: tuple[str, ...]
    notation: str
    reported: str
    skeleton: Mapping[str, int]
    data: Mapping[str, tuple[tuple[int, int, int], int]]
    columns: Callable[[str | Path, Mapping[str, np.ndarray], int], Mapping[str, np.ndarray]] = \
        lambda path, arrays, n: arrays

    @property
    def size(self) -> int:
        """How many networks there are."""
        return len(self.ops) ** len(self.edges)

    @property
    def places(self) -> np.ndarray:
        """`[E]`: ops `[N, E]` @ places are the networks' codes, 0 to size - 1."""
        return len(self.ops) ** np.arange(len(self.edges))[::-1]


class Table(NamedTuple):
    """A table of N networks.

    path: the file; ops: `[N, E]` operation of each edge, as index into the benchmark's ops; rows: `[size]` row of each code
    sum_k ops[k] K^(E-1-k), -1 if the table lacks the network; columns: `{name: [N]}` floats, NaN if unknown.
    """

    path: str
    benchmark: Benchmark
    ops: np.ndarray
    rows: np.ndarray
    columns: Mapping[str, np.ndarray]


class Accuracy(NamedTuple):
    """The meaning of a column of accuracies (%): trained for `epochs` on data set `data`, measured on `split`."""

    data: str
    split: str
    epochs: int


class Standing(NamedTuple):
    """A network's value in a column. rank: 1 is the best, ties share the better rank; of: number of networks with a value;
    regret: percentage points below the best accuracy, None in other columns."""

    value: float
    rank: int
    of: int
    regret: float | None


def of_arrays(path: str | Path, arrays: Mapping[str, np.ndarray], benchmark: Benchmark) -> Table:
    """The table of a benchmark whose file held `arrays`: `ops` `[N, E]`, perhaps `code` `[N]` and `op_names` `[K]`, and
    columns `[N]` of numbers.

    A column named `..._firstM_...` has values of the first M networks only. Raises ValueError if an array has a wrong shape
    or value.
    """
    ops = _ops(path, arrays, benchmark)
    codes = ops @ benchmark.places
    rows = np.full(benchmark.size, -1, np.int64)
    rows[codes] = np.arange(len(codes))
    if (rows >= 0).sum() < len(codes):
        raise ValueError(f"{path}: ops names {len(codes) - (rows >= 0).sum()} networks more than once")
    columns = benchmark.columns(path, {name: array for name, array in arrays.items() if name not in INDEXING}, len(ops))
    return Table(str(path), benchmark, ops, rows,
                 {name: _column(path, name, array, len(ops)) for name, array in columns.items()})


def index(table: Table, genotype: Genotype) -> int:
    """Row of the network of `genotype`; an edge that it leaves out counts as `none`, where that is an operation.

    Raises ValueError if it is of another space, has other edges or operations, or the table lacks the network.
    """
    benchmark = table.benchmark
    if genotype.space != benchmark.space:
        raise ValueError(f"the genotype is of space {genotype.space!r}; {table.path} is a table of {benchmark.space}")
    (ops,) = genotype.decisions({benchmark.group: Group(benchmark.edges, benchmark.ops)}).values()
    if (ops < 0).any():
        if "none" not in benchmark.ops:
            raise ValueError(f"the genotype lacks {(ops < 0).sum()} of the {len(ops)} edges of a network of "
                             f"{benchmark.space}")
        ops = np.where(ops < 0, benchmark.ops.index("none"), ops)
    row = int(table.rows[ops @ benchmark.places])
    if row < 0:
        raise ValueError(f"{table.path} has {len(table.ops)} of the {benchmark.size} networks, and not this one")
    return row


def choices(table: Table, row: int) -> dict[str, tuple[Choice, ...]]:
    """The network of a row, as the choices of a genotype of the space. Raises ValueError if there is no such row."""
    edges, names = table.benchmark.edges, table.benchmark.ops
    return {table.benchmark.group: tuple(Choice(s, t, names[op]) for (s, t), op in zip(edges, table.ops[_row(table, row)]))}


def row_values(table: Table, row: int) -> dict[str, float]:
    """The values of a row, `{column: value}`, without unknown ones.

    Raises ValueError if there is no such row.
    """
    _row(table, row)
    return {name: _decimal(values[row]) for name, values in table.columns.items() if not np.isnan(values[row])}


def evaluator(table: Table) -> Evaluator:
    """The function from a genotype to the values of its network, `{column: value}`. It raises ValueError as `index` does.
    """
    return lambda genotype: row_values(table, index(table, genotype))


def standings(table: Table, row: int) -> dict[str, Standing]:
    """The values of a row with their rank among all networks, and the accuracies' regret.

    Accuracies are better when higher; losses, seconds, parameters and multiply-adds when lower.
    """
    return {name: standing(table.columns[name], row, higher=better(name) > 0) for name in row_values(table, row)}


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


def better(column: str) -> int:
    """1 where more of a column is better, as of accuracies, -1 where less is."""
    return 1 if accuracy(column) is not None or "_acc_" in column else -1


def drawn_rows(table: Table, column: str, count: int | None, seed: int = 0) -> np.ndarray:
    """Different rows `[count]` that have a value in the column, in random order; all of them for None. More rows by the same
    seed begin with the fewer.

    Raises ValueError where the table lacks the column, or has not so many.
    """
    if column not in table.columns:
        there = f"its columns are {', '.join(table.columns)}" if table.columns else "it has no columns of results"
        raise ValueError(f"{table.path} has no column {column!r}; {there}")
    rows = np.flatnonzero(~np.isnan(table.columns[column]))
    if not len(rows):
        raise ValueError(f"{table.path} has no network with a value of {column}; choose another column")
    if count is not None and (type(count) is not int or not 1 <= count <= len(rows)):
        raise ValueError(f"networks is {count!r}; it must be 1 to {len(rows):,}, the networks of {table.path} with a value"
                         f" of {column}")
    return np.random.default_rng(seed).permutation(rows)[:count]


def without_test(table: Table) -> Table:
    """The table without its test columns (named ..._test_...): what may be chosen by."""
    return table._replace(columns={name: values for name, values in table.columns.items() if "_test_" not in name})


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.npz`. Raises ValueError, with the path, if it cannot be read or holds pickled objects."""
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


def _ops(path, arrays: Mapping[str, np.ndarray], benchmark: Benchmark) -> np.ndarray:
    """`ops` as indices into the benchmark's operations, whatever their order in the file."""
    ops, names, edges = arrays["ops"], arrays.get("op_names"), len(benchmark.edges)
    if ops.dtype.kind not in "iu" or ops.ndim != 2 or ops.shape[1] != edges or not 0 < len(ops) <= benchmark.size:
        raise ValueError(f"{path}: ops is {ops.dtype} {list(ops.shape)}; it must be integers [N, {edges}], N from 1 to "
                         f"{benchmark.size}")
    if ops.min() < 0 or ops.max() >= len(benchmark.ops):
        raise ValueError(f"{path}: ops has {ops.min()} to {ops.max()}; operations are 0 to {len(benchmark.ops) - 1}")
    ops = ops.astype(np.int64)
    if "code" in arrays and not np.array_equal(arrays["code"], ops @ benchmark.places):
        raise ValueError(f"{path}: code does not fit ops; code[i] must be the sum of ops[i, k] * {len(benchmark.ops)}^"
                         f"({edges - 1}-k)")
    if names is None:
        return ops
    listed = np.ravel(names).tolist()
    if sorted(map(str, listed)) != sorted(benchmark.ops):
        raise ValueError(f"{path}: op_names is {', '.join(map(str, listed))[:80]}; it must be {', '.join(benchmark.ops)}, "
                         "in any order")
    return np.array([benchmark.ops.index(name) for name in listed])[ops]


def _column(path, name: str, values: np.ndarray, n: int) -> np.ndarray:
    """`values` as `[n]` floats, NaN after the first M of a column of M values."""
    first = re.search(r"_first(\d+)(?=_|$)", name)
    rows = min(int(first[1]), n) if first else n
    if values.dtype.kind not in "iuf" or values.shape != (rows,):
        raise ValueError(f"{path}: column {name} is {values.dtype} {list(values.shape)}; it must be numbers [{rows}]")
    column = np.full(n, np.nan, values.dtype if values.dtype.kind == "f" else np.float64)
    column[:rows] = values
    present = column[~np.isnan(column)]
    most = 100 if better(name) > 0 else np.finfo(np.float64).max
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
