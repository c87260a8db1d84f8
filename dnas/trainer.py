"""The step that trains a network from scratch: cross-entropy, and an optimiser's update."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dnas.types import Array, Network, Stats, Tree, Weights


class TrainState(NamedTuple):
    """All that the next step needs. `step` counts steps taken."""

    step: Array
    weights: Weights
    stats: Stats
    opt: Tree


class TrainInfo(NamedTuple):
    """Of one mini-batch, before the step: mean loss in nats, accuracy in [0, 1]."""

    train_loss: Array
    train_accuracy: Array


class Trainer(NamedTuple):
    """init(key, images) -> state; step(key, state, batch) -> state, info, pure and traceable."""

    init: Callable[..., TrainState]
    step: Callable[..., tuple[TrainState, TrainInfo]]


def trainer(network: Network, tx: optax.GradientTransformation) -> Trainer:
    """Trains `network` by `tx`, such as `dnas.optimizers.sgd`, on batches that are augmented already."""

    def init(key, images):
        weights, stats = jax.tree.map(jnp.asarray, network.init(key, images))
        return TrainState(jnp.zeros((), jnp.int32), weights, stats, tx.init(weights))

    def step(key, state, batch):
        def loss(weights):
            logits, stats = network.apply(weights, state.stats, batch.images, train=True, key=key)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            accuracy = jnp.mean(logits.argmax(-1) == batch.labels, dtype=losses.dtype)
            return losses.mean(), (stats, accuracy)

        (value, (stats, accuracy)), grads = jax.value_and_grad(loss, has_aux=True)(state.weights)
        updates, opt = tx.update(grads, state.opt, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        return TrainState(state.step + 1, weights, stats, opt), TrainInfo(value, accuracy)

    return Trainer(init, step)
