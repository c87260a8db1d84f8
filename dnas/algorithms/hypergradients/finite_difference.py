"""Second order as DARTS published it: the mixed Hessian-vector product as a central difference around w.

Paper: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, arXiv 1806.09055.

    w'   = lookahead(grad_w inner(w, a))
    v    = grad_w' outer(w', a);  R = radius / |v|        norm over all weights together
    hvp  = [grad_a inner(w + R*v, a) - grad_a inner(w - R*v, a)] / (2*R)        around w, not w'
    grad = grad_a outer(w', a) - lr*hvp

Settings: radius 0.01, from the authors' code (quark0/darts).
Departures: none for SGD, with or without momentum and decay. The learning rate is no argument: the difference
is taken along u, which is v pulled back through `lookahead`. For SGD u = -lr*v, so the two points and -lr*hvp
are those above; for any other optimiser it remains the derivative of its step.
The authors unroll the step without gradient clipping: to do likewise, pass a `lookahead` that does not clip.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def finite_difference(*, radius: float = 0.01):
    """Returns `hypergradient(inner, outer, weights, arch, lookahead) -> (value, aux), grad`.

    Four gradient evaluations: `inner` for the step, `outer`, and `inner` at two points `radius` away from the
    weights. The value and auxiliary output are those of `outer` after the step; grad is a pytree like `arch`,
    with an error of O(radius**2). Raises ValueError for a radius that is not positive.
    """
    if not radius > 0:
        raise ValueError(f"radius is {radius}, but must be positive")

    def hypergradient(inner, outer, weights, arch, lookahead):
        grads, _ = jax.grad(inner, has_aux=True)(weights, arch)
        ahead, pullback = jax.vjp(lookahead, grads)
        value, (v, direct) = jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(ahead, arch)
        (u,) = pullback(v)
        norm = optax.tree.norm(u)
        # With u = 0 both points are w and the difference is zero.
        scale = radius / jnp.where(norm > 0, norm, 1)

        def probe(sign):
            moved = jax.tree.map(lambda w, x: (w + sign * scale * x).astype(w.dtype), weights, u)
            return jax.grad(inner, argnums=1, has_aux=True)(moved, arch)[0]

        def total(d, plus, minus):
            return (d + norm * (plus - minus) / (2 * radius)).astype(d.dtype)

        return value, jax.tree.map(total, direct, probe(1), probe(-1))

    return hypergradient
