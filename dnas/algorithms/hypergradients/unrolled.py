"""Second order, exact: differentiates through the optimiser step that the weights are about to take.

Paper: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv 1806.09055.

    w'   = lookahead(grad_w inner(w, a))
    v    = grad_w' outer(w', a)
    u    = (d lookahead / d gradient)^T v             one vjp of the optimiser's update; -lr*v for SGD
    grad = grad_a outer(w', a) + grad_a <grad_w inner(w, a), u>

Settings: reverse=False, the faster of two ways to the last term.
Departures: the paper takes that term by finite differences (`finite_difference.py`) and its code unrolls without
clipping; here it is exact, and `lookahead` is the step as it is taken, clipping included.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .products import products


def unrolled(*, reverse: bool = False):
    """Returns `hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad`.

    reverse: see `products`. Costs about three gradient evaluations: `inner`, `outer`, and one mixed
    Hessian-vector product. The value and auxiliary output are those of `outer` after the step; grad is a pytree
    like `arch`.
    """

    def hypergradient(inner, outer, weights, arch, lookahead):
        grads, product = products(inner, weights, arch, reverse=reverse)
        ahead, pullback = jax.vjp(lookahead, grads)
        value, (v, direct) = jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(ahead, arch)
        (u,) = pullback(v)
        _, indirect = product(u)
        return value, jax.tree.map(jnp.add, direct, indirect)

    return hypergradient
