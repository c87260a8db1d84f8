"""Signs of a search that collapses: skips, the discretisation gap, sharpness, curvature of the architecture.

    gap        = the task's metric of the mixture minus that of the one-hot network with the same weights (negated if less
                 is better), on the hold-out split
    sharpness  = L(w + rho g / |g|) - L(w), g = dL/dw, L what the weights' player minimises, on a training batch
                 (Foret et al., arXiv 2010.01412)
    eigenvalue = the largest of d2 L_valid / d arch2, L_valid what the architecture's player minimises, on a validation batch
                 (Zela et al., RobustDARTS, arXiv 1909.09656, where it announces collapse; without the weight decay that
                 the authors' code adds to the diagonal)

Both losses include the method's relaxation, perturbation and terms. Random draws use the same key every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dnas.algorithms.decisions import FACTOR, Stop, early_stop
from dnas.types import Array, Genotype, Tree, is_skip


def sharpness(loss: Callable[[Tree], Array], weights: Tree, *, radius: float = 0.05) -> Array:
    """L(w + radius g / |g|) - L(w) of a scalar `loss(weights)`, in the units of the loss; 0 where g is 0."""
    value, grads = jax.value_and_grad(loss)(weights)
    norm = optax.tree.norm(grads)
    scale = radius / jnp.where(norm > 0, norm, 1)
    return loss(jax.tree.map(lambda w, g: w + scale * g, weights, grads)) - value


def largest_eigenvalue(product: Callable[[np.ndarray], np.ndarray], size: int, *, tolerance: float = 1e-3) -> float:
    """The algebraically largest eigenvalue of the symmetric matrix whose product with a vector `[size]` is `product`.

    By Lanczos iteration; exactly, column by column, if the matrix is small. tolerance: relative.
    """
    if size < 8:
        matrix = np.stack([product(column) for column in np.eye(size)])
        return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1])
    from scipy.sparse.linalg import LinearOperator, eigsh  # here, for it takes a tenth of a second

    operator = LinearOperator((size, size), matvec=product, dtype=np.float64)
    start = np.random.default_rng(0).normal(size=size)
    if not np.any(product(start)):
        return 0.0  # the loss is flat, as where the logits do nothing; Lanczos iteration has nowhere to begin
    return float(eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)[0])


def curvature(loss: Callable) -> tuple[Callable, Callable]:
    """Two functions to compile: `sharp(state, hyper, train) -> sharpness` and
    `product(state, hyper, valid, vector) -> H vector`.

    loss: that of `dnas.algorithms.method.Algorithm`. The vector concatenates the leaves of `state.arch` in their order.
    """
    def sharp(state, hyper, train):
        of = loss("weights", state, train, hyper)
        return sharpness(lambda weights: of(weights, state.arch), state.weights)

    def product(state, hyper, valid, vector):
        of, (flat, unflat) = loss("arch", state, valid, hyper), ravel_pytree(state.arch)
        slope = jax.grad(lambda flat: of(state.weights, unflat(flat)))
        return jax.jvp(slope, (flat,), (vector.astype(flat.dtype),))[1]

    return sharp, product


def skips(genotype: Genotype) -> int:
    """Edges of the genotype that carry a skip connection or identity."""
    return sum(is_skip(choice.op) for choices in genotype.choices.values() for choice in choices)


def collapse(records: Sequence[Mapping]) -> Stop | None:
    """A Stop with the epoch whose genotype to use, if the records of a search show a collapse, else None."""
    measured = [r for r in records if "eigenvalue" in r]
    if not measured:
        return None
    last = measured[-1]
    if last["skips"] == last["edges"]:
        return Stop(f"the architecture has collapsed: at epoch {last['epoch']} every edge is a skip connection",
                    last["epoch"])
    stop = early_stop([r["epoch"] for r in measured], [r["eigenvalue"] for r in measured])
    if stop:
        return Stop(
            f"the architecture may be collapsing: by epoch {stop[0]} the largest eigenvalue of its Hessian had grown "
            f"by more than {FACTOR} times; the genotype of epoch {stop[1]} should be used (DARTS-ES)", stop[1])
    return None
