"""Magnitude: the space's own rule on the gates, as DARTS selects (Liu et al., arXiv 1806.09055, section 2.4)."""

from __future__ import annotations

import numpy as np

from dnas.selection.types import Progress, Selection


def magnitude() -> Selection:
    """The operations with the largest gates; with edge normalisation the gates include the edges' weights."""

    def begin(bench):
        scores = {name: np.asarray(rows, np.float32) for name, rows in bench.method.gates(bench.state).items()}
        return Progress(bench.state, np.int32(0), scores, np.int64(0))

    return Selection(lambda bench: 0, begin, lambda key, bench, progress: progress,
                     lambda bench, progress: bench.method.select(progress.state),
                     lambda bench: {"evaluations": 0, "epochs": 0})
