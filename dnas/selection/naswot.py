"""NASWOT (Mellor et al., ICML 2021, arXiv 2006.04647): how differently the ReLUs of an untrained network see the examples.

    K = sum over ReLUs of C C^T + (1 - C) (1 - C)^T,   score = log |det K|

The codes C `[B, units]` say for each example of a batch which units of a ReLU are on, so that K_ij is the number of units
that examples i and j have in the same state. Equal codes of two examples make the determinant 0, the score -infinity.

Ours: only ReLUs count that the outputs depend on, for a supernet computes more than the network of a genotype, and a
network may compute what nothing reads. Of examples that are equal one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from dnas.selection.types import Unsuitable
from dnas.types import Array


def code_kernel(function: Callable[..., Array], *args: Any) -> Array:
    """K `[B, B]` of the ReLUs that `function(*args)`, outputs `[B, ...]`, computes and depends on.

    A ReLU is a `jax.nn.relu`, which is that of Flax. Each is exchanged for one whose gradient to a zero matrix beside its
    input is its own part of K, or 0 where no gradient reaches it: so differentiation, which knows of switches, loops and
    gates of zero, sums up the parts.

    Raises Unsuitable as `check_relus`.
    """
    traced = jax.make_jaxpr(function)(*args)
    examples = traced.out_avals[0].shape[0]
    check_relus(traced, examples)
    outputs, pull_back = jax.vjp(lambda kernel: _run(traced, kernel, *jax.tree.leaves(args)),
                                 jnp.zeros((examples, examples)))
    key = jax.random.key(0)  # a gradient that no accident cancels
    return pull_back([jax.random.normal(key, output.shape, output.dtype) for output in outputs])[0]


def log_determinant(kernel: np.ndarray, inputs: np.ndarray) -> float:
    """log |det K| of the examples whose inputs `[B, ...]` differ; -infinity for a matrix that is singular to rounding."""
    first = np.unique(np.reshape(inputs, (len(inputs), -1)), axis=0, return_index=True)[1]
    values = np.linalg.eigvalsh(np.asarray(kernel, np.float64)[np.ix_(first, first)])
    singular = values[0] <= len(values) * np.finfo(np.float32).eps * values[-1]
    return -np.inf if singular else float(np.log(values).sum())


def check_relus(traced: ClosedJaxpr, examples: int) -> None:
    """Raises Unsuitable for a program without a ReLU, and for a ReLU whose first axis is not that of the examples."""
    shapes = list(_relus(traced.eqns))
    if not shapes:
        raise Unsuitable("naswot compares the codes of ReLUs, and this network has no jax.nn.relu")
    for shape in shapes:
        if shape[:1] != (examples,):
            raise Unsuitable(f"naswot compares the {examples} examples of a batch, and a ReLU of this network has the shape "
                             f"{list(shape)}, whose first axis is another")


@jax.custom_vjp
def _relu(x, kernel):
    """ReLU of `x [B, ...]`, whose gradient to `kernel [B, B]` is its part of K."""
    return jax.nn.relu(x)


def _backward(x, gradient):
    signs = jnp.where(x > 0, 1.0, -1.0).reshape(len(x), -1)
    same = (signs.shape[1] + signs @ signs.T) / 2
    return jnp.where(x > 0, gradient, 0), jnp.where((gradient != 0).any(), same, 0)


_relu.defvjp(lambda x, kernel: (jax.nn.relu(x), x), _backward)


def _run(traced: ClosedJaxpr, kernel: Array, *args: Array) -> list[Array]:
    """The results of a program whose ReLUs are `_relu`."""
    jaxpr = traced.jaxpr
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*traced.consts, *args), strict=True))
    read = lambda name: name.val if isinstance(name, Literal) else values[name]
    for equation in jaxpr.eqns:
        if any(True for _ in _relus([equation])):
            results = _with_relus(equation, kernel, [read(name) for name in equation.invars])
        else:
            names = [name for name in equation.invars if not isinstance(name, Literal)]
            one = jaxpr.replace(constvars=[], invars=names, outvars=equation.outvars, eqns=[equation])
            results = jax.core.eval_jaxpr(one, (), *map(read, names))
        values.update(zip(equation.outvars, results, strict=True))
    return [read(name) for name in jaxpr.outvars]


def _with_relus(equation: JaxprEqn, kernel: Array, args: list[Array]) -> list[Array]:
    """The results of an equation that is a ReLU or has some in it."""
    name, params, inner = equation.primitive.name, equation.params, _inner(equation)
    if _is_relu(equation):
        return [_relu(args[0], kernel)]
    if name == "cond":
        return lax.switch(args[0], [partial(_run, branch, kernel) for branch in params["branches"]], *args[1:])
    if name == "scan":
        of_turn = params["jaxpr"]  # its arguments are constants, carry and slices; only slices lose an axis
        fixed, carried = (sum(inside.ndim == outside.aval.ndim for inside, outside in zip(turn, whole)) for turn, whole in
                          ((of_turn.in_avals, equation.invars), (of_turn.out_avals, equation.outvars)))
        consts = args[:fixed - carried]

        def body(carry, each):
            results = _run(of_turn, kernel, *consts, *carry, *each)
            return results[:carried], results[carried:]

        last, each = lax.scan(body, args[fixed - carried:fixed], args[fixed:], params["length"], reverse=params["reverse"],
                              unroll=params["unroll"])
        return [*last, *each]
    if len(inner) == 1 and len(inner[0].jaxpr.invars) == len(args) and name != "while":
        return _run(inner[0], kernel, *args)  # of a call: jit, checkpoint, custom derivatives
    raise Unsuitable(f"naswot finds no ReLUs inside {name}, where this network has some")


def _relus(equations: Sequence[JaxprEqn]) -> Iterator[tuple[int, ...]]:
    """The shapes of all ReLUs, those of a loop once."""
    for equation in equations:
        if _is_relu(equation):
            yield equation.invars[0].aval.shape
        else:
            for part in _inner(equation):
                yield from _relus(part.eqns)


def _is_relu(equation: JaxprEqn) -> bool:
    return equation.params.get("name") == "relu" and len(equation.invars) == 1


def _inner(equation: JaxprEqn) -> list[ClosedJaxpr]:
    """The programs that an equation calls."""
    parts = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda part: isinstance(part, Jaxpr | ClosedJaxpr))
    return [ClosedJaxpr(part, ()) if isinstance(part, Jaxpr) else part for part in parts
            if isinstance(part, Jaxpr | ClosedJaxpr)]
