"""The most that the sizes of a space may be: a file, or a slip of the finger, may name any number."""

from __future__ import annotations

import numpy as np

from dnas.shared_options import current_options
from dnas.types import Choice, Group

MOST = {"channels": 2**14, "hidden": 2**14, "heads": 2**10, "head_width": 2**10, "classes": 2**20,
        "cells": 100, "layers": 100, "stages": 16}
"""By name. Depths are bounded so that a network can be refused, or counted, in the time that tracing it takes."""


FORMS = ("entangled", "separate")
"""How a supernet holds the sizes of a layer: in one array, or a layer for each whose outputs are mixed."""


def check_one_of(name: str, value: str, values: tuple[str, ...]) -> None:
    """Raises ValueError where the option `name` has none of the values."""
    if value not in values:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(values)}")


def check_image(space: str, image: tuple[int, ...], stages: int = 1) -> None:
    """Raises ValueError where inputs of shape `image` are not (H, W, C), or too small for so many stages, each half as wide
    and high as the one before."""
    if len(image) != 3:
        raise ValueError(f"space {space} is for images, and an input has the shape {tuple(image)}; for rows of numbers "
                         "there is --space dense, for tokens --space gpt")
    if min(image[:2]) < 2 ** (stages - 1):
        raise ValueError(f"images of {image[0]}x{image[1]} are too small for {stages} stages: "
                         f"{2 ** (stages - 1)}x{2 ** (stages - 1)} is the least")


def check_sizes(space: str, **sizes) -> None:
    """Raises ValueError, before any array exists, for a size that is not a whole number, or larger than MOST of its name."""
    for name, value in sizes.items():
        if not isinstance(value, (int, np.integer)) or value > MOST[name]:
            raise ValueError(f"{space}: {name} is {value!r}; it must be a whole number, at most {MOST[name]:,}")


def refuse_partial_channels(space: str) -> None:
    """Raises ValueError where the shared options ask for partial channels of a space whose layers are searched in size."""
    parts = current_options().partial_channels
    if parts > 1:
        raise ValueError(f"{space}: partial_channels is {parts}; it must be 1: how many channels there are is searched")


def format_sizes(choices: tuple[Choice, ...], separator: str) -> str:
    """The sizes of layers as one text, as in `9-32-19-64`."""
    return separator.join(choice.op for choice in choices)


def parse_sizes(name: str, group: Group, text: str, *, separator: str) -> dict[str, tuple[Choice, ...]]:
    """The choices of the group `name`, a size for each layer, of a text as `format_sizes` writes it. Raises ValueError on
    any other text."""
    ops = text.strip().split(separator)
    if len(ops) != len(group.edges) or any(op not in group.edge_ops(layer) for layer, op in enumerate(ops)):
        rows = "; ".join(",".join(group.edge_ops(layer)) for layer in range(len(group.edges)))
        raise ValueError(f"not the {name} of each of these {len(group.edges)} layers, joined by {separator}: {text[:80]!r}; "
                         f"they are {rows}")
    return {name: tuple(Choice(*edge, op) for edge, op in zip(group.edges, ops))}
