"""NATS-Bench's topology space (arXiv 2009.00437), from its own package's api to the arrays of a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dnas.tabular.nasbench201 import CELLS, EDGES, GROUP, OPS, WEIGHTS
from dnas.types import Choice

NAMES = {"cifar10": "cifar10", "cifar100": "cifar100", "imagenet16": "ImageNet16-120"}
"""The api's name of each data set of a table."""
ACCURACIES = {
    "cifar10_valid": ("cifar10-valid", "valid-accuracy"), "cifar10_test": ("cifar10", "test-accuracy"),
    "cifar100_valid": ("cifar100", "valid-accuracy"), "cifar100_test": ("cifar100", "test-accuracy"),
    "imagenet16_valid": ("ImageNet16-120", "valid-accuracy"), "imagenet16_test": ("ImageNet16-120", "test-accuracy"),
}
"""The api's data set and key. CIFAR-10 is validated with half of its training images, and tested with all."""
TRAINING = {"loss": "train-loss", "acc": "train-accuracy", "seconds": "train-all-time"}
BUDGETS = ("12", "200")
MILLION = 1_000_000


def from_api(api: Any, n: int, parse: Callable[[str], Mapping[str, tuple[Choice, ...]]],
             say: Callable[[int], None] = lambda done: None) -> dict[str, np.ndarray]:
    """Arrays of a table `.npz`, for the first `n` architectures of `nats_bench.create(path, "tss")`.

    Accuracies (%) are means over the seeds, after the last of 12 and of 200 epochs; train_{loss,acc,seconds}_12_DATA
    are of the networks that are tested; parameters and multiply-adds are those that the api reports for 12 epochs, for
    its 200-epoch ones are known to be wrong (NATS-Bench issue 36). Cells without a value get NaN, and columns
    without any are left out.

    Args:
        api: what has the api's `arch`, `get_more_info` and `get_cost_info`.
        parse: a cell's string -> its choices in group "cell"; raises ValueError on anything else.
        say: told how many are done, after each.
    """
    ops, found = np.zeros((n, len(EDGES)), np.uint8), {}
    for row in range(n):
        ops[row] = [OPS.index(choice.op) for choice in parse(api.arch(row))[GROUP]]
        for name, value in _numbers(api, row).items():
            found.setdefault(name, np.full(n, np.nan))[row] = value
        forget = getattr(api, "arch2infos_dict", None)
        if forget is not None:  # its fast mode keeps whatever it has read, gigabytes in the end
            forget.pop(row, None)
        say(row + 1)
    code = (ops.astype(np.int64) @ WEIGHTS).astype(np.int16)
    rows = np.full(CELLS, -1, np.int16)
    rows[code] = np.arange(n)
    columns = {name: _stored(name, values) for name, values in found.items() if not np.isnan(values).all()}
    return {"ops": ops, "op_names": np.array(OPS), "code": code, "code_to_index": rows, **columns}


def _numbers(api, row: int) -> dict[str, float]:
    """All columns of one architecture, NaN where the api has no value."""
    info = {(data, hp): _asked(api.get_more_info, row, data, None, hp, is_random=False)
            for data in ("cifar10-valid", *NAMES.values()) for hp in BUDGETS}
    found = {f"{name}_{hp}": _number(info[data, hp].get(key))
             for hp in BUDGETS[::-1] for name, (data, key) in ACCURACIES.items()}
    for name, data in NAMES.items():
        cost = _asked(api.get_cost_info, row, data, hp=BUDGETS[0])
        found |= {f"params_{name}": _number(cost.get("params")) * MILLION,
                  f"flops_{name}": _number(cost.get("flops")) * MILLION}
        found |= {f"train_{short}_12_{name}": _number(info[data, BUDGETS[0]].get(key))
                  for short, key in TRAINING.items()}
    return found


def _asked(function: Callable, *args, **options) -> Mapping[str, Any]:
    """What the api returns; {} where the architecture was not trained in this way, which it answers by KeyError."""
    try:
        return function(*args, **options)
    except KeyError:
        return {}


def _number(value) -> float:
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _stored(name: str, values: np.ndarray) -> np.ndarray:
    """Counts as whole numbers where all are known, everything else as float32."""
    if name.startswith(("params_", "flops_")):
        return values.round() if np.isnan(values).any() else values.round().astype(np.int64)
    return values.astype(np.float32)
