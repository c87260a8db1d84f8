"""Contents of the record of an epoch: metrics by split, entropies, decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dnas.algorithms.players import SearchState
from dnas.engine.lanes import NonFiniteLoss
from dnas.types import OPEN, Array


def counts(state: SearchState) -> dict[str, int]:
    """{"decided": number of decided edges, "operations": allowed on the others}, over all groups."""
    open_edges = {name: np.asarray(rows) == OPEN for name, rows in state.decisions.items()}
    return {"decided": sum(int((~rows).sum()) for rows in open_edges.values()),
            "operations": sum(int(np.asarray(state.mask[name])[rows].sum()) for name, rows in open_edges.items())}


def tagged(values: Mapping[str, float]) -> dict[str, Any]:
    """{"train_loss": x} as {"loss": {"train": x}}, grouped by quantity."""
    record = {}
    for name, value in values.items():
        split, _, quantity = name.partition("_")
        record.setdefault(quantity, {})[split] = value
    return record


def of_split(record: Mapping[str, Any], split: str) -> dict[str, float]:
    """{"loss": x, ...}: the values of a split in a record of `tagged` values."""
    return {name: values[split] for name, values in record.items() if isinstance(values, Mapping) and split in values}


def entropy(gates: Mapping[str, Array]) -> dict[str, float]:
    """Mean entropy in nats of each group's rows of gates, each scaled to sum to one; 0 if all edges are decided."""
    def mean(rows):
        rows = np.asarray(rows, np.float64)
        share = rows / np.maximum(rows.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
        return float(-(share * np.log(np.where(share > 0, share, 1))).sum(-1).mean())

    return {name: mean(rows) for name, rows in gates.items()}


def refuse_non_finite(metrics: Mapping[str, np.ndarray], before: int, last: str) -> None:
    """Raises NonFiniteLoss for the first value that is not finite, of a step after the first `before`."""
    for name, values in metrics.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NonFiniteLoss(f"{name} became {values[bad[0]]} at step {before + int(bad[0]) + 1}; {last}; "
                                "a smaller learning rate may help, in another run directory")


def confusion(targets: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts of examples `[true class, predicted class]`, of targets `[N]` and predictions `[N]`."""
    counts = np.bincount(np.asarray(targets, np.int64) * classes + predictions, minlength=classes**2)
    return counts.reshape(classes, classes)
