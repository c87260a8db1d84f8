"""Multiply-adds of a traced function, counted from its jaxpr."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from search_spaces.layers.depthwise import depthwise_form


def macs(function, *args) -> int:
    """Multiply-adds of the convolutions and matrix products in `function(*args)`; args may be ShapeDtypeStructs.

    Additions, pooling, normalisation and activations are left out, as published counts do. Depthwise convolutions
    count in whichever form they run.
    """
    with depthwise_form("plain"):
        return sum(counted(eqn, _macs) for eqn in jax.make_jaxpr(function)(*args).jaxpr.eqns)


class Layer(NamedTuple):
    """A part of a network. shape: of what it puts out, without the batch; params: its weights; macs: per image."""

    name: str
    shape: tuple[int, ...]
    params: int
    macs: int


def layers(apply: Callable, weights, images) -> list[Layer]:
    """The parts of a network in the order in which they run: Flax modules on its first level, by name.

    apply: (weights, images) -> outputs; weights: nested dicts whose first keys are the modules' names; images `[1, ...]`.
    A network of plain functions has no names, and is one part.
    """
    with depthwise_form("plain"):
        jaxpr = jax.make_jaxpr(apply)(weights, images).jaxpr
    parts: dict[str, list] = {}
    for eqn in jaxpr.eqns:
        name = _module(str(eqn.source_info.name_stack), weights)
        shape, total = parts.setdefault(name, [(), 0])
        for out in eqn.outvars:
            if out.aval.ndim > 1 and out.aval.shape[0] == images.shape[0] and jnp.issubdtype(out.aval.dtype, jnp.floating):
                shape = out.aval.shape[1:]
        parts[name] = [shape, total + counted(eqn, _macs)]
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in weights.items()}
    named = [Layer(name, tuple(shape), sizes.get(name, 0), total) for name, (shape, total) in parts.items() if name]
    rest = sum(sizes.values()) - sum(layer.params for layer in named)
    whole = parts.get("", [(), 0])
    return named + [Layer("(the rest)", tuple(whole[0]), rest, whole[1])] * bool(rest or whole[1] or not named)


def _module(stack: str, weights) -> str:
    """The first name on the stack that has weights, else the second name: the first is the network's own."""
    names = stack.split("/")
    return next((name for name in names if name in weights), names[1] if len(names) > 1 else "")


def counted(eqn, number: Callable) -> int:
    """`number(eqn)` of an equation of a jaxpr; where that is None, the sum over those within it, as often as a scan runs."""
    own = number(eqn)
    if own is not None:
        return own
    times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
    return times * sum(counted(each, number) for inner in _inner(eqn.params) for each in inner.eqns)


def _macs(eqn) -> int | None:
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        left = eqn.invars[0].aval.shape
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
    if eqn.primitive.name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_features
    return None


def _inner(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
