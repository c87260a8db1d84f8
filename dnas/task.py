"""Tasks: losses, metrics, predictions, and divergences for distillation. No other module depends on what is predicted.

Outputs are those of a network for a batch, `[B, ..., outputs]` float; targets are those of a data set. All functions of a
Task but `check` are pure and may be traced. `import dnas.task` does not import jax.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dnas import registry

if TYPE_CHECKING:
    from dnas.data import Dataset

TASKS = {
    "classification": "dnas.task:classification",
    "dense": "dnas.task:dense",
    "multilabel": "dnas.task:multilabel",
    "next-token": "dnas.task:next_token",
    "regression": "dnas.task:regression",
}
"""Place of each factory without required arguments -> Task. The data set provides parameters called
`target_mean`, `target_std` and `classes`, see `Dataset`; `classes` needs a default nevertheless."""

RESERVED = ("loss", "entropy", "epoch", "step", "gap", "sharpness", "eigenvalue", "skips", "edges", "decided", "operations",
            "lr", "seconds", "examples_per_second")
"""Names of other entries of a record, which no metric and no term may have."""


def stored(where: str, targets, classes: int | None = None) -> np.ndarray:
    """`targets` as int32 or float32, for a task on any finite numbers: the default of `Task.check`."""
    targets = np.asarray(targets)
    if targets.dtype.kind not in "biuf" or not targets.ndim:
        raise ValueError(f"{where}: y has dtype {targets.dtype} and shape {targets.shape}; targets must be numbers [N, ...]")
    return _finite(where, targets) if targets.dtype.kind == "f" else _integers(where, targets, classes)


class Task(NamedTuple):
    """A task of a network.

    losses: (outputs, targets) -> [B], in nats or squared units.
    metrics: name -> (outputs, targets) -> [B]. The mean over examples is reported; the first one decides.
    better: 1 if more of the first metric is better, -1 if less is.
    percent: whether the first metric is a share in [0, 1] that is shown in %.
    predict: outputs -> predictions: class numbers, values in the units of the targets, 0 or 1 per label.
    soften: (outputs, temperature) -> soft targets of a teacher; None if the task cannot be distilled.
    divergence: (softened, outputs, temperature) -> [B], of a student's outputs from soft targets; None likewise.
    smoothed: (outputs, targets, share) -> [B], losses with `share` of each target spread evenly over the classes; None
        if targets are not classes.
    check: host function (name of the data, targets, classes | None) -> stored targets, int32 or float32.
        Raises ValueError that begins with the name. classes: size of the outputs; None to infer it from the targets.
    confusion: whether targets are single classes [B], so that splits are stratified and a confusion matrix makes sense.
    """

    name: str
    losses: Callable
    metrics: Mapping[str, Callable]
    better: int = 1
    percent: bool = True
    predict: Callable = lambda outputs: outputs
    soften: Callable | None = None
    divergence: Callable | None = None
    smoothed: Callable | None = None
    check: Callable = stored
    confusion: bool = False

    @property
    def metric(self) -> str:
        """Name of the first metric, which decides."""
        return next(iter(self.metrics))


def check_name(what: str, name: Any) -> None:
    """Raises ValueError if a metric or a term (`what`) cannot be called `name` in a record."""
    if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name, re.ASCII):
        raise ValueError(f"a {what} is called {name!r}; a name must consist of letters, digits, - and _")
    if name in RESERVED:
        raise ValueError(f"a {what} cannot be called {name!r}: the metrics have that name already")


def checked_value(task: Task, value: float) -> float:
    """`value` of the task's first metric. Raises ValueError if it must be a share and is not."""
    if task.percent and not -1e-6 <= value <= 1 + 1e-6 and np.isfinite(value):
        raise ValueError(f"the task {task.name} reads its metric {task.metric!r} in %, and it is {value:.4g}: give the Task "
                         "percent=False, and better=-1 if less is better")
    return value


