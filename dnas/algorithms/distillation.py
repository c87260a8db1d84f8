"""Self-distillation (Zhu, Li, Liu & Wang, Neural Networks 2023, arXiv 2302.05629): earlier supernets teach the present.

    q       = vote of softmax(f(x; teacher_k) / T), k = 1..K
    L_w     = CE(f(x; w), y) + weight * T^2 * KL(q || softmax(f(x; w) / T))

Of the paper only the abstract was available: that earlier steps of the supernet guide the current one, that several of
them vote on the teacher's probabilities, and that the aim is a flatter minimum. Number and spacing of the teachers, the
divergence, its weight, temperature and warm-up are ours.

After a search the supernet can teach the network that was chosen (Hinton, Vinyals & Dean, arXiv 1503.02531):

    L_w     = (1 - weight) CE(f(x; w), y) + weight * T^2 * KL(softmax(g(x) / T) || softmax(f(x; w) / T))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dnas.algorithms.players import SearchState, Term
from dnas.algorithms.schedules import Hyper, refuse_negative
from dnas.types import Array, Gates, SearchSpace, Tree, Weights


class Teachers(NamedTuple):
    """Snapshots stacked along a leading axis of K, the newest first; the first `filled` are snapshots."""

    weights: Weights
    gates: Gates
    filled: Array


class Teacher(NamedTuple):
    """A trained network whose outputs teach another.

    arrays: its arrays, never changed; outputs(arrays, inputs) -> outputs `[B, ...]`.
    """

    arrays: Tree
    outputs: Callable[[Tree, Array], Array]


def supernet_teacher(space: SearchSpace, state: SearchState, gates: Gates) -> Teacher:
    """The supernet in the state of a search, mixed by `gates`.

    It uses batch statistics, as in every evaluation of a supernet: its running averages lag behind its weights and gates,
    and are of augmented inputs.
    """
    def outputs(arrays, inputs):
        weights, stats, gates = arrays
        return space.apply(weights, stats, gates, inputs, train=True, key=None)[0]

    return Teacher((state.weights, state.stats, dict(gates)), outputs)


def distillation(*, teachers: int, vote: str = "soft", every: str = "epoch") -> Term:
    """The term that distils the last `teachers` snapshots of a search.

    Reads from hyper `distill_weight`, which rises linearly over the first `distill_warmup` epochs, and
    `distill_temperature`, T.

    Args:
        vote: `soft` averages the teachers' outputs, `hard` counts their first choices.
        every: `epoch` or `step`: when to take a snapshot, of the state before the step.

    Raises ValueError if one is out of range.
    """
    if teachers < 1:
        raise ValueError(f"distillation needs at least 1 teacher, not {teachers}")
    for name, value, values in (("vote", vote, ("soft", "hard")), ("every", every, ("epoch", "step"))):
        if value not in values:
            raise ValueError(f"{name} must be {' or '.join(values)}, not {value!r}")

    def init(weights, gates):
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (teachers, *leaf.shape)), (weights, gates))
        return Teachers(*stacked, jnp.zeros((), jnp.int32))

    def value(hyper, t, arch, gates, forward, memory):
        task, temperature = forward.task, hyper["distill_temperature"]
        if task.divergence is None:
            raise ValueError(f"the task {task.name} has no divergence to distil by; search it without teachers")
        soften = lambda snapshot: task.soften(forward.apply(*snapshot), temperature)
        votes = jax.lax.stop_gradient(jax.lax.map(soften, (memory.weights, memory.gates)))
        consensus = voting(votes, jnp.arange(teachers) < memory.filled, vote)
        ramp = jnp.minimum(t.step / jnp.maximum(hyper["distill_warmup"] * t.steps, 1), 1)
        share = jnp.where(hyper["distill_warmup"] > 0, ramp, 1)
        scale = jnp.where(memory.filled > 0, hyper["distill_weight"] * share, 0.0)
        return scale * task.divergence(consensus, forward.outputs, temperature).mean()

    def observe(memory, hyper, t, weights, gates):
        def push(memory):
            shift = lambda old, new: jnp.concatenate([new[None], old[:-1]])
            return Teachers(jax.tree.map(shift, memory.weights, weights), jax.tree.map(shift, memory.gates, gates),
                            jnp.minimum(memory.filled + 1, teachers))

        if every == "step":
            return push(memory)
        return jax.lax.cond((t.step + 1) % t.steps == 0, push, lambda memory: memory, memory)

    return Term(value, init, observe)


def check_distillation(hyper: Hyper) -> None:
    """Raises ValueError if one of the numbers that `distillation` reads is out of range."""
    refuse_negative(**{name: hyper[name] for name in ("distill_weight", "distill_warmup")})
    if not hyper["distill_temperature"] > 0:
        raise ValueError(f"distill_temperature is {hyper['distill_temperature']:g}, it must be above 0")


def voting(votes: Array, mask: Array, vote: str = "soft") -> Array:
    """The joint prediction `[B, ...]` of those teachers' votes `[K, B, ...]` that `mask` `[K]` includes.

    soft: the mean; hard: for each class the share of teachers whose first choice it is.
    """
    if vote == "hard":
        votes = jax.nn.one_hot(votes.argmax(-1), votes.shape[-1], dtype=votes.dtype)
    return jnp.einsum("k,k...->...", mask.astype(votes.dtype), votes) / jnp.maximum(mask.sum(), 1)
