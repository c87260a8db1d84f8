"""A Pareto front of the supernet's metric and costs by few evaluations: predictors and NSGA-II (LINAS, arXiv 2205.10358).

Every network is judged as the supernet's network of its genotype, by the task's metric on the whole validation split, with
batch statistics. Costs are exact. `dnas.fronts` says how the networks are proposed; the front is in front.json, and the
selection's own genotype is that of the front which is best by the metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dnas import registry
from dnas.fronts.encoding import Encoding
from dnas.fronts.front import Front, front_of
from dnas.fronts.nsga2 import refuse_missing
from dnas.fronts.problem import Problem, cost_function, limits_of
from dnas.fronts.search import PREDICTED, check_numbers, log_of, propose, rounds
from dnas.selection.sampling import best_draw, copied, no_draws, put_draw, tried
from dnas.selection.types import TRIED, Progress, Selection, refuse_seed
from dnas.types import OPEN, REMOVED

VALUE = "value/"
"""Begins the names of the scores `[N]` that are the networks' metric, and each of their costs."""


def pareto(*, objectives: tuple[str, ...] = (), evaluations: int = 200, limit: tuple[str, ...] = (),
           latency: str | None = None, device: str | None = None, table: str | None = None, population: int = 50,
           predicted: int = 5000, seed: int | None = None) -> Selection:
    """The Pareto front that a number of evaluations find, and its best network by the metric.

    Args:
        objectives: Two or more of the task's metric, params, macs and latency; default: the metric and macs.
        evaluations: Networks that are evaluated in the supernet, all different.
        limit: Hard limits on params, macs and latency, such as 'macs<=20e6', which every network that is evaluated keeps.
        latency: File of measured latencies of the space's networks (dnas latency --save), or of HELP.
        device: Which device's latencies, where the file has several.
        table: The table of NAS-Bench-201 in whose rows the latencies of HELP are.
        population: Evaluations between two fits of the predictors.
        predicted: Evaluations by predictors between two rounds. Published: 5,000 to 20,000.
        seed: Seed of everything drawn; default: the search's seed.

    Raises ValueError for an option out of range, limits that leave too few networks, and where pymoo is not installed.
    """
    if objectives and len(set(objectives)) < max(len(objectives), 2):
        raise ValueError(f"objectives are {', '.join(objectives)}; they must be two or more, each once")
    costs = latency_cost(latency, device, table)
    return by_evaluations("linas", objectives, costs, evaluations=evaluations, limit=limit, population=population,
                          predicted=predicted, seed=seed)


def latency_cost(latency: str | None, device: str | None, table: str | None) -> dict[str, Callable]:
    """{"latency": genotype -> milliseconds} where there is a file, else {}. Raises ValueError where it cannot be read."""
    if latency is None:
        if device or table:
            raise ValueError(f"{'device' if device else 'table'} needs latency, the file that it is of")
        return {}
    return {"latency": registry.load("dnas.tabular.latency:latency_by")(latency, device, table=table)}


