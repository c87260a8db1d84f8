"""The single-level optimiser: weights and architecture descend together, each on its own objective on training data.

    weights <- descend on  d L_train(w, arch) / d w
    arch    <- descend on  d L_train(w, arch) / d arch

SNAS (arXiv 1812.09926) searches this way. Both gradients are of the same batch and the same weights. The loss on
validation data, by the architecture's gates, is only reported.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax

from dnas.algorithms.method import Steps
from dnas.algorithms.players import Problem, first_state, move, move_arch, objective, observed, refuse_descent, step_info
from dnas.algorithms.schedules import time_of


def single_level() -> Callable[[Problem], Steps]:
    """One step of both players on each training batch."""
    def steps(problem: Problem) -> Steps:
        refuse_descent(problem, "an algorithm on one level")

        def step(key, state, train, valid, hyper):
            t = time_of(hyper, state.step)
            train_key, valid_key = jax.random.split(key)
            on_train = lambda name, player: objective(problem, player, train_key, train, state, hyper, t,
                                                      state.memory[name])
            inner, outer = on_train("weights", problem.weights), on_train("arch", problem.arch)
            if problem.arch == problem.weights._replace(optimizer=problem.arch.optimizer):
                ((_, (stats, info)), (grads, to_arch)) = jax.value_and_grad(inner, (0, 1), has_aux=True)(state.weights,
                                                                                                       state.arch)
            else:
                (_, (stats, info)), grads = jax.value_and_grad(inner, has_aux=True)(state.weights, state.arch)
                to_arch, _ = jax.grad(outer, argnums=1, has_aux=True)(state.weights, state.arch)
            on_valid = objective(problem, problem.arch, valid_key, valid, state, hyper, t, state.memory["arch"])
            valid_info = on_valid(state.weights, state.arch)[1][1]
            weights, weights_opt = move(problem.weights, grads, state.weights_opt, state.weights, hyper, t)
            arch, arch_opt = move_arch(problem.arch, to_arch, state, hyper, t)
            memory = observed(problem, {"weights": train_key, "arch": train_key}, state, state.arch, hyper, t)
            state = state._replace(step=state.step + 1, weights=weights, stats=stats, arch=arch, weights_opt=weights_opt,
                                   arch_opt=arch_opt, memory=memory)
            return state, step_info(info, valid_info)

        return Steps(partial(first_state, problem), step)

    return steps
