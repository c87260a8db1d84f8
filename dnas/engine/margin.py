"""How clearly the gates of a search prefer operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dnas.types import Gates, Group

NEARLY_UNIFORM = 1.1
"""A largest gate below this multiple of the uniform one decides nothing. At 1.1 the first of five operations has 22.0 % and
each other 19.5 %, a lead of 0.12 in its logit: the weights were trained on nearly the plain mean of the operations, and
the chosen one weighs hardly more than those that are dropped. Initial logits (drawn at 1e-3) have 1.001."""

DECIDES = "zero-cost-gates"
"""The selection that is advised where gates decide nothing: the best after short searches by docs/leaderboard.md, where
perturbation without fine-tuning is behind it, and accuracy in the supernet, by which `sampled` chooses, misleads."""


class Margin(NamedTuple):
    """How clearly gates prefer operations: medians over the edges with a choice, of gates as shares of their edge's sum.

    lead: of the largest gate over the next. largest: the largest gate. uniform: the gate if all were equal.
    """

    lead: float
    largest: float
    uniform: float


def margin_of(groups: Mapping[str, Group], gates: Gates) -> Margin:
    """The margin of `gates` {group: [E, K]}. If no edge has a choice, every figure is 1."""
    edges = []
    for name, group in groups.items():
        for row, allowed in zip(np.asarray(gates[name], np.float64), group.allowed):
            shares = np.sort(row[allowed] / max(row[allowed].sum(), 1e-12))[::-1]
            if len(shares) > 1:
                edges.append((shares[0] - shares[1], shares[0], 1 / len(shares)))
    return Margin(*(float(value) for value in np.median(edges, axis=0))) if edges else Margin(1.0, 1.0, 1.0)


def undecided(largest: float, uniform: float) -> str | None:
    """A sentence if a search with these medians (see `Margin`) has decided nothing, else None."""
    if uniform == 1 or largest >= NEARLY_UNIFORM * uniform:
        return None
    return (f"nothing is decided yet: the largest gate of an edge is {100 * largest:.1f} % (median) where "
            f"{100 * uniform:.1f} % is uniform")


def moves_logits(options: Mapping[str, Any]) -> bool:
    """Whether a method with these options has a rate at which its logits move."""
    rate = options.get("arch_lr")
    return isinstance(rate, (int, float)) and rate > 0 and not options.get("arch_frozen")


def what_decides(options: Mapping[str, Any]) -> str:
    """As text, what would decide a search by a method with these options."""
    searching = "more epochs, a larger --method.arch-lr, or " if moves_logits(options) else ""
    return f"{searching}`dnas select --selection {DECIDES}` would decide it"
