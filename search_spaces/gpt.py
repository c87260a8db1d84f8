"""Transformers that predict the next token: the width of the stream, blocks, heads and MLP ratios are searched.

The shape of a small GPT-2 (Radford et al., 2019): learned positions, layer norm before attention and MLP, causal attention.
On a text the task `next-token` reports bits per character. The choices and the two forms are those of
`search_spaces.transformer`; TangleNAS (arXiv 2312.10440) searches embeddings of 384 to 768, 5 to 7 blocks, 6 to 12 heads,
which is more than a few cores train.

Departures from GPT-2: no dropout, no biases in attention, heads of one width whatever their number, and a head of its own
rather than the embedding again.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import flax.linen as nn

from dnas.types import SearchSpace
from search_spaces.layers.entangled import Size
from search_spaces.transformer import Choices, embedded, transformer


class TokenEmbedding(nn.Module):
    """Tokens `[B, T]`, integers below `vocabulary`, to a stream `[B, T, size]`: a vector of each token and of each place."""

    size: Size
    vocabulary: int

    @nn.compact
    def __call__(self, tokens):
        length = tokens.shape[1]
        return embedded(self, "tokens", self.vocabulary, self.size)[tokens] + embedded(self, "positions", length, self.size)


def gpt(image=(64,), classes=65, *, embeds: tuple[int, ...] = (32, 48, 64), depths: tuple[int, ...] = (1, 2, 3, 4),
        heads: tuple[int, ...] = (2, 4), ratios: tuple[int, ...] = (2, 3, 4), head_width: int = 16,
        form: Literal["entangled", "separate"] = "entangled") -> SearchSpace:
    """Transformers that predict the token after each.

    Args:
        image: (tokens,) of one input.
        classes: size of the vocabulary.
        embeds, depths, heads, ratios, head_width, form: as for `search_spaces.vit.vit`.

    Raises ValueError where a value is out of range.
    """
    if len(image) != 1:
        raise ValueError(f"space gpt is for tokens, and an input has the shape {tuple(image)}; for images there is "
                         "--space vit")
    choices, embedding = Choices(embeds, depths, heads, ratios, head_width), partial(TokenEmbedding, vocabulary=classes)
    return transformer("gpt", choices, embedding, image=image, classes=classes, form=form, causal=True, input_dtype="int32")
