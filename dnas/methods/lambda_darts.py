"""Lambda-DARTS (Movahedi et al., ICLR 2023, arXiv 2210.07998): DARTS whose cells are to want the same architecture.

    p = softmax(arch), the gates of all cells;   g_l = d L_train / d p as cell l alone uses it;   u_l = g_l / |g_l|
    alignment = mean over pairs of cells of <u_l, u_k>
    delta_l = 2 / (n (n - 1)) (I - u_l u_l^T) sum_k u_k / |g_l|,  its gradient by g_l, for n cells
    weights <- SGD on  d L_train / d w + strength_t [d L_train(p - s delta) - d L_train(p + s delta)] / d w / (2 s)

where cell l has the gates p +- s delta_l and s = step / |delta|: the second part is the gradient of - strength_t * alignment
by central differences. strength_t rises from 0 to `strength` in proportion to whole epochs, 0 in the first and all of it in
the last. strength = 0.125 and step = 1e-4 are those of the authors' code, which for one space has 0.25 and 1e-3; all other
defaults are those of `darts`. A step has two gradients more than one of DARTS.

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
def lambda_darts(method: Method, *, strength: float = 0.125, step: float = 1e-4) -> Method:
    """Lambda-DARTS.

    Args:
        strength: lambda, weight of the cells' alignment at the end of the search; rises from 0.
        step: size of the difference quotient, the norm of the change of all cells' gates.

    Raises ValueError if one is out of range.
    """
    return method.extend(weights={"descent": Descent(aligned_step)}, hyper={"strength": strength, "step": step},
                         check=check, check_search=check_search)


def aligned_step(problem, inner, outer, weights, arch, memory, hyper, t, descend):
    """`Descent.step` towards cells that want the same architecture."""
    name = aligned_group(problem.space)
    level = {name: jnp.zeros((problem.space.cells[name], *arch[name].shape), arch[name].dtype)}
    (_, aux), (grads, slopes) = jax.value_and_grad(inner, (0, 2), has_aux=True)(weights, arch, level)
    delta = direction(slopes[name])
    size = hyper["step"] / jnp.maximum(jnp.linalg.norm(delta), LEAST)
    below, above = (jax.grad(inner, has_aux=True)(weights, arch, {name: sign * size * delta})[0] for sign in (-1, 1))
    strength = hyper["strength"] * jnp.minimum(t.epoch / jnp.maximum(t.epochs - 1, 1), 1)
    grads = jax.tree.map(lambda g, a, b: (g + strength * (a - b) / (2 * size)).astype(g.dtype), grads, below, above)
    return aux, descend(grads), memory


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


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    refuse_negative(strength=hyper["strength"])
    if not hyper["step"] > 0:
        raise ValueError(f"step is {hyper['step']}, it must be positive")


def check_search(space, search):
    """Raises ValueError for a space without two cells that share their gates and can be told apart."""
    if max(space.cells.values(), default=0) < 2:
        raise ValueError(f"lambda-darts compares cells that share their gates, and space {space.name} does not tell two "
                         "apart; use nasbench201 or darts, or a space of your own with cells=")
