"""What run directories say of themselves, read without opening them and without jax: any number of them, in any state."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dnas.runs import lock
from dnas.runs.directory import CHILDREN, FAILED, choice_folder
from dnas.runs.files import read_json, records
from dnas.runs.study_folder import DECLARED, LABEL, ranking_of, run_folder, states
from dnas.types import Group

SIGNS = {lock.NAME, "environment.json"}
"""A folder that holds one of these is a run directory."""
KINDS = {"search": ("method", "space", "epochs"), "train": ("genotype", "space", "epochs"),
         "select": ("selection", "run"), "compare": ("selections", "runs")}
"""Keys by which a config tells what it is of."""
RESULTS = {"search": "results.json", "train": "results.json", "select": "genotype.json", "compare": "comparison.json"}
"""The file that is written last."""

DOWN = "epoch", "date"
"""Keys by which runs are sorted with the largest value first."""


class Quality(NamedTuple):
    """How runs are judged: name of the task's first metric; better: 1 where more is better, -1 where less is; percent:
    whether it is a share that people read in %."""

    metric: str = "accuracy"
    better: int = 1
    percent: bool = True

    def text(self, value: float) -> str:
        """A value for a person: 98.60 %, or mae 44.1."""
        if self.percent:
            return f"{100 * value:.2f} %" if abs(value) < 1e6 else f"{100 * value:.3g} %"
        return f"{self.metric} {value:.4g}"


class Summary(NamedTuple):
    """One run on one line. What is not known, or does not apply, is None or empty.

    status: done, running, interrupted, failed or broken, and of a search of a study that has not begun queued or waiting;
    kind: search, train, select or compare; method, space, data: short. metric, value, unit: of the split `of`, after the
    last epoch, unit "%" or ""; better: 1 where more is better, -1 where less is. seconds: of all epochs so far; selections:
    finished ones inside the run; date: when it was begun, in ISO 8601; note: who is running it, where it is queued, why it
    failed, or what is broken.
    """

    folder: Path
    status: str
    kind: str = ""
    method: str = ""
    space: str = ""
    data: str = ""
    seed: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    metric: str = ""
    value: float | None = None
    unit: str = ""
    better: int = 1
    of: str = ""
    seconds: float | None = None
    selections: int = 0
    date: str = ""
    note: str = ""


def list_runs(folder: str | Path, *, sort: Literal["folder", "status", "kind", "method", "space", "data", "seed", "epoch",
              "quality", "seconds", "date"] = "folder") -> list[Summary]:
    """The runs at and below a folder, in any state, and searches of studies there that have not begun; the choices inside of
    a run are counted with it.

    Args:
        sort: What the order goes by; the best quality, by its metric, and the latest date come first, what has none last.

    Raises ValueError, in one line, where there is no such folder.
    """
    top = Path(folder).expanduser()
    if not top.is_dir():
        raise ValueError(f"{top} {'is not a folder' if top.exists() else 'does not exist'}; name one that holds runs")
    value = _rank if sort == "quality" else lambda one: getattr(one, sort)
    by_folder = {each: summary(each) for each in find(top)}
    for study in find_studies(top):
        by_folder |= {each: _with_study(by_folder.get(each), search) for each, search in searches_of(study).items()}
    runs = list(by_folder.values())
    ranked = [one for one in runs if value(one) not in (None, "")]
    return sorted(ranked, key=value, reverse=sort in DOWN) + [one for one in runs if value(one) in (None, "")]


def _rank(one: Summary) -> tuple[str, float] | None:
    """By this, runs of one metric stand in a row, the best first."""
    return None if one.value is None else (one.metric, -one.better * one.value)


def find(top: Path) -> Iterator[Path]:
    """The run directories at and below `top`, in the order of their names, without the selections and the children
    inside of runs.

    Links are not followed, hidden folders not entered.
    """
    for folder, inside, files in os.walk(top):
        leave = {"checkpoints"}
        if not SIGNS.isdisjoint(files):
            yield Path(folder)
            leave |= {"selections", CHILDREN}
        inside[:] = sorted(name for name in inside if name not in leave and not name.startswith("."))


def find_studies(top: Path) -> Iterator[Path]:
    """The folders of studies at and below `top`, in the order of their names. Links are not followed, hidden folders and
    runs not entered."""
    for folder, inside, files in os.walk(top):
        if DECLARED in files:
            yield Path(folder)
        ends = DECLARED in files or not SIGNS.isdisjoint(files)
        inside[:] = [] if ends else sorted(name for name in inside if not name.startswith("."))


def searches_of(study: Path) -> dict[Path, Summary]:
    """The searches that the study in a folder declares now, by their run directories, begun or not, and how far they are
    with the choices from them; {} where it cannot be read."""
    try:
        said = read_json(study / DECLARED)
        latest, methods = said["latest"], {label: parts for label, *parts in said["methods"] if LABEL.fullmatch(label)}
        searches = [(label, int(seed)) for label in latest["methods"] if label in methods for seed in latest["seeds"]]
        now = states(study, searches, latest.get("selections", list(said["selections"])),
                     {label: ranking_of(said.get("ranked", {}), parts[1]["name"]) for label, parts in methods.items()})
        data, epochs = short(said["data"]["data"]), int(said["epochs"])
        return {run_folder(study, label, seed): Summary(
            run_folder(study, label, seed), state.status, "search", short(methods[label][0]), short(methods[label][1]), data,
            seed, 0, epochs, note=state.note) for (label, seed), state in now.items()}
    except (ValueError, LookupError, TypeError, AttributeError, OSError):
        return {}


def _with_study(run: Summary | None, search: Summary) -> Summary:
    """A run as its study sees it, which knows of the choices from it, and of queues."""
    if run is None or run.status in ("running", "broken"):
        return run or search
    if search.status == "interrupted":
        missing = "choices from it, or its ranking, are missing"
        return run._replace(status="interrupted", note=missing) if run.status == "done" else run
    return run._replace(status=search.status, note=search.note)


def selection_of(folder: Path, config: Mapping[str, Any], results: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The selection of a config that chose when the search in `folder` ended; None where there is none, and where it did not
    suit, so that the method's own rule chose."""
    selection = config.get("selection")
    if not isinstance(selection, dict) or not isinstance(selection.get("name"), str):
        return None
    if "children" not in results:
        return None if results.get("selection_seconds") == 0.0 else selection
    try:  # of a few-shot search it chose from each child
        child = folder / CHILDREN / results["children"][results["chosen"]]["name"]
    except (TypeError, LookupError):  # damaged results
        return selection
    return selection if choice_folder(child, selection["name"]).is_dir() else None


