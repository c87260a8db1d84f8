"""RARTS: one level, two coupled networks, one architecture (Xue, Qi & Xin, IEEE Access 2022, arXiv 2008.03901).

The equations are in `dnas/algorithms/rarts.py`. The paper's own coupling, weight and rates could not be confirmed: the
optimisers are those of DARTS (arXiv 1806.09055), coupling and weight are ours.
"""

from __future__ import annotations

from dnas.algorithms.optimizers import adam, cosine_by_epoch, refuse_negative, sgd
from dnas.algorithms.players import Method, as_method, cross_entropy
from dnas.algorithms.rarts import rarts as optimizer
from dnas.algorithms.relaxations import initial_logits, softmax
from dnas.types import SearchSpace


def rarts(space: SearchSpace, epochs: int, steps: int, *, coupling: float = 1.0, weight: float = 1.0,
          merged: bool = True, lr: float = 0.025, lr_min: float = 0.001, momentum: float = 0.9, decay: float = 3e-4,
          clip: float = 5.0, arch_lr: float = 3e-4, arch_decay: float = 1e-3) -> Method:
    """RARTS on `space`, for `epochs` epochs of `steps` steps.

    Args:
        coupling: beta, that holds the two networks together; lr * coupling must be below 2.
        weight: lambda, of the training loss beside the validation loss.
        merged: two passes a step; otherwise the exact sweep of four.
        lr: learning rate of both networks in the first epoch; falls along a cosine, once an epoch.
        lr_min: where that cosine ends.
        momentum: of the networks' SGD.
        decay: weight decay of the networks.
        clip: largest global norm of a network's gradient.
        arch_lr: learning rate of the architecture's Adam (betas 0.5, 0.999).
        arch_decay: weight decay of the architecture, coupled as in torch.

    Raises ValueError where lr and coupling break the bound below which a descent step on the coupling can converge.
    """
    refuse_negative(arch_lr=arch_lr, arch_decay=arch_decay)
    if lr * coupling >= 2:
        raise ValueError(f"lr {lr} times coupling {coupling} is {lr * coupling:g}: rarts diverges unless "
                         f"lr * coupling < 2; take coupling < {2 / lr:g}")
    relaxation = softmax(space.groups)
    built = optimizer(cross_entropy(space), relaxation,
                      sgd(cosine_by_epoch(lr, lr_min, epochs, steps), momentum=momentum, decay=decay, clip=clip),
                      adam(arch_lr, decay=arch_decay), coupling=coupling, weight=weight, merged=merged)
    return as_method(space, built, relaxation, initial_logits)
