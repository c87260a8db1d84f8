"""A run directory belongs to one process at a time: the system's own lock on its file run.lock.

That lock ends with the process, however it ends, so a dead one never holds a run. What the file says, the process and its
machine, is for people: a number that another process has got since locks nothing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from pathlib import Path
from typing import TextIO

NAME = "run.lock"
TRIES, PAUSE = 4, 0.05
"""Attempts at a lock, and the seconds between them: `holder` may be looking just then."""


def take(folder: Path) -> TextIO:
    """Locks `folder`, which exists, until the file that is returned is closed or this process has ended.

    Raises ValueError, naming who holds it, where another process or another call does; OSError where the file cannot be
    made. On a file system that has no locks everyone gets one, for a run there is worth more than none.
    """
    lock = _opened(folder, os.O_RDWR | os.O_CREAT)
    for attempt in range(TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt + 1 < TRIES:
                time.sleep(PAUSE)
                continue
            with lock:
                raise ValueError(f"{folder} is in use by {_named(lock)}; wait for it to end or choose another folder") \
                    from None
        except OSError:
            break
    with contextlib.suppress(OSError):  # not through the buffer, which on a full disk would fail once more when it is closed
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    return lock


def holder(folder: Path) -> str | None:
    """Who holds the lock of `folder`, in words; None where nobody does, or it cannot be said. Writes nothing."""
    try:
        with _opened(folder, os.O_RDONLY) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _named(lock)
    except OSError:
        pass
    return None


def _opened(folder: Path, flags: int) -> TextIO:
    """The file, which may hold anything. A link there is not followed: to lock a run must not empty another file."""
    file = os.open(folder / NAME, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, f"its {NAME} is not an ordinary file")
    return os.fdopen(file, errors="replace")


def _named(lock: TextIO) -> str:
    """The process that the file names, with its machine if that is another."""
    lock.seek(0)
    process, _, machine = lock.read(400).strip().partition(" ")
    return f"process {process or '(unknown)'}" + (f" on {machine}" if machine not in ("", socket.gethostname()) else "")
