"""Requests to end: Ctrl-C, SIGTERM as of a scheduler, SIGHUP as of a terminal that is closed. All are KeyboardInterrupt."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SHOW_CURSOR = b"\x1b[?25h\n"
"""What a terminal is told whose line moved."""


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Inside, the first of SIGNALS raises KeyboardInterrupt, and a second ends the process at once. Yields the numbers of
    those received. A signal that is ignored, as SIGHUP under nohup, stays so."""
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
    """Of a process that such signals ended, as shells have it; 130 where it was interrupted otherwise."""
    return 128 + (received[0] if received else signal.SIGINT)
