"""iDARTS (Zhang et al., ICML 2021, arXiv 2106.10784): DARTS with an implicit hypergradient after several weight steps.

The equations, and what differs from the authors' code, are in `dnas/algorithms/hypergradients/neumann.py`. Five weight
steps to a step of the architecture and two terms of the series are those of the authors' code; all other defaults are
those of `darts`.
"""

from dnas.methods.darts import darts
from dnas.registry import variant

idarts = variant(darts, hypergradient="neumann", terms=2, arch_every=5)
