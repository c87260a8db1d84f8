"""Methods joined by a `+`: which pairs work, and which are refused, in one line that says why."""

import functools

import pytest

from dnas.methods import METHODS
from dnas.registry import resolve
from dnas.task import classification
from launch.main import main
from tests.problems import two_cells
from tests.test_ends import QUICK, TOY

DRAWN = {"drnas", "fair-darts", "gdas", "reinmax", "rsps", "snas", "tas"}
WRAPPED = {"darts-minus", "p-darts"}
PERTURBED = {"sdarts-adv", "sdarts-rs"}
DESCENT = {"lambda-darts", "oles"}
ON_ONE_LEVEL = {"rarts", "snas"}
MOVING = {"beta-darts", "darts-es", "sgas"}
ELASTIC = {name for name in METHODS if resolve(name, "method")().selection}
JOINED = sorted(name for name in METHODS if hasattr(resolve(name, "method"), "change"))


def clash(first, second):
    """Whether the second cannot follow the first."""
    return (bool({first, second} & ELASTIC) or second in DRAWN and first in DRAWN | WRAPPED
            or {first, second} <= PERTURBED or {first, second} <= DESCENT
            or first in ON_ONE_LEVEL and second in DESCENT or first == "rsps" and second in MOVING
            or (first, second) == ("pc-darts", "fair-darts"))


@pytest.mark.parametrize("second", JOINED)
def test_all_pairs(second):
    for first in METHODS:
        if first == second:
            continue
        build = functools.partial(lambda name: resolve(name, "method")().bind(two_cells(), classification()),
                                  f"{first}+{second}")
        if clash(first, second):
            with pytest.raises(ValueError, match="leave one of them out|cannot be joined|must be off|leave out|it alone"):
                build()
        else:
            build()


def test_a_third_is_compared_with_both():
    with pytest.raises(ValueError, match="gdas replaces the relaxation, which drnas.beta-darts has set: leave one of them"):
        resolve("drnas+beta-darts+gdas", "method")()
    assert resolve("drnas+beta-darts+sdarts-rs", "method")().changed == {"relaxation", "architecture", "perturbation"}


@pytest.mark.parametrize("name, message", [
    ("drnas+gdas", "gdas replaces the relaxation, which drnas has set: leave one of them out\n"),
    ("darts-minus+drnas", "which darts-minus has set: leave one of them out, or put drnas first\n"),
    ("sdarts-rs+sdarts-adv", "sdarts-rs+sdarts-adv cannot be joined: sdarts-adv and sdarts-rs both have the option epsilon"),
    ("rsps+beta-darts", "beta-darts acts on the moves of the architecture, and that of rsps never moves"),
    ("pc-darts", "arch-warmup 15 leaves none of 1 epochs to the architecture; use more epochs or a smaller arch-warmup\n"),
    ("snas+oles", "an algorithm on one level moves the weights in its own way and cannot be joined")])
def test_the_command_says_why(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--space", TOY, "--method", name, "--epochs", "1", "--batch", "16", "--limit", "100",
                 "--run", "run", *QUICK]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
