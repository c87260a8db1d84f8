"""The settings of a sweep: what `--sweep OPTION=V1,V2` stands for, in groups that one program serves."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.arguments import PARTS, parse

if TYPE_CHECKING:
    from launch.arguments import Arguments

MOST = 1000
"""Searches of one sweep."""


class Setting(NamedTuple):
    """One combination of values. name: for a person; folder: in the run directory; both "" without a sweep.

    arguments: the command line with these values. numbers: those of them that are numbers of the method, by name.
    """

    name: str
    folder: str
    arguments: Arguments
    numbers: dict[str, Any]


def settings_of(arguments: Arguments, argv: Sequence[str]) -> list[list[Setting]]:
    """Every combination of the values of --sweep, those together that differ in numbers of the method only.

    Raises ValueError, in one line, for an unknown option, a value that it cannot have, and one that is named twice.
    """
    swept = dict(_parsed(text) for text in arguments.sweep)
    if len(swept) < len(arguments.sweep):
        raise ValueError("--sweep names an option twice; list all its values behind one =")
    options = {f"{part}.{field.name.replace('_', '-')}": (part, field.name) for part in PARTS
               for field in dataclasses.fields(getattr(arguments, f"{part}_options"))}
    for option, values in swept.items():
        if option not in options:
            near = difflib.get_close_matches(option, options, 1) or [name for name in options if name.endswith(f".{option}")]
            hint = f"did you mean {near[0]}?" if near else "it takes options of the method or the space, such as method.lr"
            raise ValueError(f"--sweep {option}: there is no such option; {hint}")
        if len(set(values)) < len(values):
            raise ValueError(f"--sweep {option}={','.join(values)}: a value is there twice")
    count = arguments.seeds
    for values in swept.values():
        count *= len(values)
    if count > MOST:
        raise ValueError(f"--sweep and --seeds make {count:,} searches; at most {MOST:,} go into one")
    groups: dict[tuple, list[Setting]] = {}
    seen: set[tuple] = set()
    numbers = _numbers(arguments) if swept else ()
    for values in itertools.product(*swept.values()):
        words = [f"--{option}={value}" for option, value in zip(swept, values)]
        setting = parse("search", "", [*argv, *words]) if words else arguments
        parsed = {options[option]: getattr(getattr(setting, f"{options[option][0]}_options"), options[option][1])
                  for option in swept}
        if tuple(parsed.values()) in seen:
            raise ValueError(f"--sweep {' '.join(words)}: another of its settings has the same values")
        seen.add(tuple(parsed.values()))
        of_method = {name: value for (part, name), value in parsed.items() if part == "method" and name in numbers}
        structure = tuple(value for (part, name), value in parsed.items() if part != "method" or name not in numbers)
        label = [f"{option.partition('.')[2]}={value}" for option, value in zip(swept, values)]
        groups.setdefault(structure, []).append(Setting(", ".join(label), ",".join(label), setting, of_method))
    return list(groups.values())


def _parsed(text: str) -> tuple[str, list[str]]:
    option, equals, values = text.partition("=")
    listed = values.split(",")
    if not equals or not option or not all(listed):
        raise ValueError(f"--sweep {text}: it takes OPTION=VALUE,VALUE, such as method.arch-lr=1e-4,3e-4")
    if any(set(value) & set("/\\") or value in (".", "..") for value in listed):
        raise ValueError(f"--sweep {text}: values become names of folders and hold no / or \\")
    return option.removeprefix("--").replace("_", "-"), listed


def _numbers(arguments: Arguments) -> set[str]:
    """Names of the method's numbers, which are arguments of the compiled program."""
    from dnas import Method, registry

    options = dataclasses.asdict(arguments.method_options)
    return set(registry.made(arguments.method, PARTS["method"], "method", Method, options=options).hyper)
