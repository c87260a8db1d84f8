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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dnas.algorithms.players import Penalty
from dnas.types import Array, Gates, SearchSpace, Tree, Weights


class Teachers(NamedTuple):
    """Snapshots stacked along a leading axis of K, the newest first; `known` of them have been taken."""

    weights: Weights
    gates: Gates
    known: Array


class Teacher(NamedTuple):
    """A network that has learnt already and teaches another by its logits.

    known: its arrays, which nothing changes; logits(known, images) -> logits `[B, classes]`.
    weight: share of the loss that is the teacher's, in (0, 1]; temperature: T.
    """

    known: Tree
    logits: Callable[[Tree, Array], Array]
    weight: float
    temperature: float

    def loss(self, known: Tree, images: Array, logits: Array) -> Array:
        """T^2 KL(teacher || student) on these images, of the student's `logits` `[B, classes]`."""
        taught = jax.lax.stop_gradient(self.logits(known, images))
        return divergence(jax.nn.softmax(taught / self.temperature), logits, self.temperature)


def supernet_teacher(space: SearchSpace, state: Any, gates: Gates, *, weight: float, temperature: float) -> Teacher | None:
    """The supernet in the state of a search, mixed by `gates`; None where the weight is 0.

    It normalises by the statistics of the images that it is asked about, as it does whenever a search judges it: its
    running averages lag behind weights and gates that moved, and are of images augmented as in the search.

    Raises ValueError where weight or temperature is out of range.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"distill is {weight:g}, it must be 0 to 1: the share of the loss that is the teacher's")
    if not temperature > 0:
        raise ValueError(f"distill_temperature is {temperature:g}, it must be above 0")
    if not weight:
        return None

    def logits(known, images):
        weights, stats, gates = known
        return space.apply(weights, stats, gates, images, train=True, key=None)[0]

    return Teacher((state.weights, state.stats, dict(gates)), logits, weight, temperature)


def distillation(space: SearchSpace, *, teachers: int, weight: float, temperature: float, vote: str, every: int,
                 warmup: int) -> Penalty:
    """The penalty that distils the last `teachers` snapshots into the weight step.

    Args:
        weight: of the divergence, reached along a line over the first `warmup` steps.
        temperature: T. vote: `soft` averages the teachers' probabilities, `hard` counts their first choices.
        every: steps between snapshots. One is of the state before a step, so with 1 the teachers are the K supernets
            just before the present one.

    Raises ValueError where one is out of range.
    """
    if teachers < 1 or every < 1 or warmup < 0:
        raise ValueError("distillation needs teachers >= 1, every >= 1, warmup >= 0, "
                         f"got {teachers}, {every}, {warmup}")
    if not temperature > 0 or weight < 0:
        raise ValueError(f"distillation needs temperature > 0 and weight >= 0, got {temperature} and {weight}")
    if vote not in ("soft", "hard"):
        raise ValueError(f"vote is soft or hard, not {vote!r}")

    def init(weights, gates):
        stacked = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (teachers, *leaf.shape)), (weights, gates))
        return Teachers(*stacked, jnp.zeros((), jnp.int32))

    def value(memory, key, step, stats, batch, logits):
        def probabilities(snapshot):
            weights, gates = snapshot
            taught, _ = space.apply(weights, stats, gates, batch.inputs, train=True, key=key)
            return jax.nn.softmax(taught / temperature)

        votes = jax.lax.stop_gradient(jax.lax.map(probabilities, (memory.weights, memory.gates)))
        voted = voting(votes, jnp.arange(teachers) < memory.known, vote)
        share = jnp.minimum(step / warmup, 1) if warmup else 1.0
        scale = jnp.where(memory.known > 0, weight * share, 0.0)
        return scale * divergence(voted, logits, temperature)

    def observe(memory, step, weights, gates):
        def push(memory):
            shift = lambda old, new: jnp.concatenate([new[None], old[:-1]])
            return Teachers(jax.tree.map(shift, memory.weights, weights), jax.tree.map(shift, memory.gates, gates),
                            jnp.minimum(memory.known + 1, teachers))

        if every == 1:
            return push(memory)
        return jax.lax.cond((step + 1) % every == 0, push, lambda memory: memory, memory)

    return Penalty(init, value, observe)


def voting(votes: Array, known: Array, vote: str = "soft") -> Array:
    """What the teachers predict together `[B, classes]`, of probabilities `[K, B, classes]`; those `known` `[K]` count.

    soft: the mean; hard: the share of teachers whose first choice a class is.
    """
    if vote == "hard":
        votes = jax.nn.one_hot(votes.argmax(-1), votes.shape[-1], dtype=votes.dtype)
    return jnp.einsum("k,kbc->bc", known.astype(votes.dtype), votes) / jnp.maximum(known.sum(), 1)


def divergence(voted: Array, logits: Array, temperature: float) -> Array:
    """T^2 KL(voted || softmax(logits / T)), mean over the batch, in nats."""
    log_student = jax.nn.log_softmax(logits / temperature)
    log_voted = jnp.log(jnp.where(voted > 0, voted, 1))
    return temperature**2 * jnp.mean(jnp.sum(voted * (log_voted - log_student), -1))
