"""DARTS, second order (Liu, Simonyan & Yang, ICLR 2019, arXiv 1806.09055, eq. 6-8).

    arch <- Adam on  d L_valid(w', arch) / d arch,   w' = w after one optimiser step on L_train(w, arch)

All other defaults are those of `darts`. Departure: by default the derivative through w' is exact and w' is the actual
step, clipping included; `hypergradient finite-difference` is the paper's approximation, without clipping.
"""

from dnas.methods.darts import darts
from dnas.registry import variant

darts_2nd = variant(darts, hypergradient="unrolled")
