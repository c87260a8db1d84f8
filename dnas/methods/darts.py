"""DARTS, first order (Liu, Simonyan & Yang, ICLR 2019, arXiv 1806.09055).

    arch    <- Adam on  d L_valid(w, arch) / d arch
    weights <- SGD on   d L_train(w, arch) / d w

Every default is that of the authors' code for CIFAR-10. Departures: the epoch's last incomplete batch is dropped, and
the validation pass leaves no trace in the running averages of batch norm.
"""

from __future__ import annotations

import jax

from dnas.bilevel import Method, bilevel, cross_entropy
from dnas.hypergradients import HYPERGRADIENTS
from dnas.optimizers import adam, cosine_by_epoch, sgd
from dnas.relaxations import decided, initial_logits, softmax, undecided
from dnas.types import SearchSpace


def darts(space: SearchSpace, epochs: int, steps: int, *, lr: float = 0.025, lr_min: float = 0.001,
          momentum: float = 0.9, decay: float = 3e-4, clip: float = 5.0,
          arch_lr: float = 3e-4, arch_decay: float = 1e-3) -> Method:
    """First-order DARTS on `space`, for `epochs` epochs of `steps` steps.

    Args:
        lr: learning rate of the weights in the first epoch; falls along a cosine, once an epoch.
        lr_min: where that cosine ends.
        momentum: of the weights' SGD.
        decay: weight decay of the weights.
        clip: largest global norm of the weights' gradient.
        arch_lr: learning rate of the architecture's Adam (betas 0.5, 0.999).
        arch_decay: weight decay of the architecture, coupled as in torch.
    """
    relaxation = softmax(space.groups)
    optimizer = bilevel(cross_entropy(space), relaxation, HYPERGRADIENTS["first-order"](),
                        sgd(cosine_by_epoch(lr, lr_min, epochs, steps), momentum=momentum, decay=decay, clip=clip),
                        adam(arch_lr, decay=arch_decay))

    def init(key, images):
        weights_key, arch_key = jax.random.split(key)
        weights, stats = space.init(weights_key, images)
        return optimizer.init(weights, initial_logits(arch_key, space.groups), stats, undecided(space.groups))

    def gates(state):
        return decided(relaxation(None, state.arch, state.step), state.decisions)

    return Method(init, optimizer.step, gates, lambda state: space.genotype(gates(state)))
