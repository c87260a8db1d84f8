"""Channels of each layer of a plain convolutional network, searched as in TAS (Dong & Yang, NeurIPS 2019, arXiv 1905.09717).

    y_l = relu(mask_l * BN(conv_l(y_{l-1}))),   mask_l[channel] = sum of the gates of the widths that have this channel

A width keeps the first channels, so that the supernet computes the widest network once, under masks. They multiply
behind batch norm: before it, its statistics would divide them out again, and no gradient would reach the gates.

What a network is expected to cost is exact for independent layers: bilinear in the gates of neighbouring ones.

Departures from TAS: no depth, no residual blocks; all widths of a layer are mixed rather than two that are drawn, by
masks rather than by interpolation, so they share a batch norm.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import numpy as np

from dnas.types import REMOVED, Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.primitives import BatchNorm, Conv, Linear
from search_spaces.sizes import check_image, check_sizes, format_sizes, parse_sizes

RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
KERNEL = 3


def widths(channels: int, ratios: tuple[float, ...] = RATIOS) -> tuple[int, ...]:
    """The widths of a layer of at most `channels`: these shares of it, cut to whole channels, each once, ascending."""
    return tuple(sorted({max(1, int(ratio * channels + 1e-9)) for ratio in ratios}))


def check_widths(space: str, channels: int) -> None:
    """Raises ValueError where a layer of at most `channels` has a single width."""
    if len(widths(channels)) < 2:
        raise ValueError(f"{space} needs channels >= 2, with {channels} there is one width only")


def mask(gate, sizes: tuple[int, ...]):
    """For each of the last size's channels the sum of the gates `[K]` whose size includes it."""
    reach = np.arange(sizes[-1])[None] < np.array(sizes)[:, None]
    return gate[:len(sizes)] @ reach.astype(gate.dtype)


class Network(nn.Module):
    """Layers of convolution, batch norm, mask and ReLU; the first of every stage but the first one halves the image."""

    sizes: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, images, gates, train):
        x = images
        for l, (sizes, stride) in enumerate(zip(self.sizes, self.strides)):
            gate = gates["width"][l]
            if isinstance(gate, int) and gate == REMOVED:
                raise ValueError(f"a network needs a width on every layer, layer {l} has none")
            x = Conv(sizes[gate] if isinstance(gate, int) else sizes[-1], KERNEL, stride, name=f"conv_{l}")(x)
            x = BatchNorm(affine=True, name=f"bn_{l}")(x, train)
            x = nn.relu(x if isinstance(gate, int) else x * mask(gate.astype(x.dtype), sizes))
        return Linear(self.classes, name="head")(x.mean((1, 2)))


def width(image=(32, 32, 3), classes=10, *, channels: int = 32, stages: int = 3, layers: int = 2) -> SearchSpace:
    """Widths of 30 % to 100 % of each layer's channels.

    Args:
        image: (height, width, channels) of the images.
        classes: number of classes.
        channels: at most, of the layers of the first stage; doubled from stage to stage.
        stages: of equal image size, each half as wide and high as the one before.
        layers: in each stage.

    Raises ValueError where a value is out of range.
    """
    check_sizes("width", channels=channels, stages=stages, layers=layers, classes=classes)
    if min(channels, stages, layers) < 1 or classes < 1:
        raise ValueError("width needs channels, stages and layers >= 1, classes >= 1, "
                         f"got {channels}, {stages}, {layers}, {classes}")
    check_widths("width", channels)
    check_image("width", image, stages)
    sizes = tuple(widths(channels * 2**stage) for stage in range(stages) for _ in range(layers))
    strides = tuple(1 + (stage > 0 and layer == 0) for stage in range(stages) for layer in range(layers))
    group = Group(tuple((l, l + 1) for l in range(len(sizes))), tuple(tuple(map(str, row)) for row in sizes))
    return flax_space(
        "width", Network(sizes, strides, classes), {"width": group}, image=image,
        options={"image": list(image), "classes": classes, "channels": channels, "stages": stages, "layers": layers},
        format=lambda genotype: format_sizes(genotype.choices["width"], "-"),
        parse=partial(parse_sizes, "width", group, separator="-"),
        expected=partial(expected, sizes=sizes, strides=strides, image=image, classes=classes))


def expected(gates, *, sizes, strides, image, classes):
    """Parameters and multiply-adds that a network has on average, its layers' widths drawn by the gates."""
    height, wide, before = image
    params = macs = 0.0
    for l, (row, stride) in enumerate(zip(sizes, strides)):
        height, wide = -(-height // stride), -(-wide // stride)
        now = gates["width"][l, :len(row)] @ np.asarray(row, gates["width"].dtype)
        weights = KERNEL**2 * before * now
        params, macs, before = params + weights + 2 * now, macs + height * wide * weights, now
    return {"params": params + (before + 1) * classes, "macs": macs + before * classes}
