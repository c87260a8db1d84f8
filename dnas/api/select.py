"""`dnas.select`: another choice of architecture from a trained supernet."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dnas import config as configs
from dnas import registry
from dnas.algorithms.players import SearchState
from dnas.api.devices import device_lines
from dnas.api.open import Run
from dnas.api.open import open as open_search
from dnas.api.supernet import fingerprint
from dnas.engine import cache as caches
from dnas.engine.mesh import create_mesh, device_count, refuse_undivided, sizes_of
from dnas.fronts.front import Front
from dnas.printing import print_flushed, printable
from dnas.reports.cells import draw_genotype
from dnas.reports.figures import draw_front
from dnas.reports.text import duration
from dnas.runs import checkpoint
from dnas.runs.directory import choice_folder, holds_run, open_run
from dnas.selection import USUAL
from dnas.selection.select import SelectionResult, load_selected, refuse_non_finite
from dnas.selection.select import select as run_selection
from dnas.selection.types import Selection
from dnas.types import Genotype

COSTS = {"evaluations": "examples forward through the supernet", "epochs": "epochs of fine-tuning",
         "trained_epochs": "epochs of training networks", "untrained": "untrained networks"}
"""Parts of a selection's plan, for a person."""


@dataclass(frozen=True, eq=False)
class Selected:
    """The architecture that a selection chose from a trained supernet.

    scores: {group: [E, K]}, more is better, NaN where nothing is known. cost: {"evaluations": examples forward
    through the supernet, "epochs" of fine-tuning, "seconds"}. selection: {"name": ..., options}. run: of the supernet.
    front: the Pareto front, None where the selection finds a single genotype.
    folder: where the choice is written, None in memory. trust: the places that may be imported to read it, True for all.
    """

    genotype: Genotype
    scores: Mapping[str, np.ndarray]
    cost: Mapping[str, float]
    selection: Mapping[str, Any]
    run: Run
    folder: Path | None = None
    trust: bool | Collection[str] = False
    front: Front | None = None

    @functools.cached_property
    def fine_tuned(self) -> SearchState | None:
        """The supernet's state as the selection fine-tuned it; None if it did not, or in memory."""
        if not self.cost.get("epochs") or self.folder is None:
            return None
        name, where = self.selection["name"], f"{self.folder}/config.json"
        registry.refuse_untrusted(name, "selection", where, self.trust)
        options = {option: value for option, value in self.selection.items() if option != "name"}
        selection, _ = configs.build_selection(name, options)
        latest = checkpoint.latest(self.folder / "checkpoints", selection.begin(self.run.supernet.context), set_aside=False)
        if latest is None:
            raise ValueError(f"{self.folder} has no checkpoint of the supernet that the selection fine-tuned; restore its "
                             "folder checkpoints, or remove it to select again")
        refuse_non_finite(latest.tree.state, f"{self.folder}: the fine-tuned supernet's")
        return latest.tree.state

    def __repr__(self) -> str:
        where = f" in {self.folder}" if self.folder else ""
        cost = f", {self.cost['seconds']:.1f} s" if "seconds" in self.cost else ""
        return printable(f"<chosen by {self.selection['name']}{where}: {self.genotype!r}{cost}>")

    def _repr_svg_(self) -> str:
        return self.genotype._repr_svg_()


def select(run: str | Run, selection: str | None = None, *, out: str | None = None, space: str | None = None,
           method: str | None = None, trust: bool = False, devices: int | Literal["all"] | None = None,
           cache: str | None = None, progress: bool = True, **options) -> Selected:
    """Chooses an architecture from the trained supernet of a search.

    run: a run, or its directory. selection: a registered name (`dnas.selection.SELECTIONS`), package.module:factory or
    file.py:factory, with `options` of its factory; None stands for the one with which the method ends its searches
    (evolution, of an elastic one), and for `dnas.selection.USUAL` where it has none.

    Args:
        out: Where the choice is written, and continued if it was interrupted; RUN/selections/SELECTION unless given.
        space: Where the run's space is, if it is your own: package.module:factory or file.py:factory.
        method: Where its method is, likewise.
        trust: Import whatever places the run's config names.
        devices: Devices to use, a number or all: each scores batches of its own, and fine-tuning divides each batch among
            them.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show how the selection goes on.

    A run in memory gives a choice in memory, unless `out` is given. Unless `devices` is given, those are all of an
    accelerator, and one on a CPU.
    Raises ValueError, in one line, where the run has no supernet, or `out` holds the choice of other options or of another
    supernet, and `dnas.selection.types.Unsuitable` where the selection cannot work on it.
    """
    run = run if isinstance(run, Run) else open_search(run, space=space, method=method, trust=trust)
    selection = selection or run.supernet.method.selection or USUAL
    built, source = configs.build_selection(selection, options)
    count = device_count(devices)
    caches.enable(cache)
    folder = Path(out).expanduser() if out else run.folder and selection_folder(run.folder, selection)
    say, supernet = print_flushed if progress else lambda text: None, run.supernet
    for message in (*supernet.messages,
                    f"run        {supernet.folder or 'in memory'}, epoch {supernet.epoch} of {supernet.config['epochs']}"):
        say(message)
    return choose(run, built, source, folder, say, count)


