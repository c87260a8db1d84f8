"""`dnas.rank`: how well a trained supernet ranks networks whose truth a benchmark's table knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnas import registry
from dnas.api.comparison_plan import refuse_other_space
from dnas.api.open import Run
from dnas.api.open import open as open_search
from dnas.api.supernet import fingerprint, search_config
from dnas.engine import cache as caches
from dnas.fronts.problem import cost_function
from dnas.printing import print_flushed, printable
from dnas.reports.figures import draw_ranking
from dnas.reports.ranking import RankStatistics, rank_statistics, rows_of
from dnas.reports.text import columns, duration
from dnas.runs import lock as locks
from dnas.runs.files import as_json, clean, write_json
from dnas.selection.scoring import score_networks, whole_batches
from dnas.selection.types import refuse_seed
from dnas.tabular.benchmarks import load
from dnas.tabular.table import better, choices, drawn_rows
from dnas.task import Task
from dnas.types import Genotype

BASELINE = "multiply-adds"
"""What a supernet has to rank better than: networks by their multiply-adds, the largest first."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well a supernet ranks networks.

    table: path of the table; truth: the column; of: how many networks it has a value for. genotypes: the N networks, in
    random order. values: `[N]`, their truth. scores: {metric of the task, "loss": [N]}, in the supernet, means over
    `examples`. statistics: for each of scores, and for BASELINE, which needs no supernet. cost: {"evaluations":
    examples passed forward, "seconds", without compiling}.
    epoch: of the supernet. folder: of the run in which files are written, None in memory.
    """

    table: str
    truth: str
    of: int
    genotypes: Sequence[Genotype]
    values: np.ndarray
    scores: Mapping[str, np.ndarray]
    examples: int
    statistics: Mapping[str, RankStatistics]
    cost: Mapping[str, float]
    epoch: int
    folder: Path | None = None

    @property
    def file(self) -> Path | None:
        """The file of the result; the same name with .npz has the scores, with .svg and .png the picture."""
        return self.folder and ranking_file(self.folder, self.table)

    def rows(self) -> list[list[str]]:
        """The statistics as a table of texts, a row for each score, with a header."""
        return rows_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The result without what is known of single networks, as JSON knows it."""
        statistics = {name: {**each._asdict(), "kendall": each.kendall._asdict(), "spearman": each.spearman._asdict(),
                             "top": {part: found._asdict() for part, found in each.top.items()}}
                      for name, each in self.statistics.items()}
        return as_json({"table": Path(self.table).name, "truth": self.truth, "networks": len(self.genotypes), "of": self.of,
                        "examples": self.examples, "epoch": self.epoch, "statistics": statistics, "cost": dict(self.cost)})

    def __repr__(self) -> str:
        return printable(f"<ranking of {len(self.genotypes):,} networks by {self.truth}>\n{columns(self.rows(), left=1)}")


