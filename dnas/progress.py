"""What a person sees while a search runs: a bar on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Display(NamedTuple):
    """say(text): a line of its own. step(done, record, rate): steps done of the whole run, this epoch's means so
    far, images per second. epoch(record, rate): an epoch's record is complete."""

    say: Callable[[str], None]
    step: Callable[[int, Mapping[str, Any], float], None]
    epoch: Callable[[Mapping[str, Any], float], None]


SILENT = Display(lambda text: None, lambda done, record, rate: None, lambda record, rate: None)


@contextlib.contextmanager
def display(epochs: int, steps: int, first: int = 0) -> Iterator[Display]:
    """Shows a run of `epochs` epochs of `steps` steps, of which `first` epochs are behind it."""
    console = Console(highlight=False, soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[shown]}"),
               TimeRemainingColumn())
    live = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not live) as bar:
        task = bar.add_task("", total=epochs * steps, completed=first * steps, shown="")

        held = {}

        def step(done, record, rate):
            shown = "  ".join([_shown(record, rate), *held.values()])
            bar.update(task, completed=done, shown=shown,
                       description=f"epoch {min(done // steps + 1, epochs)}/{epochs}")

        def epoch(record, rate):
            if "holdout" in record["accuracy"]:
                held["holdout"] = f"holdout {100 * record['accuracy']['holdout']:.1f}%"
            if not live:
                console.print(f"epoch {record['epoch']}/{epochs}  {_shown(record, rate)}")

        yield Display(console.print, step, epoch)


def _shown(record: Mapping[str, Any], rate: float) -> str:
    losses = "  ".join(f"{split} {loss:.3f} {100 * record['accuracy'][split]:.1f}%"
                       for split, loss in record["loss"].items() if split in record["accuracy"])
    return f"{losses}  {rate:,.0f} images/s"
