"""Residual networks of dense layers for rows of features, as in Gorishniy et al. (NeurIPS 2021, arXiv 2106.11959).

    x_0 = stem(features),   x_l = skip(x_{l-1}) + narrow(act(widen(norm(x_{l-1})))),   outputs = head(relu(BN(x_L)))

Of each layer four things are searched: the width between `widen` and `narrow`, the activation there, the normalisation
before, and whether the layer's input is added to its output. A width keeps the first units, so that the supernet computes
the widest layer once, under a mask, as `search_spaces.width` does.

Departures from the paper, which searches none of these: no dropout; pre-normalisation other than batch norm.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jax import lax

from dnas.types import REMOVED, Choice, Group, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import BatchNorm, Identity, Linear, Zero
from search_spaces.sizes import check_sizes
from search_spaces.width import mask, widths

RATIOS = (0.25, 0.5, 1.0, 2.0)
"""Widths of a layer, as shares of `hidden`."""


class LayerNorm(nn.Module):
    """Each row `[..., C]` with mean 0 and variance 1 over its channels, summed in float32 at least."""

    channels: int
    stride: int = 1
    affine: bool = False

    @nn.compact
    def __call__(self, x, train):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(-1, keepdims=True)
        y = (centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)).astype(x.dtype)
        if not self.affine:
            return y
        scale, bias = (self.param(name, start, x.shape[-1:]).astype(x.dtype)
                       for name, start in (("scale", nn.initializers.ones), ("bias", nn.initializers.zeros)))
        return y * scale + bias


class Normalised(nn.Module):
    """Batch norm as an operation of an edge."""

    channels: int
    stride: int = 1
    affine: bool = False

    @nn.compact
    def __call__(self, x, train):
        return BatchNorm(self.affine, name="bn")(x, train)


class Activation(nn.Module):
    """An elementwise function as an operation of an edge."""

    channels: int
    stride: int = 1
    function: str = "relu"

    def __call__(self, x, train):
        return getattr(nn, self.function)(x)


ACTIVATIONS = {name: partial(Activation, function=name) for name in ("relu", "gelu", "silu", "tanh")}
SKIPS = {"none": Zero, "skip": Identity}
GROUPS = ("norm", "width", "activation", "skip")


def norms(affine: bool = False) -> dict:
    """Constructors of the normalisations. affine: with learned scale and shift, as in the network that is trained."""
    return {"identity": Identity, "batch_norm": partial(Normalised, affine=affine),
            "layer_norm": partial(LayerNorm, affine=affine)}


class Network(nn.Module):
    """`layers` residual layers on a stream of `hidden` units: inputs `[B, ...]`, flattened, to outputs `[B, classes]`."""

    hidden: int
    layers: int
    classes: int
    affine: bool = False

    @nn.compact
    def __call__(self, images, gates, train):
        x = images.reshape(images.shape[0], -1)
        x = Linear(self.hidden, name="stem")(x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32))
        for l in range(self.layers):
            y = MixedOp(norms(self.affine), name=f"norm_{l}")(x, gates["norm"][l], train)
            y = inner(self.hidden, y, gates, l, train)
            x = MixedOp(SKIPS, name=f"skip_{l}")(x, gates["skip"][l], train) + y
        return Linear(self.classes, name="head")(nn.relu(BatchNorm(affine=True, name="head_bn")(x, train)))


def inner(hidden, y, gates, l, train):
    """Widen, activation, mask, narrow: the inside of layer `l` of a Network that is being called."""
    sizes, gate = widths(hidden, RATIOS), gates["width"][l]
    chosen = isinstance(gate, int)
    if chosen and gate == REMOVED:
        return jnp.zeros_like(y)
    y = Linear(sizes[gate] if chosen else sizes[-1], name=f"widen_{l}")(y)
    y = MixedOp(ACTIVATIONS, name=f"activation_{l}")(y, gates["activation"][l], train)
    return Linear(hidden, name=f"narrow_{l}")(y if chosen else y * mask(gate.astype(y.dtype), sizes))


def dense(image=(10,), classes=1, *, hidden: int = 64, layers: int = 3) -> SearchSpace:
    """Widths, activations, normalisations and skips of residual dense layers.

    Args:
        image: shape of one input, flattened.
        classes: number of outputs: classes, values or labels.
        hidden: units of the stream that the layers read and add to; a layer is up to twice as wide inside.
        layers: residual layers.

    Raises ValueError where a value is out of range.
    """
    check_sizes("dense", hidden=hidden, layers=layers, classes=classes)
    if hidden < 4 or layers < 1 or classes < 1:
        raise ValueError(f"dense needs hidden >= 4, layers >= 1, classes >= 1, got {hidden}, {layers}, {classes}")
    if not image or min(image) < 1:
        raise ValueError(f"dense needs inputs of at least one number, got shape {tuple(image)}")
    edges = tuple((l, l + 1) for l in range(layers))
    ops = {"norm": norms(), "width": map(str, widths(hidden, RATIOS)), "activation": ACTIVATIONS, "skip": SKIPS}
    groups = {name: Group(edges, tuple(names)) for name, names in ops.items()}
    return flax_space("dense", Network(hidden, layers, classes), groups, image=image,
                      options={"image": list(image), "classes": classes, "hidden": hidden, "layers": layers},
                      standalone=Network(hidden, layers, classes, affine=True), format=to_string,
                      parse=partial(from_string, groups))


def to_string(genotype) -> str:
    """The layers one after another, as in `batch_norm 32 gelu skip | identity 128 relu none`."""
    return " | ".join(" ".join(choice.op for choice in layer) for layer in zip(*(genotype.choices[name] for name in GROUPS)))


def from_string(groups, text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices of a text as `to_string` writes it. Raises ValueError on any other text."""
    layers = [layer.split() for layer in text.split("|")]
    edges, ops = groups["norm"].edges, [groups[name].edge_ops(0) for name in GROUPS]
    if len(layers) != len(edges) or any(len(layer) != len(ops) or any(op not in of for op, of in zip(layer, ops))
                                        for layer in layers):
        raise ValueError(f"not {len(edges)} dense layers, separated by |: {text[:80]!r}; each is one of "
                         + ", one of ".join(map(", ".join, ops)))
    return {name: tuple(Choice(*edge, layer[g]) for edge, layer in zip(edges, layers)) for g, name in enumerate(GROUPS)}
