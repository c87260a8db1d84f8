"""DARTS (Liu, Simonyan & Yang, ICLR 2019, arXiv 1806.09055): normal and reduction cells, 14 edges, 8 operations.

A cell's nodes have the numbers of published genotypes: 0 and 1 are the outputs of the two cells before it, 2 to 5 its
own, each the sum of its edges; their concatenation is what it puts out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from dnas.shared_options import current_options
from dnas.types import Choice, Genotype, Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.bundle import bundle
from search_spaces.layers.primitives import (
    AvgPool,
    BatchNorm,
    Conv,
    DilConv,
    FactorizedReduce,
    Identity,
    Linear,
    MaxPool,
    Noise,
    PoolBN,
    ReLUConvBN,
    SepConv,
    Zero,
    torch_uniform,
)
from search_spaces.repeated import of_cell
from search_spaces.sizes import check_image, check_sizes

OPS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
       "dil_conv_5x5")
EDGES = tuple((source, target) for target in (2, 3, 4, 5) for source in range(target))
GROUPS = {"normal": Group(EDGES, OPS), "reduce": Group(EDGES, OPS)}


def operations(standalone: bool) -> dict[str, Callable[..., nn.Module]]:
    """Constructors by name. In the supernet no batch norm has scale and shift, and pooling is followed by one."""
    def skip_connect(channels, stride, name):
        return Identity(channels, name=name) if stride == 1 else reduce(channels, name=name)

    reduce, sep, dil = (partial(module, affine=standalone) for module in (FactorizedReduce, SepConv, DilConv))
    pool = (lambda pool: pool) if standalone else (lambda pool: partial(PoolBN, pool=pool))
    return {"none": Zero, "max_pool_3x3": pool(MaxPool), "avg_pool_3x3": pool(AvgPool), "skip_connect": skip_connect,
            "sep_conv_3x3": sep, "sep_conv_5x5": partial(sep, kernel=5),
            "dil_conv_3x3": dil, "dil_conv_5x5": partial(dil, kernel=5), "noise": Noise}


class Cell(nn.Module):
    """Two inputs, each brought to `channels`, and four nodes, each the sum of its edges.

    ops: names of the operations that are on the edges, or one such tuple an edge. reduction: halve the image on the edges
    from the inputs. reduced: the cell before did, so that input 0 is twice as large as input 1.
    """

    ops: tuple
    channels: int
    reduction: bool
    reduced: bool
    standalone: bool

    @nn.compact
    def __call__(self, s0, s1, gates, train):
        bring = partial(ReLUConvBN, self.channels, affine=self.standalone, kernel=1)
        first = partial(FactorizedReduce, self.channels, affine=self.standalone) if self.reduced else bring
        inputs = [first(name="pre_0")(s0, train), bring(name="pre_1")(s1, train)]
        return jnp.concatenate(self.nodes(inputs, gates, train), -1)

    def nodes(self, inputs, gates, train):
        """Values of the four nodes, each the sum of its edges, which are computed source by source."""
        constructors, nodes = operations(self.standalone), [*inputs, 0, 0, 0, 0]
        for source in range(5):
            leaving = [e for e, edge in enumerate(EDGES) if edge[0] == source]
            for names in dict.fromkeys(map(self.ops_of, leaving)):  # in S1 edges have different operations
                edges = [e for e in leaving if self.ops_of(e) == names]
                mixed = bundle({op: constructors[op] for op in names}, [f"edge_{source}_{EDGES[e][1]}" for e in edges],
                               nodes[source], [gates[e] for e in edges], train,
                               stride=2 if self.reduction and source < 2 else 1)
                for e, y in zip(edges, mixed):
                    nodes[EDGES[e][1]] += y
        return nodes[2:]

    def ops_of(self, e: int) -> tuple[str, ...]:
        """Names of the operations on edge number `e`."""
        return self.ops if isinstance(self.ops[0], str) else self.ops[e]


class Auxiliary(nn.Module):
    """A second head, fed by the last reduction cell: pooling 5x5 at stride 3, a 1x1 and a 2x2 convolution, the classes.

    476,426 parameters for 576 channels and 10 classes. A map larger than the published 8x8 is averaged in the end.
    """

    classes: int

    @nn.compact
    def __call__(self, x, train):
        if min(x.shape[1:3]) < 8:
            raise ValueError(f"the auxiliary head sees {x.shape[1]}x{x.shape[2]} pixels, it needs 8x8: images of more "
                             "than 28 pixels a side")
        x = nn.avg_pool(nn.relu(x), (5, 5), (3, 3))
        x = nn.relu(BatchNorm(affine=True, name="bn_a")(Conv(128, 1, name="conv_a")(x), train))
        x = nn.Conv(768, (2, 2), padding="VALID", use_bias=False, kernel_init=torch_uniform, name="conv_b")(x)
        x = nn.relu(BatchNorm(affine=True, name="bn_b")(x, train))
        return Linear(self.classes, name="head")(x.mean((1, 2)))


class Network(nn.Module):
    """Stem of three times `channels`, the cells, and the head. Reduction cells double the channels.

    ops: of normal and of reduction cells. auxiliary: while training, return the logits of an auxiliary head as well.
    """

    ops: Mapping[str, tuple]
    channels: int
    cells: int
    classes: int
    standalone: bool = False
    auxiliary: bool = False

    @nn.compact
    def __call__(self, images, gates, train):
        channels, reductions = self.channels, (self.cells // 3, 2 * self.cells // 3)
        x = Conv(3 * channels, name="stem_conv")(images)
        s0 = s1 = BatchNorm(affine=True, name="stem_bn")(x, train)
        for i in range(self.cells):
            kind, before = "reduce" if i in reductions else "normal", sum(reduction < i for reduction in reductions)
            channels *= 2 if kind == "reduce" else 1
            own = of_cell(gates[kind], before if kind == "reduce" else i - before)
            cell = Cell(self.ops[kind], channels, kind == "reduce", i - 1 in reductions, self.standalone, name=f"cell_{i}")
            s0, s1 = s1, cell(s0, s1, own, train)
            if self.auxiliary and train and i == reductions[1]:
                auxiliary = Auxiliary(self.classes, name="auxiliary")(s1, train)
        logits = Linear(self.classes, name="head")(s1.mean((1, 2)))
        return (logits, auxiliary) if self.auxiliary and train else logits


def darts(image=(32, 32, 3), classes=10, *, channels: int = 16, cells: int = 8) -> SearchSpace:
    """The DARTS search space.

    Args:
        image: (height, width, channels) of the images, at least 4 pixels high and wide.
        classes: number of classes.
        channels: channels of the first cells; doubled in each of the two reduction cells. Published: 16, and 36 in the
            final network.
        cells: number of cells, of which those at a third and two thirds reduce. Published: 8, and 20.

    Raises ValueError where a value is out of range.
    """
    return cell_space("darts", GROUPS, image, classes, channels=channels, cells=cells)


def cell_space(name, groups, image, classes, *, channels, cells) -> SearchSpace:
    """The space of DARTS's network with the operations that `groups` (normal, reduce) leave to its edges."""
    check_image(name, image)
    if min(image[:2]) < 4:
        raise ValueError(f"images of {image[0]}x{image[1]} are too small for {name}, which halves them twice: "
                         "4x4 is the least")
    check_sizes(name, channels=channels, cells=cells, classes=classes)
    if channels < 1 or cells < 3 or classes < 1:
        raise ValueError(f"{name} needs channels >= 1, cells >= 3 (two of them reduce), classes >= 1, "
                         f"got {channels}, {cells}, {classes}")
    if current_options().partial_channels > 1 and (image[0] % 4 or image[1] % 4):
        raise ValueError(f"{name} with partial channels needs images whose sides are multiples of 4, "
                         f"got {image[0]}x{image[1]}")
    network = partial(Network, {kind: group.ops for kind, group in groups.items()}, channels, cells, classes)
    options = {"image": list(image), "classes": classes, "channels": channels, "cells": cells}
    apart = all(group.allowed.all() for group in groups.values())
    return flax_space(name, network(), groups, image=image, standalone=network(standalone=True),
                      cells={"normal": cells - 2, "reduce": 2} if apart else {},
                      auxiliary=network(standalone=True, auxiliary=True), rule=top_two,
                      options=options, format=to_string, parse=partial(from_string, groups))


