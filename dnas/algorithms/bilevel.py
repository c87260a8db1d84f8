"""The alternating optimiser: an architecture step on validation data, then a weight step on training data.

    min over arch of L_valid(w*(arch), arch)   with   w*(arch) = argmin over w of L_train(w, arch)

(DARTS, arXiv 1806.09055, eq. 3-4 and algorithm 1). What approximates d L_valid / d arch is the hypergradient.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from dnas.algorithms.hypergradients import first_order
from dnas.algorithms.method import Steps
from dnas.algorithms.players import (
    Descent,
    Problem,
    first_state,
    move,
    move_arch,
    objective,
    observed,
    step_info,
    weights_only,
)
from dnas.algorithms.schedules import Hyper, Time, time_of


def bilevel(hypergradient: Callable[[Hyper], Callable] | None = lambda hyper: first_order(), *,
            lookahead: Callable[[Hyper, Time], optax.GradientTransformation] | None = None) -> Callable[[Problem], Steps]:
    """Alternates the two steps, the architecture first. The weight step sees the new architecture.

    Reads from hyper `arch_warmup`, epochs before the first architecture step, and `arch_every`, weight steps per
    architecture step; with neither, an architecture step precedes every weight step.

    Args:
        hypergradient: hyper -> (inner, outer, weights, arch, lookahead) -> (value, aux), grad: see
            `dnas.algorithms.hypergradients`; None leaves the architecture as it is.
        lookahead: the optimiser of a second-order hypergradient's lookahead step, with states of the same structure;
            default: the weights' optimiser.
    """
    def steps(problem: Problem) -> Steps:
        arch_player, weight_player = problem.arch, problem.weights
        descent = weight_player.descent or Descent(plain_step)
        trained_player = weight_player if weight_player.descent else weights_only(weight_player)
        ahead_player = weight_player._replace(optimizer=lookahead) if lookahead else weight_player

        def init(key, inputs, hyper):
            state = first_state(problem, key, inputs, hyper)
            return state._replace(extra=descent.init(problem, state.weights))

        def step(key, state, train, valid, hyper):
            t = time_of(hyper, state.step)
            train_key, valid_key = jax.random.split(key)
            inner, on_train = (objective(problem, player, train_key, train, state, hyper, t, state.memory["weights"])
                               for player in (weight_player, trained_player))
            outer = objective(problem, arch_player, valid_key, valid, state, hyper, t, state.memory["arch"])

            def arch_step():
                ahead = lambda grads: move(ahead_player, grads, state.weights_opt, state.weights, hyper, t)[0]
                (_, (_, info)), grads = hypergradient(hyper)(inner, outer, state.weights, state.arch, ahead)
                return *move_arch(arch_player, grads, state, hyper, t), info

            def arch_rest():
                return state.arch, state.arch_opt, outer(state.weights, state.arch)[1][1]

            if hypergradient is None:
                arch, arch_opt, valid_info = arch_rest()
            elif "arch_warmup" in hyper or "arch_every" in hyper:
                due = (t.step >= hyper.get("arch_warmup", 0) * t.steps) & ((t.step + 1) % hyper.get("arch_every", 1) == 0)
                arch, arch_opt, valid_info = jax.lax.cond(due, arch_step, arch_rest)
            else:
                arch, arch_opt, valid_info = arch_step()

            descend = lambda grads: move(weight_player, grads, state.weights_opt, state.weights, hyper, t)
            (stats, train_info), (weights, weights_opt), extra = descent.step(
                problem, on_train, outer, state.weights, arch, state.extra, hyper, t, descend)
            memory = observed(problem, {"weights": train_key, "arch": valid_key}, state, arch, hyper, t)
            state = state._replace(step=state.step + 1, weights=weights, stats=stats, arch=arch, weights_opt=weights_opt,
                                   arch_opt=arch_opt, memory=memory, extra=extra)
            return state, step_info(train_info, valid_info)

        return Steps(init, step)

    return steps


def plain_step(problem, inner, outer, weights, arch, memory, hyper, t, descend):
    """`Descent.step` down the gradient of `inner`."""
    (_, aux), grads = jax.value_and_grad(inner, has_aux=True)(weights, arch)
    return aux, descend(grads), memory
