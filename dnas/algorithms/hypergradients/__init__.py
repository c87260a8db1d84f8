"""Hypergradients: estimators of d/d(arch) of the validation loss, whose weights depend on the architecture.

Each is made by a factory of keyword-only settings, and all have one signature:

    hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad

inner(weights, arch) -> (loss, aux): the training loss, a scalar, on this step's training batch.
outer(weights, arch) -> (loss, aux): the validation loss. weights, arch and aux are any pytrees of arrays.
lookahead(grads) -> weights: the present weights after the optimiser's update by a gradient of `inner`; pure and
    differentiable.
value, aux: what `outer` returned, where the estimator evaluated it. grad: a pytree like arch, of its dtypes.

`flat` makes another of any of them, which prefers flat minima.
"""

from .conjugate_gradient import conjugate_gradient
from .finite_difference import finite_difference
from .first_order import first_order
from .flat import flat
from .neumann import neumann
from .unrolled import unrolled

HYPERGRADIENTS = {
    "first-order": first_order,
    "unrolled": unrolled,
    "finite-difference": finite_difference,
    "neumann": neumann,
    "conjugate-gradient": conjugate_gradient,
}

__all__ = ["HYPERGRADIENTS", "conjugate_gradient", "finite_difference", "first_order", "flat", "neumann", "unrolled"]
