"""Jobs of a study as an array of Slurm: a task a job. Run directories make each idempotent, so what a task did not reach,
however it ended, is submitted again, and what is done or queued is not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dnas.runs.files import write_atomic, write_json
from dnas.runs.study_folder import SUBMITTED, states
from dnas.studies.plan import StudyPlan
from dnas.studies.run import WORKER, environment, jobs_of, rankings

ANSWER = 120.0
"""Seconds that sbatch has for its answer."""


def require_slurm() -> str:
    """The path of sbatch. Raises ValueError where there is none."""
    program = shutil.which("sbatch")
    if program is None:
        raise ValueError("launcher slurm needs the command sbatch, which is not on the PATH here; submit on a machine of a"
                         " Slurm cluster, or say --launcher local")
    return program


def submit(plan: StudyPlan, folder: Path, most: int | None, cache: str | None, say: Callable[[str], None]) -> None:
    """Submits what is neither done nor queued nor running, with a script that stays in the folder.

    most: tasks that run at once, None for no limit but Slurm's. Raises ValueError, in one line, where sbatch refuses.
    """
    program = require_slurm()
    searches = [(method.label, seed) for method in plan.methods for seed in plan.seeds]
    now = states(folder, searches, plan.selections, rankings(plan))
    busy = {search for search, state in now.items() if state.status in ("queued", "running")}
    cache = cache if cache in (None, "off") else os.path.abspath(os.path.expanduser(cache))
    jobs = jobs_of(plan, folder, most or 1, cache, without=busy)
    if not jobs:
        counts = Counter(state.status for state in now.values())
        say(f"nothing to submit: of {len(now)} searches {', '.join(f'{count} {word}' for word, count in counts.items())}")
        return
    place = _next(folder / "slurm")
    for index, job in enumerate(jobs):
        write_json(place / f"{index}.json", job._asdict())
    (folder / "logs").mkdir(exist_ok=True)
    write_atomic(place / "array.sh", script(folder.absolute().name, f"slurm/{place.name}", len(jobs), most, plan.slurm))
    number = _submitted(program, folder, f"slurm/{place.name}/array.sh")
    write_json(place / SUBMITTED, {"id": number, "tasks": [{"label": job.label, "seeds": job.seeds} for job in jobs]})
    limit = f", at most {most} at once" if most else ""
    say(f"submitted  Slurm job {number}: {len(jobs)} task{'s' * (len(jobs) > 1)}{limit}, by {place / 'array.sh'}\n"
        f"next       dnas runs {shlex.quote(str(folder))}, dnas study report {shlex.quote(str(folder))}")


def script(name: str, place: str, tasks: int, most: int | None, options: Mapping[str, Any]) -> str:
    """The script of an array: each of its tasks carries out one job in `place`, a folder inside of that of the study, where
    it begins. Options are words of sbatch; only sbatch reads them."""
    at_once = f"%{most}" if most else ""
    lines = {"job-name": "dnas-" + re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII), **options,
             "output": "logs/slurm-%A_%a.log"}
    words = [f"#SBATCH --array=0-{tasks - 1}{at_once}",
             *(f"#SBATCH --{option}" + ("" if value is True else f'="{value}"') for option, value in lines.items())]
    return "\n".join([
        "#!/bin/sh", *words,
        f"# Submitted from the folder of the study: sbatch {place}/array.sh",
        f"export PYTHONPATH={shlex.quote(environment()['PYTHONPATH'])}",
        f'exec {shlex.join([sys.executable, *WORKER])} "{place}/$SLURM_ARRAY_TASK_ID.json"', ""])


def _next(parent: Path) -> Path:
    """A new folder with the next number as its name."""
    parent.mkdir(exist_ok=True)
    place = parent / str(1 + max((int(each.name) for each in parent.iterdir() if re.fullmatch("[0-9]+", each.name)),
                                 default=0))
    place.mkdir()
    return place


def _submitted(program: str, folder: Path, file: str) -> str:
    """Submits a script, and returns the id of its job."""
    try:
        answer = subprocess.run([program, "--parsable", file], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
                                encoding="utf-8", errors="replace", timeout=ANSWER)
    except OSError as error:
        raise ValueError(f"cannot start {program}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"sbatch gave no answer to {folder / file} in {ANSWER:.0f} seconds; if it was submitted all the "
                         "same, squeue lists it, and nothing is computed twice") from None
    number = (answer.stdout.split() or [""])[-1].partition(";")[0]  # a site's own words may stand before it
    if answer.returncode or not re.fullmatch("[0-9]+", number):
        said = " ".join((answer.stderr or answer.stdout).split()) or f"exit code {answer.returncode}"
        raise ValueError(f"sbatch did not submit {folder / file}: {said}")
    return number
