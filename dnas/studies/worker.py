"""A worker process of a study: `python -m dnas.studies.worker` reads a job from its standard input and carries it out.

The input stays open as long as the process that began it lives; when it ends, however it does, the worker ends too.
"""

from __future__ import annotations

import json
import os
import sys
import threading

ORPHANED = 3
"""Exit code of a worker whose study has ended."""


def main() -> int:
    """Carries out the job; 0 once its entries and failures are written."""
    with open(0, "rb", buffering=0, closefd=False) as file:  # no buffer, whose lock the thread would hold at the end
        job = json.loads(file.readline())
    threading.Thread(target=_wait_for_parent, daemon=True).start()

    from dnas.printing import print_flushed
    from dnas.studies.job import Job, carry_out

    carry_out(Job(**job), print_flushed)
    return 0


def _wait_for_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
