"""A space small enough to compile in a moment that predicts the next token: two edges, causal along the sequence."""

import flax.linen as nn
import jax.numpy as jnp

from dnas.types import Group
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Identity, Linear, Zero, torch_uniform


class CausalConv(nn.Module):
    """ReLU and a linear map of each position `[B, T, C]` and the one before it."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        before = jnp.pad(x, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        return Linear(self.channels, name="linear")(nn.relu(jnp.concatenate([before, x], -1)))


class Dense(nn.Module):
    """ReLU and a linear map of each position `[B, T, C]`."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        return Linear(self.channels, name="linear")(nn.relu(x))


OPS = {"none": Zero, "skip": Identity, "conv": CausalConv, "dense": Dense}


class Network(nn.Module):
    channels: int
    vocabulary: int

    @nn.compact
    def __call__(self, tokens, gates, train):
        x = self.param("embedding", torch_uniform, (self.vocabulary, self.channels))[tokens]
        for e in range(2):
            x = x + MixedOp(OPS, name=f"edge_{e}")(x, gates["chain"][e], train)
        return Linear(self.vocabulary, name="head")(x)


def causal(image=(8,), classes=11, *, channels: int = 4):
    """Logits `[B, T, classes]` of the token after each of `[B, T]`.

    Args:
        channels: of every layer.
    """
    return flax_space("causal", Network(channels, classes), {"chain": Group(((0, 1), (1, 2)), tuple(OPS))}, image=image,
                      input_dtype="int32", options={"image": list(image), "classes": classes, "channels": channels})