def top_two(groups: Mapping[str, Group], scores: Mapping) -> dict[str, tuple[Choice, ...]]:
    """Every node keeps the two incoming edges whose best operation scores highest, and on each that operation.

    `none` does not count. The stronger edge comes first; ties go to the lower source and operation index.
    """
    choices = {}
    for name, group in groups.items():
        real = [[k < len(ops) and ops[k] != "none" for k in range(group.shape[1])]
                for ops in map(group.edge_ops, range(len(group.edges)))]
        score = np.where(real, np.asarray(scores[name], np.float64), -np.inf)
        strongest = []
        for node in sorted({target for _, target in group.edges}):
            incoming = [e for e, (_, target) in enumerate(group.edges) if target == node]
            strongest += sorted(incoming, key=lambda e: -score[e].max())[:2]
        choices[name] = tuple(Choice(*group.edges[e], group.edge_ops(e)[score[e].argmax()]) for e in strongest)
    return choices


def to_string(genotype: Genotype) -> str:
    """The published notation: `normal sep_conv_3x3:1, skip_connect:0 | ... | ... | ...; reduce ...`, node by node."""
    def node(choices, target):
        return ", ".join(f"{c.op}:{c.source}" for c in choices if c.target == target) or "-"

    return "; ".join(f"{name} " + " | ".join(node(choices, target) for target in (2, 3, 4, 5))
                     for name, choices in genotype.choices.items())


def from_string(groups: Mapping[str, Group], text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices that a published text names. Raises ValueError on any other text."""
    cells = {}
    for part in text.split(";"):
        name, _, cell = part.strip().partition(" ")
        entries = [_entries(node) for node in cell.split("|")]
        if name not in groups or name in cells or len(entries) != 4 or None in entries:
            break
        cells[name] = tuple(Choice(int(source), target, op)
                            for target, node in enumerate(entries, 2) for op, source in node)
    if set(cells) != set(groups) or len(cells) != text.count(";") + 1:
        raise ValueError(f"not a genotype of the DARTS family: {text[:80]!r}; one looks like "
                         "normal sep_conv_3x3:1, skip_connect:0 | (three more nodes); reduce (four nodes)")
    Genotype("", {}, cells).decisions(groups)
    return {name: cells[name] for name in groups}


def _entries(node):
    """(operation, source) of each edge of a node, "-" for none; None where the text says something else."""
    if node.strip() == "-":
        return []
    matches = [re.fullmatch(r"([a-z0-9_]{1,40}):(\d)", entry.strip()) for entry in node.split(",")]
    return None if None in matches else [match.groups() for match in matches]
