"""Elastic training: one network of which every sub-network works; a step trains several of them, by one compiled program.

    weights <- SGD on  sum over n of  d L_n(w) / d w,   networks n = 1..N drawn anew in every step
    L_n     =  a_n L_train(w, network n) + b_n KL(outputs of network 1, n) + c_n KL(outputs of the teacher, n)

A network is a set of one-hot gates: masks in an entangled space, one operation an edge in others, so no shape changes and
nothing is compiled anew. The networks of a step are computed in turn, and those whose a, b and c are 0 not at all.
Nothing passes a gradient to what teaches. Gradients are added up, so the rate of the weights depends on N.

There are no logits: those of the state are the order of each edge's operations by cost, and the networks that have the
first and the last of each edge are the smallest and the largest. A sub-network is judged with batch statistics, or with
averages that are computed anew for it (`dnas train --inherit`): those of training belong to no network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dnas.algorithms.decisions import decided
from dnas.algorithms.method import Method, Steps
from dnas.algorithms.optimizers import global_norm
from dnas.algorithms.players import (
    Player,
    Problem,
    SearchState,
    first_state,
    measured,
    move,
    refuse_descent,
    step_info,
    task_loss,
    weights_only,
)
from dnas.algorithms.relaxations import Architecture, Relaxation, drawn, uniform
from dnas.algorithms.schedules import Hyper, Time, time_of
from dnas.one_hot import one_hot_gates
from dnas.task import Task
from dnas.types import Array, Gates, Logits, SearchSpace, Tree

NOTHING = "none"
"""The operation of no connection, which the smallest network avoids."""


class Networks(NamedTuple):
    """The networks of a step.

    gates: one-hot `[N, E, K]` of each group. labels, first, teacher: `[N]`, the weights a, b and c; None where they are 0
    for all. The first network is always computed, with its a, and c if there is a teacher; its b counts as 0.
    """

    gates: Gates
    labels: Array
    first: Array | None = None
    teacher: Array | None = None


class Gradients(NamedTuple):
    """What a step found. norms: `[N]` of each network's gradient, 0 of those that were not computed. of_valid(gates) -> the
    norm of the gradient of the loss on validation data, with the weights before the step."""

    norms: Array
    of_valid: Callable[[Gates], Array]


class Training(NamedTuple):
    """What an elastic method decides.

    networks(key, architecture, extra, hyper, t) -> Networks.
    init(state) -> extra, more state of the method's own.
    before(state, hyper, t) -> state, such as with the teacher of a new phase.
    after(key, networks, gradients, extra, hyper, t) -> extra.
    teacher(extra) -> the weights of the network that teaches, in its largest form.
    optimizer: of the weights, in place of their player's.
    examples(task, outputs, targets) -> [B]: how much an example is to be learned from, at least 0; the examples of an epoch
        are then drawn by it, see `Steps.importance`, and None draws each once.
    """

    networks: Callable[..., Networks]
    init: Callable[[SearchState], Tree] = lambda state: ()
    before: Callable[..., SearchState] = lambda state, hyper, t: state
    after: Callable[..., Tree] = lambda key, networks, gradients, extra, hyper, t: extra
    teacher: Callable[[Tree], Tree] | None = None
    optimizer: Callable[[Hyper, Time], optax.GradientTransformation] | None = None
    examples: Callable[..., Array] | None = None


def elastic(training_of: Callable[[SearchSpace], Training]) -> Callable[[Problem], Steps]:
    """The algorithm of a method that trains networks as `training_of(space)` says."""
    def steps(problem: Problem) -> Steps:
        refuse_joined(problem)
        training, task, space = training_of(problem.space), problem.task, problem.space
        loss_of, order = task_loss(space, task), costs_in_order(space)
        player = weights_only(problem.weights)
        if training.optimizer:
            player = player._replace(optimizer=training.optimizer)

        def init(key, inputs, hyper):
            state = begin(first_state(problem._replace(weights=player), key, inputs, hyper))
            architecture = Architecture(state.arch, state.mask, space.groups)
            t = time_of(hyper, state.step)
            networks = jax.eval_shape(lambda: training.networks(key, architecture, state.extra, hyper, t))
            if networks.first is not None or networks.teacher is not None:
                refuse_undistilled(task)
            return state

        def begin(state):
            state = state._replace(arch={name: jnp.asarray(rows) for name, rows in order.items()})
            return state._replace(extra=training.init(state))

        def step(key, state, train, valid, hyper):
            t = time_of(hyper, state.step)
            state = training.before(state, hyper, t)
            draw_key, forward_key, valid_key, after_key = jax.random.split(key, 4)
            architecture = Architecture(state.arch, state.mask, space.groups)
            networks = jax.tree.map(jnp.asarray, training.networks(draw_key, architecture, state.extra, hyper, t))
            settled = jax.vmap(lambda gates: decided(gates, state.decisions, state.mask))(dict(networks.gates))
            networks = networks._replace(gates=settled)
            gates_of = lambda n: {name: rows[n] for name, rows in networks.gates.items()}
            soften = lambda outputs: jax.lax.stop_gradient(task.soften(outputs, hyper["distill_temperature"]))
            apart = lambda taught, outputs: task.divergence(taught, outputs, hyper["distill_temperature"]).mean()
            if networks.teacher is not None:
                def teach():
                    full = decided(largest(architecture), state.decisions, state.mask)
                    with one_hot_gates():
                        return soften(loss_of(forward_key, training.teacher(state.extra), state.stats, full, train)[1])

                silent = lambda: jax.tree.map(lambda part: jnp.zeros(part.shape, part.dtype), jax.eval_shape(teach))
                taught = jax.lax.cond((networks.teacher != 0).any(), teach, silent)

            def gradient(n, weighted):
                """Outputs, running averages and loss of network `n`, and the gradient of `weighted(loss, outputs)`."""
                def of(weights):
                    with one_hot_gates():
                        loss, outputs, stats = loss_of(jax.random.fold_in(forward_key, n), weights, state.stats,
                                                       gates_of(n), train)
                    return weighted(loss, outputs), (outputs, stats, loss)

                return jax.grad(of, has_aux=True)(state.weights)

            def weighted(n, peer):
                def total(loss, outputs):
                    value = networks.labels[n] * loss
                    if peer is not None and networks.first is not None:
                        value += networks.first[n] * apart(peer, outputs)
                    if networks.teacher is not None:
                        value += networks.teacher[n] * apart(taught, outputs)
                    return value

                return total

            total, (outputs, stats, loss) = gradient(0, weighted(0, None))
            info = measured(task, loss, outputs, train)
            norms, count = global_norm(total)[None], networks.labels.shape[0]
            if count > 1:
                peer = soften(outputs) if networks.first is not None else None
                trained = sum(jnp.abs(part) for part in networks[1:] if part is not None) > 0

                def add(total, n):
                    compute = lambda: gradient(n, weighted(n, peer))[0]
                    grads = jax.lax.cond(trained[n], compute, lambda: jax.tree.map(jnp.zeros_like, state.weights))
                    return jax.tree.map(jnp.add, total, grads), global_norm(grads)

                total, others = jax.lax.scan(add, total, jnp.arange(1, count))
                norms = jnp.concatenate([norms, others])

            def on_valid(gates, weights):
                with one_hot_gates():
                    return loss_of(valid_key, weights, state.stats, gates, valid)[:2]

            valid_info = measured(task, *on_valid(gates_of(0), state.weights), valid)
            of_valid = lambda gates: global_norm(jax.grad(lambda weights: on_valid(gates, weights)[0])(state.weights))
            extra = training.after(after_key, networks, Gradients(norms, of_valid), state.extra, hyper, t)
            weights, weights_opt = move(player, total, state.weights_opt, state.weights, hyper, t)
            state = state._replace(step=state.step + 1, weights=weights, stats=stats, weights_opt=weights_opt, extra=extra)
            return state, step_info(info, valid_info)

        def importance(key, state, batch, hyper):
            t, (draw_key, forward_key) = time_of(hyper, state.step), jax.random.split(key)
            architecture = Architecture(state.arch, state.mask, space.groups)
            drawn = training.networks(draw_key, architecture, state.extra, hyper, t).gates
            gates = decided({name: rows[0] for name, rows in drawn.items()}, state.decisions, state.mask)
            with one_hot_gates():
                outputs = loss_of(forward_key, state.weights, state.stats, gates, batch)[1]
            return training.examples(task, outputs, batch.targets)

        return Steps(init, step, begin, importance if training.examples else None)

    return steps


def elastic_method(numbers: Mapping[str, float], optimizer, training_of: Callable[[SearchSpace], Training], *,
                   check: Callable[[Hyper], None]) -> Method:
    """The method of these numbers that trains as `training_of(space)` says, evaluated as its largest network, and ended by
    the selection `evolution` unless another is given. optimizer: of the weights."""
    weights = Player(SUB_NETWORKS, optimizer)
    return Method(numbers, weights._replace(optimizer=lambda hyper, t: optax.identity()), weights, elastic(training_of),
                  check=check, still=True, selection="evolution",
                  changed=frozenset({"relaxation", "descent"}), replaced=frozenset({"relaxation", "descent"}))


def trained_by(method: Method, training_of: Callable[[SearchSpace], Training], **parts) -> Method:
    """An elastic method that trains in another way. parts: as for `Method.extend`.

    Raises ValueError if the method is not an elastic one.
    """
    if method.selection is None:
        raise ValueError("an elastic training cannot extend a method with an architecture of its own: name it alone")
    trained = method.extend(algorithm=elastic(training_of), **parts)
    return dataclasses.replace(trained, replaced=trained.replaced | {"descent"})  # refuses to replace another training


def refuse_joined(problem: Problem) -> None:
    """Raises ValueError for a method that was changed by another, or has a budget: nothing here reads that."""
    refuse_descent(problem, "an elastic training")
    players = problem.arch, problem.weights
    if any(player.relaxation is not SUB_NETWORKS or player.terms or player.perturbation for player in players):
        raise ValueError("an elastic training has no architecture to pull anywhere, and a loss of its own: leave out what "
                         "is joined to it, and a budget; choose within one by --selection evolution --selection.limit "
                         "'macs<=20e6', or by --selection pareto")


# Networks, as one-hot gates `[E, K]` of each group.

def costs_in_order(space: SearchSpace) -> dict[str, np.ndarray]:
    """Ranks `[E, K]` of each edge's operations, float32: 0 for the one that adds fewest multiply-adds, all other choices
    being equally likely; `none` is -1. Equal ones are in the order of the space, and so are all where it has no expected
    costs.
    """
    ranks = {name: np.tile(np.arange(group.shape[1], dtype=np.float32), (group.shape[0], 1))
             for name, group in space.groups.items()}
    if space.expected is not None:
        even = {name: jnp.asarray(group.softmax(np.zeros(group.shape)), jnp.float32) for name, group in space.groups.items()}
        adds = jax.grad(lambda gates: space.expected(gates)["macs"])(even)
        order = lambda rows: np.argsort(np.argsort(np.asarray(rows), -1, kind="stable"), -1).astype(np.float32)
        ranks = {name: order(np.where(group.allowed, adds[name], np.inf)) for name, group in space.groups.items()}
    for name, group in space.groups.items():
        for e in range(len(group.edges)):
            if NOTHING in group.edge_ops(e):
                none = group.edge_ops(e).index(NOTHING)
                ranks[name][e] -= ranks[name][e] > ranks[name][e, none]
                ranks[name][e, none] = -1
    return ranks


def largest(architecture: Architecture) -> dict[str, Array]:
    """The last operation of each edge that is in the race, by the ranks that are its logits."""
    return {name: jax.nn.one_hot(rows.argmax(-1), rows.shape[-1]) for name, rows in architecture.masked().items()}


def smallest(architecture: Architecture) -> dict[str, Array]:
    """The first operation of each edge that is in the race and connects; `none` where it has no other."""
    def first(ranks):
        ranks = jnp.where(jnp.isneginf(ranks), jnp.inf, jnp.where(ranks < 0, ranks.shape[-1] - ranks, ranks))
        return jax.nn.one_hot(ranks.argmin(-1), ranks.shape[-1])

    return {name: first(rows) for name, rows in architecture.masked().items()}


def draws(key: Array, architecture: Architecture, count: int) -> dict[str, Array]:
    """Networks `[count, E, K]`, each operation of an edge that is in the race being equally likely."""
    path = drawn(uniform).gates
    return jax.vmap(lambda key: path(key, architecture, {}, None))(jax.random.split(key, count))


def stacked(*networks: Gates) -> dict[str, Array]:
    """Networks `[E, K]` as `[N, E, K]`."""
    return jax.tree.map(lambda *rows: jnp.stack(rows), *networks)


def joined(*networks: Gates) -> dict[str, Array]:
    """Networks `[N, E, K]`, one set after another."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *networks)


