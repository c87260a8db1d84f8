"""How a network whose modules were copied is used: source of the files that `copied` writes."""

import jax
import jax.numpy as jnp

MODULE = None
GATES = {}
SCALE = 255
MEAN = [0.5]
STD = [0.25]


@jax.jit
def logits(variables, inputs):
    """Outputs [B, ...] of inputs [B, ...] as they were in the data."""
    if not jnp.issubdtype(inputs.dtype, jnp.signedinteger):  # tokens stay as they are
        inputs = (inputs.astype(jnp.float32) / SCALE - jnp.array(MEAN)) / jnp.array(STD)
    return MODULE.apply(variables, inputs, GATES, False)


@jax.jit
def predict(variables, inputs):
    """Probabilities [B, classes] of the same inputs."""
    return jax.nn.softmax(logits(variables, inputs))
