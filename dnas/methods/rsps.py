"""RSPS: random search with weight sharing (Li & Talwalkar, UAI 2019, arXiv 1902.07638), by uniform paths as in SPOS.

    gates = one-hot of an operation drawn uniformly on every edge, anew in every step
    weights <- SGD on  d L_train(w, gates) / d w;   arch never moves

What is learned are shared weights, not an architecture. The selection `sampled` then takes the best of a hundred uniform
draws by its accuracy in the supernet; `evolution` looks for the best of all, as in SPOS (arXiv 1904.00420); perturbation
works as for any supernet. The supernet is evaluated at uniform gates, by which magnitude cannot choose and says so. The
genotype that the search itself ends with is one uniform draw: that of its logits, which are random at first and never move.

The optimiser's defaults are those of `darts`, so that the two can be compared. Departure: in the scripts of NAS-Bench-201
each of the hundred draws is judged on one validation batch; here all are on the whole split.
"""

from __future__ import annotations

import jax
import numpy as np
import optax

from dnas.algorithms.bilevel import bilevel
from dnas.algorithms.decisions import decided
from dnas.algorithms.method import Method
from dnas.algorithms.players import Player
from dnas.algorithms.relaxations import Architecture, drawn, level, softmax, uniform
from dnas.methods.darts import check as check_darts
from dnas.methods.darts import weights_sgd


def rsps(*, lr: float = 0.025, lr_min: float = 0.001, momentum: float = 0.9, decay: float = 3e-4,
         clip: float = 5.0) -> Method:
    """Random search with weight sharing.

    Args:
        lr, lr_min, momentum, decay, clip: as for `dnas.methods.darts.darts`.

    Raises ValueError if one is out of range.
    """
    numbers = {"lr": lr, "lr_min": lr_min, "momentum": momentum, "decay": decay, "clip": clip}
    path = drawn(uniform, lambda logits: jax.nn.softmax(level(logits)), one_hot=True)._replace(alone=True)
    return Method(numbers, Player(path, lambda hyper, t: optax.identity()), Player(path, weights_sgd), bilevel(None),
                  check=check, select=first_draw, still=True,
                  changed=frozenset({"relaxation"}), replaced=frozenset({"relaxation"}))


def first_draw(space, state, gates):
    """The genotype of the logits, which are still those of the beginning, by the space's rule."""
    likely = softmax().gates(None, Architecture(state.arch, state.mask, space.groups), {}, None)
    return space.genotype(jax.tree.map(np.asarray, decided(likely, state.decisions, state.mask)))


def check(hyper):
    """Raises ValueError if one of the numbers is out of range."""
    check_darts({"arch_lr": 0, "arch_decay": 0, "arch_warmup": 0, "arch_every": 1, **hyper})