def named(name: str, **offered) -> Task:
    """The task `name`: one of TASKS, an entry point of `dnas.tasks`, package.module:factory or file.py:factory.

    offered: arguments for those of them that the factory has. Raises ValueError if there is no such task.
    """
    offered = {"target_mean": 0.0, "target_std": 1.0} | offered
    factory = registry.resolve(name, "task")
    parameters = inspect.signature(factory).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and "VAR" not in p.kind.name and p.name not in offered]
    if needed:
        raise ValueError(f"task {name}: its parameter {needed[0]} needs a default; the data gives target_mean, target_std "
                         "and classes only")
    task = factory(**{p.name: offered[p.name] for p in parameters if p.name in offered})
    if not isinstance(task, Task):
        raise ValueError(f"task {name}: it returned {type(task).__name__}; it must return a Task")
    if not isinstance(task.metrics, Mapping):
        raise ValueError(f"task {name}: metrics is {type(task.metrics).__name__}, it must be {{name: function}}")
    for metric in task.metrics:
        check_name("metric", metric)
    if not task.metrics or task.better not in (1, -1):
        raise ValueError(f"task {name}: metrics {list(task.metrics)} and better {task.better}; it needs at least one "
                         "metric, and better 1 or -1")
    return task


def task_of(data: Dataset) -> Task:
    """The task of a data set, on the scale of its targets. Raises ValueError as `named` does."""
    scale = {} if data.target_mean is None else {"target_mean": data.target_mean, "target_std": data.target_std}
    return named(data.task, classes=data.classes, **scale)


def classification() -> Task:
    """One class per example: targets [B] integers, outputs [B, classes] logits; cross-entropy in nats, accuracy."""
    return _of_classes("classification", 1, {"accuracy": accuracy})._replace(confusion=True)


def dense() -> Task:
    """One class per pixel: targets [B, H, W] integers, outputs [B, H, W, classes]; accuracy is the share of pixels."""
    return _of_classes("dense", 3, {"accuracy": accuracy})


def next_token() -> Task:
    """The token after each: targets [B, T] integers, outputs [B, T, vocabulary]; bits per token, less is better."""
    return _of_classes("next-token", 2, {"bits": bits, "accuracy": accuracy})._replace(better=-1, percent=False)


def multilabel() -> Task:
    """Any number of labels per example: targets [B, L] of 0 and 1, outputs [B, L] logits.

    Losses are sigmoid cross-entropies, means over labels. accuracy: the share of right labels. exact: whether
    all labels of an example are right. Both are means over examples, which F1 is not.
    """
    right = lambda outputs, targets: (outputs > 0) == (targets > 0.5)
    return Task("multilabel", sigmoid_cross_entropy,
                {"accuracy": lambda outputs, targets: _mean(right(outputs, targets).astype(outputs.dtype)),
                 "exact": lambda outputs, targets: right(outputs, targets).all(-1).astype(outputs.dtype)},
                predict=lambda outputs: (outputs > 0).astype("int32"), soften=_sigmoid, divergence=bernoulli_divergence,
                check=_checked_labels)


def regression(*, target_mean=0.0, target_std=1.0) -> Task:
    """Numbers: targets [B] or [B, D], outputs [B, D]; mean absolute error, less is better.

    Outputs are standardised, (target - target_mean) / target_std, and so are losses (squares, means over D), so that
    learning rates suit targets of any unit. The metrics mae and mse and the predictions are in the targets' own units.
    """
    mean, std = np.float32(target_mean), np.float32(target_std)
    error = lambda outputs, targets: outputs - (targets.reshape(outputs.shape) - mean) / std
    return Task("regression", lambda outputs, targets: _mean(error(outputs, targets) ** 2),
                {"mae": lambda outputs, targets: _mean(abs(std * error(outputs, targets))),
                 "mse": lambda outputs, targets: _mean((std * error(outputs, targets)) ** 2)},
                better=-1, percent=False, predict=lambda outputs: outputs * std + mean,
                soften=lambda outputs, temperature: outputs,
                divergence=lambda soft, outputs, temperature: _mean((soft - outputs) ** 2), check=_checked_values)


