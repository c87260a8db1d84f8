"""PC-DARTS (Xu et al., ICLR 2020, arXiv 1907.05737): partial channels and edge normalisation, first order.

    edge:  shuffle(concat(sum_k softmax(arch)_k op_k(first C/K channels), the other channels))
    node:  sum over its edges of softmax over those edges (edge logits) * edge

Defaults are those of the authors' code for CIFAR-10, which has batches of 256 and K = 4. The channels are an option of
the space, `partial_channels`; the command sets it to 4 for this method.
"""

from dnas.methods.darts import darts
from dnas.registry import variant

SPACE = {"partial_channels": 4}

pc_darts = variant(darts, lr=0.1, lr_min=0.0, arch_lr=6e-4, arch_warmup=15, edge_normalisation=True)
