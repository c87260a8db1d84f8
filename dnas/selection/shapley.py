"""Shapley values: what each operation adds to the supernet, whatever others are there (Xiao et al., CVPR 2022).

    worth(o) = mean over orders of removal of  metric(supernet before o is removed) - metric(after)

All operations of all edges are removed one after another in a random order; the mean over all orders is the Shapley value,
here over some drawn ones, and its sum over operations is the metric of the whole supernet less that of the empty one.
Removing sets a gate to zero and does not renormalise its row; the supernet keeps batch statistics. In Shapley-NAS the values
also move the logits of the search; here they choose from the supernet of any method.

Ten orders, and an end to an order at half of the full metric, are those of the authors' code. What an order does not reach
counts as worth nothing there.
"""

from __future__ import annotations

import numpy as np

from dnas.algorithms.schedules import refuse_negative
from dnas.selection.types import Progress, Selection, refuse_seed


def shapley(*, orders: int = 10, floor: float = 0.5, images: int = 0, seed: int | None = None) -> Selection:
    """The operations with the largest Shapley values.

    Args:
        orders: Random orders of removal to average over.
        floor: Share of the whole supernet's metric at which an order ends; 0 to remove everything.
        images: Validation images to score on; 0 for all.
        seed: Seed of the orders; default: the search's seed.

    Raises ValueError if one is out of range.
    """
    refuse_negative(images=images)
    refuse_seed(seed)
    if not 1 <= orders <= 10**6:
        raise ValueError(f"orders is {orders}, it must be at least 1, and at most 1,000,000")
    if not 0 <= floor < 1:
        raise ValueError(f"floor is {floor}, it must be 0 or more, and below 1")

    def used(context):
        return min(images or context.examples, context.examples)

    def plan(context):
        return {"evaluations": orders * (1 + len(_removable(context))) * used(context), "epochs": 0}

    def begin(context):
        worth = {name: np.zeros(group.shape, np.float32) for name, group in context.space.groups.items()}
        return Progress(context.state, np.int32(0), worth, np.int64(0))

    def step(key, context, progress):
        number, places = int(progress.step), _removable(context)
        rng = np.random.default_rng([context.seed if seed is None else seed, number])
        order = [places[i] for i in rng.permutation(len(places))]
        values = _removed(context, order, floor, used(context))
        worth = {name: np.array(rows, np.float64) * number for name, rows in progress.scores.items()}
        for (name, e, k), before, after in zip(order, values, values[1:]):
            worth[name][e, k] += before - after
        means = {name: (rows / (number + 1)).astype(np.float32) for name, rows in worth.items()}
        return progress._replace(step=np.int32(number + 1), scores=means,
                                 evaluations=progress.evaluations + len(values) * used(context))

    return Selection(lambda context: orders, begin, step,
                     lambda context, progress: context.space.genotype(progress.scores), plan)


def _removable(context) -> list[tuple[str, int, int]]:
    """(group, edge, operation) of each gate that is not zero."""
    gates = context.gates(context.state)
    return [(name, int(e), int(k)) for name in context.space.groups for e, k in np.argwhere(np.asarray(gates[name]))]


def _removed(context, order, floor, images) -> list[float]:
    """The metric, more is better, of the whole supernet and after each removal, up to the first that is below the floor."""
    gates = {name: np.array(rows) for name, rows in context.gates(context.state).items()}
    masks, values, better = [gates], [], context.task.better
    for name, e, k in order:
        gates = gates | {name: gates[name] * (1 - _one(gates[name].shape, e, k))}
        masks.append(gates)
    for first in range(0, len(masks), context.width):
        scores = context.score(context.state, masks[first:first + context.width], 0, images)[context.task.metric]
        values += list(better * np.asarray(scores, np.float64).mean(-1))
        least = -np.inf if not floor else floor * values[0] if better > 0 else values[0] / floor
        if min(values) < least:
            return values[:1 + next(i for i, value in enumerate(values) if value < least)]
    return values


def _one(shape, e, k):
    mask = np.zeros(shape, np.float32)
    mask[e, k] = 1
    return mask
