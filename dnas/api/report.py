"""`dnas.report`: one page about a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dnas.reports.run_page import run_page
from dnas.runs.directory import refuse_no_file, refuse_run_file
from dnas.runs.files import write_atomic

if TYPE_CHECKING:
    from dnas.api.open import Run
    from dnas.types import Genotype


def report(run: str | Path | Run, *, out: str | Path | None = None) -> Path:
    """Writes one page about a search or a training, finished or not, and returns its path. It imports nothing that a file
    names; the page needs no network, and prints well.

    run: a run, or its directory.

    Args:
        out: The file of the page; report.html in the run directory unless given.

    Raises ValueError, in one line and before anything is written, for what cannot be read and for the folder of anything
    else, and RunWriteError.
    """
    folder = Path(run).expanduser() if isinstance(run, (str, os.PathLike)) else run.folder
    if folder is None:
        raise ValueError("the run is in memory, and a page is of a run directory: give out= to dnas.search or dnas.train")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no config.json; give that of a search or a training")
    path = folder / "report.html" if out is None else Path(out).expanduser()
    refuse_no_file(path, f"out is {path};")
    refuse_run_file(path)
    write_atomic(path, run_page(folder, _names).encode(errors="replace"))
    return path


def _names(genotypes: Sequence[Genotype]) -> list[str]:
    """The notations of genotypes of one registered space; none where it is another's, whose file is not imported."""
    from dnas.api.architectures import architecture_of, inputs_of, network_space

    try:
        space = network_space(architecture_of(genotypes[0]), inputs_of(genotypes[0]))
        for genotype in genotypes:
            genotype.decisions(space.groups)
        return [space.format(genotype) for genotype in genotypes]
    except ValueError:
        return []
