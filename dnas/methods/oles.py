"""OLES, operation-level early stopping (Jiang et al., NeurIPS 2023): DARTS that stops training what begins to overfit.

    c = cos(d L_train / d w, d L_valid / d w) of each operation on each edge, at the same weights and gates
    every 20 steps: an operation whose mean of c over them is below `agreement` keeps its weights from then on

c is the mean over an operation's arrays, and of each array the mean of the cosines along its last axis, the outputs. The
agreement 0.4 and the 20 steps are those of the authors' code; all other defaults are those of `darts`. A step has one
gradient more than one of DARTS.

Departure: in the authors' code the validation gradient still contains the training gradient of the step before; here it does
not, so that 0.4 may act differently. Ours: a step in which an operation has no gradient at all, as one that was not drawn,
does not count for it; and the cells of a loop share a decision, which `--space.scan off` leaves to each.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Method
from dnas.algorithms.players import Descent
from dnas.methods.darts import darts
from dnas.registry import extends
from dnas.types import REMOVED, Array, Genotype, SearchSpace, Tree


class Watch(NamedTuple):
    """`extra` of the state: of each operation with weights the sum of its cosines `[N]`, of how many steps `[N]`, and
    whether its weights are held `[N]`."""

    total: Array
    count: Array
    held: Array


@extends(darts)
def oles(method: Method, *, agreement: float = 0.4, window: int = 20) -> Method:
    """OLES.

    Args:
        agreement: mean cosine below which an operation's weights are held; -1 for never.
        window: steps over which it is taken.

    Raises ValueError if one is out of range.
    """
    return method.extend(weights={"descent": Descent(held_step, begin)}, hyper={"agreement": agreement, "window": window},
                         check=check)


def begin(problem, weights):
    """The Watch of no steps. Raises the errors of `labels_of`."""
    count = 1 + max(label.max() for label in jax.tree.leaves(labels_of(problem.space, weights)))
    return Watch(jnp.zeros(count), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool))


def held_step(problem, inner, outer, weights, arch, memory, hyper, t, descend):
    """`Descent.step` that leaves the weights of operations as they are once their gradients disagree."""
    (_, aux), grads = jax.value_and_grad(inner, has_aux=True)(weights, arch)
    other, labels = jax.grad(outer, has_aux=True)(weights, arch)[0], labels_of(problem.space, weights)
    memory = watched(labels, memory, grads, other, (t.step + 1) % hyper["window"] == 0, hyper["agreement"])
    mask = spread(labels, memory.held)
    moved, opt = descend(jax.tree.map(lambda g, still: jnp.where(still, 0, g), grads, mask))
    return aux, (jax.tree.map(lambda old, new, still: jnp.where(still, old, new), weights, moved, mask), opt), memory


def watched(labels: Tree, watch: Watch, train: Tree, valid: Tree, due: Array, agreement: Array) -> Watch:
    """The Watch after a step with these gradients of the weights; where `due`, operations are judged and sums begin anew."""
    total, seen, arrays = jnp.zeros(len(watch.total)), jnp.zeros(len(watch.total), bool), np.zeros(len(watch.total))
    for label, a, b in zip(*map(jax.tree.leaves, (labels, train, valid)), strict=True):
        among = tuple(axis for axis, size in enumerate(label.shape) if size == 1)
        own, counts = np.unique(label[label >= 0], return_counts=True)
        arrays[own] += 1
        share = np.zeros(len(watch.total))
        share[own] = 1 / counts
        here, numbers = label.ravel() >= 0, label.ravel()[label.ravel() >= 0]
        total = total.at[numbers].add(share[numbers] * cosines(a, b).mean(among).ravel()[here])
        seen = seen.at[numbers].max(((a != 0) | (b != 0)).any(among).ravel()[here])
    total = watch.total + jnp.where(seen, total / arrays, 0).astype(watch.total.dtype)
    count = watch.count + seen
    low = (count > 0) & (total < agreement * count)
    return Watch(jnp.where(due, 0, total), jnp.where(due, 0, count), watch.held | (due & low))


def cosines(a: Array, b: Array) -> Array:
    """Cosines `[..., 1]` of two arrays along the last axis; 0 where one of them is zero."""
    norms = jnp.sqrt((a * a).sum(-1, keepdims=True)) * jnp.sqrt((b * b).sum(-1, keepdims=True))
    return jnp.where(norms > 0, (a * b).sum(-1, keepdims=True) / jnp.where(norms > 0, norms, 1), 0)


def spread(labels: Tree, held: Array) -> Tree:
    """Booleans that fit the weights: whether they belong to an operation that is held `[N]`."""
    return jax.tree.map(lambda label: (label >= 0) & held[label], labels)


def labels_of(space: SearchSpace, weights: Tree) -> Tree:
    """For each array of the weights the numbers of the operations to which its entries belong, -1 where to none.

    Axes along which they do not differ have size 1. An operation is what the tree has below its name, on its edge and in its
    cell; cells of a loop are one. What a network without any operation has as well belongs to none.

    Raises ValueError if no operation has weights, or some share an array's outputs.
    """
    leaves, structure = jax.tree.flatten(weights)
    ends = np.cumsum([leaf.size for leaf in leaves])
    places = structure.unflatten([np.arange(end - leaf.size, end).reshape(leaf.shape) for leaf, end in zip(leaves, ends)])
    labels, numbers = np.full(ends[-1], -1, np.int32), {}
    with jax.ensure_compile_time_eval():
        shared = _flat(space.inherit(places, _everywhere(space, None)))
        for k in range(max(group.shape[1] for group in space.groups.values())):
            ops = {op for group in space.groups.values() for e in range(len(group.edges))
                   for op in group.edge_ops(e)[k:k + 1]}
            for path, part in _flat(space.inherit(places, _everywhere(space, k))).items():
                if path not in shared and ops & set(path):
                    above = path[:next(i for i, name in enumerate(path) if name in ops) + 1]
                    labels[np.asarray(part).ravel()] = numbers.setdefault(above, len(numbers))
    if not numbers:
        raise ValueError(f"oles holds the weights of operations, and none of space {space.name} has weights under its name")
    found = [_compact(labels[end - leaf.size:end].reshape(leaf.shape)) for leaf, end in zip(leaves, ends)]
    if any(label.shape[-1:] not in ((), (1,)) for label in found):
        raise ValueError(f"oles holds the weights of operations, and those of space {space.name} share arrays")
    return structure.unflatten(found)


def _compact(label):
    """A label of which axes along which it is constant have size 1."""
    for axis in range(label.ndim):
        first = label.take([0], axis)
        label = first if (label == first).all() else label
    return label


def _everywhere(space, k):
    """The genotype with operation number k on all edges that have it; without any for None."""
    return Genotype.from_decisions(space, {
        name: np.array([REMOVED if k is None or k >= len(group.edge_ops(e)) else k for e in range(len(group.edges))])
        for name, group in space.groups.items()})


def _flat(tree):
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    if not -1 <= hyper["agreement"] <= 1:
        raise ValueError(f"agreement is {hyper['agreement']}, it must be -1 to 1")
    if hyper["window"] < 1 or hyper["window"] % 1:
        raise ValueError(f"window is {hyper['window']}, it must be a whole number, at least 1")
