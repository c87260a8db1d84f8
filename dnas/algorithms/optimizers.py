"""The optimisers of the papers, with torch's conventions, as optax transformations."""

from __future__ import annotations

import jax.numpy as jnp
import optax


def cosine_by_epoch(lr: float, lr_min: float, epochs: int, steps: int) -> optax.Schedule:
    """Cosine decay that changes once an epoch: lr_min + (lr - lr_min) (1 + cos(pi e / epochs)) / 2 in epoch e.

    steps: steps in an epoch. The first epoch has `lr`, the last a little more than `lr_min`, as in torch.
    Raises ValueError where a rate is negative.
    """
    refuse_negative(lr=lr, lr_min=lr_min)

    def schedule(count):
        epoch = jnp.minimum(count // steps, epochs)
        return lr_min + 0.5 * (lr - lr_min) * (1 + jnp.cos(jnp.pi * epoch / epochs))

    return schedule


def sgd(schedule: optax.ScalarOrSchedule, *, momentum: float, decay: float, clip: float | None = None,
        nesterov: bool = False) -> optax.GradientTransformation:
    """Torch's SGD: clip the global norm, add decay * weights, accumulate momentum, scale by the rate, in this order.

    Raises ValueError where a setting is out of range.
    """
    refuse_negative(momentum=momentum, decay=decay)
    if not momentum < 1:
        raise ValueError(f"momentum is {momentum}, it must be below 1")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is {clip}, it must be positive")
    return optax.chain(
        optax.clip_by_global_norm(clip) if clip is not None else optax.identity(),
        optax.add_decayed_weights(decay),
        optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(schedule))


def adam(lr: float, *, b1: float = 0.5, b2: float = 0.999, decay: float = 1e-3) -> optax.GradientTransformation:
    """Torch's Adam, whose weight decay is added to the gradient before the moments (not AdamW)."""
    return optax.chain(optax.add_decayed_weights(decay), optax.scale_by_adam(b1, b2, eps=1e-8),
                       optax.scale_by_learning_rate(lr))


def refuse_negative(**values: float) -> None:
    """Raises ValueError, naming the first value below 0."""
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}, it must be 0 or more")
