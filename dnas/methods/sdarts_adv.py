"""SDARTS-ADV, SmoothDARTS by an attack on the gates (Chen & Hsieh, ICML 2020, arXiv 2002.05283).

    arch    <- Adam on  d L_valid(w, p) / d arch,   p = softmax(arch)
    weights <- SGD on   d L_train(w, p') / d w,     p' = the worst gates within epsilon of p, by sign ascent on L_train

Seven steps of ascent, and epsilon from 0.03 to 0.3 in proportion to whole epochs, as in the authors' code; all other
defaults are those of `darts`. The ascent, and what is ours, are in `dnas/algorithms/perturbations.py`. Departure: the
authors attack the network in evaluation mode; a supernet here has batch statistics in the attack as well, because nothing
of it is evaluated by running averages.
"""

from dnas.algorithms.method import Method
from dnas.algorithms.perturbations import adversarial
from dnas.methods.darts import darts
from dnas.methods.sdarts_rs import RADIUS, check
from dnas.registry import extends


@extends(darts)
def sdarts_adv(method: Method, *, epsilon: float = 0.3, epsilon_first: float = 0.03, attack_steps: int = 7) -> Method:
    """SDARTS-ADV.

    Args:
        epsilon: largest change of a gate by the attack at the end of the search.
        epsilon_first: the same in the first epoch.
        attack_steps: of the ascent, each a gradient by the gates on the training batch.
    """
    return method.extend(weights={"perturbation": adversarial(epsilon=RADIUS, steps=attack_steps)}, check=check,
                         hyper={"epsilon": epsilon, "epsilon_first": epsilon_first})
