"""The folder of a study, read without jax: where its parts are, who works on them, and how far each search is.

    study.json                declared so far
    runs/LABEL/SEED/          run directories of `dnas search`, with their selections
    entries/LABEL/SEED.json   what a report needs of each
    entries/LABEL/SEED.npz    scores of networks in its supernet, where the study ranks them
    failures/LABEL/SEED.json  why one has not ended
    logs/                     what worker processes and tasks of Slurm printed
    slurm/NUMBER/             an array that was submitted to Slurm: array.sh, submitted.json, TASK.json and TASK.begun
    .study/                   locks: of who hands out the jobs, and of who carries out each search

A search and the choices from it belong to one process at a time, on whatever machine: see `dnas.runs.lock`. So whoever
works in the folder, worker processes or tasks of Slurm, several of them may do so at once.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dnas.runs import lock
from dnas.runs.files import Unreadable, read_json

DECLARED = "study.json"
LABEL = re.compile(r"\w[\w.,=+-]*", re.ASCII)
"""What a label may be, which names folders."""
HIDDEN = ".study"
"""Where `dnas runs` does not take a lock for a run's."""
SUBMITTED = "submitted.json"
"""Of an array that Slurm took: {"id": its job id, "tasks": [{"label", "seeds"}]}, written after it was submitted."""
ANSWER = 10.0
"""Seconds that squeue has for its answer."""

STATUSES = "done", "running", "queued", "failed", "broken", "interrupted", "waiting"

Search = tuple[str, int]
"""Label and seed."""


class State(NamedTuple):
    """How far a search and the choices from it are. status: of STATUSES; note: who runs it, where it is queued, why it
    failed, or what is broken."""

    status: str
    note: str = ""


class Task(NamedTuple):
    """A task of an array that was submitted to Slurm. array: its job id; begun: whether the task has begun."""

    array: str
    index: int
    searches: tuple[Search, ...]
    begun: bool


def run_folder(folder: Path, label: str, seed: int) -> Path:
    """The run directory of a search."""
    return folder / "runs" / label / str(seed)


def entry_file(folder: Path, label: str, seed: int) -> Path:
    """What is known of a search and of the choices from it."""
    return folder / "entries" / label / f"{seed}.json"


def failure_file(folder: Path, label: str, seed: int) -> Path:
    """Why a search, or a choice from it, did not end."""
    return folder / "failures" / label / f"{seed}.json"


def failures(folder: Path) -> dict[Search, str]:
    """Why searches or choices failed. Files that are none of a study are left alone."""
    files = [file for file in sorted(folder.glob("failures/*/*.json")) if re.fullmatch("[0-9]+", file.stem)]
    said = {(file.parent.name, int(file.stem)): read_if_there(file) for file in files}
    return {search: str(failure.get("error", "")) for search, failure in said.items() if failure}


@contextlib.contextmanager
def holding(folder: Path, label: str, seeds: Iterable[int], say: Callable[[str], None]) -> Iterator[list[int]]:
    """Locks the searches of a method until the block ends, or this process, and yields those that were free. Of another
    `say` is told who works on it. Raises OSError where a lock cannot be written."""
    with contextlib.ExitStack() as stack:
        free = []
        for seed in seeds:
            place = _lock_folder(folder, label, seed)
            place.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(lock.take(place))
                free.append(seed)
            except ValueError:
                say(f"in use     {label}, seed {seed}: by {lock.holder(place) or 'another process, just now'}")
        yield free


def ranking_of(ranked: Mapping[str, Any], space: str) -> str | None:
    """The digest of what the supernets of a space score, by `StudyPlan.ranked`; None where they score nothing."""
    return ranked["digest"] if ranked and ranked["space"] == space else None


def is_ranked(file: Path, entry: Mapping[str, Any], ranking: str | None) -> bool:
    """Whether the entry in `file`, beside which the scores lie, has the `ranking`, see `ranking_of`."""
    return ranking is None or entry.get("ranked") == ranking and file.with_suffix(".npz").exists()


