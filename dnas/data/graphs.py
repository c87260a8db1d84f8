"""A graph as a data set: its nodes are classified, and every step sees the whole graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from dnas.data.checks import checked_labels
from dnas.data.dataset import Dataset
from dnas.data.splits import quantiles

ARRAYS = ("x_data", "x_indices", "x_indptr", "x_shape", "edge_index", "y", "train_idx", "val_idx", "test_idx")
"""Arrays of a .npz in planetoid's form."""


class Graph(NamedTuple):
    """Nodes with sparse features, joined by undirected edges.

    edges: [2, E] int32, each edge once, without loops.
    values, columns, starts: the features' non-zero entries by rows (CSR), float32 [Z], int32 [Z], int32 [N + 1].
    features: number of columns.
    """

    edges: np.ndarray
    values: np.ndarray
    columns: np.ndarray
    starts: np.ndarray
    features: int

    @property
    def nodes(self) -> int:
        """N."""
        return len(self.starts) - 1


def planetoid(where: str, name: str, arrays: Mapping[str, np.ndarray]) -> Dataset:
    """The Dataset of the arrays named in ARRAYS: its inputs are the numbers of the nodes, [N, 1, 1, 1] float32.

    Train and test are those of the file (planetoid, arXiv 1603.08861), valid is its validation set. The hold-out is all
    nodes outside the three; if there are none, a fifth of each class of the validation set.
    Raises ValueError, beginning with `where`, if the arrays are not such a graph.
    """
    graph = _graph(where, arrays)
    labels = checked_labels(where, arrays["y"], graph.nodes)
    parts = {part: _nodes(where, key, arrays[key], graph.nodes)
             for part, key in (("train", "train_idx"), ("valid", "val_idx"), ("test", "test_idx"))}
    used = np.concatenate(list(parts.values()))
    if len(np.unique(used)) != len(used):
        raise ValueError(f"{where}: train_idx, val_idx and test_idx share nodes; a node belongs to one of them")
    rest = np.setdiff1d(np.arange(graph.nodes), used)
    if not len(rest):
        place = quantiles(labels[parts["valid"]])
        rest, parts["valid"] = parts["valid"][place < 0.2], parts["valid"][place >= 0.2]
    splits = {part: index.astype(np.int32) for part, index in (parts | {"holdout": rest}).items()}
    for part, index in splits.items():
        if not len(index):
            raise ValueError(f"{where}: no nodes for {part}; each split needs some")
    numbers = np.arange(graph.nodes, dtype=np.float32).reshape(-1, 1, 1, 1)
    return Dataset(name, numbers, labels, splits, int(labels.max()) + 1, np.zeros(1, np.float32), np.ones(1, np.float32),
                   (0, 0), False, graph)


def _graph(where: str, arrays: Mapping[str, np.ndarray]) -> Graph:
    shape = np.asarray(arrays["x_shape"])
    if shape.shape != (2,) or shape.dtype.kind not in "iu" or shape.min() < 1:
        raise ValueError(f"{where}: x_shape is {shape.tolist()}; it must be [nodes, features]")
    nodes, features = map(int, shape)
    edges = _numbers(where, "edge_index", arrays["edge_index"], nodes)
    columns = _numbers(where, "x_indices", arrays["x_indices"], features)
    values, starts = np.asarray(arrays["x_data"], np.float32), np.asarray(arrays["x_indptr"], np.int32)
    if edges.ndim != 2 or len(edges) != 2:
        raise ValueError(f"{where}: edge_index has shape {edges.shape}; it must be [2, edges]")
    if (edges[0] == edges[1]).any() or np.unique(np.sort(edges, 0), axis=1).shape != edges.shape:
        raise ValueError(f"{where}: edge_index joins a node with itself, or two nodes twice; each edge must be there once")
    if columns.shape != values.shape or values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"{where}: x_data and x_indices have shapes {values.shape} and {columns.shape}; they must be "
                         "finite numbers and their columns, one each")
    if starts.shape != (nodes + 1,) or starts[0] or starts[-1] != len(values) or (np.diff(starts) < 0).any():
        raise ValueError(f"{where}: x_indptr does not divide {len(values)} entries among {nodes} rows")
    return Graph(edges, values, columns, starts, features)


def _nodes(where: str, name: str, index, nodes: int) -> np.ndarray:
    index = _numbers(where, name, index, nodes)
    if index.ndim != 1:
        raise ValueError(f"{where}: {name} has shape {index.shape}; it must be a list of nodes")
    return np.sort(index)


def _numbers(where: str, name: str, index, end: int) -> np.ndarray:
    index = np.asarray(index)
    if index.dtype.kind not in "iu" or index.size and (index.min() < 0 or index.max() >= end):
        raise ValueError(f"{where}: {name} must hold whole numbers 0..{end - 1}")
    return index.astype(np.int32)
