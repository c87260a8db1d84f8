"""SPOS, single path one-shot (Guo et al., ECCV 2020, arXiv 1904.00420): uniform paths, then evolution.

    gates = one-hot of an operation drawn uniformly on every edge, anew in every step
    weights <- SGD on  d L_train(w, gates) / d w

The plainest elastic training (`dnas/algorithms/elastic.py`), which the others change. A quick search ends with the
selection `evolution`, by the accuracy of networks in the supernet and under hard limits, as the paper's does:

    dnas search --space mobilenet --method spos --selection evolution --selection.limit 'macs<=2e6'

`rsps` trains by the same draws; what it reports while it trains is the average of all networks, here it is the largest one.
The optimiser's defaults are those of `darts`, so that the two can be compared. Departures: the paper's are other ones, for
ImageNet; batch norm's averages are computed anew on the batches on which a network is judged.
"""

from __future__ import annotations

import numpy as np

from dnas.algorithms.elastic import Networks, Training, draws, elastic_method
from dnas.algorithms.method import Method
from dnas.methods.darts import weights_sgd
from dnas.methods.rsps import check


def spos(*, lr: float = 0.025, lr_min: float = 0.001, momentum: float = 0.9, decay: float = 3e-4,
         clip: float = 5.0) -> Method:
    """Single path one-shot.

    Args:
        lr, lr_min, momentum, decay, clip: as for `dnas.methods.darts.darts`.

    Raises ValueError if one is out of range.
    """
    numbers = {"lr": lr, "lr_min": lr_min, "momentum": momentum, "decay": decay, "clip": clip}
    return elastic_method(numbers, weights_sgd, single_path, check=check)


def single_path(space) -> Training:
    """One network a step, drawn uniformly."""
    return Training(lambda key, architecture, extra, hyper, t: Networks(draws(key, architecture, 1), np.ones(1, np.float32)))
