"""What a comparison needs, read and checked before anything is loaded or written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas import config as configs
from dnas import registry
from dnas.api.open import Run
from dnas.api.open import open as open_run
from dnas.api.select import refuse_other_choice, selection_config, selection_folder
from dnas.api.supernet import search_config
from dnas.reports.comparison import Metric, metrics_of
from dnas.runs.files import read_json
from dnas.runs.index import find, kind_of, quality_of
from dnas.selection import COMPARED
from dnas.selection.types import Selection
from dnas.tabular.benchmarks import load
from dnas.tabular.table import Table


class PlannedRun(NamedTuple):
    """A run that is compared. name: as it is shown; label: shared by runs that differ in nothing but their seed;
    fingerprint: of its supernet, see `dnas.api.supernet.fingerprint`."""

    run: Run
    name: str
    label: str
    fingerprint: dict[str, Any]


class PlannedSelection(NamedTuple):
    """A selection that is compared. name: short; source: what a config says of it."""

    name: str
    selection: Selection
    source: dict[str, Any]


class Truth(NamedTuple):
    """What each architecture is worth: values `[N]` in % of the rows of a table. described: what a config says of it."""

    table: Table
    values: np.ndarray
    described: dict[str, Any]


class ComparisonPlan(NamedTuple):
    """A comparison that was checked and can begin. truth: None without a table. metrics: its columns, by the names of
    values; percent: whether the task's metric is a share."""

    runs: list[PlannedRun]
    selections: list[PlannedSelection]
    train_epochs: int
    truth: Truth | None
    metrics: Mapping[str, Metric]
    percent: bool

    def config(self, folder: Path) -> dict[str, Any]:
        """What config.json of the comparison in `folder` says. Runs are named from where it lies, with their fingerprints,
        so that it may be moved with its runs, and another in the place of one is noticed."""
        where = lambda run: run.folder and os.path.relpath(os.path.realpath(run.folder), os.path.realpath(folder))
        runs = {str(number): {"run": where(each.run), **each.fingerprint} for number, each in enumerate(self.runs, 1)}
        return {"runs": runs, "selections": {each.name: each.source for each in self.selections},
                "train_epochs": self.train_epochs, "table": self.truth and self.truth.described}


def plan_comparison(runs, selections=COMPARED, *, train_epochs: int = 0, table: str | Path | None = None,
                    column: str | None = None, trust: bool = False) -> ComparisonPlan:
    """Reads and checks all that a comparison needs, and loads no supernet and writes nothing. Arguments: as for
    `dnas.compare`.

    Raises ValueError, in one line, for whatever does not fit.
    """
    chosen = _selections(selections)
    if type(train_epochs) is not int or train_epochs < 0:
        raise ValueError(f"train_epochs is {train_epochs!r}; it must be a whole number, 0 or more")
    truth = None if table is None else _truth(Path(table).expanduser(), column)
    opened = _runs(runs, trust)
    folders = [run.folder.resolve() for run in opened if run.folder]
    if len(set(folders)) < len(folders) or len(set(map(id, opened))) < len(opened):
        raise ValueError("a run is named twice; give each once")
    names = [str(run.folder) if run.folder else f"run {number} in memory" for number, run in enumerate(opened, 1)]
    tasks = [str(run.config.get("task", "classification")) for run in opened]
    for name, run, task in zip(names, opened, tasks):
        if task != tasks[0]:
            raise ValueError(f"{names[0]} is of task {tasks[0]}, and {name} of task {task}; runs of one task can be "
                             "compared")
        if truth and not registry.is_place(run.config["space"]["name"], "space"):
            refuse_other_space(run.config["space"]["name"], name, [truth.table.benchmark.space])
    fingerprints = [run.fingerprint() for run in opened]
    for run, fingerprint in zip(opened, fingerprints):
        for each in chosen if run.folder else ():
            folder = selection_folder(run.folder, each.source["name"])
            refuse_other_choice(folder, selection_config(run.folder, fingerprint, each.source, folder))
    planned = list(map(PlannedRun, opened, names, _labels([run.config for run in opened]), fingerprints))
    quality = quality_of(opened[0].folder or Path(names[0]), opened[0].config)
    return ComparisonPlan(planned, chosen, train_epochs, truth, metrics_of(quality), quality.percent)


