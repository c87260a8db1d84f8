"""GDAS (Dong & Yang, CVPR 2019, arXiv 1910.04465): one operation drawn per edge, straight through.

    soft = softmax((arch + noise) / tau),   noise from a standard Gumbel distribution
    gates = one-hot of the largest entry of soft;   backward: d soft / d arch
    tau falls from tau_max to tau_min, linearly by epoch, tau_min in the last one

Both players draw, each for itself. The temperatures are those of the authors' scripts, which search for 250 epochs.

`gradient textbook` needs the output of every operation: d L / d gate_k = <d L / d edge, op_k(x)>. The authors compute the
drawn operation only, and add the other gates, all zero, as scalars to the edge: for an operation that was not drawn
d L / d gate_k is then the sum of d L / d edge over the tensor. That is `gradient published`; `drawn` leaves the sum out, so
that the gradient passes through the gate of the drawn operation alone.

On a CPU a step of the weights computes the drawn operation only, and so does one of the architecture unless its gradient is
the textbook's; elsewhere all are computed. Departure: the architecture moves before the weights; in the authors' scripts for
NAS-Bench-201 it is the other way round.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import Relaxation, gumbel
from dnas.methods.darts import darts
from dnas.registry import extends

GRADIENTS = "textbook", "published", "drawn"


@extends(darts)
def gdas(method: Method, *, tau_max: float = 10.0, tau_min: float = 0.1,
         gradient: Literal["textbook", "published", "drawn"] = "textbook") -> Method:
    """GDAS.

    Args:
        tau_max: temperature in the first epoch.
        tau_min: temperature in the last epoch.
        gradient: through the outputs of all operations, through that of the drawn one and the sum of what the edge gets for
            the others, or through that of the drawn one alone.

    Raises ValueError if one is out of range.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient {gradient!r} must be one of {', '.join(GRADIENTS)}")
    draws = gumbel(tau=temperature, hard=True)
    relaxation = {"textbook": draws, "published": draws._replace(alone=True), "drawn": of_the_drawn(draws)}[gradient]
    return method.extend(relaxation=relaxation, hyper={"tau_max": tau_max, "tau_min": tau_min}, check=check_temperatures)


def temperature(hyper, t):
    """tau_max in the first epoch, tau_min in the last, and after it."""
    share = jnp.minimum(t.epoch / jnp.maximum(t.epochs - 1, 1), 1)
    return hyper["tau_max"] + (hyper["tau_min"] - hyper["tau_max"]) * share


def check_temperatures(hyper):
    """Raises ValueError unless both temperatures are positive."""
    for name in "tau_max", "tau_min":
        if not 0 < hyper[name] < float("inf"):
            raise ValueError(f"{name} is {hyper[name]}, it must be positive and finite")


def of_the_drawn(relaxation: Relaxation) -> Relaxation:
    """The one-hot gates of `relaxation`, with the gradient of the entries that are one only."""
    def gates(key, architecture, hyper, t):
        drawn = relaxation.gates(key, architecture, hyper, t)
        if key is None:
            return drawn
        return {name: row * jax.lax.stop_gradient(row) for name, row in drawn.items()}

    return relaxation._replace(gates=gates, alone=True)