def rank(run: str | Path | Run, *, table: str, truth: str | None = None, networks: int | None = None,
         examples: int | None = None, seed: int = 0, space: str | None = None, method: str | None = None,
         trust: bool = False, cache: str | None = None, progress: bool = True) -> Ranking:
    """Scores the networks of a table in the supernet of a search, and says how well the scores rank them.

    run: a run, or its directory, in which rank-TABLE.json, .npz, .svg and .png are written.

    Args:
        table: Table of a benchmark of the run's space, a .npz (`dnas table import`).
        truth: Column of the table that is the truth; default: the benchmark's test accuracy.
        networks: How many networks are drawn, without repetition; default: all that have a value in the column.
        examples: About how many examples of the validation split score a network, as many as are nearest in whole batches;
            default: all of it.
        seed: Seed of the draw, and of the order of networks with equal scores.
        space: Where the run's space is, if it is your own: package.module:factory or file.py:factory.
        method: Where its method is, likewise.
        trust: Import whatever places the run's config names.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show how it goes on.

    A network is scored at one-hot gates with the statistics of each batch, on the same examples as all others. Scores are
    saved on the way, so that an interrupted call goes on, and one for more networks scores only those that are new.
    Raises ValueError, in one line and before anything is scored, for a table of another space, a column that it lacks,
    numbers out of range, a run without a supernet, and where the run has scores on other examples or of another state.
    """
    for name, value, kinds, what in (("run", run, (str, Path, Run), "a run, or its directory"),
                                     ("table", table, (str, Path), "the path of a table")):
        if not isinstance(value, kinds):
            raise ValueError(f"{name} is {value!r:.60}; it must be {what}")
    refuse_seed(seed)
    if examples is not None and (type(examples) is not int or examples < 1):
        raise ValueError(f"examples is {examples!r}; it must be a whole number, at least 1")
    known = load(Path(table).expanduser())
    column = truth or known.benchmark.reported
    rows = drawn_rows(known, column, networks, seed)
    run = run if isinstance(run, Run) else open_search(run, space=space, method=method, trust=trust)
    where = str(run.folder or "the run in memory")
    if run.folder:
        name = search_config(run.folder)["space"]["name"]
        if not registry.is_place(name, "space"):
            refuse_other_space(name, where, [known.benchmark.space])
    caches.enable(cache)
    supernet = run.supernet
    refuse_other_space(supernet.space.name, where, [known.benchmark.space])
    genotypes = [Genotype(supernet.space.name, supernet.space.options, choices(known, row)) for row in rows]
    examples = whole_batches(supernet.context, examples)
    say = print_flushed if progress else lambda text: None
    say(f"run        {run.folder or 'in memory'}, epoch {supernet.epoch} of {supernet.config['epochs']}")
    say(f"networks   {len(rows):,} of {known.benchmark.title}, {examples:,} examples of the validation split each")
    if len(run.children) > 1:
        say(f"supernets  each network is scored by the one of {len(run.children)} children that has it")
    file = run.folder and ranking_file(run.folder, table)
    with writing(run.folder) if run.folder else contextlib.nullcontext():
        scores = score_networks(
            supernet.context, genotypes, examples, state_of=supernet.state_of, file=file and file.with_suffix(".npz"),
            of=fingerprint(supernet), on_scored=lambda done, left: say(
                f"scored     {done:,} of {len(rows):,}" + (f", about {duration(left)} left" if left else "")))
    signs = signs_of(supernet.context.task)
    values, of = known.columns[column][rows], known.columns[column][drawn_rows(known, column, None)]
    statistics = {name: rank_statistics(sign * scores.values[name], values, among=of, better=better(column), seed=seed)
                  for name, sign in signs.items()}
    costs = cost_function(supernet.space)
    macs = np.array([costs(each)["macs"] for each in genotypes])
    statistics[BASELINE] = rank_statistics(macs, values, among=of, better=better(column), seed=seed)
    result = Ranking(known.path, column, len(of), genotypes, values, {name: scores.values[name] for name in signs}, examples,
                     statistics, {"evaluations": len(rows) * examples, "seconds": scores.seconds}, supernet.epoch,
                     run.folder)
    if file:
        for suffix in ".svg", ".png":
            draw_ranking({f"{name} in the supernet": scored for name, scored in result.scores.items()}, result.values,
                         column, file.with_suffix(suffix), better(column))
        write_json(file, result.to_json())
    return result


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Has a run for itself, as a search has that goes on. Raises ValueError where another process has it."""
    try:
        lock = locks.take(folder)
    except OSError as error:
        raise ValueError(f"cannot write in {folder}: {error.strerror}") from None
    with lock:
        clean(folder)
        yield


def signs_of(task: Task) -> dict[str, int]:
    """The scores by which networks are ranked: 1 where more is better, -1 where less is."""
    return {task.metric: task.better, "loss": -1}


def ranking_file(folder: Path, table: str | Path) -> Path:
    """Where the ranking of a run by a table is written."""
    return folder / f"rank-{Path(table).stem}.json"
