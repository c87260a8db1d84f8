"""Choose the architecture of a trained supernet: by magnitude, perturbation, sampling or a selection of yours."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from dnas import options, registry
from dnas.engine import cache
from dnas.selection import SELECTIONS
from launch.arguments import given, parsed, part_of
from launch.prepare import budget_lines
from launch.trained import choose, made, place, supernet


@dataclass(frozen=True)
class Arguments:
    """What the command line says; `selection_options` is added to it."""

    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory of a search. It is read, and written in its folder `selections` only."""
    selection: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(SELECTIONS) + "}|FACTORY")] = "perturbation"
    """How to choose: a name, package.module:factory or file.py:factory."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR",
                                             help_behavior_hint="(default: RUN/selections/SELECTION)")] = None
    """Where the choice is written, and continued if it was interrupted."""
    cache: Annotated[str | None, tyro.conf.arg(metavar="DIR|off", help_behavior_hint="(default: as for search)")] = None
    """Where compiled programs are kept for the next time."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas select`. Raises ValueError, in one line, for what it cannot read or use."""
    name = given(argv, "--selection") or Arguments.selection
    part = part_of("selection", options.read(registry.locate(name, SELECTIONS, "selection")))
    form = dataclasses.make_dataclass("Arguments", [part], bases=(Arguments,), frozen=True)
    arguments = parsed(form(folder=tyro.MISSING, selection=name), "dnas select", __doc__, list(argv))
    chosen = dataclasses.asdict(arguments.selection_options)
    selection = made(name, chosen)
    from dnas.reports.figures import terminal_cell

    trained = supernet(Path(arguments.folder).expanduser())
    out = Path(arguments.out).expanduser() if arguments.out else place(trained.folder, name)
    cache.enable(arguments.cache)
    result = choose(trained, name, chosen, selection, out)
    space = trained.ready.space
    cost = space.cost(result.genotype)
    print("", terminal_cell(result.genotype, space.groups), space.format(result.genotype), "", sep="\n")
    print(f"size       {cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example as a network of its own")
    for line in budget_lines(trained.ready.config, space, result.genotype):
        print(f"budget     {line}")
    print(f"cost       {result.cost['evaluations']:,} examples forward, {result.cost['epochs']} epochs, "
          f"{result.cost['seconds']:.1f} s")
    print(f"written    {out}")
    return 0
