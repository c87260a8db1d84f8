"""The seam between Flax and the toolkit: a Linen module and its groups -> SearchSpace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from dnas.types import Genotype, Group, Network, SearchSpace
from search_spaces.cost import macs
from search_spaces.mixed import MixedOptions, current_options, mixed_options
from search_spaces.mixed import drop_path as dropping


def flax_space(name: str, module: nn.Module, groups: Mapping[str, Group], *, image: tuple[int, int, int],
               options: Mapping | None = None, standalone: nn.Module | None = None,
               auxiliary: nn.Module | None = None, rule: Callable | None = None, format: Callable | None = None,
               parse: Callable | None = None) -> SearchSpace:
    """Makes a SearchSpace of a Linen module called `(images, gates, train)` that returns logits `[B, classes]`.

    `gates` holds for each group an array `[E, K]`, or a tuple of E operation indices (REMOVED for an edge that is
    left out); the module hands `gates[group][edge]` to the `MixedOp` of that edge.

    Args:
        image: (height, width, channels) for which `cost` counts.
        options: whatever else is needed to build the space again, as JSON knows it.
        standalone: the module of the final network, where it differs from the supernet's.
        auxiliary: that module with a second head, whose logits it returns beside its own while training.
        rule: groups, scores `{group: [E, K]}` -> operation indices `{group: [E]}`, REMOVED where an edge goes, or the
            kept edges in the order of their rank, `{group: choices}`; the best of every edge unless given.
        format, parse: a notation of its own: genotype -> text, text -> `{group: choices}`.
    """
    groups = dict(groups)
    shared, plain = current_options(), MixedOptions()
    changed = {name: value for name, value in shared._asdict().items() if value != getattr(plain, name)}

    def gates_of(genotype):
        return static(genotype, groups) if genotype else {g: jnp.zeros(group.shape) for g, group in groups.items()}

    def functions(module, mixed):
        """create, init and apply of the supernet's or the stand-alone module, under options of its mixed operations."""
        def create(key, images, genotype=None):
            with mixed_options(mixed):
                return module.init(key, images, gates_of(genotype), True)

        def init(key, images, genotype=None):
            images = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
            variables = without_forward_pass(lambda key, images: create(key, images, genotype), key, images)
            return variables["params"], variables.get("batch_stats", {})

        def apply(weights, stats, gates, images, *, train, key=None, drop_path=None):
            gates = static(gates, groups) if isinstance(gates, Genotype) else gates
            variables, rngs = {"params": weights, "batch_stats": stats}, None if key is None else {"dropout": key}
            if train and drop_path is not None and key is None:
                raise ValueError("drop_path is random, it needs a key")
            with mixed_options(mixed), dropping(drop_path):
                if not train:
                    return module.apply(variables, images, gates, False, rngs=rngs), stats
                logits, updated = module.apply(variables, images, gates, True, rngs=rngs, mutable=["batch_stats"])
            return logits, updated.get("batch_stats", stats)

        return create, init, apply

    supernet, own = functions(module, shared), functions(standalone or module, plain)
    headed = auxiliary and functions(auxiliary, plain)
    create, init, apply = supernet

    def shapes(create, genotype):
        return jax.eval_shape(lambda key: create(key, example, genotype), jax.random.key(0))

    def network(genotype, auxiliary=False):
        genotype.decisions(groups)
        if auxiliary and not headed:
            raise ValueError(f"the networks of space {name!r} have no auxiliary head")
        _, init, apply = headed if auxiliary else own
        return Network(lambda key, images: init(key, images, genotype),
                       lambda weights, stats, images, *, train, key=None, drop_path=None:
                       apply(weights, stats, genotype, images, train=train, key=key, drop_path=drop_path))

    def genotype(scores):
        found = (rule or argmax)(groups, scores)
        if any(isinstance(row, tuple) for row in found.values()):
            return Genotype(name, space.options, found)
        return Genotype.from_decisions(space, found)

    def inherit(tree, genotype):
        paths = {path for collection in shapes(create, genotype).values() for path in _flat(collection)}
        return _nested({path: leaf for path, leaf in _flat(tree).items() if path in paths})

    def cost(genotype=None):
        create, _, apply = supernet if genotype is None else own
        found = shapes(create, genotype)
        multiplied = macs(lambda weights, stats, x: apply(weights, stats, gates_of(genotype), x, train=False)[0],
                          found["params"], found.get("batch_stats", {}), example)
        return {"params": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(found["params"])), "macs": multiplied}

    def default_format(genotype):
        return " | ".join(f"{g}: " + ", ".join(f"{c.op}({c.source}->{c.target})" for c in choices)
                          for g, choices in genotype.choices.items())

    def read(text):
        if parse is None:
            raise ValueError(f"space {name!r} has no notation of its own: give a genotype.json, not {text[:60]!r}")
        return Genotype(name, space.options, parse(text))

    example = jax.ShapeDtypeStruct((1, *image), jnp.float32)
    space = SearchSpace(name, {**(options or {}), **changed}, groups, init, apply, genotype, inherit, cost,
                        network, format or default_format, read)
    return space


def without_forward_pass(init, key, images):
    """`init(key, images)` computing only what does not need the images: seconds instead of a compilation of the net."""
    jaxpr, shapes = jax.make_jaxpr(init, return_shape=True)(key, images)
    needed, used = dce_jaxpr(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars))
    if any(used[1:]):
        raise ValueError("the space's initial weights depend on the images; they may depend on their shape only")
    return jax.tree.unflatten(jax.tree.structure(shapes), jax.core.eval_jaxpr(needed, jaxpr.consts, *[key][:used[0]]))


def argmax(groups, scores) -> dict[str, np.ndarray]:
    """Every edge keeps its best operation; ties go to the lower index."""
    return {name: np.where(group.allowed, np.asarray(scores[name], np.float64), -np.inf).argmax(-1)
            for name, group in groups.items()}


def static(genotype, groups):
    """Operation indices as Python integers, which `MixedOp` takes for a choice made before tracing."""
    return {name: tuple(int(k) for k in row) for name, row in genotype.decisions(groups).items()}


def _flat(tree):
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _nested(flat):
    tree = {}
    for (*folders, last), leaf in flat.items():
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
        here[last] = leaf
    return tree
