"""RARTS, relaxed architecture search (Xue, Qi & Xin, IEEE Access 2022, arXiv 2008.03901): single level, two networks.

    L(y, w, arch) = L_valid(y, arch) + weight L_train(w, arch) + coupling / 2 |y - w|^2

    w    <- descend on  weight d L_train(w, arch) / d w + coupling (w - y)
    y    <- descend on  d L_valid(y, arch) / d y + coupling (y - w)
    arch <- descend on  weight d L_train(w, arch) / d arch + d L_valid(y, arch) / d arch

one Gauss-Seidel sweep, each line with the newest values. Merged, the two gradients to the architecture are taken along
with those to w and y, before w and y move: two passes instead of four.

Of the paper only the abstracts were available: two networks with different but related weights, one shared
architecture, Gauss-Seidel sweeps, no mixed second derivatives. The objective is a reading that agrees with them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dnas.algorithms.players import BilevelOptimizer, Loss, SearchInfo, SearchState
from dnas.algorithms.relaxations import Relaxation, decided
from dnas.types import Stats, Tree, Weights


class Copy(NamedTuple):
    """y, the network tied to the validation data, as `extra` of a SearchState whose `weights` are w."""

    weights: Weights
    stats: Stats
    opt: Tree


def rarts(loss: Loss, relaxation: Relaxation, weights_tx: optax.GradientTransformation,
          arch_tx: optax.GradientTransformation, *, coupling: float, weight: float,
          merged: bool = True) -> BilevelOptimizer:
    """The sweep w, y, arch; w and y begin equal and have optimiser states and running averages of their own.

    Args:
        coupling: beta, the strength that holds w and y together. With step size lr it needs lr * coupling < 2.
        weight: lambda, of the training loss.
        merged: two passes, the architecture's gradients taken before w and y move; otherwise four.

    Raises ValueError unless both are positive.
    """
    if not (coupling > 0 and weight > 0):
        raise ValueError(f"rarts needs coupling > 0 and weight > 0, got {coupling} and {weight}")

    def init(weights, arch, stats, decisions):
        copy = Copy(*jax.tree.map(jnp.copy, (weights, stats)), weights_tx.init(weights))
        return SearchState(jnp.zeros((), jnp.int32), weights, stats, arch, decisions, weights_tx.init(weights),
                           arch_tx.init(arch), copy)

    def step(key, state, train, valid):
        relax_key, train_key, valid_key = jax.random.split(key, 3)
        copy = state.extra

        def objective(key, stats, batch, scale):
            def of(weights, arch):
                gates = decided(relaxation(relax_key, arch, state.step), state.decisions)
                value, forward = loss(key, weights, stats, gates, batch)
                return scale * value, (value, forward)
            return of

        def evaluate(objective, weights):
            wanted = (0, 1) if merged else 0
            (_, seen), grads = jax.value_and_grad(objective, argnums=wanted, has_aux=True)(weights, state.arch)
            return seen, *(grads if merged else (grads, None))

        def descend(grads, opt, weights, other):
            pulled = jax.tree.map(lambda g, a, b: g + coupling * (a - b), grads, weights, other)
            updates, opt = weights_tx.update(pulled, opt, weights)
            return optax.apply_updates(weights, updates), opt

        on_train = objective(train_key, state.stats, train, weight)
        on_valid = objective(valid_key, copy.stats, valid, 1.0)
        (train_loss, seen), grads, arch_train = evaluate(on_train, state.weights)
        weights, weights_opt = descend(grads, state.weights_opt, state.weights, copy.weights)
        (valid_loss, seen_valid), grads, arch_valid = evaluate(on_valid, copy.weights)
        twin, twin_opt = descend(grads, copy.opt, copy.weights, weights)
        if not merged:
            to_arch = jax.grad(lambda arch: on_train(weights, arch)[0] + on_valid(twin, arch)[0])(state.arch)
        else:
            to_arch = jax.tree.map(jnp.add, arch_train, arch_valid)
        updates, arch_opt = arch_tx.update(to_arch, state.arch_opt, state.arch)
        arch = optax.apply_updates(state.arch, updates)
        state = SearchState(state.step + 1, weights, seen.stats, arch, state.decisions, weights_opt, arch_opt,
                            Copy(twin, seen_valid.stats, twin_opt))
        return state, SearchInfo(train_loss, seen.accuracy, valid_loss, seen_valid.accuracy)

    return BilevelOptimizer(init, step)
