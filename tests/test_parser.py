"""Command lines become dataclasses; whatever cannot be is one line that says what would be right."""

from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from dnas.options import REQUIRED
from launch import text
from launch.main import COMMANDS, main
from launch.parser import Positional, Shown, parse


@dataclass(frozen=True)
class Inner:
    """Things of the inside."""

    few_words: int = 1
    """A number within."""


@dataclass(frozen=True)
class Arguments:
    """What is read."""

    place: Annotated[str, Positional("PLACE")] = REQUIRED
    """Where; 100 % of it."""
    more: Annotated[tuple[str, ...], Positional("MORE ...", "nothing")] = ()
    count: int = 3
    """How many,
    on two lines."""
    rate: float | None = None
    bare: bool = True
    kind: Literal["a", "b", 4] = "a"
    mixed: int | Literal["auto"] = "auto"
    rates: Annotated[tuple[float, ...], Shown("RATE ...", "those of before")] = ()
    size: tuple[int, float] = (1, 2.0)
    switches: tuple[bool, ...] = ()
    inner_options: Inner = Inner()


def read(*argv):
    return parse(Arguments(), "dnas try", "Tries.", argv)


@pytest.mark.parametrize("argv, expected", [
    (["p"], {}), (["p", "q", "r"], {"more": ("q", "r")}), (["p", "--count", "4", "q"], {"count": 4, "more": ("q",)}),
    (["--count=4", "p"], {"count": 4}), (["--count", "4", "--count", "5", "p"], {"count": 5}),
    (["p", "--count", "-4"], {"count": -4}), (["p", "--rate", "-1e-3"], {"rate": -1e-3}), (["p", "--rate", "None"], {}),
    (["p", "--rates", "-1", "-2.5e1", "-inf"], {"rates": (-1.0, -25.0, float("-inf"))}), (["p", "--rates"], {}),
    (["--no-bare", "p"], {"bare": False}), (["--no-bare", "--bare", "p"], {}), (["p", "--kind", "4"], {"kind": 4}),
    (["p", "--mixed", "7"], {"mixed": 7}), (["p", "--mixed=auto"], {}), (["p", "--size", "3", "4"], {"size": (3, 4.0)}),
    (["p", "--switches", "True", "False"], {"switches": (True, False)}),
    (["p", "--inner.few_words", "2"], {"inner_options": Inner(2)}),
    (["p=q_r", "a b"], {"place": "p=q_r", "more": ("a b",)})])
def test_words_become_values(argv, expected):
    assert read(*argv) == Arguments(**{"place": "p"} | expected)


@pytest.mark.parametrize("argv, message", [
    ([], "PLACE is missing (dnas try --help describes it)"), (["p", "--count"], "--count: it needs a value"),
    (["p", "--count", "--bare"], "--count: it needs a value"),
    (["p", "--count", "x"], "--count x: it must be a whole number"),
    (["p", "--count=2.0"], "--count 2.0: it must be a whole number"),
    (["p", "--rate", "x"], "--rate x: it must be a number"), (["p", "--kind", "c"], "--kind c: it must be one of a, b, 4"),
    (["p", "--bare=yes"], "--bare/--no-bare: it takes no value"),
    (["p", "--mixed", "1.5"], "--mixed 1.5: it must be a whole number or one of auto"),
    (["p", "--rates", "1", "x"], "--rates 1 x: each must be a number"),
    (["p", "--size", "1"], "--size 1: each must be a whole number, a number"),
    (["p", "--switches", "1"], "--switches 1: each must be one of True, False"),
    (["p", "--coun", "1"], "unknown option --coun; did you mean --count?"),
    (["p", "--few-words", "1"], "unknown option --few-words; did you mean --inner.few-words?"),
    (["p", "--zzz=1"], "unknown option --zzz; dnas try --help lists them"), (["p", "-z"], "unknown option -z; "),
    (["p", "--rats", "1"], "did you mean --rates?"),
    (["p", "--co", "1"], "unknown option --co; dnas try --help lists them")])
def test_what_cannot_be_is_one_line(argv, message):
    with pytest.raises(ValueError) as error:
        read(*argv)
    assert str(error.value).startswith(message) or message in str(error.value).partition("; ")[2]
    assert "\n" not in str(error.value)


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        read("--count", "x", "--help")
    assert not stop.value.code
    text = " ".join(capsys.readouterr().out.split())
    for part in ("usage: dnas try PLACE [MORE ...] [OPTIONS] Tries.", "PLACE Where; 100 % of it. (required)",
                 "--count INT How many, on two lines. (default: 3)", "--rate FLOAT|None (default: None)",
                 "--bare, --no-bare (default: True)", "--kind {a,b,4} (default: a)", "--mixed INT|auto (default: auto)",
                 "--rates RATE ... (default: those of before)", "--size INT FLOAT (default: 1 2.0)",
                 "Things of the inside: --inner.few-words INT A number within. (default: 1)"):
        assert part in text


@pytest.mark.parametrize("command", sorted({*COMMANDS, "table import"} - {"spaces", "methods", "selections", "datasets"}))
def test_every_help_fits_80_columns(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_errors_spell_options_as_flags():
    text.options.set(frozenset({"arch_warmup", "keep"}))
    said = {"arch_warmup is -1, it must be 0 or more": "arch-warmup is -1, it must be 0 or more",
            "a smaller arch_warmup.": "a smaller arch-warmup.", "arch_warmup, keep": "arch-warmup, keep",
            "runs/arch_warmup, arch_warmup.npz": None, "config.json: method.arch_warmup is": None,
            "in Python arch_warmup=0": None, "column 'arch_warmup'": None, "other_word is": None}
    for before, after in said.items():
        assert text.as_flags(before) == (after or before)
