"""NAS-Bench-Macro: accuracies and sizes of all 6,561 chains of eight layers, each of three operations, on CIFAR-10.

Source: Su et al., CVPR 2021, doi 10.1109/CVPR46437.2021.01082. Every network was trained three times for 50 epochs; the
column is the mean of the three. All accuracies are test accuracies, so that nothing of this table may be chosen by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnas.tabular.table import Benchmark

ACCURACIES = "cifar10_test"
"""The array `[N, trainings]` of accuracies (%)."""
SIZES = {"params": "params_cifar10", "macs": "flops_cifar10"}
"""Arrays `[N]` of a file, and the columns that they become."""


def columns(path: str | Path, arrays: Mapping[str, np.ndarray], n: int) -> dict[str, np.ndarray]:
    """Columns of a table of n rows: the mean accuracy over the trainings, parameters and multiply-adds.

    Raises ValueError for accuracies of another shape or outside 0 to 100.
    """
    renamed = {SIZES.get(name, name): array for name, array in arrays.items() if name != ACCURACIES}
    accuracies = arrays.get(ACCURACIES)
    if accuracies is None:
        return renamed
    if accuracies.dtype.kind not in "iuf" or accuracies.ndim != 2 or len(accuracies) != n or not accuracies.shape[1]:
        raise ValueError(f"{path}: {ACCURACIES} is {accuracies.dtype} {list(accuracies.shape)}; it must be numbers "
                         f"[{n}, trainings]")
    if not ((accuracies >= 0) & (accuracies <= 100)).all():
        raise ValueError(f"{path}: {ACCURACIES} has {accuracies.min():g} to {accuracies.max():g}; accuracies must be 0 to "
                         "100 %")
    return {BENCHMARK.reported: accuracies.astype(np.float64).mean(1).round(4), **renamed}


BENCHMARK = Benchmark(
    space="macro", title="NAS-Bench-Macro", group="layer", edges=tuple((layer, layer + 1) for layer in range(8)),
    ops=("identity", "mb3_k3", "mb6_k5"), notation="[012]{8}", reported="cifar10_test_50", skeleton={"channels": 32},
    data={"cifar10": ((32, 32, 3), 10)}, columns=columns)


def from_json(text: str) -> dict[str, np.ndarray]:
    """Arrays of a table's `.npz` from the text of the benchmark's own file, nas-bench-macro_cifar10.json.

    That is {network, its eight operations as digits: {"test_acc": [% of each training], "params", "flops"}}. Raises
    ValueError on anything else.
    """
    try:
        entries = sorted(json.loads(text).items())
        ops = np.array([[int(digit) for digit in name] for name, _ in entries], np.int8)
        accuracies = np.array([entry["test_acc"] for _, entry in entries], np.float64)
        sizes = {name: np.array([entry[called] for _, entry in entries], np.int64)
                 for name, called in (("params", "params"), ("macs", "flops"))}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"it must be NAS-Bench-Macro's own file of networks, each with test_acc, params and flops "
                         f"({type(error).__name__}: {str(error)[:80]})") from None
    return {"ops": ops, ACCURACIES: accuracies.astype(np.float32), **sizes}
