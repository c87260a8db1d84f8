"""Widths and depths of a residual network, mixed by interpolation: TAS (Dong & Yang, NeurIPS 2019, arXiv 1905.09717).

    layer    y = sum_k p_k CWI(BN_k(conv(x)[first c_k channels])),   CWI to the largest c_k whose gate p_k is not zero
    block    ReLU(x + layer(ReLU(layer(x)))),   channels that one of the two lacks count as zeros
    stage    sum_d q_d CWI(x after d blocks),   CWI to the widest of those whose gate q_d is not zero

A layer's widths are 30 % to 100 % of its most channels, a stage's depths 1, 3, 5, ... blocks. All widths of a layer share
the weights of its convolution; each has a scale and a shift of its own behind the normalisation. With the gates of `--method
tas`, of which a layer has two that are not zero, this is TAS's supernet; other methods mix all widths, stretched to the
largest. With one-hot gates nothing is stretched.

What a network is expected to cost is exact: of independent widths the mean of a product is the product of means, and the
number of channels of a sum, the largest of its parts', is at most n if all of them are.

Ours, where the paper leaves it open: the shortcut of the block that halves the image is 2x2 average pooling; the statistics
of a normalisation are those of the convolution's output, which do not depend on the width that reads it, so that all widths
share the running averages as well.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax

from dnas.types import REMOVED, Choice, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.entangled import beyond, sizes_group
from search_spaces.layers.interpolation import interpolation
from search_spaces.layers.primitives import BatchNorm, Conv, Linear
from search_spaces.sizes import check_image, check_sizes, refuse_partial_channels
from search_spaces.width import check_widths, widths


def depths(blocks: int) -> tuple[int, ...]:
    """The depths of a stage of at most so many blocks: every other one, the least 1, and all of them."""
    return tuple(sorted({*range(1, blocks + 1, 2), blocks}))


class SearchedConv(nn.Module):
    """A 3x3 convolution of images `[B, H, W, C]` whose channels are searched among `sizes`, and its normalisation.

    Called with `gate`, an array `[K]` or an index; returns the images, in a supernet with zeros behind the channels that
    they have, and the number of these channels.
    """

    sizes: tuple[int, ...]
    stride: int = 1

    @nn.compact
    def __call__(self, x, gate, train):
        chosen, most = isinstance(gate, int), self.sizes[-1]
        if chosen and gate == REMOVED:
            raise ValueError(f"a network needs a width in every layer that it has, {self.name} has none")
        channels = self.sizes[gate] if chosen else most
        x = BatchNorm(name="bn")(Conv(channels, 3, self.stride, name="conv")(x), train)

        def affine(k):
            shape = self.sizes[k],
            return (self.param(f"scale_{k}", nn.initializers.ones, shape).astype(x.dtype),
                    self.param(f"bias_{k}", nn.initializers.zeros, shape).astype(x.dtype))

        if chosen:
            scale, bias = affine(gate)
            return x * scale + bias, channels
        active = widest(gate, np.array(self.sizes))
        scale, bias = (jnp.stack([jnp.pad(part, (0, most - len(part))) for part in parts])
                       for parts in zip(*map(affine, range(len(self.sizes)))))
        stretch = interpolation(np.array(self.sizes)[:, None, None], active, most, most)
        mixed = (gate[:, None, None] * stretch).astype(x.dtype)
        return x @ jnp.einsum("kc,kcd->cd", scale, mixed) + jnp.einsum("kc,kcd->d", bias, mixed), active


def widest(gate, sizes):
    """The largest of `sizes [K]` whose gate is not zero, the smallest if all are: a traced whole number."""
    return jnp.where(lax.stop_gradient(gate) != 0, sizes, sizes.min()).max()


def padded(x, channels: int):
    """`x [B, H, W, C]` with zeros for the channels that it lacks."""
    return jnp.pad(x, ((0, 0),) * 3 + ((0, channels - x.shape[-1]),))


def larger(first, second):
    """The larger of two numbers of channels, traced if one is."""
    return (max if isinstance(first, int) and isinstance(second, int) else jnp.maximum)(first, second)


class Block(nn.Module):
    """Two searched convolutions beside a shortcut. Takes and returns images and their number of channels."""

    sizes: tuple[int, ...]
    stride: int = 1

    @nn.compact
    def __call__(self, x, channels, gates, train):
        y, _ = SearchedConv(self.sizes, self.stride, name="conv_a")(x, gates[0], train)
        y, own = SearchedConv(self.sizes, name="conv_b")(nn.relu(y), gates[1], train)
        if self.stride > 1:
            window = (self.stride,) * 2
            x = nn.avg_pool(x, window, window, "SAME", count_include_pad=False)
        extent = max(x.shape[-1], y.shape[-1])
        return nn.relu(padded(x, extent) + padded(y, extent)), larger(channels, own)


class Network(nn.Module):
    """Stem, stages of at most `blocks` blocks, the first of each stage but the first one at stride 2, and the head.

    sizes: widths of the layers of each stage; those of the stem are the first stage's.
    """

    sizes: tuple[tuple[int, ...], ...]
    blocks: int
    classes: int

    @nn.compact
    def __call__(self, images, gates, train):
        x, channels = SearchedConv(self.sizes[0], name="stem")(images, gates["width"][0], train)
        x = nn.relu(x)
        for stage, sizes in enumerate(self.sizes):
            x, channels = self.stage(x, channels, stage, sizes, gates, train)
        return Linear(self.classes, name="head")(x.mean((1, 2)))

    def stage(self, x, channels, stage, sizes, gates, train):
        """The images after a stage, and their number of channels."""
        gate, after = gates["depth"][stage], []
        chosen = isinstance(gate, int)
        for block in range(depths(self.blocks)[gate] if chosen else self.blocks):
            first, stride = 1 + 2 * (stage * self.blocks + block), 1 + (stage > 0 and block == 0)
            own = [gates["width"][first], gates["width"][first + 1]]
            x, channels = Block(sizes, stride, name=f"block_{stage}_{block}")(x, channels, own, train)
            if block + 1 in depths(self.blocks):
                after.append((x, channels))
        if chosen:
            return x, channels
        active = widest(gate, jnp.stack([channels for _, channels in after]))
        extent = x.shape[-1]
        return sum(share * (y @ interpolation(own, active, extent, extent).astype(y.dtype))
                   for share, (y, own) in zip(gate.astype(x.dtype), after)), active


def tas(image=(32, 32, 3), classes=10, *, channels: int = 8, stages: int = 3, blocks: int = 3) -> SearchSpace:
    """Widths and depths of a residual network, mixed by channel-wise interpolation.

    Args:
        image: (height, width, channels) of the images.
        classes: number of classes.
        channels: at most, of the layers of the first stage; doubled from stage to stage. Published for CIFAR: 16.
        stages: of equal image size, each half as wide and high as the one before. Published for CIFAR: 3.
        blocks: at most, of each stage, of two layers each. Published for ResNet-56: 9.

    Raises ValueError where a value is out of range.
    """
    refuse_partial_channels("tas")
    check_sizes("tas", channels=channels, stages=stages, layers=blocks, classes=classes)
    if min(channels, stages, blocks, classes) < 1:
        raise ValueError("tas needs channels, stages, blocks and classes >= 1, "
                         f"got {channels}, {stages}, {blocks}, {classes}")
    check_widths("tas", channels)
    check_image("tas", image, stages)
    network = Network(tuple(widths(channels * 2**stage) for stage in range(stages)), blocks, classes)
    rows = [network.sizes[0], *(sizes for sizes in network.sizes for _ in range(2 * blocks))]
    groups = {"width": sizes_group(rows), "depth": sizes_group([depths(blocks)] * stages)}
    return flax_space(
        "tas", network, groups, image=image, format=partial(to_string, blocks), parse=partial(from_string, groups, blocks),
        options={"image": list(image), "classes": classes, "channels": channels, "stages": stages, "blocks": blocks},
        expected=partial(expected, network=network, image=image), skipped=partial(skipped, blocks=blocks))


def skipped(decisions, *, blocks):
    """The layers of blocks beyond the depth of their stage."""
    beyond_depth = beyond([depths(blocks)] * len(decisions["depth"]), decisions["depth"])
    return {"width": np.concatenate([[False], np.repeat(beyond_depth, 2)])}


def expected(gates, *, network: Network, image):
    """Parameters and multiply-adds that a network has on average, its widths and depths drawn by the gates."""
    params = macs = 0.0
    height, wide = image[:2]
    most = np.arange(network.sizes[-1][-1])
    sized = lambda layer, sizes: gates["width"][layer, :len(sizes)]
    mean = lambda layer, sizes: sized(layer, sizes) @ np.asarray(sizes, gates["width"].dtype)
    at_most = lambda layer, sizes: sized(layer, sizes) @ (np.array(sizes)[:, None] <= most).astype(gates["width"].dtype)

    def add(share, into, out):
        nonlocal params, macs
        weights = share * 9 * into * out
        params, macs = params + weights + share * 2 * out, macs + height * wide * weights

    add(1, image[2], mean(0, network.sizes[0]))
    stream, depth_sizes = at_most(0, network.sizes[0]), depths(network.blocks)  # P(channels <= n) for n = 0, 1, ...
    for stage, sizes in enumerate(network.sizes):
        if stage:
            height, wide = -(-height // 2), -(-wide // 2)
        after = 0
        for block in range(network.blocks):
            first = 1 + 2 * (stage * network.blocks + block)
            share = sum(gates["depth"][stage, k] for k, depth in enumerate(depth_sizes) if depth > block)
            add(share, (1 - stream).sum(), mean(first, sizes))
            add(share, mean(first, sizes), mean(first + 1, sizes))
            stream = stream * at_most(first + 1, sizes)
            if block + 1 in depth_sizes:
                after = after + gates["depth"][stage, depth_sizes.index(block + 1)] * stream
        stream = after
    head = (1 - stream).sum() * network.classes
    return {"params": params + head + network.classes, "macs": macs + head}


def to_string(blocks, genotype) -> str:
    """The stem's width, and for each stage the widths of its blocks, as in `8 | 4-8 6-8 8-8 | 9-16`."""
    ops = {choice.source: choice.op for choice in genotype.choices["width"]}
    parts = [ops[0]]
    for stage, depth in enumerate(genotype.choices["depth"]):
        firsts = [1 + 2 * (stage * blocks + block) for block in range(int(depth.op))]
        parts.append(" ".join(f"{ops[first]}-{ops[first + 1]}" for first in firsts))
    return " | ".join(parts)


