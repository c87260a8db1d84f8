"""A worker process of a study. `python -m dnas.studies.worker` reads a job from its standard input and carries it out;
`python -m dnas.studies.worker DIR/slurm/NUMBER/TASK.json`, a task of Slurm, reads it from a file in the study's folder DIR.

The input stays open as long as the process that began it lives; when it ends, however it does, the worker ends too. A task
has no such process: it ends when its job is done, or when Slurm ends it, and may be started again.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnas.printing import print_flushed
from dnas.runs.files import read_json
from dnas.runs.study_folder import begun_file, holding

ORPHANED = 3
"""Exit code of a worker whose study has ended."""


def main(argv: Sequence[str]) -> int:
    """Carries out a job. From the input 0, once its entries and failures are written; from a file 1, if there are any."""
    if argv:
        file = Path(argv[0]).absolute()
        job = read_json(file) | {"folder": str(file.parents[2])}  # which may have moved
        return int(bool(_carried_out(job, begun_file(file))))
    with open(0, "rb", buffering=0, closefd=False) as stream:  # no buffer, whose lock the thread would hold at the end
        job = json.loads(stream.readline())
    threading.Thread(target=_wait_for_parent, daemon=True).start()
    _carried_out(job)
    return 0


def _carried_out(job: Mapping[str, Any], begun: Path | None = None) -> dict[int, str]:
    """Carries out a job for the seeds that no other process works on, and returns why some failed."""
    with holding(Path(job["folder"]), job["label"], job["seeds"], print_flushed) as seeds:
        if begun:
            begun.touch()
        if not seeds:
            return {}
        from dnas.studies.job import Job, carry_out

        return carry_out(Job(**{**job, "seeds": seeds}), print_flushed)


def _wait_for_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
