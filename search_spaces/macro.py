"""NAS-Bench-Macro's search space (Su et al., CVPR 2021, doi 10.1109/CVPR46437.2021.01082): a chain of eight layers.

    stem -> layers 1, 2 | 3, 4, 5 | 6, 7, 8 -> 1x1 convolution -> mean over the image -> logits

The first layer of each stage, of which | marks the ends, halves the image and doubles the channels. Each layer is one of

    identity   the input; at a stride 1x1 convolution, batch norm
    mb3_k3     inverted residual (MobileNetV2, arXiv 1801.04381), expansion 3, kernel 3
    mb6_k5     the same, expansion 6, kernel 5

where an inverted residual is 1x1 convolution to expansion times the input's channels, batch norm, ReLU, depthwise
convolution, batch norm, ReLU, 1x1 convolution, batch norm, plus the input where the shape stays.

That makes 6,561 networks, all of which were trained: `dnas.tabular.macro`. Departure: small by default.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from dnas.types import Choice, Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import BatchNorm, Conv, DepthwiseConv, Linear
from search_spaces.sizes import check_image, check_sizes

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


OPS = {"identity": Stay, "mb3_k3": InvertedResidual, "mb6_k5": partial(InvertedResidual, expansion=6, kernel=5)}


class Network(nn.Module):
    """The chain; its stem has `channels`."""

    channels: int
    classes: int

    @nn.compact
    def __call__(self, images, gates, train):
        x = Conv(self.channels, name="stem_conv")(images)
        x = nn.relu(BatchNorm(affine=True, name="stem_bn")(x, train))
        layer = 0
        for stage, layers in enumerate(STAGES, 1):
            for stride in (2, *[1] * (layers - 1)):
                x = MixedOp(OPS, self.channels * 2**stage, stride, name=f"layer_{layer}")(x, gates["layer"][layer], train)
                layer += 1
        x = Conv(FEATURES * self.channels, 1, name="last_conv")(x)
        x = nn.relu(BatchNorm(affine=True, name="last_bn")(x, train))
        return Linear(self.classes, name="head")(x.mean((1, 2)))


def macro(image=(32, 32, 3), classes=10, *, channels: int = 8) -> SearchSpace:
    """The NAS-Bench-Macro search space.

    Args:
        image: (height, width, channels) of the images, at least 8 pixels high and wide.
        classes: number of classes.
        channels: of the stem; doubled in each of three stages. Published: 32.

    Raises ValueError where a value is out of range.
    """
    check_image("macro", image)
    check_sizes("macro", channels=channels, classes=classes)
    if channels < 1 or classes < 1:
        raise ValueError(f"macro needs channels >= 1, classes >= 1, got {channels}, {classes}")
    if min(image[:2]) < 8:
        raise ValueError(f"images of {image[0]}x{image[1]} are too small for macro, which halves them three times: 8x8 is "
                         "the least")
    group = Group(tuple((layer, layer + 1) for layer in range(LAYERS)), tuple(OPS))
    return flax_space("macro", Network(channels, classes), {"layer": group}, image=image,
                      options={"image": list(image), "classes": classes, "channels": channels},
                      format=to_string, parse=from_string)


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
