"""NATS-Bench's size search space (Dong et al., TPAMI 2021, arXiv 2009.00437): five widths of a fixed cell network.

    stem -> cell -> residual block, half the image -> cell -> residual block, half the image -> cell -> logits

    cell:  n1 = c(n0),  n2 = c(n0) + c(n1),  n3 = n0 + c(n1) + c(n2),   c = ReLU, 3x3 convolution, batch norm

Each of the five parts behind the stem has a width of its own, an eighth to eight eighths of the largest: 8, 16, ..., 64 as
published, which makes 32,768 networks. The stem has the width of the first part. All widths of a part share their weights
(`search_spaces.layers.entangled`), as in NATS-Bench's mask_gumbel, which `--method gdas` on this space is.

Ours: where a cell reads another width than its own, n0 counts with the channels that both have, so that the skip needs no
weights whatever the widths; and batch norm has scale and shift in the supernet too, for the mask acts behind it.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from dnas.types import SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.entangled import BatchNorm, Conv, Dense, Size, fixed, masked, prefix, sizes_group
from search_spaces.sizes import check_image, check_sizes, format_sizes, parse_sizes, refuse_partial_channels

PARTS, STEPS = 5, 8


class ReLUConvBN(nn.Module):
    """ReLU, 3x3 convolution, batch norm."""

    out: Size
    stride: int = 1

    @nn.compact
    def __call__(self, x, into, train):
        return BatchNorm(self.out, name="bn")(Conv(self.out, 3, self.stride, name="conv")(nn.relu(x), into), train)


class Cell(nn.Module):
    """The published cell, of width `out`."""

    out: Size

    @nn.compact
    def __call__(self, n0, into, train):
        edge = lambda x, reads, name: ReLUConvBN(self.out, name=name)(x, reads, train)
        n1 = edge(n0, into, "edge_0_1")
        n2 = edge(n0, into, "edge_0_2") + edge(n1, self.out, "edge_1_2")
        return fitted(n0, self.out) + edge(n1, self.out, "edge_1_3") + edge(n2, self.out, "edge_2_3")


class Residual(nn.Module):
    """Halves the image: two convolutions, and a shortcut of 2x2 average pooling and a 1x1 convolution."""

    out: Size

    @nn.compact
    def __call__(self, x, into, train):
        y = ReLUConvBN(self.out, 2, name="conv_a")(x, into, train)
        y = ReLUConvBN(self.out, name="conv_b")(y, self.out, train)
        pooled = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False)
        return y + Conv(self.out, 1, name="shortcut")(pooled, into)


class Network(nn.Module):
    """The network whose widths are among `sizes`."""

    sizes: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, images, gates, train):
        widths = [Size(self.sizes, gates["width"][part]) for part in range(PARTS)]
        into = widths[0]
        x = Conv(into, name="stem_conv")(images, fixed(images.shape[-1]))
        x = BatchNorm(into, name="stem_bn")(x, train)
        for part, out in enumerate(widths):
            x = (Residual if part % 2 else Cell)(out, name=f"part_{part}")(x, into, train)
            into = out
        x = nn.relu(BatchNorm(into, name="last_bn")(x, train)).mean((1, 2))
        return Dense(fixed(self.classes), name="head")(x, into)


def fitted(x, out: Size):
    """The channels of `x` that a network of width `out` has, with zeros for those that `x` lacks."""
    more = out.largest - x.shape[-1]
    x = jnp.pad(x, ((0, 0),) * 3 + ((0, more),)) if more > 0 else x[..., :out.largest]
    return masked(x, *[prefix(fixed(1))] * 3, prefix(out))


def nats_size(image=(32, 32, 3), classes=10, *, channels: int = 16) -> SearchSpace:
    """Five widths of NATS-Bench's size search space.

    Args:
        image: (height, width, channels) of the images, at least 4 pixels high and wide.
        classes: number of classes.
        channels: the largest width, a multiple of 8; the others are its eighths. Published: 64.

    Raises ValueError where a value is out of range.
    """
    check_image("nats-size", image)
    refuse_partial_channels("nats-size")
    check_sizes("nats-size", channels=channels, classes=classes)
    if channels < STEPS or channels % STEPS or classes < 1:
        raise ValueError(f"nats-size needs channels, a multiple of {STEPS}, and classes >= 1, got {channels}, {classes}")
    if min(image[:2]) < 4:
        raise ValueError(f"images of {image[0]}x{image[1]} are too small for nats-size, which halves them twice: 4x4 is the "
                         "least")
    sizes = tuple(channels // STEPS * step for step in range(1, STEPS + 1))
    group = sizes_group([sizes] * PARTS)
    return flax_space("nats-size", Network(sizes, classes), {"width": group}, image=image,
                      options={"image": list(image), "classes": classes, "channels": channels},
                      format=lambda genotype: format_sizes(genotype.choices["width"], ":"),
                      parse=partial(parse_sizes, "width", group, separator=":"))
