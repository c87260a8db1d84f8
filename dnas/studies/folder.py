"""The folder of a study: what it declares, its runs, an entry for each method and seed, and what failed.

    study.json                declared so far
    runs/LABEL/SEED/          run directories of `dnas search`, with their selections
    entries/LABEL/SEED.json   what a report needs of each
    failures/LABEL/SEED.json  why one has not ended
    logs/                     what worker processes printed
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dnas.runs import lock
from dnas.runs.directory import flatten
from dnas.runs.files import as_json, clean, read_json, write_json
from dnas.studies.plan import LABEL, StudyPlan

DECLARED = "study.json"
COMMON = "described", "epochs", "batch", "train_epochs"
"""What all entries of a study share."""


def run_folder(folder: Path, label: str, seed: int) -> Path:
    """The run directory of a search."""
    return folder / "runs" / label / str(seed)


def entry_file(folder: Path, label: str, seed: int) -> Path:
    """What is known of a search and of the choices from it."""
    return folder / "entries" / label / f"{seed}.json"


def failure_file(folder: Path, label: str, seed: int) -> Path:
    """Why a search, or a choice from it, did not end."""
    return folder / "failures" / label / f"{seed}.json"


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[None]:
    """Makes the folder of a study, and locks it against other processes until the block ends. Raises ValueError."""
    hidden = folder / ".study"  # where `dnas runs` does not take the lock for a run's
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
    said = read_json(folder / DECLARED)
    missing = [key for key in (*StudyPlan._fields, "latest") if key not in said]
    if missing:
        raise ValueError(f"{folder / DECLARED} lacks {', '.join(missing)}; restore it, or begin the study anew elsewhere")
    if not all(isinstance(label, str) and LABEL.fullmatch(label) for label, *_ in said["methods"]):
        raise ValueError(f"{folder / DECLARED} has a method whose label is no name of a folder; restore the file")
    return said


def refuse_changed(folder: Path, plan: StudyPlan) -> None:
    """Raises ValueError, in one line, where the folder holds something else than a study, or one in which something that
    was begun has other settings. Writes nothing."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; choose another")
    if not (folder / DECLARED).exists():
        strangers = sorted(path.name for path in folder.iterdir() if path.name != ".study") if folder.exists() else []
        if strangers:
            raise ValueError(f"{folder} is not empty (it has {strangers[0]}) and holds no study; choose a new folder")
        return
    there, here = declared(folder), as_json(plan._asdict())
    if (folder / "runs").exists():
        _refuse(folder, "the study", {key: there[key] for key in COMMON}, {key: here[key] for key in COMMON},
                "choose another folder")
    before = {label: {"method": method, "space": space} for label, method, space in there["methods"]}
    for label, method, space in here["methods"]:
        if label in before and (folder / "runs" / label).exists():
            _refuse(folder, f"method {label}", before[label], {"method": method, "space": space},
                    "give the changed one another label, or choose another folder")
    for name, source in here["selections"].items():
        if name in there["selections"] and any(folder.glob(f"runs/*/*/selections/{name}")):
            _refuse(folder, f"selection {name}", there["selections"][name], source, "choose another folder")


def declare(folder: Path, plan: StudyPlan) -> None:
    """Writes what the plan declares, with what was declared before and is begun already; "latest" says what it declares."""
    said = as_json(plan._asdict())
    said["latest"] = {"methods": [method.label for method in plan.methods], "seeds": plan.seeds}
    if (folder / DECLARED).exists():
        there, begun = declared(folder), {path.relative_to(folder).parts for path in folder.glob("runs/*/*")}
        chosen = {path.name for path in folder.glob("runs/*/*/selections/*")}
        said["methods"] += [each for each in there["methods"]
                            if each[0] not in said["latest"]["methods"] and each[0] in {label for _, label, _ in begun}]
        said["selections"] |= {name: source for name, source in there["selections"].items()
                               if name not in said["selections"] and name in chosen}
        said["seeds"] += [seed for seed in there["seeds"]
                          if seed not in plan.seeds and str(seed) in {name for _, _, name in begun}]
    write_json(folder / DECLARED, said)


def _refuse(folder: Path, what: str, there: dict[str, Any], here: dict[str, Any], remedy: str) -> None:
    old, new = flatten(there, "."), flatten(here, ".")
    shown = lambda side, key: json.dumps(side[key]) if key in side else "absent"
    differing = [f"{key} is {shown(old, key)} there, {shown(new, key)} here" for key in {**old, **new}
                 if shown(old, key) != shown(new, key)]
    if differing:
        raise ValueError(f"{folder} has begun {what} with other settings: {'; '.join(differing)}; {remedy}")
