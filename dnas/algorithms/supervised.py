"""The step that trains a network from scratch: cross-entropy, what regularises it, and an optimiser's update."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dnas.algorithms.distillation import Teacher
from dnas.algorithms.optimizers import refuse_negative
from dnas.types import Array, Network, Stats, Tree, Weights


class TrainState(NamedTuple):
    """All that the next step needs. `step` counts steps taken; `average`: of weights and stats, `teacher`: what it knows;
    () without one."""

    step: Array
    weights: Weights
    stats: Stats
    opt: Tree
    average: Tree = ()
    teacher: Tree = ()


class TrainInfo(NamedTuple):
    """Of one mini-batch, before the step: the loss that is trained on, with smoothed labels, weights of the images,
    the auxiliary head's part and the teacher's if there are such, in nats, and the accuracy in [0, 1]."""

    train_loss: Array
    train_accuracy: Array


class Trainer(NamedTuple):
    """init(key, images) -> state; start(weights, stats) -> state, with copies of these; step(key, state, batch) -> state,
    info, pure and traceable; result(state) -> weights, stats, by which the network is judged."""

    init: Callable[..., TrainState]
    start: Callable[[Weights, Stats], TrainState]
    step: Callable[..., tuple[TrainState, TrainInfo]]
    result: Callable[[TrainState], tuple[Weights, Stats]]


def trainer(network: Network, tx: optax.GradientTransformation, *, label_smoothing: float = 0.0,
            drop_path: Callable[[Array], Array] | None = None, ema: float = 0.0, auxiliary: float = 0.0,
            teacher: Teacher | None = None) -> Trainer:
    """Trains `network` by `tx`, such as `dnas.algorithms.optimizers.sgd`, on batches that are augmented already.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        drop_path: steps taken -> probability with which the output of an operation is dropped; see `linear_ramp`.
        ema: decay of a running average of weights and stats, which is the result; 0 for none. In the first steps it is
            (1 + steps) / (10 + steps) at most, as TensorFlow's, so that the average forgets the initial weights.
        auxiliary: weight of the loss of the auxiliary head, which the network must have; 0 for none.
        teacher: whose logits are a part of the target; what it knows travels in the state.

    Raises ValueError where a value is out of range.
    """
    refuse_negative(auxiliary=auxiliary)
    for name, value in (("label_smoothing", label_smoothing), ("ema", ema)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} is {value}, it must be at least 0 and below 1")

    def cross_entropy(logits, batch):
        if not label_smoothing:
            return batch.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets))
        targets = jax.nn.one_hot(batch.targets, logits.shape[-1], dtype=logits.dtype)
        return batch.mean(optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing)))

    def init(key, images):
        return start(*network.init(key, images))

    def start(weights, stats):
        copied = lambda: jax.tree.map(jnp.array, (weights, stats))
        first, known = copied(), jax.tree.map(jnp.array, teacher.known) if teacher else ()
        return TrainState(jnp.zeros((), jnp.int32), *first, tx.init(first[0]), copied() if ema else (), known)

    def step(key, state, batch):
        dropping = {} if drop_path is None else {"drop_path": drop_path(state.step)}

        def loss(weights):
            logits, stats = network.apply(weights, state.stats, batch.inputs, train=True, key=key, **dropping)
            logits, *others = logits if auxiliary else (logits,)
            value = cross_entropy(logits, batch)
            if teacher:
                value = (1 - teacher.weight) * value + teacher.weight * teacher.loss(state.teacher, batch.inputs, logits)
            for other in others:
                value += auxiliary * cross_entropy(other, batch)
            return value, (stats, jnp.mean(logits.argmax(-1) == batch.targets, dtype=value.dtype))

        (value, (stats, accuracy)), grads = jax.value_and_grad(loss, has_aux=True)(state.weights)
        updates, opt = tx.update(grads, state.opt, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        average = averaged(state, weights, stats) if ema else ()
        state = TrainState(state.step + 1, weights, stats, opt, average, state.teacher)
        return state, TrainInfo(value, accuracy)

    def averaged(state, weights, stats):
        decay = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
        return jax.tree.map(lambda old, new: (decay * old + (1 - decay) * new).astype(new.dtype), state.average,
                            (weights, stats))

    return Trainer(init, start, step, lambda state: state.average if ema else (state.weights, state.stats))


def trained_in(network: Network, dtype: str) -> Network:
    """`network`, which while training computes in `dtype`; weights, stats and logits stay as they are (mixed precision)."""
    if dtype == "float32":
        return network

    def apply(weights, stats, images, *, train, **given):
        if not train:
            return network.apply(weights, stats, images, train=False, **given)
        weights, images = jax.tree.map(lambda leaf: leaf.astype(dtype), (weights, images))
        logits, moved = network.apply(weights, stats, images, train=True, **given)
        like = lambda new, old: new.astype(old.dtype)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), logits), jax.tree.map(like, moved, stats)

    return network._replace(apply=apply)


def linear_ramp(highest: float, epochs: int, steps: int) -> Callable[[Array], Array] | None:
    """highest * e / epochs in epoch e, counted from 0, of `steps` steps; None where `highest` is 0.

    DARTS's drop-path probability (quark0/darts, cnn/train.py). Raises ValueError for one that is not in [0, 1).
    """
    if not 0 <= highest < 1:
        raise ValueError(f"drop_path is {highest}, it must be at least 0 and below 1")
    return (lambda step: highest * (step // steps) / epochs) if highest else None
