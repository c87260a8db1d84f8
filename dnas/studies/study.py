"""`dnas.study`: methods, seeds and selections under one budget, in a folder that goes on and takes in what is added."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from dnas.data.files import expanded
from dnas.printing import print_flushed
from dnas.studies.folder import declare, open_folder, refuse_changed
from dnas.studies.plan import StudyPlan, plan_study
from dnas.studies.report import Study, read_study
from dnas.studies.run import jobs_of, plan_text, run_jobs
from dnas.studies.slurm import require_slurm, submit
from dnas.studies.truth import load_truth, networks_to_rank

LAUNCHERS = "local", "slurm"


def study(study: str | Path | Mapping[str, Any], run: str | Path, *, launcher: Literal["local", "slurm"] = "local",
          jobs: int | None = None, dry_run: bool = False, trust: bool = False, cache: str | None = None,
          progress: bool = True) -> Study | str:
    """Carries out a study in the folder `run`, and reports on it. What is done there already is not repeated.

    study: a TOML file (docs/studies.md), or a mapping with the same content.

    Args:
        launcher: Who carries out the searches: local, processes of this machine; slurm, an array of jobs that is submitted
            to Slurm by sbatch, without waiting for it.
        jobs: Processes that work at once, 1 unless given, which works in this one; with slurm tasks that run at once.
        dry_run: Say what there is to do and what it costs, and do nothing.
        trust: Import whatever places the study names, such as file.py:factory.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show how the study goes on.

    An entry that fails does not stop the others; the result lists it under `failures`, and it is tried again next time.

    Returns the report, which is written into the folder too, of what is done so far; the plan as text where `dry_run`.
    Raises ValueError, in one line and before anything is computed or written, for whatever does not fit, and where the
    folder has begun the same methods or selections with other settings.
    """
    folder = expanded(run)
    plan = checked_plan(study, folder, jobs, trust, launcher)
    if dry_run:
        return plan_text(plan, folder)
    return run_study(plan, folder, launcher=launcher, jobs=jobs, cache=cache, progress=progress)


def checked_plan(study: str | Path | Mapping[str, Any], folder: Path, jobs: int | None = None,
                 trust: bool | Collection[str] = False, launcher: str = "local") -> StudyPlan:
    """The plan of a study that can be carried out in the folder. Writes nothing. Raises ValueError as `study` does."""
    if jobs is not None and (type(jobs) is not int or not 1 <= jobs <= 1000):
        raise ValueError(f"jobs is {jobs!r}; it must be a whole number, 1 to 1000")
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher is {launcher!r}; it must be {' or '.join(LAUNCHERS)}")
    if launcher == "slurm":
        require_slurm()
    plan = plan_study(study, trust)
    truth = load_truth(plan.table, plan.methods)  # a wrong table is refused now; no job has it
    plan = plan._replace(ranked=networks_to_rank(truth, plan.table and plan.table["examples"]))
    refuse_changed(folder, plan)
    return plan


def run_study(plan: StudyPlan, folder: Path, *, launcher: str = "local", jobs: int | None = None,
              cache: str | None = None, progress: bool = True) -> Study:
    """Carries out a checked plan, or submits it."""
    say = print_flushed if progress else lambda text: None
    with open_folder(folder):
        declare(folder, plan)
        say(plan_text(plan, folder))
        if launcher == "slurm":
            submit(plan, folder, jobs, cache, say)
        else:
            run_jobs(jobs_of(plan, folder, jobs or 1, cache), jobs or 1, say, progress)
        result = read_study(folder)
        result.write(folder)
    return result


def study_report(run: str | Path) -> Study:
    """The report of the study in the folder `run`, of what is done so far; it is written into the folder too.

    Raises ValueError, in one line, where there is no study.
    """
    folder = expanded(run)
    result = read_study(folder)
    result.write(folder)
    return result
