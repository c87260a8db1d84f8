"""Weights of the PyTorch supernets under the names of ours, so that both can be shown to compute the same."""

from __future__ import annotations

import re
from functools import partial

import numpy as np

from search_spaces import darts, nasbench201


def ported(space: str, weights, path):
    """`weights` of our supernet of a space replaced by those in the file that torch wrote.

    Raises KeyError where a weight of ours has no partner, ValueError where torch has more.
    """
    import jax

    from search_spaces.layers.bundle import stack_edges, unstack_edges
    from search_spaces.repeated import stack_cells, unstack_cells

    with np.load(path) as arrays:
        left = {name: arrays[name] for name in arrays.files if name not in ("alpha", "logits")}
    unrolled = unstack_cells(unstack_edges(weights))
    names = {"nasbench201": partial(_nasbench201, len(unrolled.get("stage_0", ()))), "darts": _darts}[space]

    def take(keys, leaf):
        words = [key.key for key in keys]
        name = names(words[:-1]) + {"kernel": ".weight", "scale": ".weight", "bias": ".bias"}[words[-1]]
        array = left.pop(name)
        array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        return array.reshape(leaf.shape)

    found = jax.tree_util.tree_map_with_path(take, unrolled)
    if left:
        raise ValueError(f"torch has weights that ours lacks: {', '.join(left)}")
    return stack_edges(stack_cells(found) if "cells" in weights.get("stage_0", ()) else found, weights)


def _nasbench201(cells, path):
    """Torch's name of the module that `path` names: layers are cells and residual blocks, numbered in order."""
    if path[0].startswith("stage"):
        stage, cell = _number(path[0]), _number(path[1])
        edge, op = nasbench201.EDGES.index(_edge(path[2])), nasbench201.OPS.index(path[3])
        return f"layers.{stage * (cells + 1) + cell}.edges.{edge}.{op}.1"
    if path[0].startswith("residual"):
        part = {"conv_a": "a", "conv_b": "b", "shortcut": "down"}[path[1]]
        return f"layers.{_number(path[0]) * (cells + 1) - 1}.{part}.{2 if path[-1] == 'bn' else 1}"
    return {"stem_conv": "stem.0", "stem_bn": "stem.1", "last_bn": "last", "head": "head"}[path[0]]


def _darts(path):
    if not path[0].startswith("cell"):
        return {"stem_conv": "stem.0", "stem_bn": "stem.1", "head": "head"}[path[0]]
    cell = f"layers.{_number(path[0])}."
    if path[1].startswith("pre"):
        return cell + path[1].replace("_", "") + {"conv": ".1", "conv_a": ".a", "conv_b": ".b"}[path[2]]
    place = f"{cell}edges.{darts.EDGES.index(_edge(path[1]))}.{darts.OPS.index(path[2])}."
    if path[2] == "skip_connect":
        return place + {"conv_a": "a", "conv_b": "b"}[path[3]]
    return place + str({"depthwise": 1, "pointwise": 2}[path[-1]] + (4 if path[3] == "second" else 0))


def _number(name):
    return int(name.rpartition("_")[2])


def _edge(name):
    return tuple(map(int, re.findall(r"\d+", name)))
