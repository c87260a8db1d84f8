"""A2M, architecture-aware minimization (Gambella, Pittorino & Roveri, arXiv 2503.10404): DARTS that prefers flat minima.

    arch <- Adam on  v + rho H v,   v = g(arch + rho g(arch)),   g(arch) = d L_valid(w, arch) / d arch,   H = dg / d arch

The equations, and the departure, are in `dnas/algorithms/hypergradients/flat.py`. rho = 0.1 is that of the authors' code
for the DARTS space, which has 0.01 for NAS-Bench-201; all other defaults are those of `darts`. Any method that has its
options seeks flat minima by the option `flat`, beside any of its hypergradients.
"""

from dnas.methods.darts import darts
from dnas.registry import variant

a2m = variant(darts, flat=0.1)
