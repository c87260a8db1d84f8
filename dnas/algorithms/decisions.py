"""What is settled of an architecture while it is searched: decided edges, and operations that are out of the race."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dnas.types import OPEN, Array, Gates, Group


class Stop(NamedTuple):
    """Why a search ends before its last epoch. epoch: whose logits are the result, the last one's unless given."""

    reason: str
    epoch: int | None = None


def decided(gates: Gates, decisions: Mapping[str, Array], mask: Mapping[str, Array]) -> dict[str, Array]:
    """Gates in which operations out of the race get none, and the rows of decided edges are replaced: one-hot for an
    operation's index, zero for REMOVED.

    decisions: per group integers `[E]`, OPEN where the edge is still mixed. mask: per group booleans `[E, K]`. A replaced
    entry passes no gradient. Entries of `gates` that are no group of edges come back as they are.
    """
    def replace(row, choice, allowed):
        one_hot = jax.nn.one_hot(choice, row.shape[-1], dtype=row.dtype)
        return jnp.where((choice == OPEN)[:, None], jnp.where(allowed, row, 0), one_hot)

    return {name: replace(row, decisions[name], mask[name]) if name in decisions else row for name, row in gates.items()}


def undecided(groups: Mapping[str, Group]) -> dict[str, Array]:
    """Decisions that leave every edge open."""
    return {name: jnp.full(group.shape[0], OPEN, jnp.int32) for name, group in groups.items()}


def full_mask(groups: Mapping[str, Group]) -> dict[str, Array]:
    """The mask with every operation still in the race."""
    return {name: jnp.asarray(group.allowed) for name, group in groups.items()}