def default_folder(runs: Sequence[str | Path]) -> Path:
    """Where a comparison is written unless a person says: in the folder of the runs if one such was given, else beside the
    first run."""
    first = Path(runs[0]).expanduser()
    inside = len(runs) == 1 and not (first / "config.json").exists()
    return (first if inside else first.absolute().parent) / "comparison"


def refuse_other_space(space: str, run: str, spaces: Collection[str]) -> None:
    """Raises ValueError where the run is of none of the spaces of a table."""
    if space not in spaces:
        raise ValueError(f"{run} is of space {space}; a table is for runs of {' or '.join(spaces)} alone")


def _selections(selections: Sequence[str | tuple[str, Mapping[str, Any]]]) -> list[PlannedSelection]:
    pairs = [(each, {}) if isinstance(each, str) else tuple(each) for each in (
        [selections] if isinstance(selections, str) else selections)]
    short = [str(name).rpartition(":")[2] for name, _ in pairs]
    if not pairs:
        raise ValueError(f"selections are none; there are {', '.join(registry.names('selection'))}, and your own as "
                         "package.module:factory or file.py:factory")
    for name in short:
        if short.count(name) > 1:
            raise ValueError(f"two selections are called {name}; each needs a name of its own")
    return [PlannedSelection(name, *configs.build_selection(full, options)) for name, (full, options) in zip(short, pairs)]


def _truth(path: Path, column: str | None) -> Truth:
    table = load(path)
    column = column or table.benchmark.reported
    if column not in table.columns:
        raise ValueError(f"{path} has no column {column!r}; its columns are {', '.join(table.columns)}")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Truth(table, table.columns[column], {"name": path.name, "sha256": sha256, "column": column})


def _runs(runs: str | Path | Run | Sequence[str | Path | Run], trust: bool) -> list[Run]:
    """The searches among `runs`, and in place of any other folder all searches in it, such as those of several seeds."""
    opened: list[Run] = []
    for each in [runs] if isinstance(runs, (str, Path, Run)) else runs:
        if isinstance(each, Run):
            if each.kind != "search":
                raise ValueError(f"{each.folder or 'a run in memory'} is a {each.kind}; runs must be searches")
            opened.append(each)
            continue
        folder = Path(each).expanduser()
        if not folder.is_dir():
            raise ValueError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}; give the folder of a "
                             "search, or one that holds searches")
        inside = [] if (folder / "config.json").exists() else [path for path in find(folder) if _is_search(path)]
        if not inside and not (folder / "config.json").exists():
            raise ValueError(f"{folder} holds no search; give the folder of one, or one that holds some")
        for path in inside or [folder]:
            search_config(path)  # says what would help for a folder of anything else
            opened.append(open_run(path, trust=trust))
    if not opened:
        raise ValueError("runs are none; give at least one, or a folder that holds some")
    return opened


def _is_search(folder: Path) -> bool:
    file = folder / "config.json"
    return file.exists() and kind_of(folder, read_json(file)) == "search"


def _labels(all_configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each run that those share which differ in nothing but their seed."""
    varying = [key for key in configs.SEARCH
               if key not in ("seed", "method", "diagnose", "stop_on_collapse", *configs.DESCRIBED)
               and any(config.get(key) != all_configs[0].get(key) for config in all_configs)]

    def named_by(config, part):
        alike = [other[part] for other in all_configs if other[part]["name"] == config[part]["name"]]
        return configs.label(config[part], part, [name for name in config[part]
                                                  if len({str(other.get(name)) for other in alike}) > 1])

    def spell(config, key):
        value = config[key]
        if key == "space":
            return named_by(config, key)
        if key == "start":
            return f"start {value['run'] or 'in memory'}"
        if isinstance(value, Mapping):
            value = [f"{name} {number}" for name, number in value.items()]
        return " ".join([key, *map(str, value if isinstance(value, list) else ["none" if value is None else value])])

    return [", ".join([named_by(config, "method"), *(spell(config, key) for key in varying if key in config)])
            for config in all_configs]
