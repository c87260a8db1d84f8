"""The network of `search_spaces.nasbench201` once nothing in it is searched any more: source of what `source` writes."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from search_spaces.layers.primitives import AvgPool, BatchNorm, Conv, Identity, Linear, ReLUConvBN, Zero
from search_spaces.nasbench201 import Residual

GENOTYPE = {"cell": [(0, 1, "nor_conv_3x3"), (1, 2, "skip_connect"), (2, 3, "avg_pool_3x3")]}
CLASSES = ["cat", "dog"]
CHANNELS = 16
CELLS = 5
STACKED = True
OPERATIONS = {
    "none": Zero,
    "skip_connect": Identity,
    "nor_conv_1x1": partial(ReLUConvBN, kernel=1, affine=True),
    "nor_conv_3x3": partial(ReLUConvBN, kernel=3, affine=True),
    "avg_pool_3x3": AvgPool,
}


class Edge(nn.Module):
    """The one operation of an edge."""

    operation: str

    @nn.compact
    def __call__(self, x, train):
        return OPERATIONS[self.operation](x.shape[-1], name=self.operation)(x, train)


class Cell(nn.Module):
    """Four nodes, each the sum of its incoming edges; the last one is the output."""

    @nn.compact
    def __call__(self, x, train):
        nodes = [x, *[jnp.zeros_like(x)] * 3]
        for source, target, operation in GENOTYPE["cell"]:
            nodes[target] += Edge(operation, name=f"edge_{source}_{target}")(nodes[source], train)
        return nodes[3]


class Stage(nn.Module):
    """Equal cells in a row; where their weights are stacked, [cells, ...], as one loop."""

    cells: int

    @nn.compact
    def __call__(self, x, train):
        if not STACKED:
            for i in range(self.cells):
                x = Cell(name=f"cell_{i}")(x, train)
            return x
        loop = nn.scan(lambda cell, x, _: (cell(x, train), None), length=self.cells,
                       variable_axes={"params": 0, "batch_stats": 0}, split_rngs={"params": True})
        return loop(Cell(name="cells"), x, None)[0]


class Network(nn.Module):
    """Stem, three stages of cells at C, 2C, 4C channels, a residual block between stages, and the head."""

    @nn.compact
    def __call__(self, images, train=False):
        x = BatchNorm(affine=True, name="stem_bn")(Conv(CHANNELS, name="stem_conv")(images), train)
        for stage in range(3):
            if stage:
                x = Residual(CHANNELS * 2**stage, name=f"residual_{stage}")(x, train)
            x = Stage(CELLS, name=f"stage_{stage}")(x, train)
        x = nn.relu(BatchNorm(affine=True, name="last_bn")(x, train)).mean((1, 2))
        return Linear(len(CLASSES), name="head")(x)
