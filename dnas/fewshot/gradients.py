"""Whose the weights of a supernet are, by edge, and the gradients that gradient matching compares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Algorithm
from dnas.algorithms.players import SearchState
from dnas.algorithms.schedules import Hyper
from dnas.data import Dataset, train_indices
from dnas.engine.compile import Examples, load_batch, shape_of
from dnas.engine.programs import compile_program
from dnas.fewshot.gradient_matching import distances
from dnas.types import REMOVED, Genotype, SearchSpace, Tree

Edge = tuple[str, int]


def own_weights(space: SearchSpace, weights: Tree) -> dict[Edge, np.ndarray]:
    """For each edge, the entries of the weights that belong to its operations: booleans `[P]` over all P entries, in the
    order of the tree's leaves.

    An array belongs to an edge if what a network inherits of it depends on the operation there. So the weights of an
    operation do, in all cells that share the group, and where operations share an array, as sizes do, the whole array,
    which then belongs to all edges on which its form depends.

    Every operation on every edge is one trace of a small network: seconds for most spaces, minutes for that of DARTS.
    """
    leaves, structure = jax.tree.flatten(weights)
    ends = np.cumsum([leaf.size for leaf in leaves])
    places = structure.unflatten([np.arange(end - leaf.size, end).reshape(leaf.shape) for leaf, end in zip(leaves, ends)])
    with jax.ensure_compile_time_eval():
        inherit = lambda decisions: {path: np.asarray(part).ravel() for path, part in jax.tree_util.tree_leaves_with_path(
            space.inherit(places, Genotype.from_decisions(space, decisions)))}
        decisions = {name: np.full(len(group.edges), REMOVED) for name, group in space.groups.items()}
        try:
            nothing = inherit(decisions)
        except ValueError:  # its networks need a size on every edge
            decisions, nothing = {name: group.allowed.sum(-1) - 1 for name, group in space.groups.items()}, None
        owned = {}
        for name, group in space.groups.items():
            for e in range(len(group.edges)):
                changed = lambda k, name=name, e=e: {**decisions, name: np.where(np.arange(len(decisions[name])) == e, k,
                                                                                decisions[name])}
                parts = [inherit(changed(k)) for k in range(len(group.edge_ops(e)))]
                owned[name, e] = _differing([*parts, nothing] if nothing is not None else parts, int(ends[-1]))
    return owned


def _differing(parts: Sequence[Mapping[Any, np.ndarray]], size: int) -> np.ndarray:
    """The places `[size]` of arrays that are not the same in all parts, wherever any part has them."""
    mask = np.zeros(size, bool)
    for path in {path for part in parts for path in part}:
        there = [part.get(path) for part in parts]
        if any(places is None or not np.array_equal(places, there[0]) for places in there):
            for places in there:
                mask[[] if places is None else places] = True
    return mask


def shared_weights(owned: Mapping[Edge, np.ndarray]) -> dict[Edge, np.ndarray]:
    """For each edge the places of the weights by whose gradients its operations are compared: those that belong to other
    edges and not to it. Where it has a part in all of them, all that belong to any edge; where none has any, all weights."""
    anybody = np.any(list(owned.values()), axis=0)
    anybody = anybody if anybody.any() else ~anybody
    return {edge: np.flatnonzero(rest if (rest := anybody & ~own).any() else anybody) for edge, own in owned.items()}


def compile_gradient(algorithm: Algorithm, data: Dataset, examples: Examples, state: SearchState, hyper: Hyper,
                     batch: int) -> Callable:
    """Compiles `(state, hyper, key, examples, row [batch], decisions) -> [P]`: the gradient of the loss that the weights'
    player minimises on a batch of the train split, with these decisions in place of the state's. One program serves every
    edge and operation; with the same key and row all have the same batch and the same draws."""
    def gradient(state, hyper, key, examples, row, decisions):
        load_key, loss_key = jax.random.split(key)
        loaded = load_batch(load_key, data, examples, row)
        loss = algorithm.loss("weights", state._replace(decisions=decisions), loaded, hyper, loss_key)
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(jax.grad(loss)(state.weights, state.arch))])

    row = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return compile_program(gradient, (shape_of(state), shape_of(hyper), jax.eval_shape(jax.random.key, 0), examples, row,
                                      shape_of(state.decisions)))


def edge_distances(gradient: Callable, data: Dataset, examples: Examples, state: SearchState, hyper: Hyper, batch: int,
                   edges: Mapping[Edge, Sequence[int]], places: Mapping[Edge, np.ndarray], batches: int,
                   seed: int) -> dict[Edge, np.ndarray]:
    """The distances `[K, K]` of the operations of each edge, mean over `batches` mini-batches of the train split.

    gradient: by `compile_gradient`; edges: the operations of each; places: by `shared_weights`.
    """
    key, rows, epoch = jax.random.fold_in(jax.random.key(seed), 3), [], 0
    while len(rows) < batches:
        rows += list(train_indices(seed, 2_000_000 + epoch, data.splits["train"], batch))
        epoch += 1
    sums = {edge: np.zeros((len(ops),) * 2) for edge, ops in edges.items()}
    for number, row in enumerate(rows[:batches]):
        for (name, e), ops in edges.items():
            decided = [{**state.decisions, name: state.decisions[name].at[e].set(k)} for k in ops]
            one = jax.random.fold_in(key, number)
            gradients = [gradient(state, hyper, one, examples, row, decisions) for decisions in decided]
            sums[name, e] += distances(np.stack([np.asarray(each)[places[name, e]] for each in gradients]))
    return {edge: total / batches for edge, total in sums.items()}
