"""DARTS (Liu, Simonyan & Yang, ICLR 2019, arXiv 1806.09055): normal and reduction cells, 14 edges, 8 operations.

A cell's nodes have the numbers of published genotypes: 0 and 1 are the outputs of the two cells before it, 2 to 5 its
own, each the sum of its edges; their concatenation is what it puts out.
"""

from __future__ import annotations

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dnas.shared_options import current_options
from dnas.types import Choice, Genotype, Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
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
from search_spaces.repeated import use_scan
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
        """Values of the four nodes, edge after edge."""
        nodes = [*inputs, 0, 0, 0, 0]
        for e, (source, target) in enumerate(EDGES):
            nodes[target] += self.edge(e)(nodes[source], gates[e], train)
        return nodes[2:]

    def edge(self, e, **options):
        """The module of edge number `e`."""
        (source, target), constructors = EDGES[e], operations(self.standalone)
        names = self.ops if isinstance(self.ops[0], str) else self.ops[e]
        return MixedOp({op: constructors[op] for op in names}, stride=2 if self.reduction and source < 2 else 1,
                       name=f"edge_{source}_{target}", **options)


class LoopedCell(Cell):
    """The same under arrays of gates, edges of equal operations and stride in one loop, whose body is compiled once.

    A loop cannot hold modules of different names, so the edges are called as functions of their variables, which lie where
    those of a Cell do, and of a key each, which in evaluation is always the same. Initialising traces every kind of edge
    once and puts out zeros.
    """

    def nodes(self, inputs, gates, train):
        """In a reduction cell the edges that stride are looped over first, and then those that do not."""
        key = self.make_rng("dropout") if train and self.has_rng("dropout") else \
            jax.random.key(zlib.crc32(self.name.encode()))
        keys = jax.random.split(key, len(EDGES))
        everything, inner = range(len(EDGES)), [e for e, (source, _) in enumerate(EDGES) if source > 1]
        inputs = jnp.stack(inputs)
        nodes = jnp.zeros((4, *(inputs[0, :, ::2, ::2] if self.reduction else inputs[0]).shape), inputs.dtype)
        if self.is_initializing():
            self.create(inputs[0], gates)
            return list(nodes)
        run = partial(self.loop, gates=gates, keys=keys, train=train)
        if not self.reduction:
            return list(run(everything, jnp.concatenate([inputs, nodes]), lambda nodes, source: nodes[source], 0)[2:])
        nodes = run([e for e in everything if e not in inner], nodes, lambda nodes, source: inputs[source], 2)
        return list(run(inner, nodes, lambda nodes, source: nodes[source - 2], 2))

    def edge(self, e):
        """A child of none."""
        return super().edge(e, parent=None)

    def create(self, x, gates):
        """Initial variables of the edges, drawn at once where edges are alike: a fraction of the time."""
        alike = defaultdict(list)
        for e, edge in enumerate(map(self.edge, range(len(EDGES)))):
            alike[edge.stride].append(e)
        keys = jax.random.split(self.make_rng("params"), len(EDGES))
        for stride, edges in alike.items():
            seen = x[:, ::2, ::2] if self.reduction and stride == 1 else x
            drawn = jax.vmap(lambda key, e=edges[0], x=seen: self.edge(e).init(key, x, gates[e], True))(
                keys[np.array(edges)])
            for e, variables in zip(edges, unstacked(drawn, len(edges))):
                for kind, value in variables.items():
                    self.put_variable(kind, self.edge(e).name, value)

    def loop(self, edges, nodes, read, first, *, gates, keys, train):
        """Adds `edges` up into `nodes [N, B, H, W, C]`, the first of which is node number `first`.

        An edge is computed again for its gradient: on a CPU a quarter faster than to keep what every turn of the loop
        leaves behind, in a ninth of the memory.
        """
        modules = [self.edge(e) for e in edges]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self.variables_of, modules))

        @partial(jax.checkpoint, prevent_cse=False)
        def call(variables, x, gate, key):
            return modules[0].apply(variables, x, gate, train, rngs={"dropout": key}, mutable=["batch_stats"])

        def body(nodes, now):
            source, target, variables, gate, key = now
            y, updated = call(variables, read(nodes, source), gate, key)
            return nodes.at[target].add(y), updated

        sources, targets = np.array(EDGES)[list(edges)].T
        which = np.array(edges)
        nodes, updated = lax.scan(body, nodes, (sources, targets - first, stacked, gates[which], keys[which]))
        for edge, part in zip(modules, unstacked(updated, len(modules))):
            self.keep(edge, part)
        return nodes

    def variables_of(self, edge):
        return {kind: self.get_variable(kind, edge.name, {}) for kind in ("params", "batch_stats")}

    def keep(self, edge, updated):
        """Takes over the running averages that a call of the edge has moved."""
        if updated.get("batch_stats") and self.is_mutable_collection("batch_stats"):
            self.put_variable("batch_stats", edge.name, updated["batch_stats"])


