"""Fronts of NAS-Bench-201's table by few look-ups: LINAS, NSGA-II without predictors, and random search.

    python -m benchmarks fronts nb201.npz --latency nb201_hw.npz --device pixel3 --out runs/fronts.json

Objectives are the validation accuracy against multiply-adds, and against a measured latency. A front counts by its
hypervolume, as a share of that of the whole table's front; networks below the table's median accuracy count for nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np

from dnas import fronts
from dnas.api.front import tabulated
from dnas.fronts.dominance import hypervolume
from dnas.fronts.encoding import Encoding
from dnas.fronts.nsga2 import nsga2
from dnas.fronts.problem import Problem
from dnas.runs.directory import environment
from dnas.tabular.benchmarks import load
from dnas.tabular.nasbench201 import latencies
from dnas.tabular.table import choices, index, without_test
from dnas.types import Genotype


class Spent(Exception):
    """All look-ups are done."""


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--latency", help="file of HELP, in the order of the table's rows")
    parser.add_argument("--device", help="one of its devices")
    parser.add_argument("--column", default="cifar10_valid_12")
    parser.add_argument("--after", type=int, nargs="+", default=[50, 100, 200], help="look-ups")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--predicted", type=int, default=5000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)

    if "_test_" in options.column:
        parser.error(f"--column {options.column}: nothing is chosen by test accuracies")
    table = without_test(load(options.table))
    space = tabulated(table, [options.column])
    costs = {"macs": np.array([space.cost(cell)["macs"] for cell in _cells(table, space)])}
    if options.latency:
        devices, ms = latencies(options.latency)
        if options.device not in devices:
            parser.error(f"--device must be one of {', '.join(devices)}")
        costs["latency"] = ms[devices.index(options.device)]
    found = {"options": {**vars(options), "out": None}, "environment": environment(), "hypervolume": {}}
    for name, cost in costs.items():
        whole = np.stack([-table.columns[options.column].astype(np.float64), cost.astype(np.float64)], 1)
        true = covered(whole, whole)
        print(f"{options.column} and {name}: the whole table's front covers {true:.4f} of the box", flush=True)
        for label, looked_up in methods(table, space, whole, name, options).items():
            begun, runs = time.perf_counter(), []
            for seed in range(options.seeds):
                rows = looked_up(seed)
                runs.append([covered(whole[rows[:count]], whole) / true for count in options.after])
            found["hypervolume"].setdefault(name, {})[label] = runs
            mean, spread = np.mean(runs, 0), np.std(runs, 0, ddof=1) if len(runs) > 1 else np.zeros(len(options.after))
            print(f"  {label:<30} " + "  ".join(f"{100 * m:.2f} ± {100 * s:.2f} %" for m, s in zip(mean, spread)) +
                  f"   ({(time.perf_counter() - begun) / options.seeds:.1f} s a search)", flush=True)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def covered(values, whole):
    """The share of the box between the best of the whole table and (the median accuracy, the largest cost)."""
    reference, low = np.array([np.median(whole[:, 0]), whole[:, 1].max()]), whole.min(0)
    return hypervolume((values - low) / (reference - low), np.ones(2))


def methods(table, space, whole, name, options):
    """seed -> the rows that are looked up, in their order, of each method."""
    budget = max(options.after)
    search = partial(proposed, table, space, whole, name, budget, options.predicted)
    listed = {"random": partial(search, "random", 50, True),
              **{f"NSGA-II, population {size}": partial(evolved, table, space, whole, size, budget) for size in (50, 20)}}
    for size in 50, 25:
        listed[f"LINAS, rounds of {size}"] = partial(search, "linas", size, True)
        if name == "latency":
            listed[f"LINAS, rounds of {size}, latency known"] = partial(search, "linas", size, False)
    return listed


def proposed(table, space, whole, name, budget, predicted, by, population, measured, seed):
    """What `dnas.fronts.search` looks up. measured: a latency is known, like the accuracy, of networks looked up only, and
    predicted of others."""
    rows, milliseconds = [], whole[:, 1]

    def evaluate(genotype):
        rows.append(index(table, genotype))
        return {"accuracy": -whole[rows[-1], 0], "latency": milliseconds[rows[-1]]}

    known = {} if measured or name != "latency" else {
        "latency": lambda genotype: milliseconds[index(table, genotype)]}
    fronts.search(space, evaluate, ["accuracy", name], evaluations=budget, by=by, population=population, predicted=predicted,
                  better={"latency": -1}, costs=known, seed=seed)
    return rows


def evolved(table, space, whole, population, budget, seed):
    """What NSGA-II looks up, each network once."""
    encoding, rng, rows = Encoding(space), np.random.default_rng(seed), {}

    def values(vectors):
        for vector in vectors:
            if vector not in rows:
                if len(rows) == budget:
                    raise Spent
                rows[vector] = index(table, encoding.genotype(vector))
        return whole[[rows[vector] for vector in vectors]]

    first = list(dict.fromkeys(encoding.draw(rng) for _ in range(2 * population)))[:population]
    try:
        nsga2(Problem(encoding, space.cost, {}), values, first, generations=100 * budget, rng=rng)
    except Spent:
        return list(rows.values())
    raise RuntimeError(f"NSGA-II ended after {len(rows)} networks")


def _cells(table, space):
    return [Genotype(space.name, space.options, choices(table, row)) for row in range(len(table.ops))]
