"""A space that compiles in a second: two mixtures of operations on the features of an example, one after the other."""

import jax
import jax.numpy as jnp
import numpy as np

from dnas.types import Group
from search_spaces.pure_space import mix, pure_space


def mixture(image=(8, 8, 1), classes=10):
    """The toy."""
    def init(key, images):
        pixels = int(np.prod(images.shape[1:]))
        return {"stem": jax.random.normal(key, (pixels, 4)) / 4, "head": jax.random.normal(key, (4, classes))}, {}

    def apply(weights, stats, gates, images, train, key):
        x = images.reshape(len(images), -1) @ weights["stem"]
        for gate in gates["chain"]:
            x = x + mix(gate, (lambda x=x: 0 * x, lambda x=x: jax.nn.relu(x), lambda x=x: jnp.tanh(x)))
        return x @ weights["head"], stats

    return pure_space("mixture", init, apply, {"chain": Group(((0, 1), (1, 2)), ("none", "relu", "tanh"))}, image=image)
