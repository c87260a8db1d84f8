"""First-order approximation: the weights are held fixed, as if they did not depend on the architecture.

Paper: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv 1806.09055 (xi = 0).

    grad = d/da outer(w, a)

Settings: none. Departures: none.
"""

from __future__ import annotations

import jax


def first_order():
    """Returns `hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad`.

    One gradient evaluation, of `outer`; `inner` and `lookahead` are never called. The value and auxiliary
    output are those of `outer(weights, arch)`; grad is a pytree like `arch`.
    """

    def hypergradient(inner, outer, weights, arch, lookahead):
        del inner, lookahead
        return jax.value_and_grad(outer, argnums=1, has_aux=True)(weights, arch)

    return hypergradient
