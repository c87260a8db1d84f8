"""A table as a data set: a .csv file whose rows are examples, with one column to predict."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnas.data.checks import checked_file
from dnas.data.dataset import Columns, Dataset, from_arrays

TARGETS = ("target", "label", "class", "y")
"""Default names of the column to predict; the first that exists."""
CLASSES = 20
"""Most different integers that count as classes rather than values."""
CATEGORIES = 256
"""Most different texts of a column, each of which becomes a feature of 0 and 1."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"[+-]?\d{1,9}", re.ASCII)
INFINITE = re.compile(r"[+-]?inf(inity)?")
MISSING = ("", "?", "na", "n/a", "nan", "null", "none")
"""Cells of missing numbers, in small letters; in a column of texts only the first is missing."""


class Table:
    """The columns of a .csv file: `columns[name]` are the cells of one, `lines` the line number of each row.

    least: fewest columns.
    """

    def __init__(self, path: Path, least: int = 2):
        self.path, rows = path, _rows(path)
        if not rows:
            raise ValueError(f"{path}: it is empty; its first line must name the columns, separated by commas")
        (_, header), *rows = rows
        names = [name.strip() for name in header]
        counts = Counter(names)
        for place, name in enumerate(names):
            if not name or not name.isprintable():
                raise ValueError(f"{path}: column {place + 1} has no name that can be printed; the first line "
                                 "must name the columns")
            if counts[name] > 1:
                raise ValueError(f"{path}: two columns are called {name!r}; every column needs a name of its own")
        if len(names) < least:
            raise ValueError(f"{path}: it has one column, {names[0][:60]!r}; columns are separated by commas, and there "
                             "must be several")
        for line, row in rows:
            if len(row) != len(names):
                raise ValueError(f"{path}, line {line}: {len(row)} fields; the header names {len(names)} columns")
        if not rows:
            raise ValueError(f"{path}: it has no rows below its header")
        self.lines = [line for line, _ in rows]
        self.columns = {name: [row[i].strip() for _, row in rows] for i, name in enumerate(names)}

    def numbers(self, name: str) -> np.ndarray | None:
        """The column as float64 [N]; None if it holds texts. Raises ValueError, naming the line, for a missing value."""
        cells = self.columns[name]
        missing = [cell.lower() in MISSING or INFINITE.fullmatch(cell.lower()) is not None for cell in cells]
        if all(NUMBER.fullmatch(cell) or gone for cell, gone in zip(cells, missing)) and not all(missing):
            self._refuse(name, missing)
            return np.array(cells, np.float64)
        self._refuse(name, [not cell for cell in cells])
        return None

    def _refuse(self, name: str, missing: Sequence[bool]) -> None:
        if any(missing):
            first = missing.index(True)
            cell = self.columns[name][first]
            what = "an infinite number" if INFINITE.fullmatch(cell.lower()) else "a missing value"
            more = f", and {sum(missing) - 1} more of the column" if sum(missing) > 1 else ""
            raise ValueError(f"{self.path}, line {self.lines[first]}: column {name!r} is {cell!r}, {what}{more}; fill it, "
                             "or remove the row or the column")


def csv_table(path: Path, *, target: str | None = None, task: str | None = None, standardise: bool | None = None,
              limit: int | None = None) -> Dataset:
    """The Dataset of a .csv file whose first line names the columns: inputs are features [N, F] float32.

    A column of numbers is a feature; each different text of another column is a feature that is 0 or 1.
    target: the column to predict; default: the first of TARGETS that exists. Texts, and at most CLASSES different
    integers, are classes, in the order of their names or values; other numbers are values, for regression.
    task: overrides that. standardise, limit: as for `from_arrays`.
    Raises ValueError that names the file and the line or column for anything that does not fit.
    """
    table = Table(path)
    target = _target(table, target)
    y, names = _predicted(table, target, task)
    columns = Columns(tuple((name, _texts(table, name)) for name in table.columns if name != target), target)
    return from_arrays(str(path), features_of(table, columns), y, task=task or ("classification" if names else "regression"),
                       standardise=standardise, limit=limit, kind="features", class_names=names)._replace(
                           name=path.resolve().stem, columns=columns)


def features_of(table: Table, columns: Columns) -> np.ndarray:
    """The features [N, F] float32 of a table's rows, as `columns` describes them; other columns are ignored.

    Raises ValueError that names the file if a column is missing, or a cell is not a number or not a text of its column.
    """
    missing = [name for name, _ in columns.features if name not in table.columns]
    if missing:
        raise ValueError(f"{table.path}: no column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}; the "
                         f"features are {', '.join(name for name, _ in columns.features)}")
    return np.concatenate([_features(table, name, texts) for name, texts in columns.features], 1)


