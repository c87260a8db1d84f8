"""Products with the second derivatives of the inner loss, which every estimator past the first order needs."""

from __future__ import annotations

import jax


def products(inner, weights, arch, *, reverse: bool):
    """Returns grads, product: grad_w inner, and the linear map `product(u) -> H u, grad_a <grad_w inner, u>`.

    u is a pytree like `weights`, H the Hessian of `inner` in them. The map is linearised once, with the gradient.
    What goes unused is not computed under jit.

    Forward over reverse (reverse=False) is the derivative along u of grad_(w, a) inner. It needs as many
    operations as reverse over reverse, but half the time for convolutions on a CPU. As both gradients are taken,
    forward mode meets no `jax.custom_vjp` function, only their rules; where a rule calls such a function again,
    jax refuses and reverse over reverse is the way.
    """
    if reverse:
        return jax.vjp(lambda w, a: jax.grad(inner, has_aux=True)(w, a)[0], weights, arch)
    inner_grads = jax.grad(inner, argnums=(0, 1), has_aux=True)
    (grads, _), product = jax.linearize(lambda w: inner_grads(w, arch)[0], weights)
    return grads, product
