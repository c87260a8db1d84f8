"""`dnas.show`: the cells of an architecture, the layers of its network with their cost, and how a search came to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnas.api.architectures import architecture_of, inputs_of, network_space
from dnas.api.open import Run
from dnas.api.select import Selected
from dnas.reports.cells import draw_genotype, genotype_svg, terminal_cell
from dnas.reports.figures import draw_logits
from dnas.reports.tables import layer_rows, layers, read_logits, share_rows
from dnas.reports.text import columns
from dnas.types import Genotype, SearchSpace


@dataclass(frozen=True, eq=False)
class Overview:
    """An architecture and its network. `str` of it is a text for a terminal; in a notebook it is the picture of the cells.

    layers: in the order in which they run, each with name, shape of what it puts out, params, macs (multiply-adds per
        example). cost: {"params", "macs"} of the whole. image: shape of one input.
    logits: `[epochs + 1, E, K]` of each group, None of an architecture that is not a run's. files: the pictures written.
    """

    genotype: Genotype
    space: SearchSpace
    layers: Sequence[Any]
    cost: Mapping[str, int]
    image: tuple[int, ...]
    logits: Mapping[str, np.ndarray] | None = None
    files: Sequence[Path] = ()

    def __str__(self) -> str:
        lines = [terminal_cell(self.genotype, self.space.groups), self.space.format(self.genotype), "",
                 columns(layer_rows(self.layers, self.cost, self.image), left=2)]
        if self.logits and any(np.ptp(rows, axis=0).any() for rows in self.logits.values()):
            lines += ["", f"shares of the operations over {len(next(iter(self.logits.values()))) - 1} epochs",
                      columns(share_rows(self.logits, self.space.groups), left=4)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (f"<{self.genotype!r}: {len(self.layers)} layers, {self.cost['params']:,} parameters, "
                f"{self.cost['macs']:,} multiply-adds>")

    def _repr_svg_(self) -> str:
        return genotype_svg(self.genotype, self.space.groups)


def show(what: str | Path | Run | Selected | Genotype, *, space: str | None = None, cells: int | None = None,
         channels: int | None = None, out: str | Path | None = None, trust: bool = False) -> Overview:
    """The cells, the layers and, of a search whose logits moved, the shares of the operations over its epochs.

    what: a run, what `dnas.select` returns, a genotype, a path to one of them, or a published name such as "darts-v2".

    Args:
        space: Where the genotype's space is: a name, package.module:factory or file.py:factory.
        cells: Cells of the network, as searched unless given.
        channels: Channels of its first cells, as searched unless given.
        out: Folder in which pictures are written: cells.svg and cells.png, and of a run logits.svg.
        trust: Import whatever places the run's config names.

    Raises ValueError, in one line and before anything is written, for whatever cannot be read, and as
    `dnas.registry.refuse_untrusted`.
    """
    architecture = architecture_of(what, space=space, trust=trust)
    genotype, data = architecture.genotype, inputs_of(architecture.genotype)
    rebuilt = network_space(architecture, data, space, cells=cells, channels=channels)
    genotype.decisions(rebuilt.groups)  # refuses one that is not of this space
    folder = what.folder if isinstance(what, Run) else Path(what).expanduser() if isinstance(what, (str, Path)) else None
    in_memory = isinstance(what, Run) and folder is None
    logits = dict(what.logits) if in_memory and what.kind == "search" else folder and read_logits(folder, rebuilt.groups)
    target = None if out is None else Path(out).expanduser()
    if target and target.exists() and not target.is_dir():
        raise ValueError(f"out is {target}, a file; it must be a folder")
    overview = Overview(genotype, rebuilt, layers(rebuilt, genotype, data.image), rebuilt.cost(genotype), data.image, logits)
    return overview if target is None else _drawn(overview, target)


def _drawn(overview: Overview, folder: Path) -> Overview:
    """The overview with its pictures written."""
    folder.mkdir(parents=True, exist_ok=True)
    groups, files = overview.space.groups, [folder / "cells.svg", folder / "cells.png"]
    for file in files:
        draw_genotype(overview.genotype, groups, file)
    if overview.logits:
        files.append(folder / "logits.svg")
        draw_logits(overview.logits, groups, files[-1])
    return dataclasses.replace(overview, files=files)