def cross_entropy(outputs, targets):
    """-log softmax(outputs)[target] in nats, `[B]`; the mean over positions if there are several."""
    import optax

    return _mean(optax.softmax_cross_entropy_with_integer_labels(outputs, targets))


def smoothed_cross_entropy(outputs, targets, share):
    """`cross_entropy` with targets of which `share` is spread evenly over all classes (arXiv 1512.00567)."""
    import jax

    spread = _mean(-jax.nn.log_softmax(outputs).mean(-1))
    return (1 - share) * cross_entropy(outputs, targets) + share * spread


def sigmoid_cross_entropy(outputs, targets):
    """Mean over labels of -log of the probability of each label's value, in nats, `[B]`."""
    import optax

    return _mean(optax.sigmoid_binary_cross_entropy(outputs, targets.astype(outputs.dtype)))


def accuracy(outputs, targets):
    """1 where the largest output is the target, else 0, `[B]`; the share of positions if there are several."""
    return _mean((outputs.argmax(-1) == targets).astype(outputs.dtype))


def bits(outputs, targets):
    """`cross_entropy` in bits, `[B]`."""
    return cross_entropy(outputs, targets) / np.log(np.float32(2))


def divergence(soft, outputs, temperature):
    """T^2 KL(soft || softmax(outputs / T)) in nats, `[B]` (Hinton et al., arXiv 1503.02531); the mean over positions."""
    import jax

    logs = jax.nn.log_softmax(outputs / temperature)
    return temperature**2 * _mean((jax.scipy.special.xlogy(soft, soft) - soft * logs).sum(-1))


def bernoulli_divergence(soft, outputs, temperature):
    """T^2 KL of each label's Bernoulli distribution, summed over labels, in nats, `[B]`."""
    import jax

    entropy = jax.scipy.special.xlogy(soft, soft) + jax.scipy.special.xlogy(1 - soft, 1 - soft)
    logs = [jax.nn.log_sigmoid(sign * outputs / temperature) for sign in (1, -1)]
    return temperature**2 * (entropy - soft * logs[0] - (1 - soft) * logs[1]).sum(-1)


def infer(where: str, inputs: np.ndarray, targets) -> str:
    """The task of targets of this type and shape with these inputs.

    float -> regression; [N] integers -> classification; [N, H, W] integers beside images -> dense; [N, T] integers beside
    tokens [N, T] -> next-token; [N, L] of 0 and 1 -> multilabel.
    Raises ValueError, beginning with `where`, that names the tasks that would fit if several would or none does.
    """
    targets = np.asarray(targets)
    several = targets.ndim == 2 and targets.shape[1] > 1
    binary = several and targets.size > 0 and bool(np.isin(targets, (0, 1)).all())
    says = f"{where}: y is {targets.dtype} {targets.shape} beside x {inputs.dtype} {inputs.shape}"
    if targets.dtype.kind == "f":
        if binary:
            raise ValueError(f"{says}, all 0 or 1; --task multilabel fits, and --task regression")
        return "regression"
    if targets.dtype.kind not in "biu" or targets.ndim == 1:
        return "classification"
    if targets.ndim == 3 and inputs.ndim == 4 and targets.shape == inputs.shape[:3]:
        return "dense"
    if several and inputs.dtype.kind in "iu" and inputs.ndim == 2 and targets.shape == inputs.shape:
        if binary:
            raise ValueError(f"{says}, all 0 or 1; --task next-token fits, and --task multilabel")
        return "next-token"
    if binary:
        return "multilabel"
    if targets.ndim == 2 and targets.shape[1] == 1:
        return "classification"  # its check refuses the axis
    raise ValueError(f"{says}; targets must be classes [N], classes of pixels [N, H, W], tokens [N, T] or labels [N, L] "
                     "of 0 and 1; --task regression fits numbers")


def _of_classes(name: str, axes: int, metrics: Mapping[str, Callable]) -> Task:
    """A task with one class at each position."""
    def check(where, targets, classes=None):
        return _checked_classes(where, np.asarray(targets), classes, axes)

    return Task(name, cross_entropy, metrics, predict=lambda outputs: outputs.argmax(-1), soften=_softmax,
                divergence=divergence, smoothed=smoothed_cross_entropy, check=check)


