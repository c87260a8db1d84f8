"""What a person reads of the devices that a search, a training or a selection uses."""

from __future__ import annotations

from collections.abc import Sequence

from jax.sharding import Mesh

from dnas.engine.mesh import DATA, LANE, describe, sizes_of
from dnas.runs.directory import RunDirectory
from dnas.runs.files import read_json


def device_lines(mesh: Mesh | None, runs: Sequence[RunDirectory | None]) -> list[str]:
    """The devices, if there are several; and that one of the runs began on others, if it continues, for its last bits depend
    on them."""
    here = sizes_of(mesh)
    lines = [describe(here)] if mesh else []
    continued = [run for run in runs if run and run.resumed and not (run.folder / "results.json").exists()]
    begun = next((sizes for run in continued if (sizes := _recorded(run)) not in (None, here)), None)
    if begun:
        lines.append(f"begun on {describe(begun)}, continued on {describe(here)}: equal up to rounding, not to the bit")
    return lines


def _recorded(run: RunDirectory) -> dict[str, int] | None:
    """The sizes of the mesh on which a run began; None where its environment does not say them."""
    try:
        mesh = read_json(run.folder / "environment.json").get("mesh", {})
    except ValueError:
        return None
    sizes = {axis: mesh.get(axis, 1) for axis in (LANE, DATA)} if isinstance(mesh, dict) else {}
    return sizes if sizes and all(type(size) is int and size > 0 for size in sizes.values()) else None
