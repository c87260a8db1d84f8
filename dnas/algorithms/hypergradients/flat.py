"""A2M: the gradient of an architecture one step uphill, so that descent prefers flat minima (arXiv 2503.10404).

    arch' = arch + rho g(arch),   v = g(arch'),   grad = v + rho H v,   H = dg/d arch at arch'

g is another estimator's gradient of the validation loss; it is not normalised. That is nearly the gradient of
L(arch + rho g(arch)), for which H would be that at arch.

Departure: the authors take H v by a central difference, here it is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import jax


def flat(hypergradient: Callable, rho) -> Callable:
    """`hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad` that seeks flat minima.

    Costs the given estimator twice, and the derivative of its gradient along one direction. The value and auxiliary
    output are the estimator's at `arch`; with rho = 0, grad is too.
    """
    def flattened(inner, outer, weights, arch, lookahead):
        def gradient(arch):
            value, grad = hypergradient(inner, outer, weights, arch, lookahead)
            return grad, value

        grad, value = gradient(arch)
        uphill = jax.tree.map(lambda a, g: (a + rho * g).astype(a.dtype), arch, grad)
        v, product, _ = jax.linearize(gradient, uphill, has_aux=True)
        return value, jax.tree.map(lambda g, h: (g + rho * h).astype(g.dtype), v, product(v))

    return flattened
