"""What a benchmark's table knows of the choices of a study, for its report alone: no search and no selection imports this.

Test columns are reported and never chosen by: the column to choose by is one of a table that has no test columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.api.comparison_plan import refuse_other_space
from dnas.studies.plan import PlannedMethod
from dnas.tabular.benchmarks import BENCHMARKS, load
from dnas.tabular.table import Table, accuracy, drawn_rows, index, without_test
from dnas.types import Genotype


class Truth(NamedTuple):
    """A table and the names of its columns: truth is reported, by choose one may choose. ranked: the rows `[N]` of the
    networks that supernets score, None where they score none."""

    table: Table
    truth: str
    choose: str | None
    ranked: np.ndarray | None = None

    def values(self, genotype: Genotype) -> dict[str, float]:
        """{"table", and "valid" with a column to choose by}, in %; {} for a genotype of another space."""
        if genotype.space != self.table.benchmark.space:
            return {}
        row = index(self.table, genotype)
        columns = {"table": self.truth, "valid": self.choose}
        values = {name: float(self.table.columns[column][row]) for name, column in columns.items() if column}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def regret(self, genotype: Genotype) -> float | None:
        """Points below the best network of the table; None for a genotype of another space."""
        if genotype.space != self.table.benchmark.space:
            return None
        column = self.table.columns[self.truth]
        return float(np.nanmax(column) - column[index(self.table, genotype)])


def load_truth(said: Mapping[str, Any] | None, methods: Collection[PlannedMethod] = ()) -> Truth | None:
    """The table of a study. Raises ValueError where it cannot be read, no method is of its space, or it lacks a column."""
    if said is None:
        return None
    refuse_other_spaces(methods)
    table = load(Path(said["file"]))
    refuse_other_spaces(methods, table)
    truth, choose = said["truth"] or table.benchmark.reported, said["choose"]
    for name, column, among in ("truth", truth, table), ("choose", choose, without_test(table)):
        if column is not None and (column not in among.columns or accuracy(column) is None):
            listed = ", ".join(each for each in among.columns if accuracy(each))
            why = "; test columns are for reports only" if column in table.columns else ""
            raise ValueError(f"{said['file']} has no column {column!r} of accuracies to {name}{why}; there are {listed}")
    return Truth(table, truth, choose, drawn_rows(table, truth, said.get("networks")) if said.get("rank") else None)


def networks_to_rank(truth: Truth | None, examples: int | None) -> dict[str, Any]:
    """What each supernet of the table's space scores, as `StudyPlan.ranked` has it: nothing of what the table knows."""
    if truth is None or truth.ranked is None:
        return {}
    what = {"space": truth.table.benchmark.space, "examples": examples, "networks": truth.table.ops[truth.ranked].tolist()}
    return {**what, "digest": hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]}


def refuse_other_spaces(methods: Collection[PlannedMethod], table: Table | None = None) -> None:
    """Raises ValueError where there are methods, and none is of the table's space, or of a space that has tables."""
    spaces = [table.benchmark.space] if table else BENCHMARKS
    if all(method.space["name"] not in spaces for method in methods):
        for method in methods:
            refuse_other_space(method.space["name"], f"method {method.label}", spaces)
