"""What a person sees while a search runs: a line that moves on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.spinner import Spinner
from rich.text import Text

from dnas.engine.programs import compiled_anew
from dnas.printing import printable
from dnas.task import Task

WIDTH = 80
"""Columns that a line an epoch keeps to, wherever it is read."""
BAR = 6, 20
"""Columns of the bar, least and most."""
RATE_OVER = 600
"""Seconds over whose steps the time left is estimated: more than an epoch's evaluation, so that it counts as well."""


class Display(NamedTuple):
    """say(text): a line of its own. step(done, record, rate): steps done of the whole run, this epoch's means so
    far, examples per second. epoch(record, rate): an epoch's record is complete. Losses and metrics are numbers, or arrays
    of several lanes. compiling(what): a context, see `compiling`."""

    say: Callable[[str], None]
    step: Callable[[int, Mapping[str, Any], float], None]
    epoch: Callable[[Mapping[str, Any], float], None]
    compiling: Callable[[str], contextlib.AbstractContextManager]

    def saying(self, say: Callable[[str], None]) -> Display:
        """The same, but its lines go to `say`."""
        return self._replace(say=say, compiling=functools.partial(compiling, say=say))


SILENT = Display(lambda text: None, lambda done, record, rate: None, lambda record, rate: None,
                 lambda what: contextlib.nullcontext())


@contextlib.contextmanager
def display(task: Task, epochs: int, steps: int, done: int = 0) -> Iterator[Display]:
    """Shows a run of `epochs` epochs of `steps` steps, of which `done` are behind it, by the metric that decides."""
    console = _console()
    say = lambda text: console.print(printable(text))
    with _Line(console, epochs * steps, done) as line:
        holdout = {}

        def step(done, record, rate):
            now = {name: {**record[name], **holdout.get(name, {})} for name in ("loss", task.metric)}
            line.show(f"epoch {max(-(-done // steps), 1)}/{epochs}", done, _versions(task, now, rate))

        def epoch(record, rate):
            holdout.update({name: {"holdout": record[name]["holdout"]} for name in ("loss", task.metric)
                            if "holdout" in record[name]})
            if not line.moves:
                head = f"epoch {record['epoch']}/{epochs}  "
                console.print(head + _fitting(_versions(task, record, rate)[:-1], WIDTH - len(head)))

        yield Display(say, step, epoch, functools.partial(_compiling, say=say, line=line))


@contextlib.contextmanager
def compiling(what: str, *, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Inside, programs are compiled: shows on a terminal that it goes on and for how long, and in the end how long it took.

    what: the programs, "the search step". say: what lines go to, and then nothing moves; the terminal unless given.
    """
    if say:
        with _compiling(what, say=say):
            yield
        return
    console = _console()
    with _Line(console) as line, _compiling(what, say=console.print, line=line):
        yield


@contextlib.contextmanager
def _compiling(what: str, *, say: Callable[[str], None], line: _Line | None = None) -> Iterator[None]:
    began, before = time.monotonic(), compiled_anew()
    if line and line.moves:
        with line.spinning(f"compiling {what} ..."):
            yield
    else:
        say(f"compiling {what} ...")
        yield
    cached = "" if compiled_anew() > before else ", from the cache"
    say(f"compiled in {time.monotonic() - began:.1f} s{cached}")


class _Line(Progress):
    """The last line of a terminal, which moves: how far a run is, or what is being compiled. Elsewhere there is none.

    moves: whether it is a terminal.
    """

    def __init__(self, console: Console, total: int = 0, done: int = 0):
        self.moves = console.is_terminal and not console.is_dumb_terminal
        self.head, self.versions, self.busy = "", [""], None
        self.spinner = Spinner("line" if console.options.ascii_only else "dots")
        super().__init__(console=console, transient=True, disable=not self.moves, speed_estimate_period=RATE_OVER)
        self.add_task("", total=total, completed=done)

    def show(self, head: str, done: int, versions: Sequence[str]) -> None:
        """So many steps are done. versions: of what is said of them, from the most to the least."""
        self.head, self.versions = head, versions
        self.update(self.task_ids[0], completed=done)

    @contextlib.contextmanager
    def spinning(self, text: str) -> Iterator[None]:
        """Inside, the line is a sign that moves, the text and the seconds since then."""
        self.busy = text, time.monotonic()
        try:
            yield
        finally:
            self.busy = None
            self.refresh()

    def get_renderables(self):
        """What the line is at this moment; a method of rich's."""
        if not self.busy and not self.head:
            return
        [task], width = self.tasks, self.console.width
        if self.busy:
            text, began = self.busy
            sign = self.spinner.render(self.console.get_time())
            line = Text.assemble(sign, f" {text} {time.monotonic() - began:.0f} s")
        else:
            left = f"{_clock(task.time_remaining)} left"
            room = width - len(f"{self.head}    {left}")
            version = _fitting([f"{text}  " if text else "" for text in self.versions], room - BAR[0])
            bar = self._bar(task.completed / max(task.total, 1), min(BAR[1], room - len(version)))
            line = Text.assemble(f"{self.head}  ", *bar, f"  {version}", (left, "progress.remaining"))
        line.truncate(width, overflow="crop")
        yield line

    def _bar(self, share: float, width: int) -> list[tuple[str, str]]:
        """A bar of so many columns, with the styles of its two parts."""
        full, ascii_only = math.floor(share * width), self.console.options.ascii_only
        sign = "-" if ascii_only else "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
        rest = sign if self.console.color_system and not ascii_only else " "
        return [(full * sign, "bar.complete"), ((width - full) * rest, "bar.back")]


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
                       lambda record, rate: records.append((record, rate)), shown.compiling)

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


def _console() -> Console:
    """On the standard output itself, past what stands before it: that may hold back what a terminal obeys."""
    file = sys.stdout
    while hasattr(file, "rich_proxied_file"):
        file = file.rich_proxied_file
    return Console(file=file, highlight=False, soft_wrap=True, markup=False, emoji=False)


def _clock(seconds: float | None) -> str:
    """1:02:03, or 2:03."""
    if seconds is None:
        return "-:--"
    minutes, seconds = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}" if minutes >= 60 else f"{minutes}:{seconds:02}"


def _fitting(texts: Sequence[str], width: int) -> str:
    """The first of `texts` that is no longer than `width`, else the last."""
    return next((text for text in texts if len(text) <= width), texts[-1])


def _versions(task: Task, record: Mapping[str, Any], rate: float) -> list[str]:
    """What is said of an epoch, from all to nothing: the speed goes first, then the losses, then the splits in their order,
    so that what nothing learns from stays longest."""
    splits = [split for split in record["loss"] if split in record[task.metric]]
    metric = {split: metric_text(task, record[task.metric][split]) for split in splits}
    whole = [f"{split} {np.mean(record['loss'][split]):.3f} {metric[split]}" for split in splits]
    short = [f"{split} {metric[split]}" for split in splits]
    rows = [[*whole, f"{rate:,.0f} examples/s"], whole, *(short[first:] for first in range(len(short) + 1))]
    return ["  ".join(row) for row in rows]


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
