"""The sandwich rule with in-place distillation (Yu & Huang, ICCV 2019, arXiv 1903.05134: universally slimmable networks).

    networks of a step: the largest, the smallest, and n drawn uniformly
    L(largest) = L_train;   L(others) = KL(softmax(z_largest / T) || softmax(z / T)) T^2

The largest network learns from the data, all others from what it puts out in the same step, through which no gradient
passes. Gradients are added up. Which operation is the largest of an edge is said by its multiply-adds
(`dnas/algorithms/elastic.py`), so that the rule is for any space, ours beyond widths.

The optimiser's defaults are those of `darts`; n and the temperature T = 1 are the paper's.
"""

from __future__ import annotations

import numpy as np

from dnas.algorithms.elastic import Networks, Training, draws, joined, largest, smallest, stacked, trained_by
from dnas.algorithms.method import Method
from dnas.methods.spos import spos
from dnas.registry import extends

MOST = 64
"""Networks drawn in a step."""


@extends(spos)
def sandwich(method: Method, *, networks: int = 2, distill_temperature: float = 1.0) -> Method:
    """The sandwich rule.

    Args:
        networks: n, those drawn in a step beside the largest and the smallest.
        distill_temperature: temperature of the outputs of the largest and of the others.

    Raises ValueError if one is out of range.
    """
    check_networks(networks, least=0)
    labels, first = np.float32([1] + (1 + networks) * [0]), np.float32([0] + (1 + networks) * [1])

    def drawn(key, architecture, extra, hyper, t):
        return Networks(ends(key, architecture, networks), labels, first)

    return trained_by(method, lambda space: Training(drawn), hyper={"distill_temperature": distill_temperature},
                      check=check_temperature)


def ends(key, architecture, networks: int):
    """The largest network, the smallest, and some drawn uniformly, `[2 + networks, E, K]`."""
    both = stacked(largest(architecture), smallest(architecture))
    return joined(both, draws(key, architecture, networks)) if networks else both


def check_networks(networks: int, least: int) -> None:
    """Raises ValueError for a number of networks in a step that is out of range."""
    if not least <= networks <= MOST:
        raise ValueError(f"networks is {networks}, it must be {least} to {MOST}")


def check_temperature(hyper):
    """Raises ValueError if the temperature is out of range."""
    if not 0 < hyper["distill_temperature"] < float("inf"):
        raise ValueError(f"distill_temperature is {hyper['distill_temperature']:g}, it must be above 0, and finite")
