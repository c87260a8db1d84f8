"""What a person sees while a search runs: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dnas.task import Task


class Display(NamedTuple):
    """say(text): a line of its own. step(done, record, rate): steps done of the whole run, this epoch's means so
    far, examples per second. epoch(record, rate): an epoch's record is complete. Losses and metrics are numbers, or arrays
    of several lanes."""

    say: Callable[[str], None]
    step: Callable[[int, Mapping[str, Any], float], None]
    epoch: Callable[[Mapping[str, Any], float], None]


SILENT = Display(lambda text: None, lambda done, record, rate: None, lambda record, rate: None)


@contextlib.contextmanager
def display(task: Task, epochs: int, steps: int, done: int = 0) -> Iterator[Display]:
    """Shows a run of `epochs` epochs of `steps` steps, of which `done` are behind it, by the metric that decides."""
    console = Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[shown]}"),
               TimeRemainingColumn())
    live = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        row = bar.add_task("", total=epochs * steps, completed=done, shown="")

        latest = {}

        def step(done, record, rate):
            shown = "  ".join([_shown(task, record, rate), *latest.values()])
            bar.update(row, completed=done, shown=shown,
                       description=f"epoch {min(done // steps + 1, epochs)}/{epochs}")

        def epoch(record, rate):
            if "holdout" in record[task.metric]:
                latest["holdout"] = f"holdout {metric_text(task, record[task.metric]['holdout'])}"
            if not live:
                console.print(f"epoch {record['epoch']}/{epochs}  {_shown(task, record, rate)}")

        yield Display(console.print, step, epoch)


def shared(shown: Display, task: Task, names: Sequence[str],
           done: Sequence[int]) -> tuple[list[Display], Callable[[], None]]:
    """A display for each of several lanes, with their names and the steps done so far, that show means on one.

    The function beside them shows an epoch, when all that were to come to its end have.
    """
    done, means, records = list(done), {}, []

    def of(place, name):
        def step(steps, record, rate):
            done[place], means[place] = steps, record
            shown.step(sum(done), _pooled(task, list(means.values())), rate)

        return Display(lambda text: shown.say(f"{name}: {text}"), step,
                       lambda record, rate: records.append((record, rate)))

    def finish_epoch():
        if records:
            pooled = _pooled(task, [record for record, _ in records])
            shown.epoch(pooled | {"epoch": records[0][0]["epoch"]}, records[-1][1])
        means.clear()
        records.clear()

    return [of(place, name) for place, name in enumerate(names)], finish_epoch


def _pooled(task: Task, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The losses and the metric that decides of several records, as arrays."""
    return {quantity: {split: np.array([record[quantity][split] for record in records])
                       for split in records[0][quantity]} for quantity in ("loss", task.metric)}


def _shown(task: Task, record: Mapping[str, Any], rate: float) -> str:
    losses = "  ".join(f"{split} {np.mean(loss):.3f} {metric_text(task, record[task.metric][split])}"
                       for split, loss in record["loss"].items() if split in record[task.metric])
    return f"{losses}  {rate:,.0f} examples/s"


def metric_text(task: Task, values: float | np.ndarray, digits: int = 1) -> str:
    """A value of the task's first metric, in % or with its name, or the mean of several ± their standard deviation."""
    if task.percent:
        return percent(values, digits)
    values = np.atleast_1d(values)
    spread = f" ± {values.std(ddof=1):.{digits + 2}g}" if len(values) > 1 else ""
    return f"{task.metric} {values.mean():.{digits + 3}g}{spread}"


def percent(shares: float | np.ndarray, digits: int = 1) -> str:
    """A share in [0, 1] in %, or the mean of several ± their standard deviation."""
    shares = 100 * np.atleast_1d(shares)
    spread = f" ± {shares.std(ddof=1):.{digits}f}" if len(shares) > 1 else ""
    return f"{shares.mean():.{digits}f}{spread} %"


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    return f"{seconds // 60} min {seconds % 60} s" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60} min"
