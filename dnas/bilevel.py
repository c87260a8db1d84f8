"""The alternating optimiser: an architecture step on validation data, then a weight step on training data.

    min over arch of L_valid(w*(arch), arch)   with   w*(arch) = argmin over w of L_train(w, arch)

(DARTS, arXiv 1806.09055, eq. 3-4 and algorithm 1). What approximates d L_valid / d arch is the hypergradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dnas.relaxations import Relaxation, decided
from dnas.types import Array, Batch, Gates, Genotype, Logits, SearchSpace, Stats, Tree, Weights


class SearchState(NamedTuple):
    """All that the next step needs. `step` counts steps taken; `decisions` holds per group integers `[E]`."""

    step: Array
    weights: Weights
    stats: Stats
    arch: Logits
    decisions: Mapping[str, Array]
    weights_opt: Tree
    arch_opt: Tree


class SearchInfo(NamedTuple):
    """What a person wants to see of one step: mean cross-entropies in nats and accuracies in [0, 1], scalars."""

    train_loss: Array
    train_accuracy: Array
    valid_loss: Array
    valid_accuracy: Array


class BilevelOptimizer(NamedTuple):
    """init(weights, arch, stats, decisions) -> state; step(key, state, train, valid) -> state, info."""

    init: Callable[..., SearchState]
    step: Callable[..., tuple[SearchState, SearchInfo]]


class Method(NamedTuple):
    """A way of searching a space, as the files of `dnas.methods` return it.

    init(key, images) -> state; step(key, state, train, valid) -> state, info, pure and traceable;
    gates(state) -> the gates by which the supernet is judged, decided edges one-hot;
    select(state) -> Genotype, by the method's own rule.
    A state has at least the fields of SearchState; an info is a NamedTuple of scalars whose losses are checked.
    """

    init: Callable[..., Tree]
    step: Callable[..., tuple[Tree, Tree]]
    gates: Callable[[Tree], Gates]
    select: Callable[[Tree], Genotype]


Loss = Callable[[Array, Weights, Stats, Gates, Batch], tuple[Array, tuple[Stats, Array]]]


def cross_entropy(space: SearchSpace) -> Loss:
    """Loss `(key, weights, stats, gates, batch) -> loss, (stats, accuracy)` of the supernet with batch statistics."""

    def loss(key, weights, stats, gates, batch):
        logits, stats = space.apply(weights, stats, gates, batch.images, train=True, key=key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        accuracy = jnp.mean(logits.argmax(-1) == batch.labels, dtype=losses.dtype)
        return losses.mean(), (stats, accuracy)

    return loss


def bilevel(loss: Loss, relaxation: Relaxation, hypergradient: Callable, weights_tx: optax.GradientTransformation,
            arch_tx: optax.GradientTransformation) -> BilevelOptimizer:
    """Alternates the two steps, the architecture first. The weight step sees the new architecture.

    hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad: see `dnas.hypergradients`.
    """

    def init(weights, arch, stats, decisions):
        return SearchState(jnp.zeros((), jnp.int32), weights, stats, arch, decisions,
                           weights_tx.init(weights), arch_tx.init(arch))

    def step(key, state, train, valid):
        relax_key, train_key, valid_key = jax.random.split(key, 3)

        def objective(key, batch):
            def of(weights, arch):
                gates = decided(relaxation(relax_key, arch, state.step), state.decisions)
                return loss(key, weights, state.stats, gates, batch)
            return of

        inner, outer = objective(train_key, train), objective(valid_key, valid)

        def descend(grads):
            updates, opt = weights_tx.update(grads, state.weights_opt, state.weights)
            return optax.apply_updates(state.weights, updates), opt

        (valid_loss, (_, valid_accuracy)), grads = hypergradient(
            inner, outer, state.weights, state.arch, lambda grads: descend(grads)[0])
        updates, arch_opt = arch_tx.update(grads, state.arch_opt, state.arch)
        arch = optax.apply_updates(state.arch, updates)

        (train_loss, (stats, train_accuracy)), grads = jax.value_and_grad(inner, has_aux=True)(state.weights, arch)
        weights, weights_opt = descend(grads)
        state = SearchState(state.step + 1, weights, stats, arch, state.decisions, weights_opt, arch_opt)
        return state, SearchInfo(train_loss, train_accuracy, valid_loss, valid_accuracy)

    return BilevelOptimizer(init, step)
