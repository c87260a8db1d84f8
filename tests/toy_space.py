"""A space small enough to compile in a moment: a chain of two edges, each one of four operations."""

from functools import partial

import flax.linen as nn

from dnas.types import Group
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import AvgPool, Identity, Linear, ReLUConvBN, Zero

OPS = {"none": Zero, "skip": Identity, "conv": partial(ReLUConvBN, kernel=1), "pool": AvgPool}


class Chain(nn.Module):
    channels: int
    classes: int

    @nn.compact
    def __call__(self, images, gates, train):
        x = ReLUConvBN(self.channels, kernel=1, affine=True, name="stem")(images, train)
        for e in range(2):
            x = x + MixedOp(OPS, name=f"edge_{e}")(x, gates["chain"][e], train)
        return Linear(self.classes, name="head")(x.mean((1, 2)))


def toy(image=(8, 8, 1), classes=10, *, channels: int = 4):
    """A toy.

    Args:
        channels: channels of every layer.
    """
    options = {"image": list(image), "classes": classes, "channels": channels}
    groups = {"chain": Group(((0, 1), (1, 2)), tuple(OPS))}
    return flax_space("toy", Chain(channels, classes), groups, image=image, options=options)
