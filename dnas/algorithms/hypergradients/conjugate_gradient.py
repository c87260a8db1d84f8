"""Implicit hypergradient, with the inverse Hessian applied by conjugate gradients.

Papers: Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016, arXiv 1602.02355;
Rajeswaran, Finn, Kakade, Levine, "Meta-Learning with Implicit Gradients", NeurIPS 2019, arXiv 1909.04630.

    v    = grad_w outer(w, a);  H = d^2 inner / dw dw
    (H + damping*I) p = v
    grad = grad_a outer(w, a) - grad_a <grad_w inner(w, a), p>

It presumes weights near the inner optimum, and H + damping*I positive definite: a deep network needs damping.

Settings: iterations=5 and damping=0 are this library's choice.
Departures: the first paper tightens the solver's tolerance during the search; here the iterations are
limited, and end early at a residual of 1e-5 |v|.

The solver is an XLA loop, in which gradients of convolutions are many times slower on a CPU. `neumann.py` has
none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from .products import products

MOST = 10_000
"""Iterations: as many lie between two looks at whether a person wants to end it."""


def conjugate_gradient(*, iterations: int = 5, damping: float = 0.0, reverse: bool = False):
    """Returns `hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad`.

    iterations: at most so many, of one product with H each. damping: what is added to H's diagonal. reverse: see
    `products`. Costs one gradient evaluation each of `inner` and `outer` and `iterations` + 2 Hessian-vector
    products; `lookahead` is never called. The value and auxiliary output are those of `outer(weights, arch)`;
    grad is a pytree like `arch`. Raises ValueError for fewer than one iteration, more than MOST, or negative damping.
    """
    if not 1 <= iterations <= MOST:
        raise ValueError(f"iterations is {iterations}; it must be 1 to {MOST:,}")
    if not damping >= 0:
        raise ValueError(f"damping is {damping}, but must be 0 or more")

    def hypergradient(inner, outer, weights, arch, lookahead):
        del lookahead
        value, (v, direct) = jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(weights, arch)
        _, product = products(inner, weights, arch, reverse=reverse)

        def damped(p):
            return jax.tree.map(lambda h, x: h + damping * x, product(p)[0], p)

        solution, _ = cg(damped, v, maxiter=iterations)
        _, mixed = product(solution)
        return value, jax.tree.map(jnp.subtract, direct, mixed)

    return hypergradient
