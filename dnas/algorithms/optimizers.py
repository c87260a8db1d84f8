"""The optimisers of the papers, with torch's conventions, as optax transformations.

Their settings may be traced: each step builds its optimiser from its hyper.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from dnas.types import Array, Tree


def sgd(lr: Array, *, momentum: Array, decay: Array, clip: Array | None = None,
        nesterov: bool = False) -> optax.GradientTransformation:
    """Torch's SGD: clip the global norm, add decay * weights, accumulate momentum, scale by the rate, in this order."""
    return optax.chain(
        clip_by_global_norm(clip) if clip is not None else optax.identity(),
        optax.add_decayed_weights(decay),
        optax.trace(momentum, nesterov),
        optax.scale(-lr))


def adam(lr: Array, *, b1: Array = 0.5, b2: Array = 0.999, decay: Array = 1e-3) -> optax.GradientTransformation:
    """Torch's Adam, whose weight decay is added to the gradient before the moments (not AdamW)."""
    return optax.chain(optax.add_decayed_weights(decay), optax.scale_by_adam(b1, b2, eps=1e-8), optax.scale(-lr))


def clip_by_global_norm(most: Array) -> optax.GradientTransformation:
    """Scales updates down to the norm `most` where theirs is larger, as the transformation of that name in optax."""
    def update(updates, state, params=None):
        norm = global_norm(updates)
        clipped = lambda leaf: jnp.where(norm < most, leaf, leaf / norm.astype(leaf.dtype) * most).astype(leaf.dtype)
        return jax.tree.map(clipped, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def global_norm(tree: Tree) -> Array:
    """The norm of all arrays of a tree, as if they were one: a sum for each of some hundred arrays is as many kernels on a
    GPU."""
    leaves = jax.tree.leaves(tree)
    return jnp.linalg.norm(jnp.concatenate([leaf.ravel() for leaf in leaves])) if leaves else jnp.zeros(())
