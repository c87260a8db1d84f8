"""Requests to end: Ctrl-C, SIGTERM as of a scheduler, SIGHUP as of a terminal that is closed.

While something goes on that must be put in order (`working`), the first of them is a KeyboardInterrupt. Else, and when a
second comes, the process ends at once: an exception in the midst of imports would be lost, or end it with a traceback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SOON, AGAIN = 0.02, 10.0
"""Seconds after which an interrupt is raised again that Python ignored, and that somebody's code swallowed."""
SHOW_CURSOR = b"\x1b[?25h\n"
"""What a terminal is told whose line moved."""
received: list[int] = []
"""Numbers of the signals that came."""
_work: list[str] = []


def handle() -> None:
    """Handles SIGNALS from now on; one that is ignored, as SIGHUP under nohup, stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) not in (signal.SIG_IGN, None):
            signal.signal(number, _interrupt)
    signal.signal(signal.SIGALRM, _interrupt)


@contextlib.contextmanager
def working(hint: str = "") -> Iterator[None]:
    """Inside, an interrupt is a KeyboardInterrupt, which says `hint`: how to go on."""
    hook = sys.unraisablehook

    def ignored(what):
        """Of an exception that nobody can catch, such as one raised while garbage is collected."""
        if what.exc_type is KeyboardInterrupt and received:
            signal.setitimer(signal.ITIMER_REAL, SOON)
        else:
            hook(what)

    sys.unraisablehook = ignored
    _work.append(hint)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {hint}" if hint else "") from None
    finally:
        if received:
            signal.setitimer(signal.ITIMER_REAL, 0)
        _work.pop()
        sys.unraisablehook = hook


def exit_code() -> int:
    """Of a process that the signals ended, as shells have it; 130 where it was interrupted otherwise."""
    return 128 + (received[0] if received else signal.SIGINT)


def _interrupt(number, frame) -> None:
    again = number == signal.SIGALRM
    if not again:
        received.append(number)
    if not _work or len(received) > 1 and not again:
        if len(received) == 1 and not again:
            os.write(2, b"dnas: interrupted\n")
        elif os.isatty(2):
            os.write(2, SHOW_CURSOR)
        os._exit(exit_code())
    signal.setitimer(signal.ITIMER_REAL, AGAIN)
    raise KeyboardInterrupt
