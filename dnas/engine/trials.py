"""Trains networks of a space for a short while, any of them by one program."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.supervised import Recipe, trainer
from dnas.data import Dataset, train_indices
from dnas.engine.compile import Examples, compile_judgement, compile_training, epoch_of
from dnas.engine.host import initial
from dnas.engine.search import input_shape
from dnas.one_hot import one_hot_gates
from dnas.task import Task, checked_value
from dnas.types import Gates, Network, SearchSpace


def compile_trials(space: SearchSpace, task: Task, data: Dataset, examples: Examples, batch: int) -> Callable:
    """Compiles `(gates, epochs, seed, steps) -> metric`: the task's metric on the valid split of the network of one-hot
    `gates`, after training it from fresh weights for `epochs` epochs of `steps` batches of the train split.

    A network whose loss becomes NaN or infinite has the worst metric there is.
    """
    recipe, rows = Recipe(), np.sort(data.splits["train"])
    most = train_indices(0, 0, rows, batch).shape[0]
    how = trainer(by_gates(space), task, recipe)
    state = initial(how.init, jax.random.key(0), input_shape(data, batch))
    hyper = recipe.numbers(epochs=1, steps=most)
    advance = epoch_of(compile_training(how, recipe, data, examples, state, hyper, most, batch), examples, most)
    judge = compile_judgement(by_gates(space), task, data, examples, *how.result(state), batch)

    def trial(gates: Gates, epochs: int, seed: int, steps: int = most) -> float:
        key, hyper = jax.random.key(seed), recipe.numbers(epochs=epochs, steps=most)
        state = initial(how.init, jax.random.fold_in(key, 0), input_shape(data, batch))
        state = state._replace(stats={**state.stats, "gates": {name: jnp.asarray(row, jnp.float32)
                                                               for name, row in gates.items()}})
        for epoch in range(epochs):
            state, last = advance(state, hyper, jax.random.fold_in(key, 1), train_indices(seed, epoch, rows, batch),
                                  on_metrics=lambda metrics, done: metrics["train_loss"][-1], steps=steps)
            if not np.isfinite(last):
                return -task.better * np.inf
        value = judge(*how.result(state), data.splits["valid"]).metrics[task.metric].mean(dtype=np.float64)
        return checked_value(task, float(value)) if np.isfinite(value) else -task.better * np.inf

    return trial


def by_gates(space: SearchSpace) -> Network:
    """The network of one-hot gates, which are among its statistics, as "gates": so one program serves all of them."""
    def init(key, inputs):
        weights, stats = space.init(key, inputs)
        return weights, {"averages": stats, "gates": {name: jnp.zeros(group.shape) for name, group in space.groups.items()}}

    def apply(weights, stats, inputs, *, train, key=None):
        with one_hot_gates():
            outputs, averages = space.apply(weights, stats["averages"], stats["gates"], inputs, train=train, key=key)
        return outputs, {**stats, "averages": averages}

    return Network(init, apply)