def choices(folder: Path) -> list[Path]:
    """The folders of the selections inside of a run, finished or not, by name. Links are not followed."""
    inside = folder / "selections"
    return [] if inside.is_symlink() else sorted(path.parent for path in inside.glob("*/config.json")
                                                 if not path.parent.is_symlink())


def summary(folder: Path) -> Summary:
    """What the run in `folder` says of itself; what cannot be read makes it broken, and nothing is raised for it."""
    held = lock.holder(folder)
    try:
        config = read_json(folder / "config.json")
        found = _summary(folder, kind_of(folder, config), config)
    except (ValueError, OSError) as error:
        return Summary(folder, "broken", note=str(error))
    return found._replace(status="running", note=held) if held else found


def kind_of(folder: Path, config: Mapping[str, Any]) -> str:
    """search, train, select or compare. Raises ValueError for the config of something else."""
    for kind, keys in KINDS.items():
        if all(key in config for key in keys):
            return kind
    raise ValueError(f"{folder / 'config.json'} is of no search, training, selection or comparison")


def _summary(folder: Path, kind: str, config: Mapping[str, Any]) -> Summary:
    metrics, timings = (records(folder / name) for name in ("metrics.jsonl", "timing.jsonl"))
    results, environment, cost = (read_json(path) if path.exists() else {} for path in (
        folder / "results.json", folder / "environment.json", folder / "cost.json"))
    last = metrics[-1] if metrics else {}
    epoch, epochs, seed = number(last, "epoch") or 0, number(config, "epochs"), number(config, "seed")
    searched = kind == "search" and epochs is not None and epoch >= epochs and "selection" not in config
    finished = (folder / RESULTS[kind]).exists() or searched
    quality = quality_of(folder, config)
    values = {"test": number(results, "test", quality.metric), "hold-out": number(last, quality.metric, "holdout")}
    of = next((name for name, value in values.items() if value is not None), "")
    scale, unit = (100, "%") if quality.percent else (1, "")
    failure = read_json(folder / FAILED) if (folder / FAILED).exists() else {}
    status = "failed" if failure else "done" if finished else "interrupted"
    seconds = [value for record in [*timings, cost] if (value := number(record, "seconds")) is not None]
    return Summary(
        folder, status, kind,
        method=_how(kind, config), space=short(config.get("space")),
        data=short(config.get("data")), seed=None if seed is None else int(seed),
        epoch=None if epochs is None else int(epoch), epochs=None if epochs is None else int(epochs),
        metric=quality.metric if of else "", value=scale * values[of] if of else None, unit=unit if of else "",
        better=quality.better, of=of, seconds=math.fsum(seconds) if seconds else None,
        selections=sum((path / "genotype.json").exists() for path in choices(folder)), date=str(environment.get("date", "")),
        note=str(failure.get("error", "")))


