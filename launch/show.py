"""Show what was found: its cells, the layers of its network, and how a run came to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnas.api.published import published
from dnas.options import REQUIRED, Option
from launch.arguments import options_of, read_command
from launch.parser import Positional, Shown

WHAT = Option("what", str, REQUIRED, "A run directory, a folder of its selections, a genotype.json, or a published name "
              "such as darts-v2.")


def main(argv: Sequence[str]) -> int:
    """Runs `dnas show`. Raises ValueError, in one line, for what it cannot read or use."""
    values = read_command("show", __doc__, argv, [WHAT, *options_of("dnas.api.show:show")],
                          shown={"what": Positional("RUN|GENOTYPE"), "cells": Shown("INT", "as searched"),
                                 "channels": Shown("INT", "as searched"), "out": Shown("DIR", "beside the genotype")})
    what, out = values.pop("what"), values.pop("out")
    path = Path(what).expanduser()
    architecture = path if path.exists() else published(what)  # a wrong name does not wait for jax
    import dnas

    beside = path if path.is_dir() else path.parent if path.exists() else Path(".")
    overview = dnas.show(architecture, out=out or beside, **values)
    print(overview)
    print(f"\nwritten    {', '.join(map(str, overview.files))}")
    return 0
