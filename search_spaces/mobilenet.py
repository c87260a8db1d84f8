"""Inverted residual networks (MobileNetV2, CVPR 2018) whose kernels, expansions and depths are searched.

Blocks are those of Sandler et al. (arXiv 1801.04381), sizes those of Once-for-All (Cai et al., ICLR 2020, arXiv 1908.09791).

    block(x) = project(SE(act(BN(depthwise(act(BN(expand(x))))))) [+ x],   expand: to a ratio of the channels of x

A stage has blocks of equal width, of which the first sets the width and may halve the image; the others have a residual. Of
each block the kernel, 3, 5 or 7, and the ratio, 3, 4 or 6, are searched, and of each stage how many of its blocks there are:
the first ones. What a block that is not there would have is no part of a genotype.

Two forms of supernet have the same networks. `entangled` mixes weights, the sizes of a block in one array:
`search_spaces.layers.entangled`. `separate` mixes outputs, of nine blocks of their own in the place of each.

Departures from Once-for-All: the sizes are for small images; kernels are centres of the largest, without a learned matrix
between them; widths do not vary; ReLU6 throughout; squeeze and excitation (Hu et al., CVPR 2018) in all blocks or in none.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Literal

import flax.linen as nn
import numpy as np

from dnas.types import Choice, Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.entangled import (
    BatchNorm,
    Conv,
    Dense,
    Size,
    beyond,
    fixed,
    mixed_depth,
    paired,
    product,
    sizes_group,
)
from search_spaces.layers.mixed import MixedOp
from search_spaces.reorder import Channels, by_norm
from search_spaces.sizes import FORMS, check_image, check_one_of, check_sizes, refuse_partial_channels

KERNELS, RATIOS = (3, 5, 7), (3, 4, 6)


class Block(nn.Module):
    """An inverted residual block, `[B, H, W, C]` to `[B, ceil(H / stride), ceil(W / stride), channels]`."""

    channels: int
    stride: int
    kernel: Size
    ratio: Size
    squeeze_excite: bool

    @nn.compact
    def __call__(self, x, train):
        into, out = fixed(x.shape[-1]), fixed(self.channels)
        hidden = product(into, self.ratio)
        y = nn.relu6(BatchNorm(hidden, name="expand_bn")(Conv(hidden, 1, name="expand")(x, into), train))
        y = Conv(hidden, self.kernel, self.stride, depthwise=True, name="depthwise")(y, hidden)
        y = nn.relu6(BatchNorm(hidden, name="depthwise_bn")(y, train))
        if self.squeeze_excite:
            few = product(hidden, fixed(0.25))
            share = nn.relu(Dense(few, name="squeeze")(y.mean((1, 2)), hidden))
            y = y * nn.hard_sigmoid(Dense(hidden, name="excite")(share, few))[:, None, None]
        y = BatchNorm(out, name="project_bn")(Conv(out, 1, name="project")(y, hidden), train)
        return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


class Network(nn.Module):
    """The supernet of either form, and its discrete networks."""

    channels: int
    stages: int
    layers: int
    classes: int
    squeeze_excite: bool
    form: str

    @nn.compact
    def __call__(self, images, gates, train):
        into = fixed(self.channels)
        x = Conv(into, 3, name="stem")(images, fixed(images.shape[-1]))
        x = nn.relu6(BatchNorm(into, name="stem_bn")(x, train))
        for stage, depth in enumerate(gates["depth"]):
            blocks = [partial(self.block, stage, place, gates, train) for place in range(self.layers)]
            x = mixed_depth(blocks, Size(depths(self.layers), depth), x)
        into, last = fixed(x.shape[-1]), fixed(4 * x.shape[-1])
        x = nn.relu6(BatchNorm(last, name="last_bn")(Conv(last, 1, name="last")(x, into), train))
        return Dense(fixed(self.classes), name="head")(x.mean((1, 2)), last)

    def block(self, stage, place, gates, train, x):
        """Block number `place` of a stage."""
        n, width, stride = stage * self.layers + place, self.channels * 2**stage, 1 + (stage > 0 and place == 0)
        kernel, ratio = gates["kernel"][n], gates["ratio"][n]
        sizes, name = (Size(KERNELS, kernel), Size(RATIOS, ratio)), f"block_{stage}_{place}"
        if self.form == "entangled":
            return Block(width, stride, *sizes, self.squeeze_excite, name=name)(x, train)
        ops = {f"{k}x{r}": partial(Block, kernel=fixed(k), ratio=fixed(r), squeeze_excite=self.squeeze_excite)
               for k, r in itertools.product(KERNELS, RATIOS)}
        return MixedOp(ops, width, stride, name=name)(x, paired(kernel, ratio, len(RATIOS)), train)


def depths(layers: int) -> tuple[int, ...]:
    """How many blocks a stage of at most `layers` may have: up to two fewer."""
    return tuple(range(max(1, layers - 2), layers + 1))


def mobilenet(image=(32, 32, 3), classes=10, *, channels: int = 16, stages: int = 3, layers: int = 4,
              squeeze_excite: bool = False, form: Literal["entangled", "separate"] = "entangled") -> SearchSpace:
    """Kernels, expansions and depths of inverted residual networks.

    Args:
        image: (height, width, channels) of the images.
        classes: number of classes.
        channels: of the first stage; doubled from stage to stage.
        stages: of equal image size, each half as wide and high as the one before.
        layers: blocks in a stage at most; at least two fewer, and one.
        squeeze_excite: whether each block weighs its channels by what is in all of the image.
        form: entangled mixes the weights of all sizes in one block, separate the outputs of a block for each.

    Raises ValueError where a value is out of range.
    """
    check_sizes("mobilenet", channels=channels, stages=stages, layers=layers, classes=classes)
    if channels < 2 or stages < 1 or layers < 2 or classes < 1:
        raise ValueError("mobilenet needs channels >= 2, stages >= 1, layers >= 2 and classes >= 1, "
                         f"got {channels}, {stages}, {layers}, {classes}")
    check_one_of("form", form, FORMS)
    check_image("mobilenet", image, stages)
    refuse_partial_channels("mobilenet")
    sizes = {"kernel": [KERNELS] * stages * layers, "ratio": [RATIOS] * stages * layers, "depth": [depths(layers)] * stages}
    groups = {name: sizes_group(rows) for name, rows in sizes.items()}

    def skipped(decisions):
        return dict.fromkeys(("kernel", "ratio"), beyond(sizes["depth"], decisions["depth"]))

    def space(form, **functions):
        return flax_space(
            "mobilenet", Network(channels, stages, layers, classes, squeeze_excite, form), groups, image=image,
            options={"image": list(image), "classes": classes, "channels": channels, "stages": stages, "layers": layers,
                     "squeeze_excite": squeeze_excite, "form": form},
            format=partial(to_string, layers), parse=partial(from_string, groups, layers), skipped=skipped, **functions)

    entangled = space("entangled", reorder=by_norm([hidden_channels(channels, layers, s, place, squeeze_excite)
                                                    for s in range(stages) for place in range(layers)]))
    return entangled if form == "entangled" else space("separate", expected=entangled.expected)


def hidden_channels(channels: int, layers: int, stage: int, place: int, squeeze_excite: bool) -> Channels:
    """The channels inside block number `place` of a stage, which its ratio decides."""
    axes = {("expand", "kernel"): 3, ("depthwise", "kernel"): 3, ("project", "kernel"): 2,
            **{(norm, "bn", name): 0 for norm in ("expand_bn", "depthwise_bn") for name in ("scale", "bias", "mean", "var")}}
    if squeeze_excite:
        axes |= {("squeeze", "kernel"): 0, ("excite", "kernel"): 1, ("excite", "bias"): 0}
    block, into = f"block_{stage}_{place}", channels * 2 ** (stage - (stage > 0 and place == 0))
    return Channels({(block, *path): axis for path, axis in axes.items()}, (block, "project", "kernel"),
                    into * np.array(RATIOS), (("ratio", stage * layers + place),))


def to_string(layers: int, genotype) -> str:
    """Kernel and ratio of each block, as in `3x6-5x4 | 7x3-3x3-5x6`."""
    blocks = [[] for _ in genotype.choices["depth"]]
    for kernel, ratio in zip(genotype.choices["kernel"], genotype.choices["ratio"]):
        blocks[kernel.source // layers].append(f"{kernel.op}x{ratio.op}")
    return " | ".join("-".join(stage[:int(depth.op)]) for stage, depth in zip(blocks, genotype.choices["depth"]))


def from_string(groups: dict[str, Group], layers: int, text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices of a text as `to_string` writes it. Raises ValueError on any other text."""
    stages = [[block.split("x") for block in stage.strip().split("-")] for stage in text.split("|")]
    lengths, ops = groups["depth"].edge_ops(0), (groups["kernel"].edge_ops(0), groups["ratio"].edge_ops(0))
    if len(stages) != len(groups["depth"].edges) or any(
            str(len(stage)) not in lengths or any(len(block) != 2 or block[0] not in ops[0] or block[1] not in ops[1]
                                                  for block in stage) for stage in stages):
        raise ValueError(f"not {len(groups['depth'].edges)} stages, separated by |, of {lengths[0]} to {lengths[-1]} "
                         f"blocks, joined by hyphens: {text[:80]!r}; a block is a kernel of {','.join(ops[0])}, x, and a "
                         f"ratio of {','.join(ops[1])}")
    blocks = [(s * layers + place, block) for s, stage in enumerate(stages) for place, block in enumerate(stage)]
    return {name: tuple(Choice(n, n + 1, block[i]) for n, block in blocks) for i, name in enumerate(("kernel", "ratio"))} | {
        "depth": tuple(Choice(s, s + 1, str(len(stage))) for s, stage in enumerate(stages))}
