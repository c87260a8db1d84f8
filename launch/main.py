"""The `dnas` command: runs the sub-command, and turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import difflib
import gc
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO

from dnas.printing import printable
from launch.interrupts import exit_code, received
from launch.text import as_flags, options, plain

COMMANDS = {
    "search": ("launch.search:main", "search a space on data and write the result into a run directory"),
    "select": ("launch.select:main", "choose the architecture of a trained supernet in another way"),
    "front": ("launch.front:main", "find a Pareto front of the networks in a table of NAS-Bench-201"),
    "compare": ("launch.compare:main", "compare selections on runs of several methods and seeds, in one report"),
    "rank": ("launch.rank:main", "how well a trained supernet ranks the networks of a table"),
    "study": ("launch.study:main", "compare methods over seeds and selections under one budget, and go on"),
    "train": ("launch.train:main", "train the network of a search, or a published one, and test it"),
    "predict": ("launch.predict:main", "predictions of a trained network for pictures, rows of a table, arrays, a text"),
    "export": ("launch.export:main", "write a trained network as StableHLO, safetensors or one Python file"),
    "show": ("launch.show:main", "draw the result: its cells, the layers of its network, the logits of its run"),
    "report": ("launch.report:main", "write one page about a run, with pictures, figures, command and versions"),
    "runs": ("launch.runs:main", "list the runs in a folder with their status, metric and time"),
    "evaluate": ("launch.evaluate:main", "size of a network, and its results in a benchmark's table"),
    "latency": ("launch.latency:main", "milliseconds of networks on this machine, or a table of those of a space"),
    "table": ("launch.table:main", "make such a table from a benchmark's official files"),
    "estimate": ("launch.estimate:main", "weights, multiply-adds, memory and compile time of a search, without it"),
    "spaces": ("launch.lists:spaces", "list the search spaces"),
    "methods": ("launch.lists:methods", "list the search methods"),
    "selections": ("launch.lists:selections", "list the ways to choose from a trained supernet"),
    "datasets": ("launch.lists:datasets", "list the data sets and the forms in which data can be given"),
}
FAILED, BAD_INPUT, BROKEN_PIPE = 1, 2, 141
GARBAGE = 10_000, 10, 10
"""Thresholds of the garbage collector. Imports and traces create many lasting objects; with the default thresholds a tenth
of the time to the first step goes into scanning them again and again."""
LONGEST = 2000
"""Most characters of an error message, which may quote a file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process) and returns its exit code.

    0: done; 1: it failed while running, such as by a loss that is not finite; 2: bad input, or files that cannot be
    read or written; 130, 143, 129: ended by Ctrl-C, SIGTERM, SIGHUP. Errors are one line on standard error; DNAS_DEBUG=1
    adds the traceback. Printed text contains no control characters for the terminal.
    """
    _sure_of_output()
    gc.set_threshold(*GARBAGE)
    options.set(frozenset())
    with contextlib.redirect_stdout(Plain(sys.stdout)), contextlib.redirect_stderr(Plain(sys.stderr)):
        try:
            code = _run(list(sys.argv[1:] if argv is None else argv))
            sys.stdout.flush()
            return code
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else FAILED if stop.code else 0
        except KeyboardInterrupt as interrupt:
            return _say("dnas", str(interrupt) or "interrupted", exit_code())
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return BROKEN_PIPE
        except Exception as error:
            if received:  # an interrupt becomes another error where it meets code that is not Python
                return _say("dnas", "interrupted", exit_code())
            return _say("dnas: error", *_explained(error))


class Plain:
    """A stream that writes texts as `printable` ones. Rich's own control codes bypass it."""

    def __init__(self, stream: TextIO):
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Writes a text."""
        return self.rich_proxied_file.write(printable(text))

    def __getattr__(self, name: str):
        return getattr(self.rich_proxied_file, name)


def usage() -> str:
    """Text of `dnas --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    return "\n".join(["usage: dnas COMMAND [OPTIONS]", "", "Differentiable architecture search in JAX.", "", *lines, "",
                      "`dnas COMMAND --help` shows a command's options with their defaults; `dnas --version`."])


def _sure_of_output() -> None:
    """Makes any file name printable in any encoding, and printing harmless without a standard output."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it stays open as long as the process)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        import dnas

        print(f"dnas {dnas.__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0].lower(), COMMANDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
        raise ValueError(f"no command {argv[0]!r}; {hint}")
    from dnas.runs.directory import COMMAND

    COMMAND.set(shlex.join(["dnas", *argv]))
    module, _, function = COMMANDS[argv[0]][0].partition(":")
    return getattr(importlib.import_module(module), function)(argv[1:])


def _explained(error: Exception) -> tuple[str, int]:
    """The message of an error in one line, and the exit code."""
    if isinstance(error, ValueError):
        return as_flags(str(error)), BAD_INPUT
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), BAD_INPUT
    if type(error).__name__ in ("NonFiniteLoss", "Unfaithful", "CompilerFailed"):
        return str(error), FAILED
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first} (DNAS_DEBUG=1 shows where)", FAILED


def _say(prefix: str, text: str, code: int) -> int:
    if os.environ.get("DNAS_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    line = plain(" ".join(text.split()))
    print(f"{prefix}: {line if len(line) <= LONGEST else line[:LONGEST] + ' ...'}", file=sys.stderr)
    return code


if __name__ == "__main__":
    from launch import entry

    sys.exit(entry())
