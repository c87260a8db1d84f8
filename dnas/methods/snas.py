"""SNAS (Xie et al., ICLR 2019, arXiv 1812.09926): one level, gates drawn from a concrete distribution.

    gates = softmax((arch + noise) / tau),   noise from a standard Gumbel distribution
    weights, arch <- descend together on E[L_train(w, gates)], one draw a batch, the gradient through the draw
    tau_e = tau_min + (tau_max - tau_min) (1 - e / epochs) in epoch e

Defaults are those of the authors' code: 150 epochs of batches of 64, logits from N(1, 0.01^2), the weights' gradient clipped
to 5 and the architecture's to 10. The validation data is only reported, so nothing of it decides.

Departures: there is no resource term beside the loss (`--budget.params` and `--budget.macs` limit the cost of any method);
no drop-path unless `--space.drop-path 0.3` says so; and the space's rule selects, where the authors take the largest
operation of every edge, `none` included. The authors train on all images; here the validation split is left out.
"""

from __future__ import annotations

import jax
import optax

from dnas.algorithms.method import Method
from dnas.algorithms.players import Player
from dnas.algorithms.relaxations import gumbel, initial_logits
from dnas.algorithms.schedules import linear_by_epoch
from dnas.algorithms.single_level import single_level
from dnas.methods.darts import arch_adam, weights_sgd
from dnas.methods.darts import check as check_darts
from dnas.methods.gdas import check_temperatures


def snas(*, tau_max: float = 1.0, tau_min: float = 0.03, lr: float = 0.025, lr_min: float = 0.001, momentum: float = 0.9,
         decay: float = 3e-4, clip: float = 5.0, arch_lr: float = 3e-4, arch_decay: float = 1e-3,
         arch_clip: float = 10.0) -> Method:
    """SNAS.

    Args:
        tau_max: temperature in the first epoch.
        tau_min: temperature to which it falls linearly, once an epoch.
        lr: learning rate of the weights in the first epoch; falls along a cosine, once an epoch.
        lr_min: last value of that cosine.
        momentum: of the weights' SGD.
        decay: weight decay of the weights.
        clip: largest global norm of the weights' gradient.
        arch_lr: learning rate of the architecture's Adam (betas 0.5, 0.999).
        arch_decay: weight decay of the architecture, coupled as in torch.
        arch_clip: largest global norm of the architecture's gradient.

    Raises ValueError if one is out of range.
    """
    numbers = {"tau_max": tau_max, "tau_min": tau_min, "lr": lr, "lr_min": lr_min, "momentum": momentum, "decay": decay,
               "clip": clip, "arch_lr": arch_lr, "arch_decay": arch_decay, "arch_clip": arch_clip}
    concrete = gumbel(tau=linear_by_epoch("tau_max", "tau_min"))._replace(init=around_one)
    return Method(numbers, Player(concrete, clipped_adam), Player(concrete, weights_sgd), single_level(), check=check,
                  changed=frozenset({"relaxation"}), replaced=frozenset({"relaxation"}))


def around_one(key, groups):
    """Logits `[E, K]` of every group from N(1, 0.01^2). Their mean matters to the weight decay only."""
    return jax.tree.map(lambda rows: 1 + rows, initial_logits(key, groups, scale=0.01))


def clipped_adam(hyper, t):
    """The architecture's Adam on gradients of limited norm."""
    return optax.chain(optax.clip_by_global_norm(hyper["arch_clip"]), arch_adam(hyper, t))


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    check_darts({"arch_warmup": 0, "arch_every": 1, **hyper})
    check_temperatures(hyper)
    if not hyper["arch_clip"] > 0:
        raise ValueError(f"arch_clip is {hyper['arch_clip']}, it must be positive")
