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

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dnas.algorithms.method import Steps
from dnas.algorithms.players import Problem, first_state, move, move_arch, objective, observed, refuse_descent, step_info
from dnas.algorithms.schedules import time_of
from dnas.types import Stats, Tree, Weights


class Copy(NamedTuple):
    """y, the network tied to the validation data, as `extra` of a SearchState whose `weights` are w."""

    weights: Weights
    stats: Stats
    opt: Tree


def rarts(*, merged: bool = True) -> Callable[[Problem], Steps]:
    """The sweep w, y, arch; w and y begin equal and have optimiser states and running averages of their own.

    Reads from hyper `coupling`, beta, and `weight`, lambda. w is trained by the weights' objective, y and the architecture
    by the architecture's.

    merged: two passes, the architecture's gradients taken before w and y move; otherwise four.
    """
    def steps(problem: Problem) -> Steps:
        refuse_descent(problem, "rarts")

        def init(key, inputs, hyper):
            return begin(first_state(problem, key, inputs, hyper))

        def begin(state):
            return state._replace(extra=Copy(*jax.tree.map(jnp.copy, (state.weights, state.stats, state.weights_opt))))

        def step(key, state, train, valid, hyper):
            t, copy = time_of(hyper, state.step), state.extra
            train_key, valid_key = jax.random.split(key)

            def scaled(objective, scale):
                def of(weights, arch):
                    value, aux = objective(weights, arch)
                    return scale * value, aux
                return of

            def evaluate(objective, weights):
                wanted = (0, 1) if merged else 0
                (_, aux), grads = jax.value_and_grad(objective, argnums=wanted, has_aux=True)(weights, state.arch)
                return aux, *(grads if merged else (grads, None))

            def descend(grads, opt, weights, other):
                pulled = jax.tree.map(lambda g, a, b: g + hyper["coupling"] * (a - b), grads, weights, other)
                return move(problem.weights, pulled, opt, weights, hyper, t)

            on_train = scaled(objective(problem, problem.weights, train_key, train, state, hyper, t,
                                        state.memory["weights"]), hyper["weight"])
            on_valid = objective(problem, problem.arch, valid_key, valid, state._replace(stats=copy.stats), hyper, t,
                                 state.memory["arch"])
            (stats, train_info), grads, arch_train = evaluate(on_train, state.weights)
            weights, weights_opt = descend(grads, state.weights_opt, state.weights, copy.weights)
            (copy_stats, valid_info), grads, arch_valid = evaluate(on_valid, copy.weights)
            twin, twin_opt = descend(grads, copy.opt, copy.weights, weights)
            if merged:
                to_arch = jax.tree.map(jnp.add, arch_train, arch_valid)
            else:
                to_arch = jax.grad(lambda arch: on_train(weights, arch)[0] + on_valid(twin, arch)[0])(state.arch)
            arch, arch_opt = move_arch(problem.arch, to_arch, state, hyper, t)
            memory = observed(problem, {"weights": train_key, "arch": valid_key}, state, state.arch, hyper, t)
            state = state._replace(step=state.step + 1, weights=weights, stats=stats, arch=arch, weights_opt=weights_opt,
                                   arch_opt=arch_opt, memory=memory, extra=Copy(twin, copy_stats, twin_opt))
            return state, step_info(train_info, valid_info)

        return Steps(init, step, begin)

    return steps
