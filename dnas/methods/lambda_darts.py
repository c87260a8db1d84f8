"""Lambda-DARTS (Movahedi et al., ICLR 2023, arXiv 2210.07998): DARTS whose cells are to want the same architecture.

    p = softmax(arch), the gates of all cells;   g_l = d L_train / d p as cell l alone uses it;   u_l = g_l / |g_l|
    alignment = mean over pairs of cells of <u_l, u_k>
    delta_l = 2 / (n (n - 1)) (I - u_l u_l^T) sum_k u_k / |g_l|,  its gradient by g_l, for n cells
    weights <- SGD on  d L_train / d w - strength_t d <delta, g> / d w,   delta held fixed

where the second part is the gradient of - strength_t * alignment: one derivative of d L_train / d w along delta. strength_t
rises from 0 to `strength` in proportion to whole epochs, 0 in the first and all of it in the last. strength = 0.125 is that
of the authors' code, which has 0.25 for one space; all other defaults are those of `darts`.

Departure: the derivative is exact, one tangent of a gradient. The authors take central differences,
[d L_train(p + s delta) - d L_train(p - s delta)] / d w / (2 s) with s = step / |delta|, which is `step` 1e-4 (for one space
1e-3) and has two gradients more than DARTS. In a small network of NAS-Bench-201 on 8x8 digits their relative error was 28 in
float64, and grew as the step shrank; presumably for ReLUs that switch between the two.

It needs a space whose cells can be told apart. Where several groups of edges have cells, those of the group with most of
them are aligned: the normal cells of the DARTS space. Ours: L_train is all that the weights descend on, terms included.
"""

import jax
import jax.numpy as jnp
import optax

from dnas.algorithms.method import Method
from dnas.algorithms.players import Descent
from dnas.algorithms.schedules import refuse_negative
from dnas.methods.darts import darts
from dnas.registry import extends

LEAST = 1e-20
"""Of a norm by which something is divided."""


@extends(darts)
def lambda_darts(method: Method, *, strength: float = 0.125, step: float = 0.0) -> Method:
    """Lambda-DARTS.

    Args:
        strength: lambda, weight of the cells' alignment at the end of the search; rises from 0.
        step: size of the published difference quotient, the norm of the change of all cells' gates; 0: the exact derivative.

    Raises ValueError if one is out of range.
    """
    refuse_negative(step=step)
    descent = Descent(differences_step if step else exact_step)
    return method.extend(weights={"descent": descent}, hyper={"strength": strength} | ({"step": step} if step else {}),
                         check=lambda hyper: refuse_negative(strength=hyper["strength"]), check_search=check_search)


def exact_step(problem, inner, outer, weights, arch, memory, hyper, t, descend):
    """`Descent.step` towards cells that want the same architecture."""
    aux, grads, shift, delta = _slopes(problem, inner, weights, arch)
    along = lambda shift: jax.grad(inner, has_aux=True)(weights, arch, shift)[0]
    return aux, descend(_added(grads, jax.jvp(along, (shift,), (delta,))[1], hyper, t)), memory


def differences_step(problem, inner, outer, weights, arch, memory, hyper, t, descend):
    """The same by central differences of the size hyper["step"]."""
    aux, grads, _, delta = _slopes(problem, inner, weights, arch)
    (rows,) = delta.values()
    size = hyper["step"] / jnp.maximum(jnp.linalg.norm(rows), LEAST)
    at = lambda sign: {name: sign * size * rows for name, rows in delta.items()}
    below, above = (jax.grad(inner, has_aux=True)(weights, arch, at(sign))[0] for sign in (-1, 1))
    quotient = jax.tree.map(lambda a, b: (a - b) / (2 * size), above, below)
    return aux, descend(_added(grads, quotient, hyper, t)), memory


def _slopes(problem, inner, weights, arch):
    """aux and gradient of `inner`, gates of cells that are not shifted, and the direction in which to shift them."""
    name = aligned_group(problem.space)
    shift = {name: jnp.zeros((problem.space.cells[name], *arch[name].shape), arch[name].dtype)}
    (_, aux), (grads, slopes) = jax.value_and_grad(inner, (0, 2), has_aux=True)(weights, arch, shift)
    return aux, grads, shift, {name: direction(slopes[name])}


def _added(grads, aligning, hyper, t):
    strength = hyper["strength"] * jnp.minimum(t.epoch / jnp.maximum(t.epochs - 1, 1), 1)
    return jax.tree.map(lambda g, other: (g - strength * other).astype(g.dtype), grads, aligning)


def alignment(slopes):
    """Mean cosine of all pairs of cells, of their gradients `[n, E, K]` by the gates."""
    units = unit(slopes)
    count = len(units)
    return ((units.sum(0) ** 2).sum() - (units ** 2).sum()) / (count * (count - 1))


def direction(slopes):
    """delta `[n, E, K]`, the gradient of `alignment`."""
    units, norms = unit(slopes), jnp.maximum(_norms(slopes), LEAST)
    count, total = len(units), units.sum(0)
    along = (units * total).sum((1, 2), keepdims=True)
    return 2 / (count * (count - 1)) * (total - along * units) / norms


def unit(slopes):
    """Gradients of cells `[n, E, K]`, each divided by its norm; zero stays zero."""
    return slopes / jnp.maximum(_norms(slopes), LEAST)


def _norms(slopes):
    return optax.safe_norm(slopes, 0.0, axis=(1, 2), keepdims=True)


def aligned_group(space):
    """The name of the group with the most cells."""
    return max(space.cells, key=space.cells.get)


def check_search(space, search):
    """Raises ValueError for a space without two cells that share their gates and can be told apart."""
    if max(space.cells.values(), default=0) < 2:
        raise ValueError(f"lambda-darts compares cells that share their gates, and space {space.name} does not tell two "
                         "apart; use nasbench201 or darts, or a space of your own with cells=")
