"""The two players of a search, who share one architecture: the relaxation, objective and optimiser of each.

    relaxation -> perturbation -> decided edges and mask -> forward -> loss of the task + terms

is the path from the logits to an objective; every method consists of such objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dnas.algorithms.decisions import decided, full_mask, undecided
from dnas.algorithms.relaxations import Architecture, Relaxation
from dnas.algorithms.schedules import Hyper, Time
from dnas.one_hot import one_hot_gates
from dnas.task import Task
from dnas.types import Array, Batch, Gates, Logits, SearchSpace, Stats, Tree, Weights


class SearchState(NamedTuple):
    """All that the next step needs. `step` counts steps taken.

    decisions: per group integers `[E]`, OPEN where an edge is still mixed. mask: per group booleans `[E, K]`, which
    operations are allowed. memory: of the players' terms, by player and term. extra: further state of a method, such as a
    second copy of the weights.
    """

    step: Array
    weights: Weights
    stats: Stats
    arch: Logits
    decisions: Mapping[str, Array]
    mask: Mapping[str, Array]
    weights_opt: Tree
    arch_opt: Tree
    memory: Tree = ()
    extra: Tree = ()


class Forward(NamedTuple):
    """A pass through the supernet, for terms.

    outputs: `[B, ...]`; batch: their inputs and targets. apply(weights, gates) -> outputs of the same inputs by other
    weights and gates, with the same running averages and randomness. architecture: the logits, with mask and groups.
    average() -> the player's average gates, with decided edges one-hot: those of no draw and without perturbation.
    """

    outputs: Array
    batch: Batch
    apply: Callable[[Weights, Gates], Array]
    task: Task
    architecture: Architecture
    average: Callable[[], Gates]


class Term(NamedTuple):
    """A term of a player's loss beside that of the task. It is reported under its own name.

    value(hyper, t, arch, gates, forward, memory) -> scalar. A term with a memory also has:
    init(weights, gates) -> memory; observe(memory, hyper, t, weights, gates) -> memory, called after each step with
    the weights before it and the gates that trained them, unperturbed.
    """

    value: Callable[..., Array]
    init: Callable[..., Tree] | None = None
    observe: Callable[..., Tree] | None = None


class Descent(NamedTuple):
    """How the weights' player takes a step, where that is not simply down the gradient of its objective.

    step(problem, inner, outer, weights, arch, memory, hyper, t, descend) -> aux of inner, (weights, optimiser's state),
        memory. inner, outer: `Objective`s of the weights' and of the architecture's player; descend(grads) -> (weights,
        optimiser's state) by those gradients. init(problem, weights) -> memory.
    """

    step: Callable[..., tuple[Any, tuple[Tree, Tree], Tree]]
    init: Callable[[Any, Weights], Tree] = lambda problem, weights: ()


class Player(NamedTuple):
    """One of the two players.

    relaxation: the gates that it sees. optimizer: (hyper, t) -> optax.GradientTransformation.
    terms: by name, `Term`s or functions like `Term.value`. perturbation: (key, loss, gates, architecture, hyper, t) ->
    gates, where loss(gates) is the loss of the task on this step's batch, with the weights held fixed; None for none.
    descent: of the weights' player of `bilevel`; None for plain gradients.
    """

    relaxation: Relaxation
    optimizer: Callable[[Hyper, Time], optax.GradientTransformation]
    terms: Mapping[str, Any] = {}
    perturbation: Callable[..., Gates] | None = None
    descent: Descent | None = None


class Problem(NamedTuple):
    """The problem of a method: a space, a task, and the two players."""

    space: SearchSpace
    task: Task
    arch: Player
    weights: Player


Objective = Callable[..., tuple[Array, tuple[Stats, dict[str, Array]]]]
"""(weights, arch, shift=None) -> loss with terms, (running averages, {name: scalar to report}).

shift: `[cells, E, K]` of groups whose cells can be told apart (`SearchSpace.cells`), added to the gates that each cell has.
"""


def weights_only(player: Player) -> Player:
    """The player in a step that needs no gradient of its gates."""
    return player._replace(relaxation=player.relaxation._replace(alone=player.relaxation.one_hot))


def gates_of(problem: Problem, player: Player, key: Array | None, arch: Logits, state: SearchState, hyper: Hyper,
             t: Time) -> Gates:
    """The gates of `arch` as `player` relaxes them, with decided edges one-hot; their average if key is None."""
    relaxed = player.relaxation.gates(key, Architecture(arch, state.mask, problem.space.groups), hyper, t)
    return decided(relaxed, state.decisions, state.mask)


def task_loss(space: SearchSpace, task: Task) -> Callable:
    """`(key, weights, stats, gates, batch) -> loss, outputs, stats` of the supernet, with batch statistics.

    Losses are multiplied by the weights of the batch, if it has any.

    Gates are computed before the network starts: XLA fuses a softmax into what reads it, and its compiler for a GPU then
    takes many minutes to plan the sums over operations, which it would all compute with Triton.
    """
    def loss(key, weights, stats, gates, batch):
        gates = jax.lax.optimization_barrier(gates)
        outputs, stats = space.apply(weights, stats, gates, batch.inputs, train=True, key=key)
        return batch.mean(task.losses(outputs, batch.targets)), outputs, stats

    return loss


def objective(problem: Problem, player: Player, key: Array, batch: Batch, state: SearchState, hyper: Hyper, t: Time,
              memory: Mapping[str, Tree] = {}) -> Objective:
    """The objective of `player` in this step: the loss of the task on `batch` by its gates, plus its terms.

    memory: of its terms, by name.
    """
    relax_key, perturb_key, forward_key = jax.random.split(key, 3)
    space, task = problem.space, problem.task
    task_of = task_loss(space, task)

    def of(weights, arch, shift=None):
        architecture = Architecture(arch, state.mask, space.groups)
        relaxed = player.relaxation.gates(relax_key, architecture, hyper, t)
        settle = lambda gates: decided(gates, state.decisions, state.mask)
        loss_of = lambda gates, weights: task_of(forward_key, weights, state.stats, settle(gates), batch)
        if player.perturbation:
            held = lambda gates: loss_of(gates, jax.lax.stop_gradient(weights))[0]
            relaxed = player.perturbation(perturb_key, held, relaxed, architecture, hyper, t)
        gates, by_cell = settle(relaxed), {name: relaxed[name] + rows for name, rows in (shift or {}).items()}
        with one_hot_gates(player.relaxation.alone and player.perturbation is None):
            value, outputs, stats = loss_of({**relaxed, **by_cell}, weights)
        info = measured(task, value, outputs, batch)
        again = lambda weights, gates: task_of(forward_key, weights, state.stats, gates, batch)[1]
        average = lambda: settle(player.relaxation.gates(None, architecture, hyper, t))
        forward = Forward(outputs, batch, again, task, architecture, average)
        for name, term in player.terms.items():
            term_value = as_term(term).value(hyper, t, arch, gates, forward, memory.get(name, ()))
            if jnp.shape(term_value) != ():
                raise ValueError(f"the term {name!r} has shape {jnp.shape(term_value)}, it must be a scalar")
            value, info = value + term_value, info | {name: term_value}
        return value, (stats, info)

    return of


def move(player: Player, grads: Tree, opt: Tree, params: Tree, hyper: Hyper, t: Time) -> tuple[Tree, Tree]:
    """(params, optimiser's state) after a step of the weights' player by `grads`.

    While a selection fine-tunes, the step is that of the first epoch's rate times hyper["fine_tuning"], whatever the
    optimiser: its updates are scaled, as the learning rate would scale them.
    """
    tuning = jnp.asarray(hyper["fine_tuning"])
    optimizer = player.optimizer(hyper, t._replace(step=jnp.where(tuning > 0, 0, t.step)))
    updates, opt = optimizer.update(grads, opt, params)
    scale = jnp.where(tuning > 0, tuning, 1)
    updates = jax.tree.map(lambda update: (scale * update).astype(update.dtype), updates)
    return optax.apply_updates(params, updates), opt


def move_arch(player: Player, grads: Tree, state: SearchState, hyper: Hyper, t: Time) -> tuple[Logits, Tree]:
    """(logits, optimiser's state) after a step of the architecture's player by `grads`."""
    updates, opt = player.optimizer(hyper, t).update(grads, state.arch_opt, state.arch)
    return optax.apply_updates(state.arch, updates), opt


def refuse_descent(problem: Problem, name: str) -> None:
    """Raises ValueError if the weights' player has a descent of its own, which the algorithm `name` does not use."""
    if problem.weights.descent:
        raise ValueError(f"{name} moves the weights in its own way and cannot be joined with a method that changes their "
                         "gradient, such as lambda-darts or oles")


def first_state(problem: Problem, key: Array, inputs: Array, hyper: Hyper) -> SearchState:
    """A state before the first step: fresh weights, the logits of both players' relaxations, every edge open."""
    weights_key, arch_key = jax.random.split(key)
    space = problem.space
    weights, stats = space.init(weights_key, inputs)
    arch = {name: rows for player in (problem.weights, problem.arch)
            for name, rows in player.relaxation.init(arch_key, space.groups).items()}
    t = Time(0, hyper["epochs"], hyper["steps"])
    state = SearchState(jnp.zeros((), jnp.int32), weights, stats, arch, undecided(space.groups), full_mask(space.groups),
                        problem.weights.optimizer(hyper, t).init(weights), problem.arch.optimizer(hyper, t).init(arch))
    memory = {}
    for name, player in (("arch", problem.arch), ("weights", problem.weights)):
        terms = with_memory(player)
        gates = gates_of(problem, player, jax.random.key(0), arch, state, hyper, t) if terms else None
        memory[name] = {called: term.init(weights, gates) for called, term in terms}
    return state._replace(memory=memory)


def observed(problem: Problem, keys: Mapping[str, Array], state: SearchState, arch: Logits, hyper: Hyper, t: Time) -> Tree:
    """The terms' memory after a step from `state`, in which the weights were trained by the logits `arch`.

    keys: by player, those of its objective.
    """
    memory = {}
    for name, player in (("arch", problem.arch), ("weights", problem.weights)):
        terms = with_memory(player)
        gates = gates_of(problem, player, jax.random.split(keys[name], 3)[0], arch, state, hyper, t) if terms else None
        memory[name] = {called: term.observe(state.memory[name][called], hyper, t, state.weights, gates)
                        for called, term in terms}
    return memory


def as_term(term: Any) -> Term:
    """`term`, or a Term of the function that it is."""
    return term if isinstance(term, Term) else Term(term)


def with_memory(player: Player) -> list[tuple[str, Term]]:
    """The player's terms that have a memory."""
    return [(name, term) for name, value in player.terms.items() if (term := as_term(value)).init is not None]


def measured(task: Task, loss: Array, outputs: Array, batch: Batch) -> dict[str, Array]:
    """{"loss", and each metric of the task: scalar} of outputs on a batch."""
    return {"loss": loss} | {name: jnp.mean(metric(outputs, batch.targets), dtype=loss.dtype)
                             for name, metric in task.metrics.items()}


def step_info(train: Mapping[str, Array], valid: Mapping[str, Array]) -> dict[str, Array]:
    """{"train_loss", "valid_loss", ...}: the scalars that a step reports. A term's value is named like the loss."""
    return {f"{split}_{name}": value for split, values in (("train", train), ("valid", valid))
            for name, value in values.items()}


def of_network(weights: Weights, stats: Stats) -> SearchState:
    """What a search can begin with of a trained network, its weights and running averages; all else is None."""
    return SearchState(None, weights, stats, None, None, None, None, None)


def started_from(state: SearchState, start: SearchState) -> SearchState:
    """`state` with the logits, decisions and mask of `start`, unless they are None, and with its weights and running
    averages where they fit.

    Raises ValueError if the logits, decisions or mask are those of another space or relaxation.
    """
    parts = {}
    for name in ("arch", "decisions", "mask"):
        if getattr(start, name) is None:
            continue
        if not _alike(getattr(state, name), getattr(start, name)):
            raise ValueError(f"the search to start from has other {name} than this one; its space and its method's "
                             "relaxation must be the same")
        parts[name] = getattr(start, name)
    if weights_fit(state, start):
        parts |= {"weights": start.weights, "stats": start.stats}
    return state._replace(**{name: jax.tree.map(lambda b, a: jnp.array(b, a.dtype), part, getattr(state, name))
                             for name, part in parts.items()})


def weights_fit(state: SearchState, start: SearchState) -> bool:
    """Whether weights and running averages of `start` are those of the same network as those of `state`."""
    return _alike((state.weights, state.stats), (start.weights, start.stats))


def _alike(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and \
        all(a.shape == b.shape for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))
