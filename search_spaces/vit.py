"""Vision transformers: the width of the stream, blocks, heads and MLP ratios are searched, as in AutoFormer.

The image is cut into patches, each a position (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; AutoFormer: Chen et al.,
ICCV 2021, arXiv 2107.00651). The choices and the two forms are those of `search_spaces.transformer`; AutoFormer-T searches
embeddings of 192 to 240, 12 to 14 blocks, 3 or 4 heads, ratios of 3.5 and 4, which is more than a few cores train.

Departures: the mean over positions in place of a class token, no dropout, no biases in attention, no relative positions.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import flax.linen as nn

from dnas.types import SearchSpace
from search_spaces.layers.entangled import Dense, Size, fixed
from search_spaces.sizes import check_image
from search_spaces.transformer import Choices, embedded, transformer


class PatchEmbedding(nn.Module):
    """Images `[B, H, W, C]` to a stream `[B, T, size]`: a linear map of each square of `patch` pixels, and a vector of each
    place."""

    size: Size
    patch: int

    @nn.compact
    def __call__(self, images):
        batch, height, width, channels = images.shape
        rows, columns, pixels = height // self.patch, width // self.patch, self.patch**2 * channels
        squares = images.reshape(batch, rows, self.patch, columns, self.patch, channels).swapaxes(2, 3)
        x = Dense(self.size, name="patches")(squares.reshape(batch, rows * columns, pixels), fixed(pixels))
        return x + embedded(self, "positions", rows * columns, self.size).astype(x.dtype)


def vit(image=(32, 32, 3), classes=10, *, patch: int = 4, embeds: tuple[int, ...] = (32, 48, 64),
        depths: tuple[int, ...] = (1, 2, 3, 4), heads: tuple[int, ...] = (2, 4), ratios: tuple[int, ...] = (2, 3, 4),
        head_width: int = 16, form: Literal["entangled", "separate"] = "entangled") -> SearchSpace:
    """Transformers that classify images.

    Args:
        image: (height, width, channels) of the images.
        classes: number of classes.
        patch: side in pixels of the squares that the image is cut into.
        embeds: widths of the stream, ascending.
        depths: numbers of blocks, ascending.
        heads: numbers of heads of each block's attention, ascending.
        ratios: of the width of each block's MLP to that of the stream, ascending.
        head_width: of each head, whatever their number.
        form: all sizes in one network's weights, or a module for each of them whose outputs are mixed.

    Raises ValueError where a value is out of range.
    """
    check_image("vit", image)
    if not isinstance(patch, int) or patch < 1 or image[0] % patch or image[1] % patch:
        raise ValueError(f"vit: patch is {patch!r}; it must be a whole number that divides the sides of images of "
                         f"{image[0]}x{image[1]}")
    return transformer("vit", Choices(embeds, depths, heads, ratios, head_width), partial(PatchEmbedding, patch=patch),
                       image=image, classes=classes, form=form, causal=False, patch=patch)
