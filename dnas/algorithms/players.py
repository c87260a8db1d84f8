"""The alternating optimiser: an architecture step on validation data, then a weight step on training data.

    min over arch of L_valid(w*(arch), arch)   with   w*(arch) = argmin over w of L_train(w, arch)

(DARTS, arXiv 1806.09055, eq. 3-4 and algorithm 1). What approximates d L_valid / d arch is the hypergradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from dnas.algorithms.relaxations import Relaxation, decided, undecided
from dnas.types import Array, Batch, Gates, Genotype, Logits, SearchSpace, Stats, Tree, Weights


class SearchState(NamedTuple):
    """All that the next step needs. `step` counts steps taken; `decisions` holds per group integers `[E]`; `extra` is
    what a method keeps besides: teachers, a second copy of the weights."""

    step: Array
    weights: Weights
    stats: Stats
    arch: Logits
    decisions: Mapping[str, Array]
    weights_opt: Tree
    arch_opt: Tree
    extra: Tree = ()


class SearchInfo(NamedTuple):
    """What a person wants to see of one step: mean losses in nats and accuracies in [0, 1], scalars."""

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
    A state has at least the fields of SearchState; an info is a NamedTuple of scalars, all of which must stay finite.
    """

    init: Callable[..., Tree]
    step: Callable[..., tuple[Tree, Tree]]
    gates: Callable[[Tree], Gates]
    select: Callable[[Tree], Genotype]


class Forward(NamedTuple):
    """What a loss returns beside its value: updated averages, accuracy in [0, 1], logits `[B, classes]`."""

    stats: Stats
    accuracy: Array
    logits: Array


Loss = Callable[[Array, Weights, Stats, Gates, Batch], tuple[Array, Forward]]


def cross_entropy(space: SearchSpace) -> Loss:
    """Loss `(key, weights, stats, gates, batch) -> loss, Forward` of the supernet, with batch statistics.

    The images' losses count by the weights of the batch, if it has any. The space's penalty adds to the gradient with
    respect to the gates, and not to the value.
    """

    def loss(key, weights, stats, gates, batch):
        logits, stats = space.apply(weights, stats, gates, batch.inputs, train=True, key=key)
        chex.assert_rank(logits, 2)
        chex.assert_equal_shape_prefix((logits, batch.targets), 1)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
        accuracy = jnp.mean(logits.argmax(-1) == batch.targets, dtype=losses.dtype)
        value = batch.mean(losses)
        if space.penalty is not None:
            penalty = space.penalty(gates)
            value += penalty - jax.lax.stop_gradient(penalty)
        return value, Forward(stats, accuracy, logits)

    return loss


class Penalty(NamedTuple):
    """A term of the weight step's loss with a memory, kept in `state.extra`: see `dnas.algorithms.distillation`.

    init(weights, gates) -> memory; value(memory, key, step, stats, batch, logits) -> scalar added to the training loss;
    observe(memory, step, weights, gates) -> memory, with the weights before this step and the gates it trained them by.
    """

    init: Callable[..., Tree]
    value: Callable[..., Array]
    observe: Callable[..., Tree]


def bilevel(loss: Loss, relaxation: Relaxation, hypergradient: Callable | None,
            weights_tx: optax.GradientTransformation, arch_tx: optax.GradientTransformation, *,
            lookahead_tx: optax.GradientTransformation | None = None, arch_starts: int = 0, arch_every: int = 1,
            penalty: Penalty | None = None, penalise_arch: bool = False) -> BilevelOptimizer:
    """Alternates the two steps, the architecture first. The weight step sees the new architecture.

    Args:
        hypergradient: (inner, outer, weights, arch, lookahead) -> (value, aux), grad: see `dnas.algorithms.hypergradients`;
            None leaves the architecture as it is.
        lookahead_tx: the step that a second-order hypergradient looks ahead by, if not `weights_tx`; states of the
            same structure.
        arch_starts: steps before the first architecture step. arch_every: weight steps to one architecture step.
        penalty: added to the loss of the weight step, and of the architecture step too if `penalise_arch`.
    """

    def gates_of(key, state, arch):
        return decided(relaxation(key, arch, state.step), state.decisions)

    def init(weights, arch, stats, decisions):
        state = SearchState(jnp.zeros((), jnp.int32), weights, stats, arch, decisions, weights_tx.init(weights),
                            arch_tx.init(arch))
        extra = penalty.init(weights, gates_of(jax.random.key(0), state, arch)) if penalty else ()
        return state._replace(extra=extra)

    def step(key, state, train, valid):
        relax_key, train_key, valid_key, penalty_key = jax.random.split(key, 4)

        def objective(key, batch, penalised):
            def of(weights, arch):
                value, forward = loss(key, weights, state.stats, gates_of(relax_key, state, arch), batch)
                if penalty and penalised:
                    value += penalty.value(state.extra, penalty_key, state.step, state.stats, batch, forward.logits)
                return value, forward
            return of

        def descend(grads, tx=weights_tx):
            updates, opt = tx.update(grads, state.weights_opt, state.weights)
            return optax.apply_updates(state.weights, updates), opt

        inner, outer = objective(train_key, train, True), objective(valid_key, valid, penalise_arch)

        def arch_step():
            (value, forward), grads = hypergradient(inner, outer, state.weights, state.arch,
                                                    lambda grads: descend(grads, lookahead_tx or weights_tx)[0])
            updates, opt = arch_tx.update(grads, state.arch_opt, state.arch)
            return optax.apply_updates(state.arch, updates), opt, value, forward.accuracy

        def arch_rest():
            value, forward = outer(state.weights, state.arch)
            return state.arch, state.arch_opt, value, forward.accuracy

        if hypergradient is None:
            arch, arch_opt, valid_loss, valid_accuracy = arch_rest()
        elif arch_starts or arch_every > 1:
            due = (state.step >= arch_starts) & ((state.step + 1) % arch_every == 0)
            arch, arch_opt, valid_loss, valid_accuracy = jax.lax.cond(due, arch_step, arch_rest)
        else:
            arch, arch_opt, valid_loss, valid_accuracy = arch_step()

        (train_loss, forward), grads = jax.value_and_grad(inner, has_aux=True)(state.weights, arch)
        weights, weights_opt = descend(grads)
        extra = penalty.observe(state.extra, state.step, state.weights, gates_of(relax_key, state, arch)) \
            if penalty else state.extra
        state = SearchState(state.step + 1, weights, forward.stats, arch, state.decisions, weights_opt, arch_opt, extra)
        return state, SearchInfo(train_loss, forward.accuracy, valid_loss, valid_accuracy)

    return BilevelOptimizer(init, step)


def as_method(space: SearchSpace, optimizer: BilevelOptimizer, relaxation: Relaxation,
              logits: Callable[[Array, Mapping[str, Any]], Logits]) -> Method:
    """The Method of an optimiser: fresh weights, the relaxation's gates, and the space's rule on those gates.

    logits(key, groups) -> the first architecture logits.
    """

    def init(key, images):
        weights_key, arch_key = jax.random.split(key)
        weights, stats = space.init(weights_key, images)
        return optimizer.init(weights, logits(arch_key, space.groups), stats, undecided(space.groups))

    def gates(state):
        return decided(relaxation(None, state.arch, state.step), state.decisions)

    return Method(init, optimizer.step, gates, lambda state: space.genotype(gates(state)))
