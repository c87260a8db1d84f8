"""From the two functions of a network and its groups to a SearchSpace: what Linen, NNX and plain JAX have in common."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.engine.host import initial
from dnas.types import REMOVED, Genotype, Group, Network, SearchSpace, is_skip
from search_spaces.cost import macs
from search_spaces.layers.bundle import unstack_edges
from search_spaces.layers.entangled import Cost, counting, mean
from search_spaces.layers.mixed import Chosen


class Functions(NamedTuple):
    """A network as pure functions. Weights and stats are nested dicts.

    init(key, images, gates) -> weights, stats: for arrays `{group: [E, K]}` those of the supernet; for tuples of E
        operation indices those that the discrete network needs, under the same names.
    apply(weights, stats, gates, images, train, key) -> logits `[B, classes]`, stats
    drops: whether apply takes `drop_path=` too, the probability with which paths are dropped while training.
    source(gates) -> (Flax module, SharedOptions, gates), see `dnas.types.Network`; None if it is not a Flax module.
    """

    init: Callable
    apply: Callable
    drops: bool = False
    source: Callable | None = None


def search_space(name: str, network: Functions, groups: Mapping[str, Group], *, image: tuple[int, ...],
                 input_dtype: str = "float32", options: Mapping | None = None, standalone: Functions | None = None,
                 auxiliary: Functions | None = None, inherited: Functions | None = None,
                 rule: Callable | None = None, format: Callable | None = None, parse: Callable | None = None,
                 expected: Callable | None = None, inherit: Callable | None = None, skipped: Callable | None = None,
                 reorder: Callable | None = None, cells: Mapping[str, int] = {},
                 reads: tuple[str, ...] = ()) -> SearchSpace:
    """A SearchSpace of a network.

    Args:
        image: shape of one input for which `cost` counts: (height, width, channels), (features,), (tokens,).
        input_dtype: "float32", or "int32" for tokens.
        options: whatever else is needed to build the space again, as JSON knows it.
        standalone: the final network, where it differs from the supernet's.
        auxiliary: that network with a second head, whose logits it returns beside its own while training.
        inherited: the supernet's discrete network as it is trained further, where it differs from `network`.
        rule: groups, scores `{group: [E, K]}` -> operation indices `{group: [E]}`, REMOVED where an edge goes, or the
            remaining edges in the order of their rank, `{group: choices}`; default: the best operation of every edge.
        format, parse: a notation of its own: genotype -> text, text -> `{group: choices}`.
        expected: gates -> {"params", "macs"}; default: what the layers report, of which some are entangled
            (`search_spaces.layers.entangled`), else the sum of what `cost` says of each operation on each edge.
        inherit: (path, leaf, shape) -> leaf of that shape: the part of a supernet's array that a discrete network inherits,
            called where the network's array has another shape. path: names from the top, such as ("edge_0", "kernel").
            Default: `smaller_part`.
        cells, reads, reorder, skipped: see `SearchSpace`.
    """
    groups = dict(groups)
    mixture = {g: jax.ShapeDtypeStruct(group.shape, jnp.float32) for g, group in groups.items()}
    example = jax.ShapeDtypeStruct((1, *image), jnp.dtype(input_dtype))

    def zeros(gates):
        return trimmed({g: jnp.zeros(row.shape) if hasattr(row, "shape") else row for g, row in gates.items()}, groups)

    def first(functions, gates):
        return lambda key, images: functions.init(key, images, zeros(gates))

    supernet = first(network, mixture)  # one function, so that JAX traces it once

    def shapes(begin):
        return jax.eval_shape(begin, jax.random.key(0), example)

    def init(key, images, genotype=None):
        return started(supernet if genotype is None else first(network, static(genotype, groups)), key, images)

    def started(begin, key, images):
        return initial(begin, key, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.dtype(input_dtype)))

    def apply(weights, stats, gates, images, *, train, key=None):
        gates = static(gates, groups) if isinstance(gates, Genotype) else trimmed(gates, groups)
        return network.apply(weights, stats, gates, images, train, key)

    def alone(plain, headed, genotype, auxiliary=False):
        gates, functions = static(genotype, groups), headed if auxiliary else plain
        if functions is None:
            raise ValueError(f"the networks of space {name!r} have no auxiliary head")

        def run(weights, stats, images, *, train, key=None, drop_path=None):
            if train and drop_path is not None and key is None:
                raise ValueError("drop_path is random, it needs a key")
            if train and drop_path is not None and not functions.drops:
                raise ValueError(f"the networks of space {name!r} take no drop_path")
            extra = {"drop_path": drop_path} if functions.drops else {}
            return functions.apply(weights, stats, gates, images, train, key, **extra)

        return Network(lambda key, images: started(first(functions, gates), key, images), run,
                       functions.source and partial(functions.source, gates))

    def genotype(scores):
        ruled = (rule or argmax)(groups, scores)
        if any(isinstance(row, tuple) for row in ruled.values()):
            return Genotype(name, space.options, ruled)
        return Genotype.from_decisions(space, ruled)

    def inherit_part(tree, genotype):
        used = {path: leaf.shape for collection in shapes(first(network, static(genotype, groups)))
                for path, leaf in flat(collection).items()}
        return nested({path: leaf if leaf.shape == used[path] else shaped(path, leaf, used[path])
                       for path, leaf in flat(unstack_edges(tree)).items() if path in used})

    def shaped(path, leaf, shape):
        smaller = (inherit or smaller_part)(path, leaf, shape)
        if jnp.shape(smaller) != shape:
            raise ValueError(f"space {name!r}: inherit returned shape {jnp.shape(smaller)} for {'/'.join(path)}; the "
                             f"discrete network needs {shape}")
        return smaller

    def cost(functions, genotype=None):
        counted, gates = (network, mixture) if genotype is None else (functions, static(genotype, groups))
        weights, stats = shapes(supernet if genotype is None else first(counted, gates))
        multiplied = macs(lambda weights, stats, images: counted.apply(weights, stats, zeros(gates), images, False, None),
                          weights, stats, example)
        return {"params": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights)), "macs": multiplied}

    def default_format(genotype):
        return " | ".join(f"{g}: " + ", ".join(f"{c.op}({c.source}->{c.target})" for c in choices)
                          for g, choices in genotype.choices.items())

    def read(text):
        if parse is None:
            raise ValueError(f"space {name!r} has no notation of its own: give a genotype.json, not {text[:60]!r}")
        genotype = Genotype(name, space.options, parse(text))
        return genotype if skipped is None else Genotype.from_decisions(space, genotype.decisions(groups))

    @functools.cache
    def default_expected():
        rows = {g: tuple(np.full(len(group.edge_ops(e)), 1.0) for e in range(len(group.edges)))
                for g, group in groups.items()}
        with counting() as reported:
            jax.eval_shape(lambda key, images: network.init(key, images, rows), jax.random.key(0), example)
        return reported_cost(space, reported, rows) if reported.terms else linear_cost(space)

    def networks(functions, headed):
        return {"cost": partial(cost, functions), "network": partial(alone, functions, headed)}

    space = SearchSpace(name, dict(options or {}), groups, init, apply, genotype, inherit_part,
                        format=format or default_format, parse=read,
                        expected=expected or (lambda gates: default_expected()(gates)),
                        input_dtype=input_dtype, cells=dict(cells), reads=reads, skipped=skipped or (lambda decisions: {}),
                        reorder=reorder, **networks(standalone or network, auxiliary))
    return space._replace(inherited=space._replace(**networks(inherited or network, None)))


def linear_cost(space: SearchSpace) -> Callable[[Mapping], dict]:
    """`expected` of a space whose cost is a sum over the edges, by counting networks of a single operation.

    Edges of the same operations on which the last of them costs the same, and each skip connection, which has weights at a
    stride, count as alike; two whole networks tell whether they are, and if they are not, every operation is counted on
    every edge.

    Raises ValueError where the sum is not what a whole network costs even then.
    """
    def count(changes):
        rows = {g: np.full(group.shape[0], REMOVED) for g, group in space.groups.items()}
        for g, e, k in changes:
            rows[g][e] = k
        return np.array(list(space.cost(Genotype.from_decisions(space, rows)).values()), np.float64)

    def table(all_alike):
        costs, alike = {}, {}
        for g, group in space.groups.items():
            costs[g] = np.zeros((*group.shape, 2))
            for e in range(group.shape[0]):
                ops = group.edge_ops(e)
                signs = [k for k, op in enumerate(ops) if is_skip(op) or k == len(ops) - 1]
                kind = g, ops, *(np.concatenate([count([(g, e, k)]) for k in signs]) if all_alike else [e])
                if kind not in alike:
                    alike[kind] = [count([(g, e, k)]) - base for k in range(len(ops))]
                costs[g][e, :len(ops)] = alike[kind]
        return costs

    def sum_of(tables, gates):
        return {name: base[i] + sum((rows * tables[g][..., i].astype(rows.dtype)).sum() for g, rows in gates.items())
                for i, name in enumerate(("params", "macs"))}

    def holds(tables):
        draw = np.random.default_rng(0)
        lasts = {g: group.allowed.sum(-1) - 1 for g, group in space.groups.items()}
        for rows in lasts, {g: draw.integers(last + 1) for g, last in lasts.items()}:
            whole = Genotype.from_decisions(space, rows)
            gates = {g: gate.astype(np.float64) for g, gate in whole.gates(space.groups).items()}
            if sum_of(tables, gates) != space.cost(whole):
                return False
        return True

    base = count([])
    for all_alike in True, False:
        tables = table(all_alike)
        if holds(tables):
            return lambda gates: sum_of(tables, gates)
    raise ValueError(f"the networks of space {space.name} cost more or less than the sum of their operations; "
                     "its factory must pass `expected`")


def reported_cost(space: SearchSpace, reported: Cost, rows: Mapping) -> Callable[[Mapping], dict]:
    """`expected` of a space of entangled layers, from what its supernet reported under the gates `rows`, and the cost of the
    layers that do not report, the same in all networks.

    Raises ValueError where it is not the same in two of them.
    """
    places = {id(row): (g, e, len(row)) for g, edges in rows.items() for e, row in enumerate(edges)}
    parts = [([places[id(gate)] for gate in gates], table) for gates, table in reported.parts()]

    def varying(gates):
        sums = sum(mean(table, [gates[g][e, :k] for g, e, k in at]) for at, table in parts)
        return {"params": sums[0], "macs": sums[1]}

    def constant(decisions):
        genotype = Genotype.from_decisions(space, decisions)
        costs, gates = space.cost(genotype), genotype.gates(space.groups)
        return {name: round(costs[name] - float(number), 3)
                for name, number in varying(jax.tree.map(np.float64, gates)).items()}

    draw = np.random.default_rng(0)
    lasts = {g: group.allowed.sum(-1) - 1 for g, group in space.groups.items()}
    base, other = constant(lasts), constant({g: draw.integers(last + 1) for g, last in lasts.items()})
    if base != other:
        raise ValueError(f"the layers of space {space.name} that report no cost cost {base} in one network and {other} in "
                         "another; a layer of a searched size must call `report`, or the factory pass `expected`")
    return lambda gates: {name: base[name] + number for name, number in varying(gates).items()}


def smaller_part(path, leaf, shape):
    """The part of an array that a network with a smaller layer in its place has: the first entries along every axis, and of
    a convolution's kernel `[k, k, C, D]`, an array of four axes whose name begins with `kernel`, the middle of its sides."""
    spatial = 2 if len(shape) == 4 and path[-1].startswith("kernel") else 0
    starts = [(have - want) // 2 * (axis < spatial) for axis, (have, want) in enumerate(zip(leaf.shape, shape))]
    return leaf[tuple(slice(start, start + want) for start, want in zip(starts, shape))]


def argmax(groups, scores) -> dict[str, np.ndarray]:
    """Every edge keeps its best operation; ties go to the lower index."""
    return {name: np.where(group.allowed, np.asarray(scores[name], np.float64), -np.inf).argmax(-1)
            for name, group in groups.items()}


def static(genotype, groups):
    """Operation indices as Python integers, by which `MixedOp` builds the chosen operation only."""
    return {name: tuple(Chosen(k, groups[name].edge_ops(e), "edge {}->{} of group {!r}".format(*groups[name].edges[e], name))
                        for e, k in enumerate(row)) for name, row in genotype.decisions(groups).items()}


def trimmed(gates, groups):
    """Gates whose rows have no padding: a tuple of rows for a group whose edges have different numbers of operations."""
    short = {name for name, group in groups.items() if not group.allowed.all()}
    return {name: tuple(rows[e, :len(groups[name].edge_ops(e))] for e in range(len(rows)))
            if name in short and hasattr(rows, "shape") else rows for name, rows in gates.items()}


def flat(tree):
    """The leaves of nested dicts by path, `{(key, key, ...): leaf}`."""
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def nested(leaves):
    """The nested dicts whose leaves `flat` lists."""
    tree = {}
    for (*folders, last), leaf in leaves.items():
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[last] = leaf
    return tree
