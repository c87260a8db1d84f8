"""The optimisers of the papers, with torch's conventions, as optax transformations.

Their settings may be traced: each step builds its optimiser from its hyper.
"""

from __future__ import annotations

import optax

from dnas.types import Array


def sgd(lr: Array, *, momentum: Array, decay: Array, clip: Array | None = None,
        nesterov: bool = False) -> optax.GradientTransformation:
    """Torch's SGD: clip the global norm, add decay * weights, accumulate momentum, scale by the rate, in this order."""
    return optax.chain(
        optax.clip_by_global_norm(clip) if clip is not None else optax.identity(),
        optax.add_decayed_weights(decay),
        optax.trace(momentum, nesterov),
        optax.scale(-lr))


def adam(lr: Array, *, b1: Array = 0.5, b2: Array = 0.999, decay: Array = 1e-3) -> optax.GradientTransformation:
    """Torch's Adam, whose weight decay is added to the gradient before the moments (not AdamW)."""
    return optax.chain(optax.add_decayed_weights(decay), optax.scale_by_adam(b1, b2, eps=1e-8), optax.scale(-lr))
