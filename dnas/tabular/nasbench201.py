"""NAS-Bench-201: accuracies, sizes and latencies of all 15,625 cells, by row of a `.npz` file.

Sources: Dong & Yang, ICLR 2020, arXiv 2001.00326, and NATS-Bench's topology space, arXiv 2009.00437 (accuracies, sizes);
HELP, Lee et al., NeurIPS 2021, arXiv 2106.08630 (latencies). The published skeleton has 16 channels and 5 cells a stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnas.tabular.table import Benchmark, read_arrays

BENCHMARK = Benchmark(
    space="nasbench201", title="NAS-Bench-201", group="cell", edges=((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)),
    ops=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"), notation=r".*\|.*",
    reported="cifar10_test_200", skeleton={"channels": 16, "cells": 5},
    data={"cifar10": ((32, 32, 3), 10), "cifar100": ((32, 32, 3), 100), "imagenet16": ((16, 16, 3), 120)})


class Latencies(NamedTuple):
    """Milliseconds `[devices, N]` of each device, in the order of the table's rows."""

    devices: tuple[str, ...]
    ms: np.ndarray


def latencies(path: str | Path) -> Latencies:
    """Reads `help_devices` `[D]` and `help_latency_ms` `[D, N]` of a `.npz`, in the order of the table's rows.

    A cell without a path from its input to its output takes nearly no time on some devices. Raises ValueError if
    the file cannot be read, or an array is missing or has a wrong shape or value.
    """
    arrays = read_arrays(path)
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
