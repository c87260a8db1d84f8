"""`dnas.front`: a Pareto front of the networks in a table of NAS-Bench-201, without a supernet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dnas import fronts, registry
from dnas.fronts import Front
from dnas.printing import print_flushed
from dnas.reports.figures import draw_front
from dnas.runs.files import write_atomic
from dnas.selection.pareto import latency_cost
from dnas.tabular.benchmarks import load
from dnas.tabular.table import Table, accuracy, better, evaluator, index, without_test
from dnas.types import SearchSpace


def front(table: str | Path, *, objectives: tuple[str, ...] = ("cifar10_valid_12", "macs"), evaluations: int = 200,
          by: Literal["linas", "evolution", "predictor", "random"] = "linas", limit: tuple[str, ...] = (),
          latency: str | None = None, device: str | None = None, population: int = 50, predicted: int = 5000,
          seed: int = 0, out: str | None = None, progress: bool = True) -> Front:
    """The Pareto front that a number of look-ups find among the networks in a table of NAS-Bench-201.

    table: a .npz (`dnas table import`). Its test columns are never read.

    Args:
        objectives: Columns of the table, params, macs (of the published networks) and latency.
        evaluations: Networks that are looked up, all different.
        by: How networks are proposed: linas (predictors and NSGA-II), evolution and predictor (for the first objective
            alone), or random.
        limit: Hard limits on params, macs and latency, such as 'macs<=60e6', which every network that is looked up keeps.
        latency: File of measured latencies of the networks (dnas latency --save), or of HELP.
        device: Which device's latencies, where the file has several.
        population: Look-ups between two fits of the predictors.
        predicted: Evaluations by predictors between two rounds. Published: 5,000 to 20,000.
        seed: Seed of everything drawn.
        out: Folder in which front.json is written, and of several objectives the pictures front.svg and front.png; it must
            not have them.
        progress: Show how the search goes on.

    Raises ValueError, in one line and before anything is written, for what cannot be read and as `dnas.fronts.search`.
    """
    known = without_test(load(Path(table).expanduser()))
    costs = latency_cost(latency, device, str(table) if latency else None)
    for name in objectives:
        if "_test_" in name:
            raise ValueError(f"objectives have {name}: test columns are for reports, and nothing is chosen by them")
        if name not in (*known.columns, "params", "macs", *costs):
            raise ValueError(f"objectives have {name!r}; there are {', '.join([*known.columns, 'params', 'macs', *costs])}")
    folder = Path(out).expanduser() if out else None
    if folder and (folder / fronts.FILE).exists():
        raise ValueError(f"{folder} has a front; remove it, or choose another folder")
    if folder and folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; out must be a folder")
    signs = {name: better(name) for name in objectives}
    done = lambda number, values: print_flushed(f"evaluated  {number:,} of {evaluations:,}") if number % population == 0 \
        and progress else None
    found = fronts.search(tabulated(known, objectives), evaluator(known), objectives, evaluations=evaluations,
                          by=by, limits=limit, costs=costs, better=signs, population=population, predicted=predicted,
                          seed=seed, progress=done)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("svg", "png") if len(found.objectives) > 1 else ():
            draw_front(found, folder / f"front.{suffix}")
        write_atomic(folder / fronts.FILE, found.to_json())
    return found


def tabulated(table: Table, objectives: Sequence[str]) -> SearchSpace:
    """NAS-Bench-201's space of the published networks for the data of the first accuracy among the objectives, whose costs
    are those of the table, if it has them."""
    of = next((accuracy(name).data for name in objectives if accuracy(name)), "cifar10")
    benchmark = table.benchmark
    image, classes = benchmark.data.get(of, benchmark.data["cifar10"])
    space = registry.resolve(benchmark.space, "space")(image, classes, **benchmark.skeleton)
    params, macs = (table.columns.get(f"{name}_{of}") for name in ("params", "flops"))
    if params is None or macs is None:
        return space

    def cost(genotype):
        row = index(table, genotype)
        return {"params": int(params[row]), "macs": int(macs[row])}

    return space._replace(cost=cost, expected=None)