def choose(run: Run, selection: Selection, source: Mapping[str, Any], folder: Path | None,
           say: Callable[[str], None], devices: int = 1) -> Selected:
    """Selects into `folder`, or goes on there, or reads what was finished there. say: what lines for a person go to.
    devices: how many to use."""
    supernet, name, mesh = run.supernet, source["name"], create_mesh(devices)
    context = supernet.context_on(mesh)
    selection.begin(context)  # it may refuse this run, and then nothing is written
    plan = selection.plan(context)
    if plan["epochs"] or plan.get("trained_epochs"):
        refuse_undivided(supernet.config["batch"], devices, most=0)  # the batch is that of the search
    if folder is None:
        return _selected(run_selection(selection, context, say=say), source, run, None)
    config = selection_config(supernet.folder, fingerprint(supernet), source, folder)
    refuse_other_choice(folder, config)
    with open_run(folder, config, mesh and sizes_of(mesh)) as opened:
        finished = load_selected(folder)
        if finished:
            say(f"selection  {name}: finished before, read from {folder}")
            return _selected(finished, source, run, folder)
        say(f"selection  {name}: {', '.join(cost_parts(plan)) or 'nothing to compute'}")
        if any(plan.get(key) for key in COSTS if key != "untrained"):
            for line in device_lines(mesh, [opened]):
                say(f"devices    {line}")
        if any(plan.get(key) for key in COSTS):
            say(f"estimated  {duration(context.seconds(plan) + selection.seconds(context))} once compiled")
        result = run_selection(selection, context, folder=folder, say=say)
        for suffix in ("svg", "png"):
            draw_genotype(result.genotype, supernet.space.groups, folder / f"cells.{suffix}")
            if result.front:
                draw_front(result.front, folder / f"front.{suffix}")
    return _selected(result, source, run, folder)


def cost_parts(cost: Mapping[str, Any]) -> list[str]:
    """The parts of a plan or a cost that are not 0, in words."""
    return [f"{cost[key]:,} {what}" for key, what in COSTS.items() if cost.get(key)]


def selection_config(run: Path | None, supernet: Mapping[str, Any], source: Mapping[str, Any],
                     folder: Path) -> dict[str, Any]:
    """What the config of a selection in `folder` says: the run, from where the selection lies, and the fingerprint of its
    supernet, so that a run may be moved with all that lies in it, and another in its place is noticed."""
    where = run and os.path.relpath(os.path.realpath(run), os.path.realpath(folder))
    return {"run": where, **supernet, "selection": dict(source)}


def refuse_other_choice(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises ValueError, in one line, where `folder` holds a choice that another config describes. Writes nothing."""
    try:
        holds_run(folder, config)
    except ValueError as error:
        differs, other, _ = str(error).partition("; choose another folder")
        if not other or "of another config" not in differs:
            raise
        parts = [key for key in ("config", "checkpoint", "epoch") if f"{key} is " in differs]
        if parts:
            why = " (epochs that were computed again on another number of devices end with other bits)" * (
                parts == ["checkpoint"])
            differs = f"{folder} holds a choice from another state of the supernet{why}: {differs.partition('config: ')[2]}"
        raise ValueError(f"{differs}; remove {folder} to choose again, or let `dnas select` write elsewhere (--out, in "
                         "Python out=)") from None


def selection_folder(run: Path, name: str) -> Path:
    """Where a selection of this name is written in a run. Raises ValueError where that is a link, and so somewhere else."""
    folder = choice_folder(run, name)
    for place in folder.parent, folder:
        if place.is_symlink():
            raise ValueError(f"{place} is a link, and a selection is written in its run only; put the folder itself there, "
                             "or choose another one (--out, in Python out=)")
    return folder


def _selected(result: SelectionResult, source: Mapping[str, Any], run: Run, folder: Path | None) -> Selected:
    return Selected(result.genotype, result.scores, result.cost, dict(source), run, folder, trust=True,
                    front=result.front)
