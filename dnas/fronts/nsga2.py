"""NSGA-II (Deb et al., IEEE Transactions on Evolutionary Computation 6(2), 2002) by pymoo, on the networks of a space.

Operations have no order, so the operators are uniform crossover (probability 0.9) and the replacement of an operation by a
random one (one of nine in ten networks), not the simulated binary crossover and the polynomial mutation of LINAS,
which are for numbers. Each child is what the space's own rule makes of it. A network that exceeds a limit is worse than any
that does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dnas.fronts.encoding import Vector
from dnas.fronts.problem import Problem, mutated

MISSING = "this needs the package pymoo; install it with: pip install 'dnas[fronts]'"


def refuse_missing() -> None:
    """Raises ValueError where pymoo is not installed."""
    import importlib.util

    if importlib.util.find_spec("pymoo") is None:
        raise ValueError(MISSING)


def nsga2(problem: Problem, values: Callable[[Sequence[Vector]], np.ndarray], first: Sequence[Vector], *, generations: int,
          rng: np.random.Generator) -> dict[Vector, np.ndarray]:
    """All networks that NSGA-II evaluates within the limits, with their values `[M]`, in the order in which it does.

    values: vectors -> `[N, M]`, less is better; a network that comes up again is evaluated again. first: the first
    population, whose size all others have. generations: the first one included.
    """
    refuse_missing()
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.mutation import Mutation
    from pymoo.core.problem import Problem as Form
    from pymoo.core.repair import Repair
    from pymoo.operators.crossover.ux import UX
    from pymoo.optimize import minimize

    encoding, evaluated = problem.encoding, {}
    edges, objectives = len(encoding.options), values(first[:1]).shape[1]
    vectors = lambda rows: [tuple(row) for row in np.asarray(rows, int).tolist()]

    class Networks(Form):
        def __init__(self):
            super().__init__(n_var=edges, n_obj=objectives, n_ieq_constr=int(bool(problem.limits)), vtype=int)

        def _evaluate(self, rows, out, *args, **kwargs):
            some = vectors(rows)
            out["F"] = values(some)
            excess = np.array([problem.excess(vector) for vector in some])
            if problem.limits:
                out["G"] = excess[:, None]
            evaluated.update((vector, row) for vector, row, over in zip(some, out["F"], excess) if not over)

    class Replace(Mutation):
        def _do(self, form, rows, **kwargs):
            return np.array([mutated(encoding, vector, 0.0, rng) if rng.random() < 0.9 else vector
                             for vector in vectors(rows)])

    class Rule(Repair):
        def _do(self, form, rows, **kwargs):
            return np.array([encoding.canonical(vector, rng) for vector in vectors(rows)])

    algorithm = NSGA2(pop_size=len(first), sampling=np.array(first, int), crossover=UX(prob=0.9), mutation=Replace(),
                      repair=Rule())
    minimize(Networks(), algorithm, ("n_gen", generations), seed=int(rng.integers(2**31)))
    return evaluated
