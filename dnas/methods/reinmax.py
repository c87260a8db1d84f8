"""ReinMax (Liu et al., NeurIPS 2023, arXiv 2304.08612): one operation drawn per edge, a gradient of second order.

    gates = D,   D ~ Categorical(p),   p = softmax(arch)
    d L / d arch := 2 J(q) g - J(p) g / 2,   q = (softmax(arch / tau) + D) / 2,   g = d L / d gates at D,
    where J(p) = diag(p) - p p^T is the Jacobian of the softmax

At tau = 1 its mean is the gradient of E[L(D)] exactly wherever L is at most quadratic in the gates of an edge; the
straight-through estimator of the same draw is exact where L is linear. It has no Gumbel noise and no schedule; tau must be
1 or more. Both players draw, each for itself. Ours: the paper is of the estimator; that it searches as DARTS does is our
use of it.
"""

import jax
import jax.numpy as jnp

from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import drawn
from dnas.methods.darts import darts
from dnas.registry import extends


@extends(darts)
def reinmax(method: Method, *, tau: float = 1.0) -> Method:
    """ReinMax.

    Args:
        tau: temperature of the gradient, 1 or more; 1 is exact to second order, more is smoother.

    Raises ValueError if it is out of range.
    """
    return method.extend(relaxation=drawn(draw, one_hot=True), hyper={"tau": tau}, check=check)


def draw(key, logits, hyper, t):
    """One-hot gates `[E, K]`, drawn from softmax(logits)."""
    return straight_through(logits, jax.random.categorical(key, logits), hyper["tau"])


def straight_through(logits, drawn, tau):
    """One-hot `[..., E, K]` of the drawn operations `[..., E]`, with the gradient of ReinMax."""
    one_hot = jax.nn.one_hot(drawn, logits.shape[-1], dtype=logits.dtype)
    middle = jax.lax.stop_gradient(jax.nn.softmax(logits / tau) + one_hot) / 2
    allowed = middle > 0
    moved = jnp.where(allowed, logits, 0)
    at_middle = jnp.where(allowed, jnp.log(jnp.where(allowed, middle, 1)) + moved - jax.lax.stop_gradient(moved), -jnp.inf)
    slope = 2 * jax.nn.softmax(at_middle) - jax.nn.softmax(logits) / 2
    return one_hot + (slope - jax.lax.stop_gradient(slope))


def check(hyper):
    """Raises ValueError if the temperature is out of range."""
    if not 1 <= hyper["tau"] < float("inf"):
        raise ValueError(f"tau is {hyper['tau']}, it must be 1 or more, and finite")
