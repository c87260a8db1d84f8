"""R-DARTS (Zela et al., RobustDARTS, ICLR 2020, arXiv 1909.09656): second-order DARTS under stronger regularisation.

The paper searches with a weight decay of 3, 9, 27, 81 and 243 times 1e-4 and takes the supernet with the best validation;
81 times 1e-4 is our choice for a single search, and all other defaults are those of `darts-2nd`. Its other kind, by
drop-path, is `--space.drop-path` with this method's `decay` at 3e-4; there the probability does not rise, as theirs does.
"""

from dnas.methods.darts_2nd import darts_2nd
from dnas.registry import variant

r_darts = variant(darts_2nd, decay=81e-4)
