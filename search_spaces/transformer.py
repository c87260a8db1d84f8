"""What transformers for pictures (`vit`) and for text (`gpt`) have in common: a stream, blocks, and choices of their sizes.

    x_0 = embedding(inputs),   y_l = x_{l-1} + attention_l(norm(x_{l-1})),   x_l = y_l + mlp_l(norm(y_l)),
    outputs = head(norm(x_D))

Searched: the width of the stream (embedding), the number of blocks D, and of each block the heads of its attention and the
ratio of its MLP's width to the stream's. Blocks beyond the depth are no part of a network, nor of its genotype.

Two forms, of the same networks. entangled: all sizes share one network's weights, as in TangleNAS (Sukthanker et al.,
arXiv 2312.10440) and AutoFormer (Chen et al., ICCV 2021, arXiv 2107.00651). separate: each width of the stream is a network
of its own, and in it each number of heads and each ratio a module of its own, whose outputs are mixed, as in DARTS; depth
is mixed alike in both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import numpy as np

from dnas.types import Choice, SearchSpace
from search_spaces.flax_space import flax_space
from search_spaces.layers.attention import MLP, Attention, FixedAttention, FixedMLP
from search_spaces.layers.entangled import (
    Dense,
    LayerNorm,
    Size,
    beyond,
    fixed,
    masked,
    mixed_depth,
    prefix,
    report,
    sizes_group,
)
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import torch_uniform
from search_spaces.reorder import Channels, by_norm
from search_spaces.sizes import FORMS, check_one_of, check_sizes, refuse_partial_channels

MOST = {"embeds": 2**14, "depths": 100, "heads": 2**10, "ratios": 100}
"""The largest that each size may be."""


class Choices(NamedTuple):
    """The sizes that are searched, ascending; head_width: of each head of an attention."""

    embeds: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[int, ...]
    head_width: int


def embedded(module: nn.Module, name: str, count: int, size: Size):
    """A parameter of a module that is being called: `count` vectors `[count, size]`, such as one for each position."""
    report(size, params=count)
    vectors = module.param(name, partial(torch_uniform, fan_in=size.largest), (count, size.largest))
    return masked(vectors, prefix(fixed(count)), prefix(size))


class Block(nn.Module):
    """Attention and MLP on a stream `[B, T, embed]`, each behind a layer norm and added to what it reads.

    Called with the gates of its heads and of its ratio, arrays or indices.
    """

    embed: Size
    choices: Choices
    causal: bool
    form: str

    @nn.compact
    def __call__(self, x, heads, ratio, train):
        attention, mlp = self.separate if self.form == "separate" else self.entangled
        x = x + attention(LayerNorm(self.embed, name="attention_norm")(x), heads, train)
        return x + mlp(LayerNorm(self.embed, name="mlp_norm")(x), ratio, train)

    @property
    def entangled(self):
        head_width = fixed(self.choices.head_width)

        def attention(x, gate, train):
            return Attention(self.embed, Size(self.choices.heads, gate), head_width, self.causal, name="attention")(x)

        return attention, lambda x, gate, train: MLP(self.embed, Size(self.choices.ratios, gate), name="mlp")(x)

    @property
    def separate(self):
        attention = partial(FixedAttention, head_width=self.choices.head_width, causal=self.causal)
        return (MixedOp({str(heads): partial(attention, heads=heads) for heads in self.choices.heads}, name="attention"),
                MixedOp({str(ratio): partial(FixedMLP, ratio=ratio) for ratio in self.choices.ratios}, name="mlp"))


class Network(nn.Module):
    """A transformer from inputs to outputs.

    embedding: constructor of the module from inputs to the stream `[B, T, embed]`, called with its size. outputs: the size
    of the outputs' last axis. causal: one output for each position, which depends on no later one; else one output of the
    mean over positions.
    """

    choices: Choices
    embedding: Callable[..., nn.Module]
    outputs: int
    causal: bool
    form: str = "entangled"

    @nn.compact
    def __call__(self, images, gates, train):
        embeds, gate = self.choices.embeds, gates["embed"][0]
        depth = Size(self.choices.depths, gates["depth"][0])
        if self.form == "entangled":
            return self.stack(Size(embeds, gate), depth, images, gates, train)
        networks = [partial(self.stack, fixed(embed), depth, images, gates, train, f"embed_{embed}_") for embed in embeds]
        if isinstance(gate, int):
            return networks[Size(range(len(embeds)), gate).largest]()
        return sum(gate[k].astype(outputs.dtype) * outputs for k, outputs in enumerate(network() for network in networks))

    def stack(self, embed, depth, images, gates, train, prefix=""):
        """The outputs of one width of the stream, whose modules have names that begin with `prefix`."""
        def block(l):
            module = Block(embed, self.choices, self.causal, self.form, name=f"{prefix}block_{l}")
            return lambda x: module(x, gates["heads"][l], gates["ratio"][l], train)

        x = self.embedding(embed, name=f"{prefix}embedding")(images)
        x = mixed_depth([block(l) for l in range(depth.largest)], depth, x)
        x = LayerNorm(embed, name=f"{prefix}norm")(x)
        return Dense(fixed(self.outputs), name=f"{prefix}head")(x if self.causal else x.mean(1), embed)


def transformer(name: str, choices: Choices, embedding: Callable[..., nn.Module], *, image, classes: int, form: str,
                causal: bool, input_dtype: str = "float32", **options) -> SearchSpace:
    """The SearchSpace of a Network. embedding, causal: of the Network. options: of this space alone, beside the choices.

    Raises ValueError, before any array exists, for choices that are not ascending whole numbers, or out of range, and for
    partial channels of an entangled network.
    """
    check_sizes(name, classes=classes, head_width=choices.head_width)
    if min(classes, choices.head_width) < 1:
        raise ValueError(f"{name} needs classes >= 1 and head_width >= 1, got {classes} and {choices.head_width}")
    check_one_of(f"{name}: form", form, FORMS)
    if form == "entangled":
        refuse_partial_channels(name)
    for option in MOST:
        check_choices(name, option, getattr(choices, option), MOST[option])
    choices = Choices(*map(tuple, choices[:4]), choices.head_width)
    blocks = choices.depths[-1]
    groups = {"embed": sizes_group([choices.embeds]), "depth": sizes_group([choices.depths]),
              "heads": sizes_group([choices.heads] * blocks), "ratio": sizes_group([choices.ratios] * blocks)}
    options = {"image": list(image), "classes": classes, **options,
               **{option: list(sizes) for option, sizes in zip(MOST, choices)}, "head_width": choices.head_width,
               "form": form}

    def space(form, **functions):
        return flax_space(name, Network(choices, embedding, classes, causal, form), groups, image=image,
                          input_dtype=input_dtype, options=options, format=to_string, parse=partial(from_string, groups),
                          skipped=partial(skipped, choices.depths), **functions)

    entangled = space("entangled", reorder=by_norm([hidden_units(choices, l) for l in range(blocks)]))
    return entangled if form == "entangled" else space("separate", expected=entangled.expected)  # of the same networks


def hidden_units(choices: Choices, l: int) -> Channels:
    """The hidden units of the MLP of block `l`, which the stream's width and its ratio decide."""
    mlp = (f"block_{l}", "mlp")
    narrow = (*mlp, "narrow", "kernel")
    return Channels({(*mlp, "widen", "kernel"): 1, (*mlp, "widen", "bias"): 0, narrow: 0}, narrow,
                    np.multiply.outer(choices.embeds, choices.ratios), (("embed", 0), ("ratio", l)))


