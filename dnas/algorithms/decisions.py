"""Decisions during a search: decided edges, masked operations, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.types import OPEN, REMOVED, Array, Gates, Group

WINDOW, DELTA, FACTOR, NOT_BEFORE = 5, 4, 1.3, 10
"""DARTS-ES (arXiv 1909.09656): mean of WINDOW eigenvalues, compared DELTA measurements apart; epochs."""


class Stop(NamedTuple):
    """Why a search ends before its last epoch. epoch: whose logits are the result; None for the last."""

    reason: str
    epoch: int | None = None


def decided(gates: Gates, decisions: Mapping[str, Array], mask: Mapping[str, Array]) -> dict[str, Array]:
    """Gates with masked operations at zero and the rows of decided edges replaced: one-hot, or zero for REMOVED.

    decisions: per group integers `[E]`, OPEN where the edge is still mixed. mask: per group booleans `[E, K]`. Replaced
    entries pass no gradient. Entries of `gates` that belong to no group are returned unchanged.
    """
    def replace(row, choice, allowed):
        one_hot = jax.nn.one_hot(choice, row.shape[-1], dtype=row.dtype)
        return jnp.where((choice == OPEN)[:, None], jnp.where(allowed, row, 0), one_hot)

    return {name: replace(row, decisions[name], mask[name]) if name in decisions else row for name, row in gates.items()}


def undecided(groups: Mapping[str, Group]) -> dict[str, Array]:
    """Decisions that leave every edge open."""
    return {name: jnp.full(group.shape[0], OPEN, jnp.int32) for name, group in groups.items()}


def full_mask(groups: Mapping[str, Group]) -> dict[str, Array]:
    """The mask that allows every operation."""
    return {name: jnp.asarray(group.allowed) for name, group in groups.items()}


def keep_best(count: int) -> Callable:
    """`Method.decide` by which a search ends with the `count` operations of the largest logits on each open edge.

    Ties go to the lower index. A search that starts from it goes on with them: a progressive search in stages, as those of
    P-DARTS (arXiv 1904.12760) and DrNAS (arXiv 2006.10355). One that stops before its last epoch keeps all.
    """
    def decide(space, state, record):
        if record["epoch"] < record["epochs"]:
            return state
        mask = {}
        for name, allowed in state.mask.items():
            allowed, undecided_edges = np.asarray(allowed), np.asarray(state.decisions[name]) == OPEN
            order = np.argsort(-np.where(allowed, state.arch[name], -np.inf), -1, kind="stable")
            best = np.argsort(order, -1) < count
            mask[name] = allowed & (best | ~undecided_edges[:, None])
        return state._replace(mask=mask)

    return decide


def checked_decisions(groups: Mapping[str, Group], state: Any) -> dict[str, dict[str, Array]]:
    """{"decisions", "mask"} of a state that a method's `decide` returned, as arrays.

    Raises ValueError if their shapes or types do not fit the groups, an edge lacks the operation chosen for it, or an open
    edge has no operation left.
    """
    if not hasattr(state, "decisions") or not hasattr(state, "mask"):
        raise ValueError(f"the method's decide returned {type(state).__name__}, it must return the state")
    decisions, mask = {}, {}
    for name, group in groups.items():
        for part, shape, arrays in (("decisions", group.shape[:1], decisions), ("mask", group.shape, mask)):
            rows = np.asarray(getattr(state, part).get(name))
            if rows.shape != shape or rows.dtype.kind not in "iub":
                raise ValueError(f"the method's decide returned {part} {rows.dtype} {rows.shape} of group {name!r}, they "
                                 f"must be {'booleans' if part == 'mask' else 'integers'} {shape}")
            arrays[name] = rows.astype(bool if part == "mask" else np.int32)
        mask[name] &= group.allowed
        for e, (source, target) in enumerate(group.edges):
            edge, choice = f"edge {source}->{target} of group {name!r}", decisions[name][e]
            if choice not in (OPEN, REMOVED) and not 0 <= choice < len(group.edge_ops(e)):
                raise ValueError(f"the method's decide chose operation {choice} on {edge}, which has "
                                 f"{len(group.edge_ops(e))}; OPEN and REMOVED are {OPEN} and {REMOVED}")
            if choice >= 0 and not mask[name][e, choice]:
                raise ValueError(f"the method's decide chose {group.edge_ops(e)[choice]} on {edge}, which the mask excludes")
            if choice == OPEN and not mask[name][e].any():
                raise ValueError(f"the method's decide left {edge} no operation; keep one, or decide the edge")
    return {"decisions": jax.tree.map(jnp.asarray, decisions), "mask": jax.tree.map(jnp.asarray, mask)}


def stop_of(rules: Sequence[Callable], records: Sequence[Mapping[str, Any]]) -> Stop | None:
    """The Stop of the first of `rules` that ends a search with these records; None if none does.

    Raises ValueError if a rule returns anything but None or a Stop at an epoch so far.
    """
    for rule in rules if records else ():
        stop = rule(records)
        if stop is None:
            continue
        if not isinstance(stop, Stop) or stop.epoch is not None and not 0 <= stop.epoch <= len(records):
            raise ValueError(f"the method's stop returned {stop!r}, it must return None or a Stop, with one of the epochs 0 "
                             f"to {len(records)}")
        return stop
    return None


def early_stop(epochs: Sequence[int], eigenvalues: Sequence[float]) -> tuple[int, int] | None:
    """DARTS-ES: (epoch at which to stop, epoch whose genotype to take), or None while the curvature does not grow.

    eigenvalues: measured at `epochs`, equally spaced. Stops if their mean over WINDOW measurements has grown by more than
    FACTOR within DELTA measurements, none of them before epoch NOT_BEFORE.
    """
    half = WINDOW // 2
    means = {i - half: np.mean(eigenvalues[max(i - WINDOW + 1, 0):i + 1]) for i in range(half, len(eigenvalues))}
    for i in range(len(eigenvalues)):
        now, before = i - half, i - half - DELTA
        if before in means and epochs[before] >= NOT_BEFORE and means[now] > FACTOR * means[before]:
            return epochs[i], epochs[before]
    return None
