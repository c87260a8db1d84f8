"""DARTS-PT: perturbation-based selection (Wang et al., ICLR 2021, arXiv 2108.04392).

    operation of an edge  = argmin over o of the supernet's accuracy without o on that edge
    two edges of a node   = those whose removal costs the most accuracy

Edges are decided in random order, with epochs of fine-tuning at a tenth of the learning rate in between. Removing sets
a gate to zero and does not renormalise its row; the supernet keeps batch statistics; the whole validation split counts.
Edges into a node are all in place while they are scored, and are removed when the node is decided.

Defaults are those of the authors' scripts: five epochs between decisions, accuracy as criterion. Departures: every
decision follows `interval` epochs (the authors' last one on NAS-Bench-201 is an epoch early), and the selection ends with
the last decision (the authors train the decided network for another epoch).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dnas.algorithms.schedules import refuse_negative
from dnas.selection.types import Progress, Selection, refuse_seed
from dnas.types import REMOVED, Genotype


class Event(NamedTuple):
    """The edge or node (`kind`) to decide next in each group; None in groups that have none left."""

    kind: str
    chosen: dict[str, int | None]


def perturbation(*, interval: int = 5, criterion: Literal["metric", "loss"] = "metric", images: int = 0,
                 racing: bool = False, confidence: float = 0.99, seed: int | None = None) -> Selection:
    """Perturbation-based selection.

    Args:
        interval: Epochs of fine-tuning between decisions; 0 for none.
        criterion: What measures the harm of removing an operation: the task's metric (such as accuracy), or the loss.
        images: Validation images to score on; 0 for all.
        racing: Stop scoring an operation once it cannot be the best any more, at `confidence`. Not in the paper.
        confidence: Confidence of a race over all its comparisons.
        seed: Seed of the order in which edges are decided; default: the search's seed.

    Raises ValueError if one is out of range.
    """
    refuse_negative(interval=interval, images=images)
    refuse_seed(seed)
    if criterion not in ("metric", "loss"):
        raise ValueError(f"criterion must be metric or loss, not {criterion!r}")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, it must lie between 0.5 and 1")

    def used(context):
        return min(images or context.examples, context.examples)

    def order(context):
        return schedule(context.space, context.seed if seed is None else seed)

    def plan(context):
        events = order(context)
        masks = sum(len(_candidates(context.space, event, name)) for event in events for name in context.space.groups)
        return {"evaluations": masks * used(context), "epochs": interval * (len(events) - 1)}

    def steps(context):
        events = len(order(context))
        return events + interval * (events - 1)

    def begin(context):
        scores = {name: np.full(group.shape, np.nan, np.float32) for name, group in context.space.groups.items()}
        return Progress(context.state, np.int32(0), scores, np.int64(0))

    def step(key, context, progress):
        number = int(progress.step)
        event, tuned = divmod(number, interval + 1)
        if tuned:
            state = context.tune(progress.state, number)
            return progress._replace(state=state, step=np.int32(number + 1))
        state, scores, seen = progress.state, dict(progress.scores), progress.evaluations
        for name in context.space.groups:
            state, scores[name], more = decide(context, state, scores[name], order(context)[event], name)
            seen += more
        return progress._replace(state=state, step=np.int32(number + 1), scores=scores, evaluations=seen)

    def decide(context, state, scores, event, name):
        candidates = _candidates(context.space, event, name)
        if not candidates:
            return state, scores, 0
        rows = np.asarray(context.gates(state)[name])
        masks = [context.gates(state) | {name: rows * (1 - mask)} for mask in candidates]
        missed, evaluated = _missed(context, state, masks, criterion, used(context),
                                    confidence if racing else None)
        decisions, where = np.array(state.decisions[name]), event.chosen[name]
        scores = np.array(scores)
        if event.kind == "edge":
            allowed = np.asarray(state.mask[name])[where, :len(missed)]  # others may not be chosen, though none misses them
            missed = np.where(allowed | ~allowed.any(), missed, -np.inf)
            scores[where, :len(missed)] = missed
            decisions[where] = int(missed.argmax())
        else:
            edges = _edges_into(context.space.groups[name], where)
            # ties: of equal edges the later one goes first
            remaining = sorted(range(len(edges)), key=lambda i: (-missed[i], i))[:_in_degree(context.space, name, where)]
            for i, e in enumerate(edges):
                decisions[e] = decisions[e] if i in remaining else REMOVED
        return state._replace(decisions=state.decisions | {name: decisions}), scores, evaluated

    def genotype(context, progress):
        return Genotype.from_decisions(context.space, progress.state.decisions)

    return Selection(steps, begin, step, genotype, plan)


def schedule(space, seed: int) -> list[Event]:
    """The decisions in order: every edge of every group, then every node, if the space drops edges."""
    rng = np.random.default_rng(seed)
    edges = {name: rng.permutation(group.shape[0]) for name, group in space.groups.items()}
    nodes = {name: rng.permutation([node for node in dict.fromkeys(t for _, t in group.edges)
                                    if _in_degree(space, name, node) < len(_edges_into(group, node))])
             for name, group in space.groups.items()}
    events = []
    for kind, order in ("edge", edges), ("node", nodes):
        for i in range(max(map(len, order.values()))):
            events.append(Event(kind, {name: int(row[i]) if i < len(row) else None for name, row in order.items()}))
    return events


def _edges_into(group, node) -> list[int]:
    return [e for e, (_, target) in enumerate(group.edges) if target == node]


def _in_degree(space, name, node) -> int:
    """Edges into a node that the space's own rule keeps."""
    return sum(choice.target == node for choice in space.largest().choices[name])


