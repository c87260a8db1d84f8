"""DARTS-ES (Zela et al., RobustDARTS, ICLR 2020, arXiv 1909.09656): DARTS that stops before its curvature explodes.

    stop at epoch i if the largest eigenvalue of d2 L_valid / d arch2, a mean over five measurements, has grown by more than
    1.3 times within four measurements, none of them before epoch 10; the genotype is that of the older mean's centre

The measurements are those of `--diagnose 2` (in Python `diagnose=2`), without which a search is refused: the authors
measure every second epoch. The rule, and what differs in the eigenvalue, are in
`dnas/algorithms/decisions.py` and `dnas/engine/diagnose.py`. Departure: the authors search by the second order, here
first order is the default, as in `darts`, and `hypergradient unrolled` is theirs. Joined to another method, as in
"pc-darts+darts-es", it stops that.
"""

from dnas.algorithms.decisions import FACTOR, Stop, early_stop, stop_of
from dnas.algorithms.method import Method
from dnas.methods.darts import darts
from dnas.registry import extends


@extends(darts)
def darts_es(method: Method) -> Method:
    """DARTS-ES: needs a diagnosis of every epoch or every second one."""
    rules = [method.stop, stop] if method.stop else [stop]
    return method.extend(stop=lambda records: stop_of(rules, records), check_search=check_search)


def check_search(space, search):
    """Raises ValueError for a search that does not record its curvature."""
    if search["diagnose"] not in (1, 2):
        raise ValueError("darts-es stops by the curvature of the architecture, which this search does not record often "
                         "enough; use --diagnose 2 (in Python diagnose=2), or 1 for every epoch")


def stop(records):
    """The Stop of DARTS-ES."""
    measured = [record for record in records if "eigenvalue" in record]
    due = early_stop([record["epoch"] for record in measured], [record["eigenvalue"] for record in measured])
    return due and Stop(f"by epoch {due[0]} the largest eigenvalue of the architecture's Hessian had grown by more than "
                        f"{FACTOR} times; the genotype is that of epoch {due[1]} (DARTS-ES)", due[1])
