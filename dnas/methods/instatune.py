"""InstaTune: a trained network becomes elastic while it is fine-tuned (Nittur Sridhar et al., 2023, arXiv 2308.15609).

    S = the largest network, S_i = n drawn uniformly, T = the weights that the search began with, in their largest form
    L = a [CE(S) + sum_i CE(S_i)]
        + (1 - a) [g KL(T, S) + sum_i ((1 - g) KL(S, S_i) + g KL(T, S_i))]
    KL(X, Y) = KL(softmax(x / r) || softmax(y / r)) r^2

g is 1 in the first part of the search, of which `strong` is the share, and 0 afterwards: strong = 0 is what the paper calls
low cost, strong = 1 high cost. A search begins with a trained network, or with another elastic search of the space:

    dnas search --space mobilenet --method instatune --start runs/large

a = 0.3 and n = 1 are the paper's. The temperature r = 1 and that no gradient passes to what teaches are ours: the paper does
not say. Departures: its strong teacher is fine-tuned separately, here T is the weights as they were given; the optimiser's
defaults are those of `darts`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dnas.algorithms.elastic import Networks, Training, draws, joined, largest, stacked, trained_by
from dnas.algorithms.method import Method
from dnas.methods.sandwich import check_networks, check_temperature
from dnas.methods.spos import spos
from dnas.registry import extends


@extends(spos)
def instatune(method: Method, *, networks: int = 1, label_share: float = 0.3, strong: float = 0.0,
              distill_temperature: float = 1.0) -> Method:
    """Elastic fine-tuning.

    Args:
        networks: n, those drawn in a step beside the largest.
        label_share: a, the share of the loss that is by the labels.
        strong: share of the search, from its beginning, in which the given weights teach; afterwards the largest network of
            the same step does.
        distill_temperature: r, temperature of the outputs of what teaches and of what learns.

    Raises ValueError if one is out of range.
    """
    check_networks(networks, least=1)

    def drawn(key, architecture, extra, hyper, t):
        labels, first, teacher = weights_of(hyper, t)
        gates = joined(stacked(largest(architecture)), draws(key, architecture, networks))
        return Networks(gates, *(jnp.full(1 + networks, weight) for weight in (labels, first, teacher)))

    training = Training(drawn, init=lambda state: jax.tree.map(jnp.array, state.weights), teacher=lambda given: given)
    return trained_by(method, lambda space: training, check=check, check_search=check_search,
                      hyper={"label_share": label_share, "strong": strong, "distill_temperature": distill_temperature})


def weights_of(hyper, t):
    """The weights of the losses: by the labels, from the largest network, from the given weights."""
    share, strong = hyper["label_share"], t.share < hyper["strong"]
    return share, jnp.where(strong, 0, 1 - share), jnp.where(strong, 1 - share, 0)


def check_search(space, search):
    """Raises ValueError for a search with fresh weights."""
    if not search["weights"]:
        raise ValueError("instatune tunes given weights: name a run of the same network and images with --start")


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    check_temperature(hyper)
    for name in ("label_share", "strong"):
        if not 0 <= hyper[name] <= 1:
            raise ValueError(f"{name} is {hyper[name]:g}, it must be 0 to 1")
