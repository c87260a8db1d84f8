"""The step that trains a network by itself: the task's loss, regularisation, and an optimiser's update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dnas.algorithms.distillation import Teacher
from dnas.algorithms.optimizers import sgd
from dnas.algorithms.schedules import Hyper, cosine_by_epoch, refuse_negative, time_of
from dnas.task import Task
from dnas.types import Array, Network, Stats, Tree, Weights


class TrainState(NamedTuple):
    """All that the next step needs. `step` counts steps taken; `average`: of weights and stats, `teacher`: its arrays; ()
    without one."""

    step: Array
    weights: Weights
    stats: Stats
    opt: Tree
    average: Tree = ()
    teacher: Tree = ()


class Recipe(NamedTuple):
    """How a network is trained: by SGD, whose rate falls along a cosine, once an epoch. The defaults suit small data.

    All but nesterov and dtype are numbers: another value compiles nothing anew, unless it turns on a part that was
    off, at 0. "Published" are the values of DARTS's final networks on CIFAR-10 (arXiv 1806.09055), and of NAS-Bench-201.

    Args:
        lr: First learning rate. Published: 0.025, and 0.1.
        lr_min: Last learning rate.
        momentum: Momentum of the weights.
        nesterov: Nesterov momentum. Published: no, and yes.
        weight_decay: Weight decay, coupled as in torch. Published: 0.0003, and 0.0005.
        clip: Largest norm of the gradient, 0 for no limit. Published: 5, and 0.
        label_smoothing: Share of the target that is spread over all classes. Published: 0; 0.1 on ImageNet.
        cutout: Side in pixels of a square erased from each image, 0 for none. Published: 16, and 0.
        drop_path: Probability of dropping an operation, reached linearly over the epochs. Published: 0.2, and 0.
        ema: Decay of a running average of weights and statistics, by which the network is evaluated; 0 for none. In the
            first steps it is (1 + steps) / (10 + steps) at most, so that the average forgets the initial weights.
        auxiliary: Weight of the auxiliary head's loss, for the DARTS space and images of more than 28 pixels. Published:
            0.4, and 0.
        distill: Share of the loss, 0 to 1, that is the divergence from the outputs of the run's supernet.
        distill_temperature: Temperature that divides the logits of both.
        dtype: Type in which a step computes; weights, statistics and reported values are float32.
    """

    lr: float = 0.1
    lr_min: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip: float = 5.0
    label_smoothing: float = 0.0
    cutout: int = 0
    drop_path: float = 0.0
    ema: float = 0.0
    auxiliary: float = 0.0
    distill: float = 0.0
    distill_temperature: float = 2.0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def check(self) -> Recipe:
        """This recipe. Raises ValueError if a value is out of range."""
        least_zero = "lr", "lr_min", "momentum", "weight_decay", "clip", "cutout", "auxiliary"
        refuse_negative(**{name: getattr(self, name) for name in least_zero})
        for name in ("momentum", "label_smoothing", "drop_path", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, it must be at least 0 and below 1")
        if not 0 <= self.distill <= 1:
            raise ValueError(f"distill is {self.distill:g}, it must be 0 to 1: the share of the loss that is the teacher's")
        if not self.distill_temperature > 0:
            raise ValueError(f"distill_temperature is {self.distill_temperature:g}, it must be above 0")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype is {self.dtype!r}, it must be float32 or bfloat16")
        return self

    def numbers(self, *, epochs: int, steps: int) -> dict[str, Any]:
        """All numbers of a training of `epochs` epochs of `steps` steps, as arrays: the hyper of a step."""
        values = {name: value for name, value in self._asdict().items() if name not in ("nesterov", "dtype", "cutout")}
        values["clip"] = self.clip or np.inf
        return {name: np.float32(value) for name, value in values.items()} | {
            "epochs": np.int32(epochs), "steps": np.int32(steps), "cutout": np.int32(self.cutout)}


class Trainer(NamedTuple):
    """init(key, inputs) -> state; start(weights, stats) -> state, with copies of these; step(key, state, batch, hyper) ->
    state, {name: scalar}, pure and traceable; result(state) -> weights, stats, by which the network is evaluated."""

    init: Callable[..., TrainState]
    start: Callable[[Weights, Stats], TrainState]
    step: Callable[..., tuple[TrainState, dict[str, Array]]]
    result: Callable[[TrainState], tuple[Weights, Stats]]


def trainer(network: Network, task: Task, recipe: Recipe, *, teacher: Teacher | None = None) -> Trainer:
    """Trains `network` on augmented batches.

    A step reports the metrics and the minimised loss (smoothing, example weights, auxiliary head and teacher included)
    of its mini-batch before the update.

    recipe: which parts there are; its numbers come with each step. teacher: used if recipe.distill is above 0; its arrays
    are part of the state.

    Raises ValueError if the task cannot be smoothed or distilled.
    """
    teacher = teacher if recipe.distill else None
    smoothed, dropped, averaged = recipe.label_smoothing > 0, recipe.drop_path > 0, recipe.ema > 0
    network = trained_in(network, recipe.dtype)
    if smoothed and task.smoothed is None:
        raise ValueError(f"label_smoothing spreads classes, which the task {task.name} does not have; it must be 0")
    if teacher and task.divergence is None:
        raise ValueError(f"the task {task.name} has no divergence to distil by; distill must be 0")

    def optimizer(hyper, t):
        return sgd(cosine_by_epoch("lr", "lr_min")(hyper, t), momentum=hyper["momentum"], decay=hyper["weight_decay"],
                   clip=hyper["clip"], nesterov=recipe.nesterov)

    def loss_of(outputs, batch, hyper):
        if smoothed:
            return batch.mean(task.smoothed(outputs, batch.targets, hyper["label_smoothing"]))
        return batch.mean(task.losses(outputs, batch.targets))

    def init(key, inputs):
        return start(*network.init(key, inputs))

    def start(weights, stats):
        copied = lambda: jax.tree.map(jnp.array, (weights, stats))
        zeros = recipe.numbers(epochs=1, steps=1)
        first, arrays = copied(), jax.tree.map(jnp.array, teacher.arrays) if teacher else ()
        opt = optimizer(zeros, time_of(zeros, 0)).init(first[0])
        return TrainState(jnp.zeros((), jnp.int32), *first, opt, copied() if averaged else (), arrays)

    def step(key, state, batch, hyper):
        t = time_of(hyper, state.step)
        dropping = {"drop_path": hyper["drop_path"] * t.epoch / t.epochs} if dropped else {}

        def loss(weights):
            outputs, stats = network.apply(weights, state.stats, batch.inputs, train=True, key=key, **dropping)
            outputs, *heads = outputs if recipe.auxiliary else (outputs,)
            value = loss_of(outputs, batch, hyper)
            if teacher:
                taught = jax.lax.stop_gradient(teacher.outputs(state.teacher, batch.inputs))
                softened = task.soften(taught, hyper["distill_temperature"])
                apart = task.divergence(softened, outputs, hyper["distill_temperature"]).mean()
                value = (1 - hyper["distill"]) * value + hyper["distill"] * apart
            for head in heads:
                value += hyper["auxiliary"] * loss_of(head, batch, hyper)
            metrics = {f"train_{name}": jnp.mean(metric(outputs, batch.targets), dtype=value.dtype)
                       for name, metric in task.metrics.items()}
            return value, (stats, metrics)

        (value, (stats, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(state.weights)
        updates, opt = optimizer(hyper, t).update(grads, state.opt, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        average = running_average(state, weights, stats, hyper) if averaged else ()
        state = TrainState(state.step + 1, weights, stats, opt, average, state.teacher)
        return state, {"train_loss": value, **metrics}

    return Trainer(init, start, step, lambda state: state.average if averaged else (state.weights, state.stats))


def running_average(state: TrainState, weights: Weights, stats: Stats, hyper: Hyper) -> Tree:
    """The average of weights and stats after a step, see `Recipe.ema`."""
    decay = jnp.minimum(hyper["ema"], (1 + state.step) / (10 + state.step))
    mean = lambda old, new: (decay * old + (1 - decay) * new).astype(new.dtype)
    return jax.tree.map(mean, state.average, (weights, stats))


def trained_in(network: Network, dtype: str) -> Network:
    """`network`, computing in `dtype` while training; weights, stats and outputs keep their types (mixed precision)."""
    if dtype == "float32":
        return network

    def apply(weights, stats, inputs, *, train, **options):
        if not train:
            return network.apply(weights, stats, inputs, train=False, **options)
        cast = lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        weights, inputs = jax.tree.map(cast, (weights, inputs))
        outputs, moved = network.apply(weights, stats, inputs, train=True, **options)
        like = lambda new, old: new.astype(old.dtype)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), outputs), jax.tree.map(like, moved, stats)

    return network._replace(apply=apply)
