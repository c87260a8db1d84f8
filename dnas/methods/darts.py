"""DARTS, first order (Liu, Simonyan & Yang, ICLR 2019, arXiv 1806.09055).

    arch    <- Adam on  d L_valid(w, arch) / d arch
    weights <- SGD on   d L_train(w, arch) / d w

Every default is that of the authors' code for CIFAR-10. Departures: the epoch's last incomplete batch is dropped, and
the validation pass leaves no trace in the running averages of batch norm.
"""

from __future__ import annotations

from typing import Literal

from dnas.algorithms.distillation import distillation
from dnas.algorithms.hypergradients import HYPERGRADIENTS
from dnas.algorithms.optimizers import adam, cosine_by_epoch, refuse_negative, sgd
from dnas.algorithms.players import Method, as_method, bilevel, cross_entropy
from dnas.algorithms.relaxations import edge_logits, edge_normalised, initial_logits, softmax
from dnas.types import SearchSpace


def darts(space: SearchSpace, epochs: int, steps: int, *, lr: float = 0.025, lr_min: float = 0.001,
          momentum: float = 0.9, decay: float = 3e-4, clip: float = 5.0, arch_lr: float = 3e-4,
          arch_decay: float = 1e-3, arch_warmup: int = 0, arch_every: int = 1, arch_frozen: bool = False,
          edge_normalisation: bool = False,
          hypergradient: Literal["first-order", "unrolled", "finite-difference", "neumann",
                                 "conjugate-gradient"] = "first-order",
          terms: int = 2, distill: int = 0, distill_weight: float = 1.0, distill_temperature: float = 1.0,
          distill_vote: Literal["soft", "hard"] = "soft", distill_every: Literal["epoch", "step"] = "epoch",
          distill_warmup: int = 5, distill_arch: bool = False) -> Method:
    """First-order DARTS on `space`, for `epochs` epochs of `steps` steps.

    Args:
        lr: learning rate of the weights in the first epoch; falls along a cosine, once an epoch.
        lr_min: where that cosine ends.
        momentum: of the weights' SGD.
        decay: weight decay of the weights.
        clip: largest global norm of the weights' gradient.
        arch_lr: learning rate of the architecture's Adam (betas 0.5, 0.999).
        arch_decay: weight decay of the architecture, coupled as in torch.
        arch_warmup: epochs before the first architecture step.
        arch_every: weight steps to one architecture step.
        arch_frozen: never move the architecture (DARTS-PT's "fix alpha").
        edge_normalisation: learn a weight for each edge, shared out among those into a node (PC-DARTS).
        hypergradient: estimator of the architecture's gradient.
        terms: of the Neumann series, or iterations of conjugate gradient.
        distill: earlier supernets that teach the present one; 0 for none (SD-DARTS).
        distill_weight: of the divergence from the teachers.
        distill_temperature: of teachers' and student's probabilities.
        distill_vote: how teachers agree: mean of probabilities, or count of first choices.
        distill_every: when a teacher is taken.
        distill_warmup: epochs over which the weight rises.
        distill_arch: distil in the architecture step too.

    Raises ValueError where one is out of range.
    """
    refuse_negative(arch_lr=arch_lr, arch_decay=arch_decay, arch_warmup=arch_warmup, distill=distill)
    if arch_every < 1:
        raise ValueError(f"arch_every is {arch_every}, it must be at least 1")
    if hypergradient not in HYPERGRADIENTS:
        raise ValueError(f"hypergradient {hypergradient!r} is none of {', '.join(HYPERGRADIENTS)}")
    if arch_warmup >= epochs and arch_warmup:
        raise ValueError(f"arch_warmup {arch_warmup} leaves none of {epochs} epochs to the architecture; "
                         "give more epochs or a smaller arch_warmup")
    schedule = cosine_by_epoch(lr, lr_min, epochs, steps)
    settings = {"neumann": {"terms": terms, "lr": lr}, "conjugate-gradient": {"iterations": terms}}
    estimator = None if arch_frozen else HYPERGRADIENTS[hypergradient](**settings.get(hypergradient, {}))
    unclipped = sgd(schedule, momentum=momentum, decay=decay) if hypergradient == "finite-difference" else None
    relaxation, logits = (edge_normalised, edge_logits) if edge_normalisation else (softmax, initial_logits)
    relaxation = relaxation(space.groups)
    penalty = distillation(
        space, teachers=distill, weight=distill_weight, temperature=distill_temperature, vote=distill_vote,
        every=steps if distill_every == "epoch" else 1, warmup=distill_warmup * steps,
    ) if distill and distill_weight else None
    optimizer = bilevel(
        cross_entropy(space), relaxation, estimator, sgd(schedule, momentum=momentum, decay=decay, clip=clip),
        adam(arch_lr, decay=arch_decay), lookahead_tx=unclipped, arch_starts=arch_warmup * steps,
        arch_every=arch_every, penalty=penalty, penalise_arch=distill_arch)
    return as_method(space, optimizer, relaxation, logits)

