"""The folder of a study (see `dnas.runs.study_folder`) as `dnas study` writes it: what it declares, and who uses it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnas.runs import lock
from dnas.runs.directory import flatten
from dnas.runs.files import as_json, clean, read_json, write_json
from dnas.runs.study_folder import DECLARED, HIDDEN, LABEL, queued
from dnas.studies.plan import StudyPlan

COMMON = "described", "epochs", "seconds", "batch", "train_epochs"
"""What all entries of a study share."""


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Makes the folder of a study, and locks it against others who hand out jobs until the block ends. Raises ValueError."""
    hidden = folder / HIDDEN
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        held = lock.take(hidden)
    except OSError as error:
        raise ValueError(f"cannot write in {folder}: {error.strerror}; choose another folder") from None
    except ValueError as error:
        raise ValueError(str(error).replace(str(hidden), str(folder))) from None
    with held:
        clean(folder)
        yield


def declared(folder: Path) -> dict[str, Any]:
    """What the study in a folder has declared so far. Raises ValueError where there is none."""
    if not (folder / DECLARED).is_file():
        raise ValueError(f"{folder} holds no study: it has no {DECLARED}; `dnas study STUDY.toml --run {folder}` begins one")
    said = StudyPlan._field_defaults | read_json(folder / DECLARED)
    missing = [key for key in (*StudyPlan._fields, "latest") if key not in said]
    if missing:
        raise ValueError(f"{folder / DECLARED} lacks {', '.join(missing)}; restore it, or begin the study anew elsewhere")
    if not all(isinstance(label, str) and LABEL.fullmatch(label) for label, *_ in said["methods"]):
        raise ValueError(f"{folder / DECLARED} has a method whose label is no name of a folder; restore the file")
    return said


def refuse_changed(folder: Path, plan: StudyPlan) -> None:
    """Raises ValueError, in one line, where the folder holds something else than a study, or one in which something that
    was begun, or waits in a queue, has other settings. Writes nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another")
    if not (folder / DECLARED).exists():
        strangers = sorted(path.name for path in folder.iterdir() if path.name != HIDDEN) if folder.exists() else []
        if strangers:
            raise ValueError(f"{folder} is not empty (it has {strangers[0]}) and holds no study; choose a new folder")
        return
    there, here, waiting = declared(folder), as_json(plan._asdict()), {label for label, _ in queued(folder)}
    if (folder / "runs").exists() or waiting:
        _refuse(folder, "the study", {key: there[key] for key in COMMON}, {key: here[key] for key in COMMON},
                "choose another folder")
    before, now = ({label: {"method": method, "space": space, "split": (rest + ["", {}][len(rest):])[1]}
                    for label, method, space, *rest in each["methods"]} for each in (there, here))
    for label in now:
        if label in before and ((folder / "runs" / label).exists() or label in waiting):
            _refuse(folder, f"method {label}", before[label], now[label],
                    "give the changed one another label, or choose another folder")
    scored = _scored(there), _scored(here)
    if all(scored) and any(folder.glob("entries/*/*.npz")):
        _refuse(folder, "its ranking", *scored, "remove entries/*/*.npz there to score anew, or choose another folder")
    for name, source in here["selections"].items():
        if name in there["selections"] and (waiting or any(folder.glob(f"runs/*/*/selections/{name}"))):
            _refuse(folder, f"selection {name}", there["selections"][name], source, "choose another folder")


def declare(folder: Path, plan: StudyPlan) -> None:
    """Writes what the plan declares, with what was declared before and is begun or queued already; "latest" says what it
    declares itself."""
    said = as_json(plan._asdict())
    said["ranked"].pop("networks", None)
    said["scored"] = _scored(said)
    said["latest"] = {"methods": [method.label for method in plan.methods], "seeds": plan.seeds,
                      "selections": list(plan.selections)}
    if (folder / DECLARED).exists():
        there, waiting = declared(folder), queued(folder)
        said["scored"] = said["scored"] or _scored(there)
        begun = {path.relative_to(folder).parts[1:] for path in folder.glob("runs/*/*")}
        begun |= {(label, str(seed)) for label, seed in waiting}
        chosen = {path.name for path in folder.glob("runs/*/*/selections/*")} | set(there["selections"] if waiting else ())
        said["methods"] += [each for each in there["methods"]
                            if each[0] not in said["latest"]["methods"] and each[0] in {label for label, _ in begun}]
        said["selections"] |= {name: source for name, source in there["selections"].items()
                               if name not in said["selections"] and name in chosen}
        said["seeds"] += [seed for seed in there["seeds"]
                          if seed not in plan.seeds and str(seed) in {name for _, name in begun}]
    write_json(folder / DECLARED, said)


def _scored(said: dict[str, Any]) -> dict[str, Any]:
    """What supernets are scored on by what a study declares, or were before it declared no ranking; {} for nothing."""
    return {key: said["ranked"][key] for key in ("space", "examples")} if said["ranked"] else said.get("scored", {})


def _refuse(folder: Path, what: str, there: dict[str, Any], here: dict[str, Any], remedy: str) -> None:
    old, new = flatten(there, "."), flatten(here, ".")
    shown = lambda side, key: json.dumps(side[key]) if key in side else "absent"
    differing = [f"{key} is {shown(old, key)} there, {shown(new, key)} here" for key in {**old, **new}
                 if shown(old, key) != shown(new, key)]
    if differing:
        raise ValueError(f"{folder} has begun {what} with other settings: {'; '.join(differing)}; {remedy}")
