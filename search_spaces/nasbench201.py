"""NAS-Bench-201 (Dong & Yang, ICLR 2020, arXiv 2001.00326): 4 nodes, 6 edges, 5 operations, 15,625 cells."""

from __future__ import annotations

import re
from functools import partial
from typing import Literal

import flax.linen as nn

from dnas.types import Choice, Genotype, Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.bundle import bundle
from search_spaces.layers.primitives import AvgPool, BatchNorm, Conv, Identity, Linear, ReLUConvBN, Zero
from search_spaces.repeated import Repeated, of_cells, use_scan
from search_spaces.sizes import check_image, check_sizes

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


class Cell(nn.Module):
    """Four nodes, each the sum of its incoming edges; the last one is the output."""

    affine: bool = False

    @nn.compact
    def __call__(self, x, gates, train):
        conv = partial(ReLUConvBN, affine=self.affine)
        ops = dict(zip(OPS, (Zero, Identity, partial(conv, kernel=1), partial(conv, kernel=3), AvgPool)))
        nodes = [x, 0, 0, 0]
        for source in range(3):
            targets = range(source + 1, 4)
            edges = [f"edge_{source}_{target}" for target in targets]
            mixed = bundle(ops, edges, nodes[source], [gates[EDGES.index((source, target))] for target in targets], train)
            for target, y in zip(targets, mixed):
                nodes[target] += y
        return nodes[3]


class Residual(nn.Module):
    """Halves the image: two convolutions, and a shortcut of 2x2 average pooling and a 1x1 convolution."""

    channels: int

    @nn.compact
    def __call__(self, x, train):
        y = ReLUConvBN(self.channels, stride=2, affine=True, name="conv_a")(x, train)
        y = ReLUConvBN(self.channels, affine=True, name="conv_b")(y, train)
        shortcut = nn.avg_pool(x, (2, 2), (2, 2))
        return y + Conv(self.channels, 1, name="shortcut")(shortcut)


class Network(nn.Module):
    """Stem, three stages of `cells` cells at C, 2C, 4C channels, a residual block between stages, and the head."""

    channels: int
    cells: int
    classes: int
    scan: bool
    affine: bool = False

    @nn.compact
    def __call__(self, images, gates, train):
        x = Conv(self.channels, name="stem_conv")(images)
        x = BatchNorm(affine=True, name="stem_bn")(x, train)
        for stage in range(3):
            if stage:
                x = Residual(self.channels * 2**stage, name=f"residual_{stage}")(x, train)
            cell = partial(Cell, affine=self.affine)
            own = of_cells(gates["cell"], stage * self.cells, self.cells)
            x = Repeated(cell, self.cells, self.scan, name=f"stage_{stage}")(x, own, train)
        x = nn.relu(BatchNorm(affine=True, name="last_bn")(x, train)).mean((1, 2))
        return Linear(self.classes, name="head")(x)


def nasbench201(image=(32, 32, 3), classes=10, *, channels: int = 16, cells: int = 1,
                scan: Literal["auto", "on", "off"] = "auto") -> SearchSpace:
    """The NAS-Bench-201 search space.

    Args:
        image: (height, width, channels) of the images, at least 4 pixels high and wide.
        classes: number of classes.
        channels: channels of the first stage; doubled in each of the two others. Published: 16.
        cells: cells in each of the three stages. Published: 5.
        scan: run the cells of a stage as one loop over stacked weights: auto, on, off.

    Raises ValueError where a value is out of range.
    """
    check_image("nasbench201", image)
    if min(image[:2]) < 4:
        raise ValueError(f"images of {image[0]}x{image[1]} are too small for nasbench201, which halves them twice: "
                         "4x4 is the least")
    check_sizes("nasbench201", channels=channels, cells=cells, classes=classes)
    if channels < 1 or cells < 1 or classes < 1:
        raise ValueError("nasbench201 needs channels >= 1, cells >= 1, classes >= 1, "
                         f"got {channels}, {cells}, {classes}")
    network = partial(Network, channels, cells, classes, use_scan(scan, cells))
    return flax_space(
        "nasbench201", network(), {"cell": Group(EDGES, OPS)}, image=image, cells={"cell": 3 * cells},
        options={"image": list(image), "classes": classes, "channels": channels, "cells": cells, "scan": scan},
        standalone=network(affine=True),
        format=to_string, parse=from_string)


def to_string(genotype: Genotype) -> str:
    """The published notation, such as `|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|`."""
    ops = {(c.source, c.target): c.op for c in genotype.choices["cell"]}
    return "+".join("|" + "".join(f"{ops.get((s, t), 'none')}~{s}|" for s in range(t)) for t in (1, 2, 3))


def from_string(text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices that a published string names. Raises ValueError on any other text."""
    entry = r"([a-z0-9_]+)~%d\|"
    match = re.fullmatch(r"\+".join(r"\|" + "".join(entry % s for s in range(t)) for t in (1, 2, 3)), text.strip())
    if not match:
        raise ValueError(f"not a NAS-Bench-201 cell: {text[:80]!r}; one looks like "
                         "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|")
    for op in match.groups():
        if op not in OPS:
            raise ValueError(f"{op!r} is not an operation of NAS-Bench-201, which are {', '.join(OPS)}")
    return {"cell": tuple(Choice(s, t, op) for (s, t), op in zip(EDGES, match.groups()))}
