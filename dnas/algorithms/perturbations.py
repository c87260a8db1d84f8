"""Perturbations of the gates of a player, as SmoothDARTS has them (Chen & Hsieh, ICML 2020, arXiv 2002.05283).

    random:       clip(p + u),  u ~ U(-epsilon, epsilon) for every gate
    adversarial:  from there  p' <- clip(p + clamp(p' + 2 epsilon / steps * sign(dL/dp') - p, -epsilon, epsilon)),
                  `steps` times; p itself if L(p') is below L(p)

p is an edge's row of gates, L the loss of the task on the player's batch, and `clip` the way back to the simplex. What is
ours: an operation that is out of the race stays at zero, and a row that does not add up to 1, such as one of PC-DARTS, is
perturbed as its shares of that sum. The perturbation itself passes no gradient: a hypergradient beyond the first order sees
p + a constant.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from dnas.algorithms.schedules import Ramp
from dnas.types import Array

MOST = 50
"""Steps of an attack: each is a part of the program, for gradients of convolutions are slow in a loop on a CPU."""


def clip(row: Array) -> Array:
    """`row` `[..., K]` clamped to [0, 1] and divided by its sum; one-hot at its largest entry if nothing is left of it."""
    clamped = jnp.clip(row, 0, 1)
    left = clamped.sum(-1, keepdims=True)
    one_hot = jax.nn.one_hot(row.argmax(-1), row.shape[-1], dtype=row.dtype)
    return jnp.where(left > 0, clamped / jnp.where(left > 0, left, 1), one_hot)


def random(*, epsilon: Ramp):
    """`Player.perturbation` by noise. epsilon: its largest size, of gates that add up to 1."""
    def perturb(key, loss, gates, architecture, hyper, t):
        shares, back = _shares(gates, architecture)
        return back(_noisy(key, shares, epsilon(hyper, t), architecture))

    return perturb


def adversarial(*, epsilon: Ramp, steps: int = 7):
    """`Player.perturbation` by sign ascent on the loss, from a random one. epsilon: as in `random`.

    `steps` gradients of the loss by the gates, and two values of the loss. Raises ValueError unless steps is 1 to MOST.
    """
    if not 1 <= steps <= MOST:
        raise ValueError(f"steps is {steps}; it must be 1 to {MOST}")

    def perturb(key, loss, gates, architecture, hyper, t):
        shares, back = _shares(jax.lax.stop_gradient(gates), architecture)
        size = epsilon(hyper, t)
        attack = _noisy(key, shares, size, architecture)
        for _ in range(steps):
            slopes = jax.grad(lambda rows: loss(back(rows)))(attack)
            attack = {name: _clipped(shares[name] + jnp.clip(
                row + 2 * size / steps * jnp.sign(slopes[name]) - shares[name], -size, size), allowed)
                for (name, row), allowed in zip(attack.items(), _allowed(attack, architecture))}
        worse = loss(back(attack)) >= loss(back(shares))
        shares_now, back = _shares(gates, architecture)
        return back({name: shares_now[name] + jax.lax.stop_gradient(jnp.where(worse, attack[name] - shares[name], 0))
                     for name in attack})

    return perturb


def _shares(gates, architecture):
    """The groups' gates divided by the sums of their rows, and the way from such shares to all gates."""
    sums = {name: gates[name].sum(-1, keepdims=True) for name in architecture.groups}
    safe = {name: jnp.where(total == 0, 1, total) for name, total in sums.items()}
    return ({name: gates[name] / safe[name] for name in sums},
            lambda shares: {**gates, **{name: row * sums[name] for name, row in shares.items()}})


def _noisy(key, shares, size, architecture):
    noisy = {}
    for k, (name, row), allowed in zip(jax.random.split(key, len(shares)), shares.items(), _allowed(shares, architecture)):
        moved = _clipped(row + size * jax.random.uniform(k, row.shape, row.dtype, -1, 1), allowed)
        noisy[name] = row + jax.lax.stop_gradient(moved - row)
    return noisy


def _clipped(row, allowed):
    return clip(jnp.where(allowed, row, -1))


def _allowed(rows, architecture):
    allowed = architecture.allowed()
    return [allowed[name] for name in rows]
