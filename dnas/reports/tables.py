"""What a page and a terminal show as tables: the layers of a network, and how the shares of operations went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnas import registry
from dnas.runs.files import read_arrays
from dnas.types import Genotype, Group, SearchSpace


def layers(space: SearchSpace, genotype: Genotype, image: Sequence[int]) -> list[Any]:
    """The layers of the genotype's stand-alone network in the order in which they run: name, shape of what each puts out
    (without the batch), params, macs per example. image: shape of one input. Traces the network, and computes nothing."""
    import jax

    network, inputs = space.network(genotype), jax.ShapeDtypeStruct((1, *image), space.input_dtype)
    weights, stats = jax.eval_shape(lambda key: network.init(key, inputs), jax.random.key(0))
    with_stats = lambda weights, inputs: network.apply(
        weights, jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape), stats), inputs, train=False, key=None)[0]
    return registry.load("search_spaces.cost:layers")(with_stats, weights, inputs)


def layer_rows(listed: Sequence[Any], cost: Mapping[str, int], image: Sequence[int]) -> list[list[str]]:
    """A row for each of `layers`, between the input and the whole network, below a header."""
    shape = lambda sizes: "x".join(map(str, sizes)) or "\N{EN DASH}"
    rows = [["layer", "puts out", "parameters", "multiply-adds"], ["input", shape(image), "", ""]]
    rows += [[layer.name, shape(layer.shape), f"{layer.params:,}", f"{layer.macs:,}"] for layer in listed]
    return [*rows, ["network", "", f"{cost['params']:,}", f"{cost['macs']:,}"]]


def read_logits(folder: Path, groups: Mapping[str, Group]) -> dict[str, np.ndarray] | None:
    """The logits `[epochs + 1, E, K]` of each group of the search in `folder`, None where it has none.

    Raises ValueError, in one line, where they are not those of `groups`.
    """
    file = folder / "arch.npz"
    if not file.exists():
        return None
    arrays = read_arrays(file, "the run's logits cannot be shown")
    for name, group in groups.items():
        rows = arrays.get(name)
        if rows is None or rows.dtype.kind != "f" or rows.ndim != 3 or not len(rows) or rows.shape[1:] != group.shape:
            raise ValueError(f"{file}: no logits [epochs, {group.shape[0]}, {group.shape[1]}] of group {name!r} in it; the "
                             "run's logits cannot be shown")
    return {name: arrays[name] for name in groups}


def are_ranks(logits: Mapping[str, np.ndarray]) -> bool:
    """Whether logits `[epochs + 1, E, K]` of each group say that nothing was learned by them: they are the order of each
    edge's operations by cost, from 0 or -1 upwards, in all epochs. So are those of elastic methods."""
    ordered = lambda rows: np.array_equal(np.sort(rows[0], -1) - rows[0].min(-1, keepdims=True), np.broadcast_to(
        np.arange(rows.shape[-1]), rows.shape[1:])) and set(np.unique(rows[0].min(-1))) <= {0, -1}
    whole = [rows for rows in logits.values() if rows.shape[-1] > 1]
    return bool(whole) and all(ordered(rows) and (rows == rows[0]).all() for rows in whole)


def share_rows(logits: Mapping[str, np.ndarray], groups: Mapping[str, Group]) -> list[list[str]]:
    """Of each edge the leading operation with its share of the softmax, at the start, half way and at the end, below a
    header. logits: `[epochs + 1, E, K]` of each group."""
    last = len(next(iter(logits.values()))) - 1
    moments = sorted({0, last // 2, last})
    rows = [["edge", *(f"epoch {moment}" for moment in moments)]]
    for name, group in groups.items():
        shares = group.softmax(logits[name])
        for e, (source, target) in enumerate(group.edges):
            leading = [f"{group.edge_ops(e)[shares[m, e].argmax()]} {100 * shares[m, e].max():.1f} %" for m in moments]
            rows.append([f"{name} {source}->{target}", *leading])
    return rows