def from_string(groups, blocks, text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices of a text as `to_string` writes it. Raises ValueError on any other text."""
    widths_of, depths_of = groups["width"], groups["depth"]
    stem, *stages = [part.split() for part in text.split("|")]
    pairs = [((0,), stem)] + [((first, first + 1), pair.split("-")) for stage, part in enumerate(stages)
                              for first, pair in zip(range(1 + 2 * stage * blocks, len(widths_of.edges), 2), part)]
    counts = [str(len(part)) for part in stages]
    fits = len(counts) == len(depths_of.edges) and all(count in depths_of.edge_ops(0) for count in counts)
    if not fits or any(len(layers) != len(ops) or any(op not in widths_of.edge_ops(layer) for layer, op in zip(layers, ops))
                       for layers, ops in pairs):
        raise ValueError(f"not a network of tas: {text[:80]!r}; it must be the stem's width and for each of "
                         f"{len(depths_of.edges)} stages, behind |, {' or '.join(depths_of.edge_ops(0))} blocks of two "
                         "widths such as 4-8, all among the searched")
    return {"width": tuple(Choice(*widths_of.edges[layer], op) for pair in pairs for layer, op in zip(*pair)),
            "depth": tuple(Choice(*edge, count) for edge, count in zip(depths_of.edges, counts))}
