"""SGAS (Li et al., CVPR 2020, arXiv 1912.00195): DARTS that decides its edges one by one during the search.

    q = softmax(arch) of an edge;  S = sum of q without `none`;  r = q without `none` / S
    certainty = 1 - H(r) / log(operations without `none`)
    stability = mean over earlier epochs e of  sum_k min(r_k, r_k at e)
    criterion = norm(S) norm(certainty), and norm(stability) where that is an option;  norm: min-max over the group's edges

After a warm-up, and then every few epochs, the open edge of each group with the largest criterion is decided for its argmax
of r. Once a node has as many decided edges as it keeps, its other edges into it are removed. Nine epochs of warm-up, five
between decisions and four epochs of history are those of the authors' code; all other defaults are those of `darts`.

Departure: the batch does not grow as edges are decided. Ours: a space that has no `none` is scored over all its
operations, and the number of edges that a node keeps is that of the space's genotypes, two in the DARTS space and all in
NAS-Bench-201.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from dnas.algorithms.method import Method
from dnas.methods.darts import darts
from dnas.registry import extends
from dnas.types import OPEN, REMOVED, Group, SearchSpace


@extends(darts)
def sgas(method: Method, *, decide_after: int = 9, decide_every: int = 5, stability: bool = False, history: int = 4,
         inputs: int = 0) -> Method:
    """SGAS. A search that would end before every edge is decided is refused.

    Args:
        decide_after: epochs before the first decision.
        decide_every: epochs from each decision to the next.
        stability: also ask for stable edges (the paper's criterion 2).
        history: earlier epochs that stability looks at.
        inputs: edges that a node keeps; 0 for as many as the space's genotypes have.
    """
    for name, value, least in (("decide_after", decide_after, 1), ("decide_every", decide_every, 1), ("history", history, 1),
                               ("inputs", inputs, 0)):
        if value < least:
            raise ValueError(f"{name} is {value}, it must be {least} or more")

    def decide(space, state, record):
        state = method.decide(space, state, record) if method.decide else state
        epoch, decisions = record["epoch"], {}
        due = epoch >= decide_after and (epoch - decide_after) % decide_every == 0
        for name, group in space.groups.items():
            limits, row = limits_of(space, name, inputs), np.array(state.decisions[name])
            if due and (row == OPEN).any():
                past = record["trajectory"][name][1:][-history:] if stability else None
                score, shares = criterion(group, state.arch[name], state.mask[name], past)
                edge = int(np.where(row == OPEN, score, -np.inf).argmax())
                row = remove_full(group, choose(row, edge, shares[edge], state.mask[name][edge]), limits)
            decisions[name] = row
        return state._replace(decisions=decisions)

    def check_search(space, search):
        left = max(to_decide(group, np.asarray(search["decisions"][name]), limits_of(space, name, inputs))
                   for name, group in space.groups.items())
        last = decide_after + decide_every * (left - 1)
        if left and last > search["epochs"]:
            raise ValueError(f"sgas has {left} edges of a group to decide, the last of them after epoch {last}, and the "
                             f"search has {search['epochs']} epochs; use {last} or more, or a smaller decide_every or "
                             "decide_after")

    return method.extend(decide=decide, check_search=check_search)


def criterion(group: Group, logits: Any, mask: Any, past: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """(criterion `[E]`, shares of operations `[E, K]` without `none`) of one group.

    logits, mask: `[E, K]`. past: logits `[H, E, K]` of earlier epochs; None for a criterion without stability.
    """
    mask = np.asarray(mask) & group.allowed
    real = mask & ~nones(group)
    importance, shares = shares_of(logits, mask, real)
    count = real.sum(-1)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)
    certainty = np.where(count > 1, 1 - entropy / np.log(np.maximum(count, 2)), 1)
    score = _norm(importance) * _norm(certainty)
    if past is not None:
        overlaps = [np.minimum(shares, shares_of(rows, mask, real)[1]).sum(-1) for rows in past]
        score = score * _norm(np.mean(overlaps, 0) if overlaps else np.zeros(len(score)))
    return score, shares


def shares_of(logits: Any, mask: np.ndarray, real: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S `[E]`, r `[E, K]`): the softmax's sum over the `real` operations, and their shares of it; 0 where there is none."""
    logits = np.where(mask, np.asarray(logits, np.float64), -np.inf)
    powers = np.exp(logits - np.where(mask.any(-1), logits.max(-1), 0)[:, None])
    whole, part = powers.sum(-1), np.where(real, powers, 0)
    inner = part.sum(-1)
    return inner / np.where(whole > 0, whole, 1), part / np.where(inner > 0, inner, 1)[:, None]


def nones(group: Group) -> np.ndarray:
    """Booleans `[E, K]`: which operations are called `none`."""
    edges, ops = group.shape
    return np.array([[k < len(group.edge_ops(e)) and group.edge_ops(e)[k] == "none" for k in range(ops)]
                     for e in range(edges)])


def choose(row: np.ndarray, edge: int, shares: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Decisions with `edge` decided for its largest share; for what is left if that is `none` alone."""
    row = row.copy()
    row[edge] = shares.argmax() if shares.any() else np.argmax(mask)
    return row


def limits_of(space: SearchSpace, name: str, inputs: int) -> Mapping[int, int]:
    """Edges that each node of a group keeps: `inputs`, or those of the space's genotypes for 0."""
    targets = {target for _, target in space.groups[name].edges}
    if inputs:
        return dict.fromkeys(targets, inputs)
    largest = space.genotype({other: np.where(nones(group), 0, group.allowed) * np.arange(1.0, group.shape[1] + 1)
                              for other, group in space.groups.items()})
    return Counter(choice.target for choice in largest.choices[name])


def remove_full(group: Group, row: np.ndarray, limits: Mapping[int, int]) -> np.ndarray:
    """Decisions in which the open edges into nodes that have all their decided edges are removed."""
    targets = np.array([target for _, target in group.edges])
    full = [target for target in set(targets.tolist()) if (row[targets == target] >= 0).sum() >= limits.get(target, 0)]
    return np.where((row == OPEN) & np.isin(targets, full), REMOVED, row)


def to_decide(group: Group, row: np.ndarray, limits: Mapping[int, int]) -> int:
    """Edges of a group that are still to be decided."""
    targets = np.array([target for _, target in group.edges])
    return sum(min(max(limits.get(target, 0) - int((row[targets == target] >= 0).sum()), 0),
                   int((row[targets == target] == OPEN).sum())) for target in set(targets.tolist()))


def _norm(values: np.ndarray) -> np.ndarray:
    spread = values.max() - values.min()
    return (values - values.min()) / spread if spread > 0 else np.zeros(len(values))
