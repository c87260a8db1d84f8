"""NAS-Bench-Macro's search space (Su et al., CVPR 2021, doi 10.1109/CVPR46437.2021.01082): a chain of eight layers.

    stem -> layers 1, 2 | 3, 4, 5 | 6, 7, 8 -> 1x1 convolution -> mean over the image -> logits

The first layer of each stage, of which | marks the ends, halves the image and doubles the channels. Each layer is one of

    identity   the input; at a stride 1x1 convolution, batch norm
    mb3_k3     inverted residual (MobileNetV2, arXiv 1801.04381), expansion 3, kernel 3
    mb6_k5     the same, expansion 6, kernel 5

where an inverted residual is 1x1 convolution to expansion times the input's channels, batch norm, ReLU, depthwise
convolution, batch norm, ReLU, 1x1 convolution, batch norm, plus the input where the shape stays.

That makes 6,561 networks, all of which were trained: `dnas.tabular.macro`. Departure: small by default.

In the separate form a layer mixes the outputs of its three operations (`MixedOp`). In the entangled one (TangleNAS,
arXiv 2312.10440, ours for this space) both inverted residuals are one: of the large one's weights the small one has the
first half of the hidden channels and the middle of their kernels, so that with gates (a, b, c)

    layer(x) = a identity(x) + (b + c) residual(x, weights * E[mask]),   E[mask] = b (1 where the small one has it) + c

and, behind the batch norms, hidden channels times b + c or c. The identity has weights of its own.
"""

from __future__ import annotations

import functools
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from dnas.types import REMOVED, Choice, Group, SearchSpace
from search_spaces.adapter import linear_cost
from search_spaces.flax_space import flax_space
from search_spaces.layers.entangled import BatchNorm as SizedBatchNorm
from search_spaces.layers.entangled import Conv as SizedConv
from search_spaces.layers.entangled import Size, fixed, product
from search_spaces.layers.mixed import MixedOp, divided, joined, strided
from search_spaces.layers.primitives import BatchNorm, Conv, DepthwiseConv, Linear
from search_spaces.sizes import check_image, check_one_of, check_sizes

STAGES = (2, 3, 3)
"""Layers of each."""
LAYERS = sum(STAGES)
FEATURES = 40
"""Channels before the head, as a multiple of the stem's. Published: 1,280 after 32."""


class Stay(nn.Module):
    """The identity; where the layer strides 1x1 convolution and batch norm."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        if self.stride == 1:
            return x
        return BatchNorm(affine=True, name="bn")(Conv(self.channels, 1, self.stride, name="conv")(x), train)


class InvertedResidual(nn.Module):
    """Wider by 1x1, depthwise at the stride, narrow by 1x1, each with batch norm; plus the input where the shape stays."""

    channels: int
    stride: int = 1
    expansion: int = 3
    kernel: int = 3

    @nn.compact
    def __call__(self, x, train):
        norm = partial(BatchNorm, affine=True)
        y = nn.relu(norm(name="bn_widen")(Conv(self.expansion * x.shape[-1], 1, name="widen")(x), train))
        y = nn.relu(norm(name="bn_depthwise")(DepthwiseConv(self.kernel, self.stride, name="depthwise")(y), train))
        y = norm(name="bn_narrow")(Conv(self.channels, 1, name="narrow")(y), train)
        return x + y if self.stride == 1 else y


FORMS = "separate", "entangled"
OPS = {"identity": Stay, "mb3_k3": InvertedResidual, "mb6_k5": partial(InvertedResidual, expansion=6, kernel=5)}


class EntangledLayer(nn.Module):
    """A layer of the entangled form, called like `MixedOp`."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, gate, train):
        if isinstance(gate, int) and gate == REMOVED:
            shape = jax.eval_shape(lambda x: strided(x, self.stride), x).shape
            return jnp.zeros((*shape[:-1], self.channels), x.dtype)
        seen, passed = divided(x, self.channels, self.name)
        channels = self.channels * seen.shape[-1] // x.shape[-1]
        stay = lambda: Stay(channels, self.stride, name="identity")(seen, train)
        if isinstance(gate, int):
            mixed, weight = stay() if gate == 0 else self.residual(seen, channels, gate, train), 1
        else:
            gate = gate.astype(x.dtype)
            mixed = gate[0] * stay() + (gate[1] + gate[2]) * self.residual(seen, channels, gate, train)
            weight = gate.sum()
        return joined(mixed, passed, weight, self.channels, self.stride)

    def residual(self, x, channels, gate, train):
        """Both inverted residuals: expansion and kernel are one choice. The identity has none of it, neither an array nor a
        share in a mask."""
        into, out, kernel = fixed(x.shape[-1]), fixed(channels), Size((1, 3, 5), gate)
        hidden = product(into, Size((0, 3, 6), gate))
        norm, conv = SizedBatchNorm, SizedConv
        y = nn.relu(norm(hidden, name="bn_widen")(conv(hidden, 1, name="widen")(x, into), train))
        y = conv(hidden, kernel, self.stride, depthwise=True, name="depthwise")(y, hidden)
        y = nn.relu(norm(hidden, name="bn_depthwise")(y, train))
        y = norm(out, name="bn_narrow")(conv(out, 1, name="narrow")(y, hidden), train)
        return x + y if self.stride == 1 else y


