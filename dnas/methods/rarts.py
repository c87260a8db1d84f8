"""RARTS: one level, two coupled networks, one architecture (Xue, Qi & Xin, IEEE Access 2022, arXiv 2008.03901).

The equations are in `dnas/algorithms/rarts.py`. The paper's own coupling, weight and rates could not be confirmed: the
optimisers are those of DARTS (arXiv 1806.09055), coupling and weight are ours.
"""

from __future__ import annotations

from dnas.algorithms.method import Method
from dnas.algorithms.players import Player
from dnas.algorithms.rarts import rarts as sweep
from dnas.algorithms.relaxations import softmax
from dnas.methods.darts import arch_adam, weights_sgd
from dnas.methods.darts import check as check_darts


def rarts(*, coupling: float = 1.0, weight: float = 1.0, merged: bool = True, lr: float = 0.025, lr_min: float = 0.001,
          momentum: float = 0.9, decay: float = 3e-4, clip: float = 5.0, arch_lr: float = 3e-4,
          arch_decay: float = 1e-3) -> Method:
    """RARTS.

    Args:
        coupling: beta, how strongly the two networks pull each other; lr * coupling must be below 2.
        weight: lambda, weight of the training loss beside the validation loss.
        merged: two passes a step; otherwise the exact sweep of four.
        lr: learning rate of both networks in the first epoch; falls along a cosine, once an epoch.
        lr_min: last value of that cosine.
        momentum: of the networks' SGD.
        decay: weight decay of the networks.
        clip: largest global norm of a network's gradient.
        arch_lr: learning rate of the architecture's Adam (betas 0.5, 0.999).
        arch_decay: weight decay of the architecture, coupled as in torch.

    Raises ValueError if lr * coupling is 2 or more, where descent on the coupling diverges.
    """
    numbers = {"coupling": coupling, "weight": weight, "lr": lr, "lr_min": lr_min, "momentum": momentum, "decay": decay,
               "clip": clip, "arch_lr": arch_lr, "arch_decay": arch_decay}
    return Method(numbers, Player(softmax(), arch_adam), Player(softmax(), weights_sgd), sweep(merged=merged), check=check)


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    check_darts({"arch_warmup": 0, "arch_every": 1, **hyper})
    if not (hyper["coupling"] > 0 and hyper["weight"] > 0):
        raise ValueError(f"rarts needs coupling > 0 and weight > 0, got {hyper['coupling']} and {hyper['weight']}")
    lr, coupling = hyper["lr"], hyper["coupling"]
    if lr * coupling >= 2:
        raise ValueError(f"lr {lr} times coupling {coupling} is {lr * coupling:g}: rarts diverges unless "
                         f"lr * coupling < 2; use coupling < {2 / lr:g}")
