"""Implicit hypergradient, with a truncated Neumann series for the inverse Hessian.

Papers: Zhang et al., "iDARTS: Differentiable Architecture Search with Stochastic Implicit Gradients", ICML
2021, arXiv 2106.10784; Lorraine, Vicol, Duvenaud, "Optimizing Millions of Hyperparameters by Implicit
Differentiation", AISTATS 2020, arXiv 1911.02590.

    v    = grad_w outer(w, a);  H = d^2 inner / dw dw
    s    = lr * sum_{k=0..terms} (I - lr*H)^k v                  tends to H^-1 v
    grad = grad_a outer(w, a) - grad_a <grad_w inner(w, a), s>

It presumes weights near the inner optimum: take several weight steps before each of these. The series
converges where every eigenvalue of H lies between 0 and 2/lr.

Settings: terms=2 from the authors' code (MiaoZhang0525/iDARTS), which takes five weight steps; lr=0.025 is
the weights' initial learning rate in DARTS.
Departures: Hessian-vector products are exact; the authors' code has a diagonal surrogate in H's place and
takes the mixed product by finite differences.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .products import products

MOST = 1000
"""Terms: each is a part of the program."""


def neumann(*, terms: int = 2, lr: float = 0.025, reverse: bool = False):
    """Returns `hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad`.

    terms: the highest power in the series. lr: its step, about the learning rate of the weights. reverse: see
    `products`. Costs one gradient evaluation each of `inner` and `outer` and `terms` + 1 Hessian-vector products;
    `lookahead` is never called. The value and auxiliary output are those of `outer(weights, arch)`; grad is a
    pytree like `arch`. Raises ValueError for negative terms, more than MOST, or an lr that is not positive.
    """
    if not 0 <= terms <= MOST:
        raise ValueError(f"terms is {terms}; it must be 0 to {MOST}")
    if isinstance(lr, (int, float)) and not lr > 0:  # a traced rate was checked as a number of the method
        raise ValueError(f"lr is {lr}, but must be positive")

    def hypergradient(inner, outer, weights, arch, lookahead):
        del lookahead
        value, (v, direct) = jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(weights, arch)
        _, product = products(inner, weights, arch, reverse=reverse)
        power = total = v
        # No lax loop: gradients of convolutions are many times slower inside one on a CPU.
        for _ in range(terms):
            power = jax.tree.map(lambda p, h: p - lr * h, power, product(power)[0])
            total = jax.tree.map(jnp.add, total, power)
        _, mixed = product(total)
        return value, jax.tree.map(lambda d, m: d - lr * m, direct, mixed)

    return hypergradient
