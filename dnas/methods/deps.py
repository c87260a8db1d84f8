"""DepS, delayed shrinking (Annavajjala et al., arXiv 2407.06167): the largest network alone, then all sizes with it.

    while s < D - S    the largest network alone, L_train
    afterwards         the largest, the smallest and n drawn uniformly: the others learn from the largest, as in `sandwich`,
                       and their gradients are multiplied by beta:

    beta(s) lr(s) = f lr(D),   f = (s - D + S) / S,   for s < D;   beta = 1 from D on

where s is the share of the search that is done, D the delay and S the length of the ramp: small networks begin with a rate
of nearly zero, so that the largest is not shocked. One run in place of the phases of `ofa`.

Defaults are those of the authors' code for ImageNet, 150 and 5 of 270 epochs, two drawn networks; the optimiser's are those
of `darts`, along a cosine by step. Where the space can say how (`SearchSpace.reorder`), channels are put in the order of
their importance once, when the others begin. Departures: no dropout, and kernels are elastic as well.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from dnas.algorithms.elastic import Networks, Training, reordered, trained_by
from dnas.algorithms.method import Method
from dnas.algorithms.schedules import cosine
from dnas.methods.darts import sgd_at
from dnas.methods.sandwich import check_networks, check_temperature, ends
from dnas.methods.spos import spos
from dnas.registry import extends

rate = cosine("lr", "lr_min")


@extends(spos)
def deps(method: Method, *, networks: int = 2, delay: float = 0.555556, ramp: float = 0.018519,
         distill_temperature: float = 1.0) -> Method:
    """Delayed shrinking.

    Args:
        networks: n, those drawn in a step beside the largest and the smallest.
        delay: share of the search after which all networks count fully.
        ramp: share of the search, before that, in which their weight rises from 0.
        distill_temperature: temperature of the outputs of the largest and of the others.

    Raises ValueError if one is out of range.
    """
    check_networks(networks, least=0)
    others = np.float32([0] + (1 + networks) * [1])

    def training(space):
        def drawn(key, architecture, extra, hyper, t):
            return Networks(ends(key, architecture, networks), 1 - others, others * beta(hyper, t))

        def before(state, hyper, t):
            begun = started(hyper, t) & ~started(hyper, t._replace(step=t.step - 1))
            return reordered(space, state, begun)

        return Training(drawn, before=before, optimizer=optimizer)

    return trained_by(method, training, hyper={"delay": delay, "ramp": ramp, "distill_temperature": distill_temperature},
                      check=check)


def started(hyper, t):
    """Whether others than the largest network are trained."""
    return t.step >= (hyper["delay"] - hyper["ramp"]) * t.epochs * t.steps


def beta(hyper, t):
    """The weight of the gradients of all networks but the largest."""
    whole = t.epochs * t.steps
    last, length = hyper["delay"] * whole, hyper["ramp"] * whole
    share = (t.step - last + length) / jnp.maximum(length, 1e-9)
    rising = share * rate(hyper, t._replace(step=last)) / rate(hyper, t)
    return jnp.where(t.step >= last, 1.0, jnp.where(share > 0, rising, 0.0))


def optimizer(hyper, t):
    """The weights' SGD, whose rate falls along a cosine step by step."""
    return sgd_at(rate(hyper, t), hyper)


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    check_temperature(hyper)
    if not 0 <= hyper["ramp"] <= hyper["delay"] < 1:
        raise ValueError(f"delay is {hyper['delay']:g} and ramp {hyper['ramp']:g}; they must be shares of the search, the "
                         "ramp at most the delay, and the delay below 1")
