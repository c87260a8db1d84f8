"""How often a step of a method passes through the supernet: its cost whatever the machine, counted in the traced program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from dnas.algorithms.method import Method
from dnas.task import Task
from dnas.types import Batch, SearchSpace


class Passes(NamedTuple):
    """Passes of one step through the supernet, of what is needed for its results; of branches, those of the most costly.
    backward: evaluations of a gradient."""

    forward: int
    backward: int


@jax.custom_vjp
def _marked(x):
    """x. Its passes can be counted: every forward one holds an arcsinh, every backward one an arctanh."""
    return x + 0 * jnp.arcsinh(x)


_marked.defvjp(lambda x: (x + 0 * jnp.arcsinh(x), x), lambda x, g: (g + 0 * jnp.arctanh(0 * x),))


def count_passes(space: SearchSpace, method: Method, task: Task, inputs: Any, batch: Batch,
                 hyper: Mapping[str, Any]) -> Passes:
    """Traces a step, and computes nothing.

    inputs: shape and type of the network's inputs. batch: of the train and of the valid split, arrays or their shapes.
    hyper: the numbers of the method, see `Method.numbers_of`.
    """
    def apply(*args, **rest):
        outputs, stats = space.apply(*args, **rest)
        return jax.tree.map(_marked, outputs), stats

    algorithm, key = method.bind(space._replace(apply=apply), task), jax.random.key(0)
    state = jax.eval_shape(lambda key: algorithm.init(key, inputs, hyper), key)
    jaxpr = jax.make_jaxpr(lambda *args: algorithm.step(*args, hyper))(key, state, batch, batch).jaxpr
    jaxpr, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)
    return Passes(_count(jaxpr, "asinh"), _count(jaxpr, "atanh"))


def _count(jaxpr, primitive: str) -> int:
    """How often a primitive runs; of branches, in the most costly one."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [_count(getattr(sub, "jaxpr", sub), primitive) for value in eqn.params.values()
                 for sub in (value if isinstance(value, (tuple, list)) else [value])
                 if hasattr(getattr(sub, "jaxpr", sub), "eqns")]
        inner = max(inner, default=0) if eqn.primitive.name == "cond" else sum(inner)
        total += inner * eqn.params.get("length", 1) + (eqn.primitive.name == primitive)
    return total
