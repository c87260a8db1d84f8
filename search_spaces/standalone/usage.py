"""How a network that stands alone is used: source of the files that `source` writes."""

from pathlib import Path

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from search_spaces.standalone.nasbench201 import Network

SCALE = 255
MEAN = [0.5]
STD = [0.25]
WEIGHTS = Path(__file__).with_name("network.safetensors")


def load(path=WEIGHTS):
    """The variables {"params": ..., "batch_stats": ...} of a file whose arrays are called `params/head/dense/kernel`."""
    return unflatten_dict(load_file(path), sep="/")


@jax.jit
def logits(variables, images):
    """Logits [B, classes] of images [B, H, W, C], the pixels as they were in the data."""
    images = (images.astype(jnp.float32) / SCALE - jnp.array(MEAN)) / jnp.array(STD)
    return Network().apply(variables, images)


@jax.jit
def predict(variables, images):
    """Probabilities [B, classes] of the same images."""
    return jax.nn.softmax(logits(variables, images))
