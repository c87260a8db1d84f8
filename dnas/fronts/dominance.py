"""Dominance among vectors of numbers of which less is better: fronts, crowding distance, hypervolume.

A vector dominates another if it is nowhere larger and somewhere smaller. Crowding distance: Deb et al., NSGA-II, IEEE
Transactions on Evolutionary Computation 6(2), 2002. Hypervolume: what a set of points dominates below a reference point.
"""

from __future__ import annotations

import numpy as np


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Which of the vectors `[N, M]` no other one dominates, boolean `[N]`; equal vectors do not dominate each other."""
    values = np.asarray(values, np.float64)
    alive, position = np.lexsort(values.T[::-1]), 0
    while position < len(alive):  # nothing after a vector of this order dominates it
        one, others = values[alive[position]], values[alive]
        keep = (others < one).any(1) | (others == one).all(1)
        position = int(keep[:position].sum()) + 1
        alive = alive[keep]
    mask = np.zeros(len(values), bool)
    mask[alive] = True
    return mask


def ranked(values: np.ndarray, least: int) -> np.ndarray:
    """Numbers of at least `least` of the vectors `[N, M]`, or of all, front by front; within a front those with the largest
    crowding distance first."""
    values, order, left = np.asarray(values, np.float64), [], np.arange(len(values))
    while len(left) and len(order) < least:
        first = non_dominated(values[left])
        front = left[first]
        order += front[np.argsort(-crowding(values[front]), kind="stable")].tolist()
        left = left[~first]
    return np.array(order, int)


def crowding(values: np.ndarray) -> np.ndarray:
    """Crowding distance `[N]` of the vectors `[N, M]` of one front: over the objectives, the sum of the distance between the
    two neighbours, divided by the range; infinite for the ends."""
    values = np.asarray(values, np.float64)
    distance = np.zeros(len(values))
    for column in values.T:
        order = np.argsort(column, kind="stable")
        ascending = column[order]
        span = ascending[-1] - ascending[0]
        distance[order[[0, -1]]] = np.inf
        if span > 0:
            distance[order[1:-1]] += (ascending[2:] - ascending[:-2]) / span
    return distance


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the vectors `[N, M]` dominate below `reference` `[M]`, exactly. Those that are not below it in every
    objective count for nothing."""
    values, reference = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    values = values[(values < reference).all(1)] if len(values) else values
    return _volume(values[non_dominated(values)], reference) if len(values) else 0.0


def _volume(values: np.ndarray, reference: np.ndarray) -> float:
    """The same of vectors below the reference: slices along the last objective, each the volume of the others' front."""
    if values.shape[1] == 1:
        return float(reference[0] - values.min())
    values = values[np.argsort(values[:, -1], kind="stable")]
    ends = np.append(values[1:, -1], reference[-1])
    volume, front = 0.0, np.zeros((0, values.shape[1] - 1))
    for one, end in zip(values, ends):
        front = np.vstack([front, one[:-1]])
        front = front[non_dominated(front)]
        if end > one[-1]:
            volume += (end - one[-1]) * _volume(front, reference[:-1])
    return float(volume)
