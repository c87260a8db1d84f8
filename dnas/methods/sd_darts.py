"""SD-DARTS (Zhu, Li, Liu & Wang, Neural Networks 2023, arXiv 2302.05629): DARTS taught by its own past.

The equations, and which of them are ours, are in `dnas/algorithms/distillation.py`. Three teachers, one per epoch, are our
choice; all other defaults are those of `darts`. Any method with the option `distill` is distilled the same way.
"""

from dnas.methods.darts import darts
from dnas.registry import variant

sd_darts = variant(darts, distill=3)