def targets_of(table: Table, columns: Columns, classes: Sequence[str] = ()) -> np.ndarray | None:
    """The targets [N]: int32 indices into `classes`, or without classes float64 values; None if their column is missing or
    empty. Raises ValueError, naming the line, for a cell that is neither."""
    cells = table.columns.get(columns.target)
    if cells is None or not any(cells):
        return None
    if not classes:
        values = table.numbers(columns.target)
        if values is None:
            wrong = next(i for i, cell in enumerate(cells) if not NUMBER.fullmatch(cell))
            raise ValueError(f"{table.path}, line {table.lines[wrong]}: column {columns.target!r} is {cells[wrong]!r}, "
                             "which is not a number")
        return values
    number = {name: k for k, name in enumerate(classes)}
    values = table.numbers(columns.target)
    names = cells if values is None else [_class_name(value) for value in values]
    wrong = [i for i, name in enumerate(names) if name not in number]
    if wrong:
        raise ValueError(f"{table.path}, line {table.lines[wrong[0]]}: column {columns.target!r} is "
                         f"{cells[wrong[0]][:40]!r}, which is not one of the {len(classes)} classes, such as {classes[0]!r}")
    return np.array([number[name] for name in names], np.int32)


def _class_name(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(float(value))


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """(number of its last line, fields) of each row that is not blank."""
    try:
        text = checked_file(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[:error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: it is not UTF-8; the table must be stored as UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}; it should be a file that can be read") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; fields with commas or line ends must be in double "
                         "quotes") from None


def _target(table: Table, target: str | None) -> str:
    names = list(table.columns)
    listed = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    if target is None:
        lower = {name.lower(): name for name in reversed(names)}
        default = next((lower[name] for name in TARGETS if name in lower), None)
        if default is None:
            raise ValueError(f"{table.path}: --target must name the column to predict; there are {listed}")
        return default
    if target in names:
        return target
    near = difflib.get_close_matches(target, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{table.path}: no column {target!r} to predict; {hint}there are {listed}")


def _predicted(table: Table, target: str, task: str | None) -> tuple[np.ndarray, list[str]]:
    """The targets, and the names of their classes, none if they are values."""
    values, cells = table.numbers(target), table.columns[target]
    if task in ("multilabel", "dense", "next-token"):
        raise ValueError(f"{table.path}: task {task} needs several targets per row, and a table has one column of them; "
                         "--task classification or regression fits")
    if task == "regression" and values is None:
        wrong = next(i for i, cell in enumerate(cells) if not NUMBER.fullmatch(cell))
        raise ValueError(f"{table.path}, line {table.lines[wrong]}: column {target!r} is {cells[wrong]!r}, which is not a "
                         "number; --task classification fits texts")
    integers = values is not None and all(INTEGER.fullmatch(cell) for cell in cells)
    few = integers and len(np.unique(values)) <= CLASSES
    if values is not None and task != "classification" and not (few and task is None):
        return values, []
    keys = cells if values is None else values
    different, y = np.unique(np.array(keys), return_inverse=True)
    names = [str(key) if values is None else _class_name(key) for key in different]
    if len(names) < 2:
        raise ValueError(f"{table.path}: column {target!r} is {names[0]!r} in every row; there is nothing to predict")
    odd = next((name for name in names if not name.isprintable()), None)
    if odd is not None:
        raise ValueError(f"{table.path}: class {ascii(odd)} has a name that cannot be printed; call it something else")
    return y.reshape(-1), names


def _texts(table: Table, name: str) -> tuple[str, ...]:
    """The different texts of a column in order; none for a column of numbers."""
    if table.numbers(name) is not None:
        return ()
    texts = sorted(set(table.columns[name]))
    if len(texts) > CATEGORIES:
        raise ValueError(f"{table.path}: column {name!r} has {len(texts)} different texts, such as {texts[0][:40]!r}; more "
                         f"than {CATEGORIES} are refused; remove the column, or turn it into numbers")
    return tuple(texts)


def _features(table: Table, name: str, texts: Sequence[str]) -> np.ndarray:
    """The features [N, ...] of a column."""
    cells = table.columns[name]
    if not texts:
        values = table.numbers(name)
        if values is None:
            wrong = next(i for i, cell in enumerate(cells) if not NUMBER.fullmatch(cell))
            raise ValueError(f"{table.path}, line {table.lines[wrong]}: column {name!r} is {cells[wrong][:40]!r}, which is "
                             "not a number")
        large = np.abs(values) > np.finfo(np.float32).max
        if large.any():
            raise ValueError(f"{table.path}, line {table.lines[large.argmax()]}: column {name!r} is "
                             f"{cells[large.argmax()]}, which float32 cannot hold")
        return values[:, None].astype(np.float32)
    number = {text: k for k, text in enumerate(texts)}
    wrong = next((i for i, cell in enumerate(cells) if cell not in number), None)
    if wrong is not None:
        raise ValueError(f"{table.path}, line {table.lines[wrong]}: column {name!r} is {cells[wrong][:40]!r}, which is not "
                         f"one of its {len(texts)} texts, such as {texts[0][:40]!r}")
    which = np.array([number[cell] for cell in cells])
    return (which.reshape(-1, 1) == np.arange(len(texts))).astype(np.float32)
