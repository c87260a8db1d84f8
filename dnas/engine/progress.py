"""What a person sees while a search runs: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display(NamedTuple):
    """say(text): a line of its own. step(done, record, rate): steps done of the whole run, this epoch's means so
    far, images per second. epoch(record, rate): an epoch's record is complete. Losses and accuracies are numbers, or arrays
    of several searches'."""

    say: Callable[[str], None]
    step: Callable[[int, Mapping[str, Any], float], None]
    epoch: Callable[[Mapping[str, Any], float], None]


SILENT = Display(lambda text: None, lambda done, record, rate: None, lambda record, rate: None)


@contextlib.contextmanager
def display(epochs: int, steps: int, done: int = 0) -> Iterator[Display]:
    """Shows a run of `epochs` epochs of `steps` steps, of which `done` are behind it."""
    console = Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[shown]}"),
               TimeRemainingColumn())
    live = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task("", total=epochs * steps, completed=done, shown="")

        held = {}

        def step(done, record, rate):
            shown = "  ".join([_shown(record, rate), *held.values()])
            bar.update(task, completed=done, shown=shown,
                       description=f"epoch {min(done // steps + 1, epochs)}/{epochs}")

        def epoch(record, rate):
            if "holdout" in record["accuracy"]:
                held["holdout"] = f"holdout {percent(record['accuracy']['holdout'])}"
            if not live:
                console.print(f"epoch {record['epoch']}/{epochs}  {_shown(record, rate)}")

        yield Display(console.print, step, epoch)


def shared(shown: Display, done: Mapping[int, int]) -> tuple[list[Display], Callable[[], None]]:
    """A display for each of several searches, by their seeds and the steps done so far, that show means on one.

    The function beside them shows an epoch, when all that were to come to its end have.
    """
    done, means, records = dict(done), {}, []

    def of(seed):
        def step(steps, record, rate):
            done[seed], means[seed] = steps, record
            shown.step(sum(done.values()), _pooled(list(means.values())), rate)

        return Display(lambda text: shown.say(f"seed {seed}: {text}"), step,
                       lambda record, rate: records.append((record, rate)))

    def finish_epoch():
        if records:
            shown.epoch(_pooled([record for record, _ in records]) | {"epoch": records[0][0]["epoch"]}, records[-1][1])
        means.clear()
        records.clear()

    return [of(seed) for seed in done], finish_epoch


def _pooled(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The losses and accuracies of several records, as arrays."""
    return {quantity: {split: np.array([record[quantity][split] for record in records])
                       for split in records[0][quantity]} for quantity in ("loss", "accuracy")}


def _shown(record: Mapping[str, Any], rate: float) -> str:
    losses = "  ".join(f"{split} {np.mean(loss):.3f} {percent(record['accuracy'][split])}"
                       for split, loss in record["loss"].items() if split in record["accuracy"])
    return f"{losses}  {rate:,.0f} images/s"


def percent(shares: float | np.ndarray, digits: int = 1) -> str:
    """A share in [0, 1] in %, or the mean of several ± their standard deviation."""
    shares = 100 * np.atleast_1d(shares)
    spread = f" ± {shares.std(ddof=1):.{digits}f}" if len(shares) > 1 else ""
    return f"{shares.mean():.{digits}f}{spread}%"
