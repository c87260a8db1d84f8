"""TAS (Dong & Yang, NeurIPS 2019, arXiv 1905.09717): two widths drawn per layer, all depths mixed.

    l     = (arch + noise) / tau,   noise from a standard Gumbel distribution
    width   two of an edge's operations, drawn from softmax(l) without replacement; their gates are the softmax of their two
            entries of l, the others zero. The gradient passes through the gates, not through the draw
    depth   gates = softmax(l)
    tau_e = tau_min + (tau_max - tau_min) (1 + cos(pi e / epochs)) / 2 in epoch e

It is meant for `--space tas`, which aligns widths by interpolation, and `--budget.macs`, whose penalty is TAS's; it searches
any space, in the group called `depth` as for depths. Both players draw, each for itself. The chosen network can learn from
the supernet: `dnas train --distill 0.9 --distill-temperature 4`, the authors' share and temperature for CIFAR.

Defaults are those of the authors' code for CIFAR: 600 epochs of batches of 256, rate 0.1 along a cosine to 0, weight decay
5e-4, the architecture's rate 1e-3, logits from N(0, 0.01^2). Departures: the weights' momentum is not Nesterov's and their
gradient is clipped as in DARTS; the architecture moves before the weights; the teacher is the supernet rather than the
largest network.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import Relaxation, initial_logits
from dnas.algorithms.schedules import cosine_by_epoch
from dnas.methods.darts import darts
from dnas.methods.gdas import check_temperatures
from dnas.registry import extends

DEPTH = "depth"
"""The group whose operations are all mixed."""


@extends(darts, lr=0.1, lr_min=0.0, decay=5e-4, arch_lr=1e-3)
def tas(method: Method, *, tau_max: float = 5.0, tau_min: float = 0.1) -> Method:
    """TAS.

    Args:
        tau_max: temperature in the first epoch.
        tau_min: temperature to which it falls along a cosine, once an epoch.

    Raises ValueError if one is out of range.
    """
    return method.extend(relaxation=two_of(cosine_by_epoch("tau_max", "tau_min")),
                         hyper={"tau_max": tau_max, "tau_min": tau_min}, check=check_temperatures)


def two_of(tau) -> Relaxation:
    """The gates of TAS at the temperature `tau`, a ramp. Without a key they are softmax(logits)."""
    def gates(key, architecture, hyper, t):
        logits = architecture.masked()
        if key is None:
            return {name: jax.nn.softmax(rows) for name, rows in logits.items()}
        keys = jax.random.split(key, len(logits))
        return {name: draw(k, rows, tau(hyper, t), rows.shape[-1] if name == DEPTH else 2)
                for k, (name, rows) in zip(keys, logits.items())}

    return Relaxation(partial(initial_logits, scale=0.01), gates)


def draw(key, logits, tau, count: int):
    """Gates `[E, K]` of logits, -inf where an operation is masked: `count` operations of each edge, all if there are fewer.

    The largest of perturbed logarithms of probabilities are a draw without replacement (Gumbel's top k).
    """
    noise, second = jax.random.split(key)
    perturbed = (logits + jax.random.gumbel(noise, logits.shape, logits.dtype)) / tau
    order = jax.lax.stop_gradient(perturbed) + jax.random.gumbel(second, logits.shape, logits.dtype)
    least = jnp.sort(order, -1)[..., -min(count, logits.shape[-1]), None]
    return jax.nn.softmax(jnp.where(order >= least, perturbed, -jnp.inf))
