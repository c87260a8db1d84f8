"""How an exported network is used: the last definitions of the files that `search_spaces.export` writes."""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

MODULE = None
GATES = {}
SCALE = 255
MEAN = [0.5]
STD = [0.25]
WEIGHTS = Path(__file__).with_name("network.safetensors")


def load(path=WEIGHTS):
    """The variables {"params": ..., "batch_stats": ...} of a file whose arrays are called `params/head/dense/kernel`."""
    return unflatten_dict(load_file(path), sep="/")


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