def _candidates(space, event: Event, name: str) -> list[np.ndarray]:
    """Masks `[E, K]` of the gates that each candidate of an event removes from a group."""
    group, where = space.groups[name], event.chosen[name]
    if where is None:
        return []
    places = [(where, k) for k in range(len(group.edge_ops(where)))] if event.kind == "edge" else \
        [(e, slice(None)) for e in _edges_into(group, where)]
    masks = np.zeros((len(places), *group.shape), np.float32)
    for mask, place in zip(masks, places):
        mask[place] = 1
    return list(masks)


def _missed(context, state, masks, criterion, images, confidence):
    """The harm `[M]` of each mask, and the number of images evaluated. Masks that left a race have -inf."""
    metric, better = context.task.metric, context.task.better

    def hurt(losses, values):
        return np.asarray(losses if criterion == "loss" else -better * values, np.float64)

    def scored(masks, first, last):
        scores = context.score(state, masks, first, last)
        return scores["loss"], scores[metric]

    if confidence is None:
        values = hurt(*scored(masks, 0, images))
        return values.mean(-1), values.size
    ends = rounds(images, context.rows)
    alive, losses, hits, evaluated = list(range(len(masks))), np.zeros((len(masks), 0)), np.zeros((len(masks), 0)), 0
    for first, last in zip([0, *ends], ends):
        batch = scored([masks[m] for m in alive], first, last)
        evaluated += len(alive) * (last - first)
        losses, hits = (np.concatenate([seen, new], 1) for seen, new in zip((losses, hits), batch))
        # masks with bit-identical losses are the same network: the first of them stands for all
        stay = np.sort(np.unique(losses, axis=0, return_index=True)[1])
        alive, losses, hits = [alive[i] for i in stay], losses[stay], hits[stay]
        stay = race(hurt(losses, hits), images, confidence, comparisons=(len(masks) - 1) * len(ends))
        alive, losses, hits = [m for m, s in zip(alive, stay) if s], losses[stay], hits[stay]
        if len(alive) == 1:
            break
    result = np.full(len(masks), -np.inf)
    result[alive] = hurt(losses, hits).mean(-1)
    return result, evaluated


def rounds(images: int, rows: int) -> list[int]:
    """Numbers of images after which a race drops masks: often at first, in whole batches of `rows`, and all at last."""
    shares = (0.03, 0.06, 0.1, 0.15, 0.22, 0.32, 0.45, 0.6, 0.75, 0.9, 1)
    return sorted({min(images, rows * max(1, round(share * images / rows))) for share in shares} | {images})


def race(values: np.ndarray, images: int, confidence: float, *, comparisons: int) -> np.ndarray:
    """Which rows of `values [M, seen]` may still have the largest mean over all `images`: boolean `[M]`.

    Paired differences to the leading row, normal approximation for sampling without replacement, the confidence divided
    among `comparisons`.
    """
    from scipy.stats import norm

    seen = values.shape[1]
    lead = values[values.mean(-1).argmax()]
    behind = lead - values
    error = behind.std(-1, ddof=1) * np.sqrt((1 / seen) * max(1 - seen / images, 0))
    return behind.mean(-1) <= norm.isf((1 - confidence) / comparisons) * error

