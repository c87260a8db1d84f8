"""Evaluates initialisers in NumPy: the first state of a search needs no compiled program.

Run by JAX, every shape of a constant, every callback and every loop is a program to compile, and one with a callback is
not cached: seconds at each start.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import numpy as np
from jax import Array
from jax.interpreters.partial_eval import dce_jaxpr

from dnas.engine.devices import available, size, spelled
from dnas.types import Tree


def initial(init: Callable, key: Array, images: Array | jax.ShapeDtypeStruct, *others: Tree) -> Tree:
    """`init(key, images, *others)`, bit for bit, computed without the images, of which it may use the shape only.

    An `init` is traced once for all keys. Under a trace, the result is part of that trace.

    Raises ValueError if a value depends on the images, and if the values need more memory than there is.
    """
    traced = jax.jit(init).trace(key, images, *others)
    needed, used = dce_jaxpr(traced.jaxpr.jaxpr, [True] * len(traced.jaxpr.jaxpr.outvars))
    leaves = [key, None, *jax.tree.leaves(others)]
    if used[1]:
        raise ValueError("the space's initial weights depend on the images; they may depend on their shape only")
    memory, there = size(traced.out_info), available()
    if there is not None and memory > there:
        raise ValueError(f"the weights, and what the optimiser keeps of them, need {spelled(memory)} of memory, and there"
                         f" are {spelled(there)}; choose smaller sizes")
    run = jax.core.eval_jaxpr if isinstance(key, jax.core.Tracer) else evaluate
    return jax.tree.unflatten(jax.tree.structure(traced.out_info), run(needed, traced.jaxpr.consts,
                                                                     *itertools.compress(leaves, used)))


def evaluate(jaxpr, consts, *args) -> list[Array]:
    """`jax.core.eval_jaxpr` of concrete values, with NumPy where it suffices."""
    try:
        values = _evaluate(jaxpr, consts, *args)
    except (AttributeError, KeyError, TypeError):  # another version of JAX describes an operation in another way
        values = jax.core.eval_jaxpr(jaxpr, consts, *args)
    return [value if isinstance(value, Array) else jax.device_put(np.array(value, var.aval.dtype))
            for var, value in zip(jaxpr.outvars, values)]


def _evaluate(jaxpr, consts, *args):
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args]))
    read = lambda var: np.asarray(var.val, var.aval.dtype) if hasattr(var, "val") else values[var]
    for eqn in jaxpr.eqns:
        inputs = [read(var) for var in eqn.invars]
        rule = RULES.get(eqn.primitive.name, _bound)
        values |= zip(eqn.outvars, (_bound if any(map(_of_keys, inputs)) and rule not in INNER else rule)(eqn, *inputs))
    return [read(var) for var in jaxpr.outvars]


def _of_keys(value):
    return jax.dtypes.issubdtype(value.dtype, jax.dtypes.extended)


def _bound(eqn, *inputs):
    """The operation as JAX computes it, compiled or from its cache."""
    with eqn.ctx.manager:
        outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def _broadcast_in_dim(eqn, x):
    shape, axes = eqn.params["shape"], eqn.params["broadcast_dimensions"]
    sizes = dict(zip(axes, np.shape(x)))
    return [np.broadcast_to(np.reshape(x, [sizes.get(axis, 1) for axis in range(len(shape))]), shape)]


def _squeeze(eqn, x):
    return [np.squeeze(np.asarray(x), eqn.params["dimensions"])]


def _split(eqn, x):
    return np.split(np.asarray(x), list(itertools.accumulate(eqn.params["sizes"]))[:-1], eqn.params["axis"])


def _pure_callback(eqn, *inputs):
    outputs = eqn.params["callback"](*inputs)
    return [np.asarray(value, var.aval.dtype) for value, var in zip(outputs, eqn.outvars, strict=True)]


def _scan(eqn, *inputs):
    if "ft_in" in eqn.params:  # jax 0.12
        consts, carry, _ = map(len, eqn.params["ft_in"].unpack())
    else:
        consts, carry = eqn.params["num_consts"], eqn.params["num_carry"]
    carried = consts + carry
    body, carry, rows = eqn.params["jaxpr"], list(inputs[consts:carried]), []
    turns = range(eqn.params["length"])
    for turn in reversed(turns) if eqn.params["reverse"] else turns:
        outputs = _evaluate(body.jaxpr, body.consts, *inputs[:consts], *carry, *(xs[turn] for xs in inputs[carried:]))
        carry = outputs[:carried - consts]
        rows.append(outputs[carried - consts:])
    if eqn.params["reverse"]:
        rows.reverse()
    stack = lambda values: jax.numpy.stack(values) if any(map(_of_keys, values)) else np.stack(values)
    return [*carry, *map(stack, zip(*rows))] if rows else _bound(eqn, *inputs)


def _jit(eqn, *inputs):
    """Operation by operation if it draws numbers, else as one program."""
    body = eqn.params["jaxpr"]
    return _evaluate(body.jaxpr, body.consts, *inputs) if _draws(body.jaxpr) else _bound(eqn, *inputs)


def _draws(jaxpr):
    return any(eqn.primitive.name == "pure_callback" or RULES.get(eqn.primitive.name) in INNER
               and _draws(eqn.params["jaxpr"].jaxpr) for eqn in jaxpr.eqns)


RULES = {"broadcast_in_dim": _broadcast_in_dim, "squeeze": _squeeze, "split": _split, "pure_callback": _pure_callback,
         "scan": _scan, "jit": _jit, "pjit": _jit}
INNER = (_scan, _jit)
"""Rules that pass arrays of keys on, which NumPy does not hold."""