def reordered(space: SearchSpace, state: SearchState, when: Array,
              trained: Mapping[str, Array] | None = None) -> SearchState:
    """The state with its channels in the order of their importance, if `when`; as it is in a space without such an order.

    trained: see `SearchSpace.reorder`.
    """
    if space.reorder is None:
        return state
    trees = [state.weights, state.stats, state.weights_opt]
    sort = lambda trees: list(space.reorder(trees[0], trees, trained))
    weights, stats, opt = jax.lax.cond(when, sort, lambda trees: trees, trees)
    return state._replace(weights=weights, stats=stats, weights_opt=opt)


def _logits(key, groups) -> Logits:
    return {name: jnp.zeros(group.shape) for name, group in groups.items()}


def _gates(key, architecture, hyper, t):
    return largest(architecture) if key is None else drawn(uniform).gates(key, architecture, hyper, t)


SUB_NETWORKS = Relaxation(_logits, _gates, one_hot=True)
"""The relaxation of an elastic network: a uniform draw, and its largest form where networks are evaluated."""


def refuse_undistilled(task: Task) -> None:
    """Raises ValueError if a task has no divergence."""
    if task.soften is None or task.divergence is None:
        raise ValueError(f"the task {task.name} has no divergence to distil by, which this method needs; use spos")
