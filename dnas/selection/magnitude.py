"""Magnitude: the space's own rule on the gates, as DARTS selects (Liu et al., arXiv 1806.09055, section 2.4)."""

from __future__ import annotations

import numpy as np

from dnas.selection.types import Progress, Selection, Unsuitable


def magnitude() -> Selection:
    """The operations with the largest shares of their edge's gates; weights of edges do not count.

    Its `begin` raises Unsuitable on a run whose gates are all alike, such as one by rsps.
    """
    return _largest(shares)


def magnitude_edge() -> Selection:
    """The operations with the largest gates, weights of edges included (PC-DARTS, arXiv 1907.05737, eq. 2).

    Its `begin` raises Unsuitable on a run without edge normalisation, where it equals `magnitude`.
    """
    return _largest(weighted)


def shares(context):
    """The gates `[E, K]` of each group, scaled to sum to one on each edge. Raises Unsuitable if they are all alike."""
    gates = {name: np.asarray(rows, np.float64) for name, rows in context.gates(context.state).items()}
    undecided = [row[row > 0] for rows in gates.values() for row in rows if (row > 0).sum() > 1]
    if undecided and all((row == row[0]).all() for row in undecided):
        raise Unsuitable("magnitude needs gates that differ, those of this run (such as one by rsps) are alike on every "
                         "edge; choose sampled or perturbation")
    return {name: rows / np.maximum(rows.sum(-1, keepdims=True), 1e-30) for name, rows in gates.items()}


def weighted(context):
    """The gates `[E, K]` of each group as they are. Raises Unsuitable if every edge weighs one."""
    gates = {name: np.asarray(rows, np.float64) for name, rows in context.gates(context.state).items()}
    if all(np.allclose(rows.sum(-1), 1, atol=1e-4) for rows in gates.values()):
        raise Unsuitable("magnitude-edge needs a run with edge normalisation (--method pc-darts, or "
                         "--method.edge-normalisation); for this one choose magnitude")
    return gates


def _largest(scores) -> Selection:
    def begin(context):
        values = {name: rows.astype(np.float32) for name, rows in scores(context).items()}
        return Progress(context.state, np.int32(0), values, np.int64(0))

    return Selection(lambda context: 0, begin, lambda key, context, progress: progress,
                     lambda context, progress: context.space.genotype(progress.scores),
                     lambda context: {"evaluations": 0, "epochs": 0})
