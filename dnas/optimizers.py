"""The optimisers of the papers, with torch's conventions, as optax transformations."""

from __future__ import annotations

import jax.numpy as jnp
import optax


def cosine_by_epoch(lr: float, lr_min: float, epochs: int, steps: int) -> optax.Schedule:
    """Cosine decay that changes once an epoch: lr_min + (lr - lr_min) (1 + cos(pi e / epochs)) / 2 in epoch e.

    steps: steps in an epoch. The first epoch has `lr`, the last a little more than `lr_min`, as in torch.
    """
    def schedule(count):
        epoch = jnp.minimum(count // steps, epochs)
        return lr_min + 0.5 * (lr - lr_min) * (1 + jnp.cos(jnp.pi * epoch / epochs))

    return schedule


def sgd(schedule: optax.ScalarOrSchedule, *, momentum: float, decay: float, clip: float | None = None,
        nesterov: bool = False) -> optax.GradientTransformation:
    """Torch's SGD: clip the global norm, add decay * weights, accumulate momentum, scale by the rate, in this order."""
    return optax.chain(
        optax.clip_by_global_norm(clip) if clip is not None else optax.identity(),
        optax.add_decayed_weights(decay),
        optax.trace(momentum, nesterov),
        optax.scale_by_learning_rate(schedule))


def adam(lr: float, *, b1: float = 0.5, b2: float = 0.999, decay: float = 1e-3) -> optax.GradientTransformation:
    """Torch's Adam, whose weight decay is added to the gradient before the moments (not AdamW)."""
    return optax.chain(optax.add_decayed_weights(decay), optax.scale_by_adam(b1, b2, eps=1e-8),
                       optax.scale_by_learning_rate(lr))
