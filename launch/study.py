"""Compare methods over seeds and selections under one budget: `dnas study report DIR` shows how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnas.options import REQUIRED, Option
from launch.arguments import options_of, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown

STUDY = Option("study", str, REQUIRED, "File that declares the study (docs/studies.md).")
RUN = Option("run", str | None, None, "Folder of the study; one that was interrupted or extended continues there.")
FOLDER = Option("run", str, REQUIRED, "Folder of a study, finished or not.")


def main(argv: Sequence[str]) -> int:
    """Runs `dnas study` and `dnas study report`. 1 if a search or a choice failed in a study that was carried out here."""
    if argv and argv[0] == "report":
        return _report(argv[1:])
    values = read_command("study", __doc__, argv, [STUDY, RUN, *options_of("dnas.studies.study:study")],
                          shown={"study": Positional("STUDY.toml"), "run": Shown("DIR", "runs/STUDY"),
                                 "jobs": Shown("N", "1; with slurm no limit")})
    from dnas.data.files import expanded
    from dnas.studies.run import plan_text
    from dnas.studies.study import checked_plan, run_study

    folder = expanded(values["run"] or Path("runs") / Path(values["study"]).stem)
    launcher, jobs = values["launcher"], values["jobs"]
    plan = checked_plan(values["study"], folder, jobs, values["trust"], launcher)
    if values["dry_run"]:
        print(plan_text(plan, folder))
        return 0
    with working("the same command continues from what is done"):
        study = run_study(plan, folder, launcher=launcher, jobs=jobs, cache=values["cache"], progress=values["progress"])
    code = _shown(study)
    return code if launcher == "local" else 0


def _report(argv: Sequence[str]) -> int:
    values = read_command("study report", "Report on a study, as far as it is done.", argv, [FOLDER],
                          shown={"run": Positional("DIR")})
    from dnas.studies.study import study_report

    with working():
        _shown(study_report(values["run"]))
    return 0


def _shown(study) -> int:
    print(f"\n{study}\n")
    print(f"written    {study.folder} (report.html, report.json, study.csv)")
    return int(bool(study.failures))