def unstacked(tree, count: int) -> list:
    """A tree for each of the `count` entries of the leaves' leading axis."""
    leaves, structure = jax.tree.flatten(tree)
    parts = [[lax.squeeze(part, (0,)) for part in lax.split(leaf, (1,) * count)] for leaf in leaves]
    return [jax.tree.unflatten(structure, [part[i] for part in parts]) for i in range(count)]


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

    ops: of normal and of reduction cells. looped: under arrays of gates, loop over the edges of a cell. auxiliary: while
    training, return the logits of an auxiliary head as well.
    """

    ops: Mapping[str, tuple]
    channels: int
    cells: int
    classes: int
    looped: bool = False
    standalone: bool = False
    auxiliary: bool = False

    @nn.compact
    def __call__(self, images, gates, train):
        channels, reductions = self.channels, (self.cells // 3, 2 * self.cells // 3)
        x = Conv(3 * channels, name="stem_conv")(images)
        s0 = s1 = BatchNorm(affine=True, name="stem_bn")(x, train)
        for i in range(self.cells):
            kind = "reduce" if i in reductions else "normal"
            channels *= 2 if kind == "reduce" else 1
            cell = LoopedCell if self.looped and not isinstance(gates[kind][0], int) else Cell
            cell = cell(self.ops[kind], channels, kind == "reduce", i - 1 in reductions, self.standalone, name=f"cell_{i}")
            s0, s1 = s1, cell(s0, s1, gates[kind], train)
            if self.auxiliary and train and i == reductions[1]:
                auxiliary = Auxiliary(self.classes, name="auxiliary")(s1, train)
        logits = Linear(self.classes, name="head")(s1.mean((1, 2)))
        return (logits, auxiliary) if self.auxiliary and train else logits


def darts(image=(32, 32, 3), classes=10, *, channels: int = 16, cells: int = 8,
          scan: Literal["auto", "on", "off"] = "auto") -> SearchSpace:
    """The DARTS search space.

    Args:
        image: (height, width, channels) of the images, at least 4 pixels high and wide.
        classes: number of classes.
        channels: channels of the first cells; doubled in each of the two reduction cells. Published: 16, and 36 in the
            final network.
        cells: number of cells, of which those at a third and two thirds reduce. Published: 8, and 20.
        scan: run the edges of a cell of the supernet as one loop over stacked weights: auto, on, off.

    Raises ValueError where a value is out of range.
    """
    return cell_space("darts", GROUPS, image, classes, channels=channels, cells=cells, scan=scan)


def cell_space(name, groups, image, classes, *, channels, cells, scan=None) -> SearchSpace:
    """The space of DARTS's network with the operations that `groups` (normal, reduce) leave to its edges.

    scan: None where the operations differ between edges, which no loop can run.
    """
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
    looped = scan is not None and use_scan(scan, len(EDGES))
    network = partial(Network, {kind: group.ops for kind, group in groups.items()}, channels, cells, classes)
    options = {"image": list(image), "classes": classes, "channels": channels, "cells": cells}
    return flax_space(name, network(looped), groups, image=image, standalone=network(standalone=True),
                      auxiliary=network(standalone=True, auxiliary=True), rule=top_two,
                      options=options if scan is None else {**options, "scan": scan},
                      format=to_string, parse=partial(from_string, groups))


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
