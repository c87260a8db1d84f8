"""beta-DARTS (Ye et al., CVPR 2022, arXiv 2203.01665): DARTS with a decay of the architecture that does not see the data.

    L_arch = L_valid + beta_t * mean over edges of log sum_k exp(arch_k),   beta_t = beta * epoch / epochs

Its gradient is the edge's softmax, so it draws the logits of an edge together, the largest most. beta = 50 is that of the
authors' code; there the weight decay of the architecture's Adam stays as in DARTS.
"""

import jax
import jax.numpy as jnp

from dnas.algorithms.method import Method
from dnas.algorithms.schedules import refuse_negative
from dnas.methods.darts import darts
from dnas.registry import extends


@extends(darts)
def beta_darts(method: Method, *, beta: float = 50.0) -> Method:
    """beta-DARTS.

    Args:
        beta: weight of the decay at the end of the search; rises from 0 in proportion to whole epochs.
    """
    def decay(hyper, t, arch, gates, forward, memory):
        rows = forward.architecture.masked().values()
        return hyper["beta"] * t.epoch / t.epochs * jnp.concatenate([jax.nn.logsumexp(row, -1) for row in rows]).mean()

    return method.extend(arch={"terms": {"beta": decay}}, hyper={"beta": beta},
                         check=lambda hyper: refuse_negative(beta=hyper["beta"]))
