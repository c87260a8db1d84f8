"""Multiply-adds of a traced function, counted from its jaxpr."""

from __future__ import annotations

import math

import jax

from search_spaces.depthwise import depthwise_form


def macs(function, *args) -> int:
    """Multiply-adds of the convolutions and matrix products in `function(*args)`; args may be ShapeDtypeStructs.

    Additions, pooling, normalisation and activations are left out, as published counts do. Depthwise convolutions
    count in whichever form they run.
    """
    with depthwise_form("plain"):
        return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            left = eqn.invars[0].aval.shape
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel = eqn.invars[1].aval.shape
            out_features = kernel[eqn.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(eqn.outvars[0].aval.shape) * math.prod(kernel) // out_features
        else:
            times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
            total += times * sum(_count(inner) for inner in _inner(eqn.params))
    return total


def _inner(params):
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
