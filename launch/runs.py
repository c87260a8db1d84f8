"""List the runs in a folder and below: status, method, space, data, metric and time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from dnas.options import Option
from dnas.reports.text import columns, duration
from dnas.runs.index import Quality, Summary, find_studies, list_runs
from dnas.runs.study_folder import STATUSES
from launch.arguments import options_of, read_command
from launch.parser import Positional
from launch.text import plain, terminal_width

FOLDER = Option("folder", str, "runs", "Folder to list. Selections inside a run are counted with it.")
FORMAT = Option("format", Literal["table", "csv", "json"], "table",
                "How the list is printed; csv and json have all fields of a run.")
COLUMNS = ("folder", "status", "kind", "method", "space", "data", "seed", "epoch", "quality", "on", "time", "choices")
LEFT = COLUMNS[:6]
"""Columns of texts, aligned left."""
LEAST = "choices", "on", "time", "kind", "seed", "data", "space", "method"
"""Columns that a narrow terminal does not show, the least important first; the name of a folder often says the last ones."""
LONGEST = 40
"""Letters of a cell other than the folder."""
NOTE = 40
"""Longest note that must fit too, such as who is running it."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas runs`. Raises ValueError if there is no such folder."""
    values = read_command("runs", __doc__, argv, [FOLDER, *options_of("dnas.runs.index:list_runs"), FORMAT],
                          shown={"folder": Positional("DIR")})
    runs = list_runs(values["folder"], sort=values["sort"])
    if values["format"] == "json":
        print(json.dumps([one._asdict() | {"folder": str(one.folder)} for one in runs], indent=1))
    elif values["format"] == "csv":
        table = io.StringIO()
        csv.writer(table).writerows([Summary._fields, *runs])
        print(table.getvalue(), end="")
    else:
        print(as_table(runs, terminal_width()) if runs else f"no run in {values['folder']}")
        for study in find_studies(Path(values["folder"]).expanduser()):
            print(plain(study_line(study, runs)))
    return 0


def study_line(study: Path, runs: Sequence[Summary]) -> str:
    """How many searches of a study are done, running and so on, in the order of STATUSES."""
    inside = [one.status for one in runs if one.folder.is_relative_to(study / "runs")]
    counts = [f"{inside.count(status)} {status}" for status in STATUSES if status in inside]
    return f"study  {study}: {', '.join(counts) or 'nothing that can be read'}"


def as_table(runs: Sequence[Summary], width: int | None = None) -> str:
    """A line per run, in columns, followed by its note: who is running it, or what is broken.

    width: of the terminal; columns are left out in the order of LEAST until the lines fit, except for notes longer than
    NOTE.
    """
    rows, remarks = [[plain(cell) for cell in _row(one)] for one in runs], [plain(one.note) for one in runs]
    for count in range(len(LEAST) + 1):
        shown = [i for i, name in enumerate(COLUMNS) if name not in LEAST[:count]]
        header, *lines = columns([[row[i] for i in shown] for row in (COLUMNS, *rows)],
                                 left=sum(COLUMNS[i] in LEFT for i in shown)).splitlines()
        noted = [f"{line}  {note}".rstrip() for line, note in zip(lines, remarks)]
        if width is None or all(len(line) <= width for line, note in zip([header, *noted], ["", *remarks])
                                if len(note) <= NOTE):
            break
    return "\n".join([header, *noted])


def _row(one: Summary) -> list[str]:
    epoch = "" if one.epoch is None else f"{one.epoch}/{one.epochs}"
    cells = [one.status, one.kind, one.method, one.space, one.data, "" if one.seed is None else str(one.seed), epoch,
             _quality(one), one.of, "" if one.seconds is None else duration(one.seconds), str(one.selections or "")]
    return [str(one.folder), *(cell if len(cell) <= LONGEST else f"{cell[:LONGEST - 3]}..." for cell in cells)]


def _quality(one: Summary) -> str:
    if one.value is None:
        return ""
    return Quality(one.metric, one.better, True).text(one.value / 100) if one.unit else f"{one.metric} {one.value:.4g}"
