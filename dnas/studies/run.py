"""Carries out the jobs of a study, in this process or by several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dnas.reports.text import duration
from dnas.runs.files import write_json
from dnas.runs.index import number
from dnas.runs.study_folder import (
    Search,
    entry_file,
    failure_file,
    failures,
    holding,
    is_done,
    ranking_of,
    read_if_there,
    run_folder,
    states,
)
from dnas.studies.job import Job, carry_out
from dnas.studies.plan import StudyPlan, methods_in_spaces
from dnas.studies.statistics import LEVEL, comparisons, seeds_for

PAUSE = 0.1
"""Seconds between two looks at the workers."""
WORKER = ["-P", "-m", "dnas.studies.worker"]
"""Arguments of Python for a worker process."""


class Planned(NamedTuple):
    """What there is to do for a method. done: seeds of which everything is there; waiting: the others; searched: those of
    them whose search has ended. seconds: that this will take without compiling, by what is done, None where no search is."""

    label: str
    done: list[int]
    waiting: list[int]
    searched: list[int]
    seconds: float | None


def planned(plan: StudyPlan, folder: Path) -> list[Planned]:
    """What there is to do in a folder, for each method."""
    rows, ranking = [], rankings(plan)
    for method in plan.methods:
        entries = {seed: read_if_there(entry_file(folder, method.label, seed)) for seed in plan.seeds}
        done = [seed for seed, entry in entries.items() if is_done(
            entry_file(folder, method.label, seed), entry, plan.selections, ranking[method.label])]
        waiting = [seed for seed in plan.seeds if seed not in done]
        searched = [seed for seed in waiting if (run_folder(folder, method.label, seed) / "results.json").exists()]
        rows.append(Planned(method.label, done, waiting, searched, _seconds(plan, entries, waiting, searched)))
    return rows


def rankings(plan: StudyPlan) -> dict[str, str | None]:
    """What the supernets of each method score, by its label, see `dnas.runs.study_folder.ranking_of`."""
    return {method.label: ranking_of(plan.ranked, method.space["name"]) for method in plan.methods}


def _seconds(plan: StudyPlan, entries: Mapping[int, Mapping], waiting: Sequence[int],
             searched: Sequence[int]) -> float | None:
    """What the searches that wait and the choices that are missing will take, as the others of the method took on average.
    A selection of which none has ended counts for nothing."""
    mean = lambda values: sum(values) / len(values) if values else 0.0
    searches = [entry["seconds"] for entry in entries.values() if entry.get("seconds")]
    if len(waiting) > len(searched) and not searches:
        return None
    chosen = {name: mean([number(each, "selections", name, "values", "seconds") or 0 for each in entries.values()
                          if name in each.get("selections", {})]) for name in plan.selections}
    missing = (name for seed in waiting for name in plan.selections if name not in entries[seed].get("selections", {}))
    return (len(waiting) - len(searched)) * mean(searches) + sum(chosen[name] for name in missing)


def plan_text(plan: StudyPlan, folder: Path) -> str:
    """The plan for a person, with the cost of the searches that are not done."""
    rows, epochs, times = planned(plan, folder), 0, []
    spaces = len(methods_in_spaces(plan.methods))
    lines = [f"study      {folder}: {len(plan.methods) // spaces} methods, " + (f"{spaces} spaces, " if spaces > 1 else "")
             + f"{len(plan.seeds)} seeds, selections {', '.join(plan.selections)}",
             f"budget     {plan.epochs} epochs of {plan.steps} steps of {plan.batch} examples for each search, "
             f"{plan.epochs * plan.steps:,} steps" + (f", or {plan.seconds:g} seconds" if plan.seconds else "")
             + (f", {plan.train_epochs} of training each choice" if plan.train_epochs else "")]
    if plan.ranked:
        examples = f"about {plan.ranked['examples']:,}" if plan.ranked["examples"] else f"all {plan.sizes['valid']:,}"
        lines.append(f"ranking    {len(plan.ranked['networks']):,} networks of {plan.ranked['space']} in each supernet, "
                     f"{examples} examples of the validation split each")
    tests = len(comparisons(methods_in_spaces(plan.methods), list(plan.selections)))
    if tests:
        lines.append(f"seeds      {len(plan.seeds)}; a corrected p can be {LEVEL:g} or less from {seeds_for(tests)} on with "
                     f"{tests} comparison{'s' * (tests > 1)}")
    for row in rows:
        count = len(row.waiting) - len(row.searched)
        epochs += count * plan.epochs
        times.append(row.seconds)
        what = ", ".join(f"{number} {word}" for number, word in (
            (len(row.done), "done"), (len(row.searched), "to select from"), (count, "to search")) if number)
        cost = f": {count * plan.epochs * plan.steps:,} steps" if count else ""
        lines.append(f"method     {row.label}: {what}{cost}" + (f", about {duration(times[-1])}" if times[-1] else ""))
    total = "" if None in times or not sum(times) else f", about {duration(sum(times))} and compiling"
    return "\n".join([*lines, f"to do      {epochs:,} epochs, {epochs * plan.steps:,} steps{total}"])


def jobs_of(plan: StudyPlan, folder: Path, workers: int, cache: str | None, without: Collection[Search] = ()) -> list[Job]:
    """What is not done, a job for each method, or several where there would be fewer jobs than workers. without: searches
    that somebody else carries out."""
    rows = {row.label: [seed for seed in row.waiting if (row.label, seed) not in without] for row in planned(plan, folder)}
    parts = -(-workers // max(sum(map(bool, rows.values())), 1))
    methods, ranking, jobs = {method.label: method for method in plan.methods}, rankings(plan), []
    for label, waiting in rows.items():
        for seeds in (waiting[start::parts] for start in range(min(parts, len(waiting)))):
            jobs.append(Job(str(folder.absolute()), *methods[label][:3], plan.data, seeds, plan.selections, plan.epochs,
                            plan.batch, plan.train_epochs, cache, plan.seconds, methods[label].split,
                            plan.ranked if ranking[label] else {}))
    return jobs


def run_jobs(jobs: Sequence[Job], workers: int, say: Callable[[str], None], progress: bool) -> None:
    """Carries out jobs, one after another here, or by so many worker processes. Failures are written into the folder."""
    if workers == 1:
        for job in jobs:
            say(f"begin      {job.name}")
            with holding(Path(job.folder), job.label, job.seeds, say) as seeds:
                if seeds:
                    _say_failures(job, say, carry_out(job._replace(seeds=seeds), say, progress))
        return
    waiting, running = list(jobs), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                say(f"begin      {job.name}")
                running[_started(job)] = job, time.monotonic()
            time.sleep(PAUSE)
            for process in [each for each in running if each.poll() is not None]:
                job, began = running.pop(process)
                process.stdin.close()
                _ended(job, process.returncode)
                say(f"end        {job.name}, {duration(time.monotonic() - began)}")
                _say_failures(job, say)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
            process.stdin.close()


def _started(job: Job) -> subprocess.Popen:
    log = _log(job)
    log.parent.mkdir(exist_ok=True)
    with open(log, "ab") as output:
        process = subprocess.Popen([sys.executable, *WORKER], stdin=subprocess.PIPE,
                                   stdout=output, stderr=output, start_new_session=True, env=environment())
    try:
        process.stdin.write(json.dumps(job._asdict()).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it has ended already, and its log says why
    return process


def environment() -> dict[str, str]:
    """That of this process, with the places from which it imports, and no others."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}


def _ended(job: Job, code: int) -> None:
    """Writes failures for a process that could not do so itself."""
    if not code:
        return
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    there = states(Path(job.folder), [(job.label, seed) for seed in job.seeds], job.selections,
                   {job.label: job.ranked.get("digest")})
    for (label, seed), state in there.items():
        if state.status not in ("done", "running"):
            file = failure_file(Path(job.folder), label, seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"error": f"its process ended with {how}; {_log(job)} has what it printed"})


def _say_failures(job: Job, say: Callable[[str], None], errors: dict[int, str] | None = None) -> None:
    errors = errors if errors is not None else {
        seed: text for (label, seed), text in failures(Path(job.folder)).items() if label == job.label and seed in job.seeds}
    for seed, error in errors.items():
        say(f"failed     {job.label}, seed {seed}: {error}")


def _log(job: Job) -> Path:
    return Path(job.folder) / "logs" / f"{job.label}-{job.seeds[0]}.log"
