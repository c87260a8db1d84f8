"""GM-NAS (Hu et al., ICLR 2022, arXiv 2203.15207): which edge to split, and which of its
operations to leave in one supernet.

Operations may share a supernet whose gradients of the other edges' operations agree: with g_o that of the training loss
while edge e has operation o alone,

    D[o, o'] = mean over batches of 1 - cos(g_o, g_o')

and the operations of e are divided into two halves with the least sum of D within them, by trying all. That edge is split
whose halves agree least: with the smallest mean of 1 - D over the pairs across. The authors' code uses the largest sum of D
across in one space and the smallest sum within in another, which are not the same, and depend on how many operations an
edge has; the mean does not, and is ours. They give an edge's only operation the weight 1 in one space, and its softmax
weight in the other; here it is 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

MOST = 20
"""Operations that can be divided by trying all ways."""


def distances(gradients: np.ndarray) -> np.ndarray:
    """1 - cos of each pair of gradients `[K, P]`, as `[K, K]` in float64; the cosine with a gradient of zero is 0."""
    gradients = np.asarray(gradients, np.float64)
    products = gradients @ gradients.T
    norms = np.sqrt(np.diagonal(products))
    lengths = np.outer(norms, norms)
    apart = 1 - np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), 0)
    np.fill_diagonal(apart, 0)
    return apart


def halves(apart: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The two halves of operations `[K, K]` apart with the least sum within; of an odd number one has one more.

    The first half has operation 0; of equal sums the first in the order of `itertools.combinations` counts, smaller first
    halves before larger ones. Raises ValueError for fewer than 2 operations, or more than MOST.
    """
    count = len(apart)
    if not 2 <= count <= MOST:
        raise ValueError(f"{count} operations cannot be halved by gradient matching; it must be 2 to {MOST}")
    within = lambda half: sum(apart[pair] for pair in itertools.combinations(half, 2))
    firsts = [(0, *rest) for size in sorted({count // 2, count - count // 2})
              for rest in itertools.combinations(range(1, count), size - 1)]
    pairs = [(first, tuple(k for k in range(count) if k not in first)) for first in firsts]
    return min(pairs, key=lambda pair: within(pair[0]) + within(pair[1]))


def similarity_across(apart: np.ndarray, groups: Sequence[Sequence[int]]) -> float:
    """Mean cosine of the pairs of operations that are in different groups."""
    pairs = [(a, b) for one, other in itertools.combinations(groups, 2) for a in one for b in other]
    return float(np.mean([1 - apart[pair] for pair in pairs]))


def best_edge(edges: Mapping[tuple[str, int], np.ndarray]) -> tuple[tuple[str, int], tuple[tuple[int, ...], ...]]:
    """The edge to split among those of which `[K, K]` distances are known, the first of equal ones, and its halves."""
    split = {edge: halves(apart) for edge, apart in edges.items()}
    best = min(edges, key=lambda edge: similarity_across(edges[edge], split[edge]))
    return best, split[best]
