"""What a terminal shows of a run: a line that fits it, with the time left; a sign that moves while programs compile."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.engine import programs
from dnas.engine.programs import compile_program
from dnas.engine.progress import SILENT, compiling, display, shared
from dnas.task import classification

ROOT = Path(__file__).parent.parent
TASK = classification()
RECORD = {"loss": {"train": 0.512, "valid": 0.6123}, "accuracy": {"train": 0.831, "valid": 0.802}}
HOLDOUT = {"epoch": 12, "loss": {**RECORD["loss"], "holdout": 0.7}, "accuracy": {**RECORD["accuracy"], "holdout": 0.791}}


class Terminal(io.StringIO):
    """Standard output that says that it is a terminal."""

    def isatty(self):
        return True

    def frames(self):
        """What its lines were, without colours."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.getvalue())
        return [line for line in re.split(r"[\r\n]+", text) if line]


@pytest.fixture
def terminal(monkeypatch):
    """(columns) -> standard output as a terminal that wide."""
    def opened(columns):
        for name, value in {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm-256color"}.items():
            monkeypatch.setenv(name, value)
        for name in "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE":
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(sys, "stdout", Terminal())
        return sys.stdout

    return opened


@pytest.mark.parametrize("columns, seen", [
    (120, "train 0.512 83.1 %  valid 0.612 80.2 %  holdout 0.700 79.1 %  7,412 examples/s"),
    (100, "train 0.512 83.1 %  valid 0.612 80.2 %  holdout 0.700 79.1 %"),
    (80, "train 83.1 %  valid 80.2 %  holdout 79.1 %"),
    (60, "valid 80.2 %  holdout 79.1 %"),
    (40, "")])
def test_the_line_fits_the_terminal_and_shows_the_time_left(terminal, columns, seen):
    out = terminal(columns)
    with display(TASK, 50, 100, 1200) as shown:
        shown.epoch(HOLDOUT, 7412)
        shown.step(1201, RECORD, 7412)
        time.sleep(0.02)
        shown.step(1202, RECORD, 7412)
        time.sleep(0.15)  # it is drawn ten times a second
    frames = out.frames()
    assert all(len(frame) <= columns for frame in frames)
    bar, text, left = re.fullmatch(r"epoch 13/50  (\S+)  (?:(.*)  )?(\d+:\d\d) left *", frames[-1]).groups()
    assert (text or "") == seen and 6 <= len(bar) <= 20
    assert 60 < 60 * int(left[:-3]) + int(left[-2:]) < 600  # 3798 steps, each of 0.02 s and a little more


def test_a_step_belongs_to_its_own_epoch_to_the_last(terminal):
    out = terminal(80)
    for done, epoch in (1, 1), (10, 1), (11, 2), (20, 2):
        with display(TASK, 2, 10) as shown:
            shown.step(done, RECORD, 1)
            time.sleep(0.15)
        assert out.frames()[-1].startswith(f"epoch {epoch}/2")


def test_several_lanes_share_the_line(terminal):
    out = terminal(80)
    with display(TASK, 2, 20) as shown:
        (one, other), _ = shared(shown, TASK, ["a", "b"], [0, 0])
        one.step(3, {"loss": {"train": 1.0}, "accuracy": {"train": 0.5}}, 100)
        other.step(3, {"loss": {"train": 3.0}, "accuracy": {"train": 0.7}}, 100)
        with one.compiling("more"):
            pass
        time.sleep(0.15)
    assert "train 2.000 60.0 ± 14.1 %" in out.frames()[-1] and any("compiled in" in frame for frame in out.frames())


def test_what_compiles_moves_and_counts_the_seconds(terminal):
    out = terminal(60)
    with display(TASK, 2, 10) as shown:
        with shown.compiling("the search step and the evaluation"):
            time.sleep(1.2)
        time.sleep(0.15)
    frames = [frame.strip() for frame in out.frames()]
    signs = {frame[0] for frame in frames if frame[2:].startswith("compiling the search step and the evaluation ... ")}
    assert len(signs) > 4 and {frame.rsplit(" ", 2)[1] for frame in frames if "compiling" in frame} >= {"0", "1"}
    assert re.fullmatch(r"compiled in [12]\.\d s, from the cache", frames[-1])  # nothing was compiled anew


def test_elsewhere_it_is_a_line_before_and_a_line_after(capsys):
    with display(TASK, 2, 10) as shown, shown.compiling("a"):
        pass
    with compiling("b"):
        pass
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["compiling a ...", "compiling b ..."]
    assert all(re.fullmatch(r"compiled in \d\.\d s, from the cache", line) for line in lines[1::2])  # nothing anew
    said = []
    with SILENT.saying(said.append).compiling("c"):
        pass
    assert said[0] == "compiling c ..." and said[1].startswith("compiled in ") and not capsys.readouterr().out


def test_a_line_is_printed_as_it_stands(capsys):
    with display(TASK, 2, 10) as shown:
        shown.say("/runs/[/bold] :smile: [red]")
    assert capsys.readouterr().out == "/runs/[/bold] :smile: [red]\n"


@pytest.mark.parametrize("wide", [True, False])
def test_what_fails_has_not_compiled(terminal, wide):
    out = terminal(80) if wide else sys.stdout
    said = []
    with pytest.raises(ZeroDivisionError), compiling("it", say=None if wide else said.append):
        raise ZeroDivisionError
    assert not any("compiled" in line for line in (out.frames() if wide else said))


def test_it_is_known_what_came_from_the_cache(tmp_path):
    """Compiled anew, then from JAX's folder as in a new process, then remembered by this one."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs",
             "jax_persistent_cache_min_entry_size_bytes")
    before = [getattr(jax.config, name) for name in names]
    from jax.experimental.compilation_cache import compilation_cache

    said, args = [], (jnp.arange(3.0),)
    try:
        for name, value in zip(names, (str(tmp_path), 0, 0)):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        for _ in range(2):
            programs._programs.clear()
            for _ in range(2):
                with compiling("it", say=said.append):
                    compile_program(lambda x: jnp.sin(x) + 1.2345, args)
    finally:
        for name, value in zip(names, before):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
    assert ["cache" in line for line in said[1::2]] == [False, True, True, True]


@pytest.mark.parametrize("rate, seen", [(123.0, "123 examples/s"), (1e6, "")])
def test_a_line_an_epoch_fits_80_columns(capsys, rate, seen):
    pair = np.array([0.8, 0.9])
    lanes = {"epoch": 12, "loss": {"train": pair, "valid": pair, "holdout": pair},
             "accuracy": {"train": pair, "valid": pair, "holdout": pair}}
    short = {"epoch": 12, "loss": {"train": 0.5, "holdout": 0.7}, "accuracy": {"train": 0.831, "holdout": 0.79}}
    with display(TASK, 50, 10) as shown:
        shown.epoch(HOLDOUT, rate)
        shown.epoch(lanes, rate)
        shown.epoch(short, rate)
    one, several, training = capsys.readouterr().out.splitlines()
    assert max(map(len, (one, several, training))) <= 80
    assert one == "epoch 12/50  train 0.512 83.1 %  valid 0.612 80.2 %  holdout 0.700 79.1 %"
    assert several == "epoch 12/50  train 85.0 ± 7.1 %  valid 85.0 ± 7.1 %  holdout 85.0 ± 7.1 %"
    assert training == "epoch 12/50  train 0.500 83.1 %  holdout 0.700 79.0 %" + f"  {rate:,.0f} examples/s"


SCRIPT = """
import time
from dnas.engine.progress import display
from dnas.task import classification
means = {"loss": {"train": 0.512, "valid": 0.6}, "accuracy": {"train": 0.8, "valid": 0.7}}
with display(classification(), 50, 100) as shown:
    with shown.compiling("the step"):
        time.sleep(0.3)
    for step in range(1, 8):
        shown.step(step, means, 7412.0)
        time.sleep(0.05)
    shown.say("a line")
"""


def test_a_real_terminal_of_60_columns():
    primary, secondary = pty.openpty()
    fcntl.ioctl(secondary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=secondary, stdout=secondary, stderr=secondary, cwd=ROOT,
                          env=env | {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}) as process:
        os.close(secondary)
        out = b""
        while True:
            try:
                out += os.read(primary, 65536)
            except OSError:  # its other end is closed
                break
    os.close(primary)
    terminal = Terminal()
    terminal.write(out.decode())
    frames = terminal.frames()
    assert process.returncode == 0 and max(map(len, frames)) <= 60
    assert any("compiling the step ..." in frame for frame in frames) and any(frame.strip() == "a line" for frame in frames)
    assert any(re.match(r"epoch 1/50  \S{6,}  train 80.0 %  valid 70.0 %  \d+:\d\d left", frame) for frame in frames)