def quality_of(folder: Path, config: Mapping[str, Any]) -> Quality:
    """How the run of a config is judged. Raises ValueError, in one line, where the config says something else."""
    said = config.get("metric", {"name": "accuracy", "better": 1, "percent": True})
    keys = ("name", "better", "percent")
    found = Quality(*(said.get(key) if isinstance(said, Mapping) else None for key in keys))
    if not isinstance(found.metric, str) or found.better not in (1, -1) or not isinstance(found.percent, bool):
        raise ValueError(f"{folder / 'config.json'}: metric is {json.dumps(said)[:80]}; it is {{name, better, percent}}")
    return found


def _how(kind: str, config: Mapping[str, Any]) -> str:
    """The method of a search, the selection of a choice, and what a training takes from its supernet."""
    if kind == "train":
        return "+".join(name for name in ("inherit", "distill") if config.get(name))
    return short(config.get("selection" if kind == "select" else "method"))


def short(value: Any) -> str:
    """A place, a path or a named mapping of a config as one word: file.py:factory is factory, /data/mine.npz mine."""
    if isinstance(value, list):
        return short(value[0]) + (f" +{len(value) - 1}" if len(value) > 1 else "") if value else ""
    name = value.get("name") if isinstance(value, Mapping) else value
    if not isinstance(name, str):
        return ""
    place, _, factory = name.rpartition(":")
    return factory if place else Path(name).name.removesuffix(".npz")


def number(tree: Any, *names: str) -> float | None:
    """The finite number under nested `names`, None where there is none."""
    for name in names:
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    real = isinstance(tree, (int, float)) and not isinstance(tree, bool)
    return tree if real and abs(tree) < 1e300 else None


def load_groups(folder: Path) -> dict[str, Group] | None:
    """The groups that a search wrote when it began; None where it did not.

    Raises ValueError, in one line, where they are none."""
    path = folder / "groups.json"
    if not path.exists():
        return None
    said = read_json(path)
    try:
        groups = {name: Group(tuple((_node(source), _node(target)) for source, target in group["edges"]),
                              tuple(group["ops"])) for name, group in said.items()}
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{path}: no groups of edges") from None
    names = [*groups, *(op for group in groups.values() for e in range(len(group.edges)) for op in group.edge_ops(e))]
    if not groups or not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError(f"{path}: no groups of edges whose operations have names")
    return groups


def _node(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value