class Network(nn.Module):
    """The chain; its stem has `channels`. entangled: whether its inverted residuals share their weights."""

    channels: int
    classes: int
    entangled: bool = False

    @nn.compact
    def __call__(self, images, gates, train):
        x = Conv(self.channels, name="stem_conv")(images)
        x = nn.relu(BatchNorm(affine=True, name="stem_bn")(x, train))
        layer, searched = 0, EntangledLayer if self.entangled else partial(MixedOp, OPS)
        for stage, layers in enumerate(STAGES, 1):
            for stride in (2, *[1] * (layers - 1)):
                x = searched(self.channels * 2**stage, stride, name=f"layer_{layer}")(x, gates["layer"][layer], train)
                layer += 1
        x = Conv(FEATURES * self.channels, 1, name="last_conv")(x)
        x = nn.relu(BatchNorm(affine=True, name="last_bn")(x, train))
        return Linear(self.classes, name="head")(x.mean((1, 2)))


def macro(image=(32, 32, 3), classes=10, *, channels: int = 8,
          form: Literal["separate", "entangled"] = "separate") -> SearchSpace:
    """The NAS-Bench-Macro search space.

    Args:
        image: (height, width, channels) of the images, at least 8 pixels high and wide.
        classes: number of classes.
        channels: of the stem; doubled in each of three stages. Published: 32.
        form: whether operations have weights of their own, or inverted residuals share theirs: separate, entangled.

    Raises ValueError where a value is out of range.
    """
    check_image("macro", image)
    check_sizes("macro", channels=channels, classes=classes)
    if channels < 1 or classes < 1:
        raise ValueError(f"macro needs channels >= 1, classes >= 1, got {channels}, {classes}")
    if min(image[:2]) < 8:
        raise ValueError(f"images of {image[0]}x{image[1]} are too small for macro, which halves them three times: 8x8 is "
                         "the least")
    check_one_of("form", form, FORMS)
    group = Group(tuple((layer, layer + 1) for layer in range(LAYERS)), tuple(OPS))
    options = {"image": list(image), "classes": classes, "channels": channels, "form": form}
    costs = functools.cache(lambda: linear_cost(space))  # of independent layers, of which not all report their costs
    space = flax_space("macro", Network(channels, classes, form == "entangled"), {"layer": group}, image=image,
                       options=options, format=to_string, parse=from_string, expected=lambda gates: costs()(gates))
    return space


def to_string(genotype) -> str:
    """The published notation, a digit for each layer, such as `22212202`."""
    return "".join(str(tuple(OPS).index(choice.op)) for choice in genotype.choices["layer"])


def from_string(text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices that a published text names. Raises ValueError on any other text."""
    digits = text.strip()
    if len(digits) != LAYERS or not set(digits) <= set("012"):
        names = ", ".join(f"{k} {op}" for k, op in enumerate(OPS))
        raise ValueError(f"not a network of NAS-Bench-Macro: {text[:80]!r}; it must be {LAYERS} digits: {names}")
    return {"layer": tuple(Choice(layer, layer + 1, tuple(OPS)[int(digit)]) for layer, digit in enumerate(digits))}
