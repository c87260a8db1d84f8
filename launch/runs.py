"""List the runs at and below a folder: how far each has come, what it is of, and how well it does."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from dnas.runs.index import Summary, find, summary
from launch.arguments import parsed
from launch.text import plain

Key = Literal["folder", "status", "kind", "method", "space", "data", "seed", "epoch", "quality", "seconds", "date"]
DOWN = "epoch", "date"
"""Keys whose largest value comes first."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")] = "runs"
    """Where to look. Choices inside of a run are counted with it."""
    sort: Key = "folder"
    """What the order goes by; the best quality, by its metric, and the latest date come first, what has none last."""
    format: Literal["table", "csv", "json"] = "table"
    """How the list is printed; csv and json have everything that is known of a run."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas runs`. Raises ValueError, in one line, where there is no such folder."""
    arguments = parsed(Arguments(), "dnas runs", __doc__, list(argv))
    top = Path(arguments.folder).expanduser()
    if not top.is_dir():
        raise ValueError(f"{top} {'is no folder' if top.exists() else 'does not exist'}; name one that holds runs")
    found = ordered([summary(folder) for folder in find(top)], arguments.sort)
    if arguments.format == "json":
        print(json.dumps([one._asdict() | {"folder": str(one.folder)} for one in found], indent=1))
    elif arguments.format == "csv":
        table = io.StringIO()
        csv.writer(table).writerows([Summary._fields, *found])
        print(table.getvalue(), end="")
    else:
        print(listed(found) if found else f"no run in {top}")
    return 0


def ordered(found: Sequence[Summary], key: Key) -> list[Summary]:
    """The runs by `key`, those without a value last; by quality those of one metric stand in a row."""
    value = _quality if key == "quality" else lambda one: getattr(one, key)
    known = [one for one in found if value(one) not in (None, "")]
    rest = [one for one in found if value(one) in (None, "")]
    return sorted(known, key=value, reverse=key in DOWN) + rest


def _quality(one: Summary) -> tuple[str, float] | None:
    return None if one.value is None else (one.metric, -one.better * one.value)


def listed(found: Sequence[Summary]) -> str:
    """A line a run, in columns; behind it who is running it, or what is broken."""
    from launch.text import columns

    rows = [["folder", "status", "kind", "method", "space", "data", "seed", "epoch", "quality", "on", "time", "choices"]]
    lines = columns(rows + [[plain(cell) for cell in _row(one)] for one in found], left=6).splitlines()
    return "\n".join([lines[0], *(f"{line}  {plain(one.note)}".rstrip() for line, one in zip(lines[1:], found))])


def _row(one: Summary) -> list[str]:
    from launch.trained import duration

    epoch = "" if one.epoch is None else f"{one.epoch}/{one.epochs}"
    return [str(one.folder), one.status, one.kind, one.method, one.space, one.data,
            "" if one.seed is None else str(one.seed), epoch, _spelled(one), one.of,
            "" if one.seconds is None else duration(one.seconds), str(one.selections or "")]


def _spelled(one: Summary) -> str:
    if one.value is None:
        return ""
    return f"{one.value:.2f} %" if one.unit else f"{one.metric} {one.value:.4g}"