def is_done(file: Path, entry: Mapping[str, Any], selections: Collection[str], ranking: str | None) -> bool:
    """Whether the entry in `file` has each choice by `selections`, and the ranking."""
    return bool(entry) and not set(selections) - set(entry["selections"]) and is_ranked(file, entry, ranking)


def states(folder: Path, searches: Iterable[Search], selections: Collection[str],
           rankings: Mapping[str, str | None]) -> dict[Search, State]:
    """How far each search is, each choice by `selections` from it, and its ranking, by label; see `ranking_of`. Raises
    nothing for what cannot be read."""
    rows = {search: _state(folder, *search, selections, rankings[search[0]]) for search in searches}
    open_ones = [search for search, state in rows.items() if state.status not in ("done", "running")]
    waiting = queued(folder) if open_ones else {}
    return rows | {search: State("queued", waiting[search]) for search in open_ones if search in waiting}


def queued(folder: Path) -> dict[Search, str]:
    """The searches in whose tasks Slurm has not ended yet, as it says itself, and in which tasks they are.

    Without an answer by squeue: those whose tasks have not begun, or are at work."""
    tasks = submitted(folder)
    listed = listed_by_slurm() if tasks else None
    rows = {}
    for task in tasks:
        alive = not task.begun if listed is None else (task.array, task.index) in listed
        for search in task.searches:
            if alive or lock.holder(_lock_folder(folder, *search)):
                rows[search] = f"task {task.index} of Slurm job {task.array}"
    return rows


def submitted(folder: Path) -> list[Task]:
    """The tasks that were submitted to Slurm, whatever became of them. What cannot be read is none."""
    tasks = []
    for file in sorted(folder.glob(f"slurm/*/{SUBMITTED}")):
        with contextlib.suppress(ValueError, LookupError, TypeError):
            said = read_json(file)
            tasks += [Task(str(said["id"]), index, tuple((str(task["label"]), int(seed)) for seed in task["seeds"]),
                           begun_file(file.parent / f"{index}.json").exists()) for index, task in enumerate(said["tasks"])]
    return tasks


def begun_file(job: Path) -> Path:
    """What is there from the moment on that a task has begun its job, and has its searches to itself."""
    return job.with_suffix(".begun")


def listed_by_slurm() -> set[tuple[str, int]] | None:
    """The user's tasks that wait or run, (job id of the array, index); None where squeue is absent or does not answer."""
    program = shutil.which("squeue")
    if program is None:
        return None
    try:
        answer = subprocess.run([program, "--me", "--noheader", "--array", "--format=%F %K %T"], stdin=subprocess.DEVNULL,
                                capture_output=True, encoding="utf-8", errors="replace", timeout=ANSWER, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split() for line in answer.stdout.splitlines()]
    return {(row[0], int(row[1])) for row in rows if len(row) == 3 and row[1].isdecimal() and row[2] != "COMPLETING"}


def read_if_there(file: Path) -> dict[str, Any]:
    """The JSON object of a file, {} where there is none, or no longer. Raises ValueError as `read_json`."""
    try:
        return read_json(file)
    except Unreadable:
        if file.exists():
            raise
        return {}


def _state(folder: Path, label: str, seed: int, selections: Collection[str], ranking: str | None) -> State:
    held = lock.holder(_lock_folder(folder, label, seed))
    if held:
        return State("running", held)
    try:
        entry, failure = (read_if_there(place(folder, label, seed)) for place in (entry_file, failure_file))
        if is_done(entry_file(folder, label, seed), entry, selections, ranking):
            return State("done")
    except (ValueError, LookupError, TypeError) as error:
        return State("broken", str(error) if isinstance(error, ValueError) else f"entries/{label}/{seed}.json: no entry")
    if failure:
        return State("failed", str(failure.get("error", "")))
    return State("interrupted" if run_folder(folder, label, seed).exists() else "waiting")


def _lock_folder(folder: Path, label: str, seed: int) -> Path:
    return folder / HIDDEN / "searches" / label / str(seed)
