"""Time within a search, and ramps: pure functions of a method's numbers and that time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from dnas.types import Array

Hyper = Mapping[str, Any]
"""The numbers of a method or a training by name: scalars, traced or not."""

ENGINE = {"epochs": 1, "steps": 1, "fine_tuning": 0.0}
"""Numbers of the search, not of the method. epochs; steps: per epoch; fine_tuning: 0 in a search; while a selection
fine-tunes, the weights' learning rate as a share of the first one."""


class Time(NamedTuple):
    """Progress of a search or a training: `step` steps done, of `epochs` epochs of `steps` steps. Scalars."""

    step: Array
    epochs: Array
    steps: Array

    @property
    def epoch(self) -> Array:
        """Whole epochs done, at most `epochs`."""
        return jnp.minimum(self.step // self.steps, self.epochs)

    @property
    def share(self) -> Array:
        """The share of all steps that is done, in [0, 1]."""
        return jnp.minimum(self.step / (self.epochs * self.steps), 1.0)


def time_of(hyper: Hyper, step: Array) -> Time:
    """The time after `step` steps of a search with these numbers."""
    return Time(step, hyper["epochs"], hyper["steps"])


Ramp = Callable[[Hyper, Time], Array]
"""(hyper, t) -> scalar."""


def constant(name: str) -> Ramp:
    """The number called `name`."""
    return lambda hyper, t: hyper[name]


def linear(first: str, last: str) -> Ramp:
    """From the number called `first` to the one called `last` linearly, step by step."""
    return lambda hyper, t: hyper[first] + (hyper[last] - hyper[first]) * t.share


def linear_by_epoch(first: str, last: str) -> Ramp:
    """The same once an epoch: the first epoch has the number called `first`, the last nearly the one called `last`."""
    return lambda hyper, t: hyper[first] + (hyper[last] - hyper[first]) * t.epoch / t.epochs


def exponential(first: str, last: str) -> Ramp:
    """From the number called `first` to the one called `last`, both positive, by an equal factor each step."""
    return lambda hyper, t: hyper[first] * (hyper[last] / hyper[first]) ** t.share


def cosine_by_epoch(first: str, last: str) -> Ramp:
    """Cosine decay that changes once an epoch: last + (first - last) (1 + cos(pi e / epochs)) / 2 in epoch e.

    The first epoch has the number called `first`, the last a little more than the one called `last`, as in torch.
    """
    def ramp(hyper, t):
        return hyper[last] + 0.5 * (hyper[first] - hyper[last]) * (1 + jnp.cos(jnp.pi * t.epoch / t.epochs))

    return ramp


def cosine(first: str, last: str) -> Ramp:
    """The same decay, step by step: last + (first - last) (1 + cos(pi s)) / 2 when the share s of all steps is done."""
    return lambda hyper, t: half_cosine(hyper[first], hyper[last], t.share)


def half_cosine(first: Array, last: Array, share: Array) -> Array:
    """From `first` to `last` along half a cosine, of which `share` is done."""
    return last + 0.5 * (first - last) * (1 + jnp.cos(jnp.pi * share))


def refuse_negative(**values: float) -> None:
    """Raises ValueError, naming the first value that is below 0 or not finite."""
    for name, value in values.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} is {value}, it must be 0 or more" + ", and finite" * (value > 0))
