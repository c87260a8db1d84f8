"""DARTS, first order (Liu, Simonyan & Yang, ICLR 2019, arXiv 1806.09055).

    arch    <- Adam on  d L_valid(w, arch) / d arch
    weights <- SGD on   d L_train(w, arch) / d w

Every default is that of the authors' code for CIFAR-10. Departures: the epoch's last incomplete batch is dropped, and
the validation pass does not change the running averages of batch norm.
"""

from __future__ import annotations

from typing import Literal

from dnas.algorithms.bilevel import bilevel
from dnas.algorithms.decisions import keep_best
from dnas.algorithms.distillation import check_distillation, distillation
from dnas.algorithms.hypergradients import HYPERGRADIENTS
from dnas.algorithms.hypergradients import flat as uphill
from dnas.algorithms.method import Method
from dnas.algorithms.optimizers import adam, sgd
from dnas.algorithms.players import Player
from dnas.algorithms.relaxations import edge_normalised, softmax, sparsemax
from dnas.algorithms.schedules import cosine_by_epoch, refuse_negative

RELAXATIONS = {"softmax": softmax, "sparsemax": sparsemax}


def darts(*, lr: float = 0.025, lr_min: float = 0.001, momentum: float = 0.9, decay: float = 3e-4, clip: float = 5.0,
          arch_lr: float = 3e-4, arch_decay: float = 1e-3, arch_warmup: int = 0, arch_every: int = 1,
          arch_frozen: bool = False, relaxation: Literal["softmax", "sparsemax"] = "softmax",
          edge_normalisation: bool = False,
          hypergradient: Literal["first-order", "unrolled", "finite-difference", "neumann",
                                 "conjugate-gradient"] = "first-order",
          terms: int = 2, flat: float = 0.0, distill: int = 0, distill_weight: float = 1.0, distill_temperature: float = 1.0,
          distill_vote: Literal["soft", "hard"] = "soft", distill_every: Literal["epoch", "step"] = "epoch",
          distill_warmup: int = 5, distill_arch: bool = False, keep: int = 0) -> Method:
    """First-order DARTS.

    Args:
        lr: learning rate of the weights in the first epoch; falls along a cosine, once an epoch.
        lr_min: last value of that cosine.
        momentum: of the weights' SGD.
        decay: weight decay of the weights.
        clip: largest global norm of the weights' gradient.
        arch_lr: learning rate of the architecture's Adam (betas 0.5, 0.999).
        arch_decay: weight decay of the architecture, coupled as in torch.
        arch_warmup: epochs before the first architecture step.
        arch_every: weight steps per architecture step.
        arch_frozen: never move the architecture (DARTS-PT's "fix alpha").
        relaxation: how logits become gates; sparsemax leaves gates of exactly 0 (TangleNAS).
        edge_normalisation: learn the weight of each edge among those into its node (PC-DARTS).
        hypergradient: estimator of the architecture's gradient.
        terms: terms of the Neumann series, or iterations of conjugate gradient.
        flat: rho, the step uphill from which that gradient is taken, to prefer flat minima (A2M); 0 for none.
        distill: number of earlier supernets that teach the present one (SD-DARTS).
        distill_weight: weight of the divergence from the teachers.
        distill_temperature: temperature of the teachers' and the student's probabilities.
        distill_vote: mean of the teachers' probabilities, or count of their first choices.
        distill_every: how often the supernet becomes a teacher.
        distill_warmup: epochs over which the weight rises from 0.
        distill_arch: distil in the architecture step as well.
        keep: operations that each edge keeps in the race when the search ends, for one that starts from it; 0: all.

    Raises ValueError if one is out of range.
    """
    if hypergradient not in HYPERGRADIENTS:
        raise ValueError(f"hypergradient {hypergradient!r} must be one of {', '.join(HYPERGRADIENTS)}")
    if relaxation not in RELAXATIONS:
        raise ValueError(f"relaxation {relaxation!r} must be one of {', '.join(RELAXATIONS)}")
    if not 0 <= distill <= 100:
        raise ValueError(f"distill is {distill}, it must be 0 to 100")
    if keep < 0 or keep == 1:
        raise ValueError(f"keep is {keep}, it must be 2 or more, or 0 to keep all operations")
    numbers = {"lr": lr, "lr_min": lr_min, "momentum": momentum, "decay": decay, "clip": clip, "arch_lr": arch_lr,
               "arch_decay": arch_decay, "arch_warmup": arch_warmup, "arch_every": arch_every}
    settings = {"neumann": lambda hyper: {"terms": terms, "lr": hyper["lr"]},
                "conjugate-gradient": lambda hyper: {"iterations": terms}}.get(hypergradient, lambda hyper: {})
    HYPERGRADIENTS[hypergradient](**settings(numbers))  # raises if one is out of range
    refuse_negative(flat=flat)
    if flat:
        numbers["flat"] = flat

    def estimate(hyper):
        plain = HYPERGRADIENTS[hypergradient](**settings(hyper))
        return uphill(plain, hyper["flat"]) if flat else plain

    estimator = None if arch_frozen else estimate
    relaxed = RELAXATIONS[relaxation]()
    relaxed = edge_normalised(relaxed) if edge_normalisation else relaxed
    method = Method(numbers, Player(relaxed, arch_adam), Player(relaxed, weights_sgd),
                    bilevel(estimator, lookahead=unclipped_sgd if hypergradient == "finite-difference" else None),
                    check=check, decide=keep_best(keep) if keep else None,
                    changed=frozenset() if relaxation == "softmax" else frozenset({"relaxation"}))
    if not distill:
        return method
    term = {"terms": {"distillation": distillation(teachers=distill, vote=distill_vote, every=distill_every)}}
    return method.extend(weights=term, arch=term if distill_arch else None, check=check_distillation,
                         hyper={"distill_weight": distill_weight, "distill_temperature": distill_temperature,
                                "distill_warmup": distill_warmup})


def weights_sgd(hyper, t):
    """The weights' SGD, whose rate falls along a cosine, once an epoch."""
    return sgd_at(cosine_by_epoch("lr", "lr_min")(hyper, t), hyper)


def sgd_at(rate, hyper):
    """The weights' SGD at this rate."""
    return sgd(rate, momentum=hyper["momentum"], decay=hyper["decay"], clip=hyper["clip"])


def unclipped_sgd(hyper, t):
    """The same without clipping, for the lookahead step of the authors' second order."""
    return sgd(cosine_by_epoch("lr", "lr_min")(hyper, t), momentum=hyper["momentum"], decay=hyper["decay"])


def arch_adam(hyper, t):
    """The architecture's Adam."""
    return adam(hyper["arch_lr"], decay=hyper["arch_decay"])


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    refuse_negative(**{name: hyper[name] for name in ("lr", "lr_min", "momentum", "decay", "arch_lr", "arch_decay",
                                                      "arch_warmup", "flat") if name in hyper})
    if not hyper["momentum"] < 1:
        raise ValueError(f"momentum is {hyper['momentum']}, it must be below 1")
    if not hyper["clip"] > 0:
        raise ValueError(f"clip is {hyper['clip']}, it must be positive")
    if hyper["arch_every"] < 1 or hyper["arch_every"] % 1:
        raise ValueError(f"arch_every is {hyper['arch_every']}, it must be a whole number, at least 1")
    if hyper["arch_warmup"] >= hyper.get("epochs", float("inf")) and hyper["arch_warmup"]:
        raise ValueError(f"arch_warmup {hyper['arch_warmup']} leaves none of {hyper['epochs']} epochs to the architecture; "
                         "use more epochs or a smaller arch_warmup")
