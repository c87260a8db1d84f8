"""DARTS- (Chu et al., ICLR 2021, arXiv 2009.01027): an auxiliary skip beside the mixture of every edge, which fades.

    edge:  beta * x + sum_k softmax(arch)_k op_k(x),   beta falls from 1 to 0 in proportion to whole epochs

All other defaults are those of `darts`. beta is added to the gate of the edge's own skip, which computes the same where the
skip is the identity; the networks that are evaluated and chosen have no auxiliary. Departures: where an edge has a stride,
the paper's auxiliary is a reduction with weights of its own, here it shares those of the operation; an edge that has no
skip, or whose skip is out of the race, has no auxiliary.
"""

import numpy as np

from dnas.algorithms.method import Method
from dnas.algorithms.relaxations import Relaxation
from dnas.algorithms.schedules import Ramp, linear_by_epoch, refuse_negative
from dnas.methods.darts import darts
from dnas.registry import extends
from dnas.types import Group, is_skip


@extends(darts)
def darts_minus(method: Method, *, auxiliary: float = 1.0) -> Method:
    """DARTS-.

    Args:
        auxiliary: beta, weight of the auxiliary skip in the first epoch; falls to 0.
    """
    beta = linear_by_epoch("auxiliary", "auxiliary_last")
    return method.extend(arch={"relaxation": with_skip(method.arch.relaxation, beta)},
                         weights={"relaxation": with_skip(method.weights.relaxation, beta)},
                         hyper={"auxiliary": auxiliary, "auxiliary_last": 0.0},
                         check=lambda hyper: refuse_negative(auxiliary=hyper["auxiliary"]))


def with_skip(relaxation: Relaxation, beta: Ramp) -> Relaxation:
    """The gates of `relaxation`, with beta added to those of skips, while the supernet is trained (a key is there).

    `init` raises ValueError for groups without a skip.
    """
    def init(key, groups, **settings):
        if not any(skips(group).any() for group in groups.values()):
            raise ValueError("darts-minus needs a space with an operation whose name has skip or identity, this one has "
                             + ", ".join(sorted({op for group in groups.values() for e in range(len(group.edges))
                                                 for op in group.edge_ops(e)})))
        return relaxation.init(key, groups, **settings)

    def gates(key, architecture, hyper, t):
        relaxed = dict(relaxation.gates(key, architecture, hyper, t))
        if key is not None:
            for name, group in architecture.groups.items():
                relaxed[name] += (beta(hyper, t) * skips(group)).astype(relaxed[name].dtype)
        return relaxed

    return Relaxation(init, gates)


def skips(group: Group) -> np.ndarray:
    """Booleans `[E, K]`: which operations are a skip connection or the identity, by their names."""
    edges, ops = group.shape
    names = [group.edge_ops(e) + ("",) * (ops - len(group.edge_ops(e))) for e in range(edges)]
    return np.array([[is_skip(op) for op in row] for row in names])
