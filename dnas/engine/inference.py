"""Applies a trained network: from inputs as stored in the data set to outputs, predictions and metrics."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dnas.data import evaluation_indices, normalise
from dnas.runs.model_file import Input
from dnas.task import Task
from dnas.types import Array, Network


def function(network: Network, takes: Input) -> Callable:
    """(weights, stats, inputs as stored in the data set) -> outputs, a pure function."""
    mean, std = (np.asarray(values, np.float32) for values in (takes.mean, takes.std))
    return lambda weights, stats, inputs: network.apply(weights, stats, normalise(inputs, mean, std), train=False,
                                                        key=None)[0]


def predictions(task: Task) -> Callable:
    """outputs -> predictions of `TrainedNetwork.predict`: probabilities for classification, else `task.predict`."""
    return jax.nn.softmax if task.confusion else task.predict


def in_batches(of_inputs: Callable, inputs: np.ndarray, batch: int = 256) -> np.ndarray:
    """`of_inputs` of all inputs, in equal batches of at most `batch`."""
    rows, _ = evaluation_indices(np.arange(len(inputs)), batch)
    return np.concatenate([np.asarray(of_inputs(inputs[row])) for row in rows])[:len(inputs)]


def scores(task: Task, of_inputs: Callable, inputs: np.ndarray, targets: np.ndarray, batch: int = 256) -> dict[str, float]:
    """The mean over examples of each of the task's metrics. of_inputs: inputs `[B, ...]` -> outputs `[B, ..., size]`."""
    of = jax.jit(lambda outputs, targets: {name: metric(outputs, targets) for name, metric in task.metrics.items()})
    rows, weights = evaluation_indices(np.arange(len(inputs)), batch)
    batches = [of(of_inputs(inputs[row]), targets[row]) for row in rows]
    values = {name: np.concatenate([np.asarray(each[name], np.float64) for each in batches]) for name in task.metrics}
    return {name: float(np.average(of_all, weights=weights.reshape(-1))) for name, of_all in values.items()}


def checked(inputs, takes: Input) -> Array:
    """`inputs` as the network takes them. Raises ValueError if their shape or type does not fit."""
    if not hasattr(inputs, "dtype"):
        inputs = np.asarray(inputs, "float32" if takes.kind == "features" else None)
    shape = "".join(f", {size}" for size in takes.shape)
    if inputs.ndim != 1 + len(takes.shape) or inputs.shape[1:] != takes.shape:
        raise ValueError(f"{takes.kind} have shape {inputs.shape}; this network takes [B{shape}], a single one as x[None]")
    if takes.kind == "tokens":
        if inputs.dtype.kind not in "iu":
            raise ValueError(f"tokens are {inputs.dtype}; they must be integers 0..{takes.vocabulary - 1}")
        return jnp.asarray(inputs).astype("int32")
    if (str(inputs.dtype) == "uint8") != (takes.dtype == "uint8") or inputs.dtype.kind not in "uf":
        scale = "0 to 255" if takes.dtype == "uint8" else "scaled as they were"
        what = "pixels" if takes.kind == "images" else "numbers"
        raise ValueError(f"{takes.kind} are {inputs.dtype}; this network was trained on {takes.dtype} {what}, {scale}")
    return jnp.asarray(inputs)
