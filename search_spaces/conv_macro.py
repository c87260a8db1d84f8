"""Widths and kernels of a plain convolutional network: the toy space of TangleNAS (Sukthanker et al., arXiv 2312.10440).

    y_l = relu(BN(conv(y_{l-1}; width_l, kernel_l))),   l = 1..4;   outputs = head(mean(relu(BN(conv(y_4; 3x3)))))

Layer l has one of three widths, each twice the one before, and a kernel of 3, 5 or 7: 6,561 networks.
Two forms of supernet have the same networks. `entangled` mixes weights, the sizes of a layer in one array:
`search_spaces.layers.entangled`. `separate` mixes outputs, as DARTS does: each width and kernel has a convolution and batch
norm of its own, nine in a layer, and the gate of each is the product of the gates of its two choices.

Departures: the published layers have no batch norm, which is the option `norm none`: SGD at the rates of DARTS does not
train those. The strides (all layers but the first halve the image), the head, and the width of the fifth layer, which is the
largest width of the fourth, are ours.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from dnas.types import Choice, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.entangled import BatchNorm, Conv, Dense, Size, fixed, paired, sizes_group
from search_spaces.layers.mixed import MixedOp
from search_spaces.sizes import FORMS, check_image, check_one_of, check_sizes, refuse_partial_channels

KERNELS = (3, 5, 7)
LAYERS = 4
NORMS = ("batch", "none")


def widths(channels: int) -> tuple[tuple[int, ...], ...]:
    """The widths of each layer."""
    return tuple(tuple(channels * 2 ** (layer + k) for k in range(3)) for layer in range(LAYERS))


class Entangled(nn.Module):
    """The supernet that mixes weights, and its discrete networks."""

    sizes: tuple[tuple[int, ...], ...]
    classes: int
    norm: str

    @nn.compact
    def __call__(self, images, gates, train):
        def layer(x, into, out, kernel, stride, name):
            y = Conv(out, kernel, stride, bias=self.norm == "none", name=name)(x, into)
            return nn.relu(BatchNorm(out, name=f"{name}_bn")(y, train) if self.norm == "batch" else y)

        x, into, last = images, fixed(images.shape[-1]), fixed(self.sizes[-1][-1])
        for l, row in enumerate(self.sizes):
            out = Size(row, gates["width"][l])
            x, into = layer(x, into, out, Size(KERNELS, gates["kernel"][l]), 1 + (l > 0), f"conv_{l}"), out
        x = layer(x, into, last, 3, 2, "last")
        return Dense(fixed(self.classes), name="head")(x.mean((1, 2)), last)


class Alone(nn.Module):
    """A layer of `out` channels; zeros for the channels beyond."""

    channels: int
    stride: int
    out: int
    kernel: int
    norm: str

    @nn.compact
    def __call__(self, x, train):
        out = fixed(self.out)
        y = Conv(out, self.kernel, self.stride, bias=self.norm == "none", name="conv")(x, fixed(x.shape[-1]))
        y = nn.relu(BatchNorm(out, name="bn")(y, train) if self.norm == "batch" else y)
        return jnp.pad(y, [(0, 0)] * (y.ndim - 1) + [(0, self.channels - self.out)])


class Separate(nn.Module):
    """The supernet that mixes outputs, and its discrete networks."""

    sizes: tuple[tuple[int, ...], ...]
    classes: int
    norm: str

    @nn.compact
    def __call__(self, images, gates, train):
        x = images
        for l, (row, width, kernel) in enumerate(zip(self.sizes, gates["width"], gates["kernel"])):
            out, _ = Size(row, width), Size(KERNELS, kernel)  # refuses those that were removed
            ops = {f"{width}x{kernel}": partial(Alone, out=width, kernel=kernel, norm=self.norm)
                   for width, kernel in itertools.product(row, KERNELS)}
            x = MixedOp(ops, out.largest, 1 + (l > 0), name=f"conv_{l}")(x, paired(width, kernel, len(KERNELS)), train)
        last = self.sizes[-1][-1]
        x = Alone(last, 2, last, 3, self.norm, name="last")(x, train)
        return Dense(fixed(self.classes), name="head")(x.mean((1, 2)), fixed(last))


def conv_macro(image=(32, 32, 3), classes=10, *, channels: int = 8,
               form: Literal["entangled", "separate"] = "entangled",
               norm: Literal["batch", "none"] = "batch") -> SearchSpace:
    """Width and kernel of each of four convolutions.

    Args:
        image: (height, width, channels) of the images.
        classes: number of classes.
        channels: the smallest width of the first layer; the largest of the fourth is 32 times as much.
        form: entangled mixes the weights of all sizes in one convolution, separate the outputs of one for each.
        norm: behind each convolution, batch norm; none is as published.

    Raises ValueError where a value is out of range.
    """
    check_sizes("conv-macro", channels=channels, classes=classes)
    if channels < 1 or classes < 1:
        raise ValueError(f"conv-macro needs channels >= 1 and classes >= 1, got {channels}, {classes}")
    check_one_of("form", form, FORMS)
    check_one_of("norm", norm, NORMS)
    check_image("conv-macro", image)
    refuse_partial_channels("conv-macro")
    sizes = widths(channels)
    groups = {"width": sizes_group(sizes), "kernel": sizes_group([KERNELS] * LAYERS)}
    options = {"image": list(image), "classes": classes, "channels": channels, "form": form, "norm": norm}

    def space(module, **functions):
        return flax_space("conv-macro", module(sizes, classes, norm), groups, image=image, options=options, format=to_string,
                          parse=partial(from_string, groups), **functions)

    entangled = space(Entangled)
    return entangled if form == "entangled" else space(Separate, expected=entangled.expected)


def to_string(genotype) -> str:
    """Width and kernel of each layer, as in `8x3-32x5-64x3-256x7`."""
    return "-".join(f"{width.op}x{kernel.op}" for width, kernel in zip(*map(genotype.choices.get, ("width", "kernel"))))


def from_string(groups, text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices of a text as `to_string` writes it. Raises ValueError on any other text."""
    layers, names = [layer.split("x") for layer in text.strip().split("-")], ("width", "kernel")
    ops = [[groups[name].edge_ops(l) for name in names] for l in range(LAYERS)]
    if list(map(len, layers)) != [2] * LAYERS or any(op not in row for layer, rows in zip(layers, ops)
                                                     for op, row in zip(layer, rows)):
        rows = "; ".join(",".join(widths) for widths, _ in ops)
        raise ValueError(f"not {LAYERS} layers of width x kernel, joined by hyphens: {text[:80]!r}; the widths are {rows}, "
                         f"the kernels {','.join(map(str, KERNELS))}")
    return {name: tuple(Choice(*edge, layer[i]) for edge, layer in zip(groups[name].edges, layers))
            for i, name in enumerate(names)}
