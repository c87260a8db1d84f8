"""The network of `search_spaces.darts` once nothing in it is searched any more: source of what `source` writes."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from search_spaces.layers.primitives import (
    AvgPool,
    BatchNorm,
    Conv,
    DilConv,
    FactorizedReduce,
    Identity,
    Linear,
    MaxPool,
    ReLUConvBN,
    SepConv,
    Zero,
)

GENOTYPE = {"normal": [(0, 2, "sep_conv_3x3"), (1, 2, "sep_conv_3x3")],
            "reduce": [(0, 2, "max_pool_3x3"), (1, 2, "max_pool_3x3")]}
CLASSES = ["cat", "dog"]
CHANNELS = 36
CELLS = 20


def skip_connect(channels, stride, name):
    """The identity, or what halves the image where the edge strides."""
    return Identity(channels, name=name) if stride == 1 else FactorizedReduce(channels, affine=True, name=name)


OPERATIONS = {
    "none": Zero,
    "max_pool_3x3": MaxPool,
    "avg_pool_3x3": AvgPool,
    "skip_connect": skip_connect,
    "sep_conv_3x3": partial(SepConv, kernel=3, affine=True),
    "sep_conv_5x5": partial(SepConv, kernel=5, affine=True),
    "dil_conv_3x3": partial(DilConv, kernel=3, affine=True),
    "dil_conv_5x5": partial(DilConv, kernel=5, affine=True),
}


class Edge(nn.Module):
    """The one operation of an edge."""

    operation: str
    stride: int

    @nn.compact
    def __call__(self, x, train):
        return OPERATIONS[self.operation](channels=x.shape[-1], stride=self.stride, name=self.operation)(x, train)


class Cell(nn.Module):
    """Two inputs, each brought to `channels`, and four nodes, each the sum of its incoming edges.

    reduction: halve the image on the edges from the inputs. reduced: the cell before did, so that input 0 is twice as
    large as input 1.
    """

    channels: int
    reduction: bool
    reduced: bool

    @nn.compact
    def __call__(self, s0, s1, train):
        bring = partial(ReLUConvBN, self.channels, kernel=1, affine=True)
        first = partial(FactorizedReduce, self.channels, affine=True) if self.reduced else bring
        nodes = [first(name="pre_0")(s0, train), bring(name="pre_1")(s1, train)]
        nodes += [jnp.zeros_like(nodes[1][:, ::2, ::2] if self.reduction else nodes[1])] * 4
        for source, target, operation in GENOTYPE["reduce" if self.reduction else "normal"]:
            stride = 2 if self.reduction and source < 2 else 1
            nodes[target] += Edge(operation, stride, name=f"edge_{source}_{target}")(nodes[source], train)
        return jnp.concatenate(nodes[2:], -1)


class Network(nn.Module):
    """Stem of three times the channels, the cells, and the head. Reduction cells double the channels."""

    @nn.compact
    def __call__(self, images, train=False):
        channels, reductions = CHANNELS, (CELLS // 3, 2 * CELLS // 3)
        s0 = s1 = BatchNorm(affine=True, name="stem_bn")(Conv(3 * CHANNELS, name="stem_conv")(images), train)
        for i in range(CELLS):
            channels *= 2 if i in reductions else 1
            cell = Cell(channels, i in reductions, i - 1 in reductions, name=f"cell_{i}")
            s0, s1 = s1, cell(s0, s1, train)
        return Linear(len(CLASSES), name="head")(s1.mean((1, 2)))
