"""Converts NATS-Bench's topology space (arXiv 2009.00437) from its package's api to the arrays of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dnas.tabular.nasbench201 import BENCHMARK
from dnas.types import Choice

NAMES = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "ImageNet16-120"}
"""The api's name of each data set of a table."""
ACCURACIES = {
    "cifar10_valid": ("cifar10-valid", "valid-accuracy"), "cifar10_test": ("cifar10", "test-accuracy"),
    "cifar100_valid": ("cifar100", "valid-accuracy"), "cifar100_test": ("cifar100", "test-accuracy"),
    "imagenet16_valid": ("ImageNet16-120", "valid-accuracy"), "imagenet16_test": ("ImageNet16-120", "test-accuracy"),
}
"""The api's data set and key. CIFAR-10's validation accuracies are after training on half of the images."""
TRAINING = {"loss": "train-loss", "acc": "train-accuracy", "seconds": "train-all-time"}
BUDGETS = ("12", "200")
MILLION = 1_000_000


def from_api(api: Any, n: int, parse: Callable[[str], Mapping[str, tuple[Choice, ...]]],
             say: Callable[[int], None] = lambda done: None) -> dict[str, np.ndarray]:
    """Arrays of a table `.npz`, for the first `n` architectures of `nats_bench.create(path, "tss")`.

    Accuracies (%) are means over the seeds, after the last of 12 and of 200 epochs; train_{loss,acc,seconds}_12_DATA
    are of the tested networks; parameters and multiply-adds are the api's for 12 epochs, because those for 200 are wrong
    (NATS-Bench issue 36). Cells without a value get NaN, and columns without any are left out.

    Args:
        api: has the api's `arch`, `get_more_info` and `get_cost_info`.
        parse: a cell's string -> its choices in group "cell"; raises ValueError on anything else.
        say: called with the number of cells done, after each.
    """
    ops, values = np.zeros((n, len(BENCHMARK.edges)), np.uint8), {}
    for row in range(n):
        ops[row] = [BENCHMARK.ops.index(choice.op) for choice in parse(api.arch(row))[BENCHMARK.group]]
        for name, value in _numbers(api, row).items():
            values.setdefault(name, np.full(n, np.nan))[row] = value
        forget = getattr(api, "arch2infos_dict", None)
        if forget is not None:  # its fast mode keeps all that it has read, gigabytes in the end
            forget.pop(row, None)
        say(row + 1)
    code = (ops.astype(np.int64) @ BENCHMARK.places).astype(np.int16)
    rows = np.full(BENCHMARK.size, -1, np.int16)
    rows[code] = np.arange(n)
    columns = {name: _stored(name, column) for name, column in values.items() if not np.isnan(column).all()}
    return {"ops": ops, "op_names": np.array(BENCHMARK.ops), "code": code, "code_to_index": rows, **columns}


def _numbers(api, row: int) -> dict[str, float]:
    """All columns of one architecture, NaN where the api has no value."""
    info = {(data, hp): _answer(api.get_more_info, row, data, None, hp, is_random=False)
            for data in ("cifar10-valid", *NAMES.values()) for hp in BUDGETS}
    numbers = {f"{name}_{hp}": _number(info[data, hp].get(key))
             for hp in BUDGETS[::-1] for name, (data, key) in ACCURACIES.items()}
    for name, data in NAMES.items():
        cost = _answer(api.get_cost_info, row, data, hp=BUDGETS[0])
        numbers |= {f"params_{name}": _number(cost.get("params")) * MILLION,
                  f"flops_{name}": _number(cost.get("flops")) * MILLION}
        numbers |= {f"train_{short}_12_{name}": _number(info[data, BUDGETS[0]].get(key))
                  for short, key in TRAINING.items()}
    return numbers


def _answer(function: Callable, *args, **options) -> Mapping[str, Any]:
    """The api's return value; {} if it raises KeyError, because the architecture was not trained in this way."""
    try:
        return function(*args, **options)
    except KeyError:
        return {}


def _number(value) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _stored(name: str, values: np.ndarray) -> np.ndarray:
    """Counts as whole numbers if none is missing, everything else as float32."""
    if name.startswith(("params_", "flops_")):
        return values.round() if np.isnan(values).any() else values.round().astype(np.int64)
    return values.astype(np.float32)
