"""A trained supernet from its run directory, and selections on it: what `select`, `compare` and `train` share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.arguments import Arguments, parse
from launch.prepare import Prepared, prepare, within_budget

if TYPE_CHECKING:
    from dnas.algorithms.players import SearchState
    from dnas.selection.select import Selected
    from dnas.selection.types import Context, Selection


class Trained(NamedTuple):
    """The state that a search ended with, from its run directory. notes: checkpoints that were skipped, in words."""

    folder: Path
    searched: Arguments
    ready: Prepared
    epoch: int
    notes: list[str]
    state: SearchState


class Supernet(NamedTuple):
    """The same with what selections work with in place of the state."""

    folder: Path
    searched: Arguments
    ready: Prepared
    epoch: int
    notes: list[str]
    context: Context


def place(folder: Path, name: str) -> Path:
    """Where a selection of this name is written in a run."""
    return folder / "selections" / name.rpartition(":")[2]


def made(name: str, chosen: Mapping[str, Any]) -> Selection:
    """The selection of this name with these options. Raises ValueError, in one line, where the factory makes none."""
    from dnas import registry
    from dnas.selection import SELECTIONS
    from dnas.selection.types import Selection

    found = registry.resolve(name, SELECTIONS, "selection")(**chosen)
    if not isinstance(found, Selection):
        raise ValueError(f"selection {name}: it returned {type(found).__name__}; it must return a Selection")
    return found


def trained_state(folder: Path) -> Trained:
    """The last whole checkpoint of the run in `folder`; writes nothing. Raises ValueError, in one line, if there is none."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no run directory: it has no config.json; give the folder of a search")
    searched = parse("search", "", ["--config", str(folder)])
    ready = prepare(searched)
    from dnas.engine.search import state_shape
    from dnas.runs import checkpoint

    template = state_shape(ready.space, ready.method, ready.data, searched.batch)
    found = checkpoint.latest(folder / "checkpoints", template, set_aside=False)
    if found is None:
        raise ValueError(f"{folder} has no checkpoint; search there first: dnas search --run {folder}")
    return Trained(folder, searched, ready, found.epoch, found.skipped, found.tree)


def supernet(folder: Path) -> Supernet:
    """The last whole checkpoint of the run in `folder`, and what selections need to work on it; writes nothing.

    Raises ValueError, in one line, where there is none.
    """
    from dnas.selection.select import selection_context

    trained = trained_state(folder)
    searched, ready = trained.searched, trained.ready
    context = selection_context(within_budget(ready.space, ready.config), ready.method, ready.data, trained.state,
                                batch=searched.batch, epochs=searched.epochs, seed=searched.seed, key=ready.key)
    return Supernet(*trained[:-1], context)


def choose(trained: Supernet, name: str, chosen: Mapping[str, Any], selection: Selection, out: Path) -> Selected:
    """Selects into the folder `out`, or goes on there, or reads what was finished there; says so as it goes.

    Raises ValueError where `out` holds the selection of other options or of another epoch of the run, and Unsuitable.
    """
    from dnas import open_run
    from dnas.reports.figures import draw_genotype
    from dnas.selection.select import load_selected, select

    say = lambda text: print(text, flush=True)
    selection.begin(trained.context)  # it may refuse this run, and then nothing is written
    config = {"run": str(trained.folder.absolute()), "epoch": trained.epoch, "selection": {"name": name, **chosen}}
    try:
        opened = open_run(out, config)
    except ValueError as error:
        differs, other, _ = str(error).partition("; choose another --run or repeat it")
        message = f"{differs}; remove {out} to choose again" if other else differs.replace("--run", "--out")
        raise ValueError(message) from None
    with opened:
        for message in trained.notes:
            say(message)
        say(f"run        {trained.folder}, epoch {trained.epoch} of {trained.searched.epochs}")
        finished = load_selected(out)
        if finished:
            say(f"selection  {name}: finished before, read from {out}")
            return finished
        plan = selection.plan(trained.context)
        say(f"selection  {name}: {plan['evaluations']:,} examples forward through the supernet, "
            f"{plan['epochs']} epochs of fine-tuning")
        if plan["evaluations"] or plan["epochs"]:
            say(f"estimated  {duration(trained.context.seconds(plan))} once compiled")
        result = select(selection, trained.context, folder=out, say=say)
        for suffix in ("svg", "png"):
            draw_genotype(result.genotype, trained.ready.space.groups, out / f"cells.{suffix}")
    return result


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    return f"{seconds // 60} min {seconds % 60} s" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60} min"
