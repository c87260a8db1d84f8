"""SDARTS-RS, SmoothDARTS by random smoothing (Chen & Hsieh, ICML 2020, arXiv 2002.05283).

    arch    <- Adam on  d L_valid(w, p) / d arch,   p = softmax(arch)
    weights <- SGD on   d L_train(w, clip(p + u)) / d w,   u ~ U(-epsilon, epsilon) for every gate

epsilon rises from 0.03 to 0.3 in proportion to whole epochs, as in the authors' code; all other defaults are those of
`darts`. `clip`, and what is ours, are in `dnas/algorithms/perturbations.py`.
"""

from dnas.algorithms.method import Method
from dnas.algorithms.perturbations import random
from dnas.algorithms.schedules import linear_by_epoch, refuse_negative
from dnas.methods.darts import darts
from dnas.registry import extends

RADIUS = linear_by_epoch("epsilon_first", "epsilon")
"""The largest change of a gate."""


@extends(darts)
def sdarts_rs(method: Method, *, epsilon: float = 0.3, epsilon_first: float = 0.03) -> Method:
    """SDARTS-RS.

    Args:
        epsilon: largest noise on a gate at the end of the search, for the weights' player.
        epsilon_first: the same in the first epoch.
    """
    return method.extend(weights={"perturbation": random(epsilon=RADIUS)}, check=check,
                         hyper={"epsilon": epsilon, "epsilon_first": epsilon_first})


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    refuse_negative(epsilon=hyper["epsilon"], epsilon_first=hyper["epsilon_first"])
