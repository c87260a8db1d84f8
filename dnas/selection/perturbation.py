"""DARTS-PT: perturbation-based selection (Wang et al., ICLR 2021, arXiv 2108.04392).

    an edge's operation  = argmin over o of accuracy of the supernet without o on that edge
    a node's two edges   = those whose removal costs the most accuracy

Edges are decided in random order, with epochs of fine-tuning at a tenth of the learning rate in between. Removing sets
a gate to zero and does not renormalise its row; the supernet keeps batch statistics; the whole validation split counts.
A removed edge of a node stays in place while its siblings are scored, and goes when the node is decided.

Defaults are those of the authors' scripts: five epochs between decisions, accuracy as criterion. Departures: decisions
fall on every `interval`-th epoch, where the authors' last one on NAS-Bench-201 comes an epoch early; the selection ends
with the last decision, where they train the decided network for an epoch more.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from dnas.algorithms.schedules import refuse_negative
from dnas.selection.types import Progress, Selection
from dnas.types import REMOVED, Genotype


class Event(NamedTuple):
    """Decisions taken at one moment: an edge of every group, or a node's. By group; None where it has none left."""

    kind: str
    chosen: dict[str, int | None]


def perturbation(*, interval: int = 5, criterion: Literal["metric", "loss"] = "metric", images: int = 0,
                 racing: bool = False, confidence: float = 0.99, seed: int | None = None) -> Selection:
    """Perturbation-based selection.

    Args:
        interval: Epochs of fine-tuning between decisions; 0 for none.
        criterion: What tells how much an operation is missed: the task's metric (such as accuracy), or the loss, without it.
        images: Validation images to score on; 0 for all.
        racing: Stop scoring an operation once it can no longer be the one, at `confidence`. Not in the paper.
        confidence: Of a race, over all its comparisons.
        seed: Of the order of the edges; that of the search unless given.

    Raises ValueError where one is out of range.
    """
    refuse_negative(interval=interval, images=images, seed=seed or 0)
    if criterion not in ("metric", "loss"):
        raise ValueError(f"criterion must be metric or loss, not {criterion!r}")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, it must lie between 0.5 and 1")

    def used(context):
        return min(images or context.examples, context.examples)

    def order(context):
        return schedule(context.space, context.seed if seed is None else seed)

    def plan(context):
        found = order(context)
        masks = sum(len(_candidates(context.space, event, name)) for event in found for name in context.space.groups)
        return {"evaluations": masks * used(context), "epochs": interval * (len(found) - 1)}

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
            scores[where, :len(missed)] = missed
            decisions[where] = int(missed.argmax())
        else:
            edges = _edges_into(context.space.groups[name], where)
            # ties: of equal edges the later one goes first
            kept = sorted(range(len(edges)), key=lambda i: (-missed[i], i))[:_kept(context.space, name, where)]
            for i, e in enumerate(edges):
                decisions[e] = decisions[e] if i in kept else REMOVED
        return state._replace(decisions=state.decisions | {name: decisions}), scores, evaluated

    def genotype(context, progress):
        return Genotype.from_decisions(context.space, progress.state.decisions)

    return Selection(steps, begin, step, genotype, plan)


def schedule(space, seed: int) -> list[Event]:
    """The decisions in their order: every edge of every group, then every node of those spaces that drop edges."""
    rng = np.random.default_rng(seed)
    edges = {name: rng.permutation(group.shape[0]) for name, group in space.groups.items()}
    nodes = {name: rng.permutation([node for node in dict.fromkeys(t for _, t in group.edges)
                                    if _kept(space, name, node) < len(_edges_into(group, node))])
             for name, group in space.groups.items()}
    events = []
    for kind, order in ("edge", edges), ("node", nodes):
        for i in range(max(map(len, order.values()))):
            events.append(Event(kind, {name: int(row[i]) if i < len(row) else None for name, row in order.items()}))
    return events


def _edges_into(group, node) -> list[int]:
    return [e for e, (_, target) in enumerate(group.edges) if target == node]


def _kept(space, name, node) -> int:
    """Edges into a node that the space's own rule keeps."""
    even = space.genotype({g: np.ones(group.shape) for g, group in space.groups.items()})
    return sum(choice.target == node for choice in even.choices[name])


def _candidates(space, event: Event, name: str) -> list[np.ndarray]:
    """Masks `[E, K]` of what each candidate of an event takes away from a group."""
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
    """How much each mask hurts `[M]`, and the images evaluated. A mask that left a race has -inf."""
    metric, better = context.task.metric, context.task.better

    def hurt(losses, values):
        return np.asarray(losses if criterion == "loss" else -better * values, np.float64)

    def scored(masks, first, last):
        scores = context.score(state, masks, first, last)
        return scores["loss"], scores[metric]

    if confidence is None:
        values = hurt(*scored(masks, 0, images))
        return values.mean(-1), values.size
    looks = rounds(images, context.rows)
    alive, losses, hits, evaluated = list(range(len(masks))), np.zeros((len(masks), 0)), np.zeros((len(masks), 0)), 0
    for first, last in zip([0, *looks], looks):
        found = scored([masks[m] for m in alive], first, last)
        evaluated += len(alive) * (last - first)
        losses, hits = (np.concatenate([seen, new], 1) for seen, new in zip((losses, hits), found))
        # masks whose every loss is the same bits are the same network: the first of them speaks for all
        stay = np.sort(np.unique(losses, axis=0, return_index=True)[1])
        alive, losses, hits = [alive[i] for i in stay], losses[stay], hits[stay]
        stay = race(hurt(losses, hits), images, confidence, comparisons=(len(masks) - 1) * len(looks))
        alive, losses, hits = [m for m, s in zip(alive, stay) if s], losses[stay], hits[stay]
        if len(alive) == 1:
            break
    result = np.full(len(masks), -np.inf)
    result[alive] = hurt(losses, hits).mean(-1)
    return result, evaluated


def rounds(images: int, rows: int) -> list[int]:
    """After how many images a race looks who is left: early and often at first, whole batches of `rows`, and all."""
    shares = (0.03, 0.06, 0.1, 0.15, 0.22, 0.32, 0.45, 0.6, 0.75, 0.9, 1)
    return sorted({min(images, rows * max(1, round(share * images / rows))) for share in shares} | {images})


def race(values: np.ndarray, images: int, confidence: float, *, comparisons: int) -> np.ndarray:
    """Which rows of `values [M, seen]` may still have the largest mean over all `images`: boolean `[M]`.

    Paired differences to the leading row, normal approximation for sampling without replacement, the confidence shared
    out among `comparisons`.
    """
    from scipy.stats import norm

    seen = values.shape[1]
    lead = values[values.mean(-1).argmax()]
    behind = lead - values
    error = behind.std(-1, ddof=1) * np.sqrt((1 / seen) * max(1 - seen / images, 0))
    return behind.mean(-1) <= norm.isf((1 - confidence) / comparisons) * error