def skipped(depths: tuple[int, ...], decisions) -> dict:
    """The rows of the blocks beyond the depth of a network, for `SearchSpace.skipped`."""
    return dict.fromkeys(("heads", "ratio"), beyond([depths], decisions["depth"]))


def check_choices(space: str, option: str, sizes, most: int) -> None:
    """Raises ValueError unless `sizes` are whole numbers, ascending, from 1 to `most`."""
    whole = all(isinstance(size, int) and not isinstance(size, bool) for size in sizes)
    if not sizes or not whole or list(sizes) != sorted(set(sizes)) or not 1 <= sizes[0] <= sizes[-1] <= most:
        raise ValueError(f"{space}: {option} are {list(sizes)}; they must be whole numbers, ascending, 1 to {most:,}")


def to_string(genotype) -> str:
    """The stream's width, then each block, as in `embed 48 | heads 2 ratio 3 | heads 4 ratio 2`."""
    blocks = zip(genotype.choices["heads"], genotype.choices["ratio"])
    return " | ".join([f"embed {genotype.choices['embed'][0].op}",
                       *(f"heads {heads.op} ratio {ratio.op}" for heads, ratio in blocks)])


def from_string(groups, text: str) -> dict[str, tuple[Choice, ...]]:
    """The choices of a text as `to_string` writes it. Raises ValueError on any other text."""
    first, *blocks = [part.split() for part in text.split("|")]
    names = [("embed",), *[("heads", "ratio")] * len(blocks)]
    parts = [dict(zip(part[::2], part[1::2])) for part in (first, *blocks)]
    ops = {name: group.edge_ops(0) for name, group in groups.items()}
    if (any(len(part) != 2 * len(of) or tuple(size) != of for part, size, of in zip((first, *blocks), parts, names))
            or any(op not in ops[name] for size in parts for name, op in size.items())
            or str(len(blocks)) not in ops["depth"]):
        raise ValueError(f"not a transformer of {', '.join(ops['depth'])} blocks: {text[:80]!r}; it must be as in "
                         f"'embed {ops['embed'][0]} | heads {ops['heads'][0]} ratio {ops['ratio'][0]} | ...', with "
                         + "; ".join(f"{name} {', '.join(ops[name])}" for name in ("embed", "heads", "ratio")))
    return {"embed": (Choice(0, 1, parts[0]["embed"]),), "depth": (Choice(0, 1, str(len(blocks))),),
            **{name: tuple(Choice(l, l + 1, part[name]) for l, part in enumerate(parts[1:])) for name in ("heads", "ratio")}}