def _checked_classes(where, targets, classes, axes) -> np.ndarray:
    shape = {1: f"[{len(targets) if targets.ndim else 'N'}], one integer per example", 2: "[N, T], one integer per token",
             3: "[N, H, W], one integer per pixel"}[axes]
    if targets.dtype.kind not in "biu":
        raise ValueError(f"{where}: y has dtype {targets.dtype}; labels must be integers 0..classes-1")
    if targets.ndim != axes or not targets.size:
        raise ValueError(f"{where}: y has shape {targets.shape}; labels must be {shape}")
    targets = _integers(where, targets, classes)
    if classes is None and targets.min() == targets.max():
        raise ValueError(f"{where}: every label is {targets.max()}; a set needs at least two classes")
    if classes is None and targets.max() >= targets.size:
        raise ValueError(f"{where}: label {targets.max()} among only {targets.size} labels; labels must be 0..classes-1")
    return targets


def _checked_labels(where, targets, classes=None) -> np.ndarray:
    targets = np.asarray(targets)
    if targets.dtype.kind not in "biuf" or targets.ndim != 2 or not targets.size:
        raise ValueError(f"{where}: y is {targets.dtype} {targets.shape}; labels must be [N, L], each 0 or 1")
    _width(where, targets, classes)
    wrong = ~np.isin(targets, (0, 1))
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        raise ValueError(f"{where}: label {label} of example {row} is {targets[row, label]}; each label must be 0 or 1")
    return targets.astype(np.float32)


def _checked_values(where, targets, classes=None) -> np.ndarray:
    targets = np.asarray(targets)
    if targets.dtype.kind not in "biuf" or not targets.ndim or not targets.size:
        raise ValueError(f"{where}: y is {targets.dtype} {targets.shape}; it must be numbers, [N] or [N, D]")
    if targets.ndim > 2:
        raise ValueError(f"{where}: y has shape {targets.shape}; numbers to predict must be [N] or [N, D]")
    _width(where, targets, classes)
    targets = _finite(where, targets)
    if np.abs(targets).max() > 1e15 or 0 < np.ptp(targets) < 1e-15:
        raise ValueError(f"{where}: targets lie in {targets.min():g} to {targets.max():g}; errors of such numbers cannot be "
                         "squared in float32; use another unit")
    if classes is None and targets.min() == targets.max():
        raise ValueError(f"{where}: every target is {targets.max():g}; there is nothing to predict")
    return targets


def _width(where, targets, classes) -> None:
    width = targets.shape[-1] if targets.ndim > 1 else 1
    if classes is not None and width != classes:
        raise ValueError(f"{where}: {width} targets per example, and {classes} outputs; both must be equal")


def _finite(where, targets) -> np.ndarray:
    with np.errstate(over="ignore"):
        targets = targets.astype(np.float32)
    wrong = ~np.isfinite(targets)
    if wrong.any():
        raise ValueError(f"{where}: {wrong.sum()} NaN or infinite targets, the first of example {np.argwhere(wrong)[0][0]}; "
                         "they must be finite numbers")
    return targets


def _integers(where, targets, classes) -> np.ndarray:
    end = 2**31 - 1 if classes is None else classes
    wrong = (targets < 0) | (targets >= end)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        classed = "labels must be 0..classes-1" if classes is None else f"there are {classes} classes, 0..{classes - 1}"
        raise ValueError(f"{where}: label {targets[place]} of example {place[0]}; {classed}")
    return targets.astype(np.int32)


def _mean(values):
    """The mean over all axes but the first: `[B, ...]` -> `[B]`."""
    return values.reshape(len(values), -1).mean(-1)


def _softmax(outputs, temperature):
    import jax

    return jax.nn.softmax(outputs / temperature)


def _sigmoid(outputs, temperature):
    import jax

    return jax.nn.sigmoid(outputs / temperature)