def by_evaluations(by: str, objectives: Sequence[str], costs, *, evaluations: int, limit: Sequence[str], population: int,
                   predicted: int = PREDICTED, seed: int | None = None) -> Selection:
    """The selection that evaluates networks which `dnas.fronts.search` would propose by `by`. Of one objective, the task's
    metric, unless it is by linas."""
    check_numbers(evaluations, population, predicted)
    refuse_seed(seed)
    limits, sizes = limits_of(limit), rounds(evaluations, population, by)
    of_costs = "params", "macs", *costs
    starts = np.cumsum([0, *sizes])

    def chunks(context):
        """(round, first evaluation, last) of each step."""
        return [(number, first, min(first + context.width, int(starts[number + 1]))) for number in range(len(sizes))
                for first in range(int(starts[number]), int(starts[number + 1]), context.width)]

    def check(space):
        if by == "linas":
            refuse_missing()
        problem(space).check(evaluations)

    def problem(space, allowed=None):
        return Problem(Encoding(space, allowed), cost_function(space, costs), limits)

    def directions(context):
        return {context.task.metric: context.task.better} | dict.fromkeys(of_costs, -1)

    def signs(context):
        metric, known = context.task.metric, directions(context)
        names = objectives or ((metric, "macs") if by == "linas" else (metric,))
        for name in names:
            if name not in known:
                hint = ", which needs its file" if name == "latency" else ""
                raise ValueError(f"objectives have {name!r}{hint}; there are {', '.join(known)}")
        if metric not in names:
            raise ValueError(f"objectives must have {metric}, which the supernet is evaluated for")
        return {name: known[name] for name in names}

    def begin(context):
        if by == "linas":
            refuse_missing()
        signs(context)  # refuses objectives that there are not
        empty = {f"{VALUE}{name}": np.full(evaluations, np.nan) for name in directions(context)}
        problem(context.space, in_race(context)).check(evaluations)
        scores = no_draws(context.space, evaluations) | empty
        for name in context.space.groups:
            scores[f"{TRIED}/{name}"][:] = OPEN
        return Progress(context.state, np.int32(0), scores, np.int64(0))

    def step(key, context, progress):
        number, first, last = chunks(context)[int(progress.step)]
        scores, metric = copied(progress.scores), context.task.metric
        if first == starts[number]:
            left = problem(context.space, in_race(context))
            rows = np.concatenate([scores[f"{TRIED}/{name}"][:first] for name in context.space.groups], 1)
            values = [scores[f"{VALUE}{name}"][:first] for name in signs(context)]
            log = log_of([tuple(row) for row in rows.tolist()], np.stack(values, 1), signs(context), of_costs)
            proposed = propose(left, log, by, number, evaluations=evaluations, population=population,
                               predicted=predicted, seed=context.seed if seed is None else seed)
            for n, vector in enumerate(proposed, first):
                put_draw(scores, n, left.encoding.genotype(vector), np.nan, context.space)
                for name, cost in left.costs(vector).items():
                    scores[f"{VALUE}{name}"][n] = cost
        genotypes = [tried(context.space, scores, n) for n in range(first, last)]
        measured = context.score(progress.state, [each.gates(context.space.groups) for each in genotypes])
        for n, genotype, values in zip(range(first, last), genotypes, measured[metric]):
            value = float(np.mean(values, dtype=np.float64))
            if not math.isfinite(value):
                raise ValueError(f"{metric} of the network {context.space.format(genotype)} in the supernet is {value}")
            scores[TRIED][n], scores[f"{VALUE}{metric}"][n] = context.task.better * value, value
        return progress._replace(step=np.int32(progress.step + 1), scores=scores,
                                 evaluations=progress.evaluations + measured[metric].size)

    def front(context, progress) -> Front:
        scores = progress.scores
        genotypes = [tried(context.space, scores, n) for n in range(evaluations)]
        values = [{name: float(scores[f"{VALUE}{name}"][n]) for name in directions(context)} for n in range(evaluations)]
        return front_of(signs(context), genotypes, values, limits)

    return Selection(lambda context: len(chunks(context)), begin, step, best_draw,
                     lambda context: {"evaluations": evaluations * context.examples, "epochs": 0, "discrete": True}, check,
                     front if by == "linas" else None)


def in_race(context) -> dict[str, np.ndarray]:
    """The operations of each edge, boolean `[E, K]`, that the supernet's search has left: a decided edge has one."""
    allowed = {}
    for name, group in context.space.groups.items():
        decisions, mask = (np.asarray(part[name]) for part in (context.state.decisions, context.state.mask))
        decided = np.arange(group.shape[1]) == decisions[:, None]
        allowed[name] = np.where((decisions == OPEN)[:, None], mask, decided & (decisions != REMOVED)[:, None])
    return allowed
