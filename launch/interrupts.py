"""Turns requests to end into KeyboardInterrupt: Ctrl-C, SIGTERM (by a scheduler), SIGHUP (by a closed terminal)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SHOW_CURSOR = b"\x1b[?25h\n"
"""Restores the cursor of a terminal with a moving line."""


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """A block in which the first of SIGNALS raises KeyboardInterrupt, and a second ends the process at once. Yields the
    numbers of received signals. A signal that is ignored, as SIGHUP under nohup, stays ignored."""
    received: list[int] = []

    def interrupt(number, frame):
        if received:
            if sys.stderr is not None and os.isatty(2):
                os.write(2, SHOW_CURSOR)
            os._exit(exit_code(received))
        received.append(number)
        raise KeyboardInterrupt

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(received: list[int]) -> int:
    """Exit code of a process that these signals ended, as in shells; 130 if there are none."""
    return 128 + (received[0] if received else signal.SIGINT)
