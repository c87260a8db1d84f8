"""What a benchmark's table knows of the choices of a study, for its report alone: no search and no selection imports this.

Test columns are reported and never chosen by: the column to choose by is one of a table that has no test columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.api.comparison_plan import refuse_other_space
from dnas.studies.plan import PlannedMethod
from dnas.tabular import nasbench201
from dnas.types import Genotype


class Truth(NamedTuple):
    """A table and the names of its columns: truth is reported, by choose one may choose."""

    table: nasbench201.Table
    truth: str
    choose: str | None

    def values(self, genotype: Genotype) -> dict[str, float]:
        """{"table", and "valid" with a column to choose by}, in %; {} for a genotype of another space."""
        if genotype.space != nasbench201.SPACE:
            return {}
        row = nasbench201.index(self.table, genotype)
        columns = {"table": self.truth, "valid": self.choose}
        values = {name: float(self.table.columns[column][row]) for name, column in columns.items() if column}
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def regret(self, genotype: Genotype) -> float | None:
        """Points below the best cell of the table; None for a genotype of another space."""
        if genotype.space != nasbench201.SPACE:
            return None
        column = self.table.columns[self.truth]
        return float(np.nanmax(column) - column[nasbench201.index(self.table, genotype)])


def load_truth(said: Mapping[str, Any] | None, methods: Collection[PlannedMethod] = ()) -> Truth | None:
    """The table of a study. Raises ValueError where it cannot be read, no method is of its space, or it lacks a column."""
    if said is None:
        return None
    if all(method.space["name"] != nasbench201.SPACE for method in methods):
        for method in methods:
            refuse_other_space(method.space["name"], f"method {method.label}")
    table = nasbench201.load(Path(said["file"]))
    for name, among in ("truth", table), ("choose", nasbench201.without_test(table)):
        column = said[name]
        if column is not None and (column not in among.columns or nasbench201.accuracy(column) is None):
            listed = ", ".join(each for each in among.columns if nasbench201.accuracy(each))
            why = "; test columns are for reports only" if column in table.columns else ""
            raise ValueError(f"{said['file']} has no column {column!r} of accuracies to {name}{why}; there are {listed}")
    return Truth(table, said["truth"], said["choose"])
