"""A trained supernet from its run directory, and selections on it: what `select`, `compare` and `train` share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.arguments import Arguments, parse
from launch.prepare import Prepared, built_method, prepare, within_budget

if TYPE_CHECKING:
    from dnas.algorithms.players import Method
    from dnas.selection.select import Selected
    from dnas.selection.types import Bench, Selection


class Supernet(NamedTuple):
    """A trained supernet, read from its run directory. notes: checkpoints that were skipped, in words."""

    folder: Path
    searched: Arguments
    ready: Prepared
    epoch: int
    notes: list[str]
    on: Bench


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


def supernet(folder: Path) -> Supernet:
    """The last whole checkpoint of the run in `folder`, and what selections need to work on it; writes nothing.

    Raises ValueError, in one line, where there is none.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no run directory: it has no config.json; give the folder of a search")
    searched = parse("search", "", ["--config", str(folder)])
    ready = prepare(searched)
    import jax

    from dnas import checkpoint
    from dnas.selection.select import bench

    images = jax.ShapeDtypeStruct((searched.batch, *ready.data.image), "float32")
    template = jax.eval_shape(ready.method.init, jax.random.key(0), images)
    found = checkpoint.latest(folder / "checkpoints", template, set_aside=False)
    if found is None:
        raise ValueError(f"{folder} has no checkpoint; search there first: dnas search --run {folder}")
    on = bench(within_budget(ready.space, ready.config), ready.method, _tuner(searched, ready), ready.data, found.tree,
               batch=searched.batch, seed=searched.seed)
    return Supernet(folder, searched, ready, found.epoch, found.skipped, on)


def choose(trained: Supernet, name: str, chosen: Mapping[str, Any], selection: Selection, out: Path) -> Selected:
    """Selects into the folder `out`, or goes on there, or reads what was finished there; says so as it goes.

    Raises ValueError where `out` holds the selection of other options or of another epoch of the run, and Unsuitable.
    """
    from dnas import open_run
    from dnas.pictures import draw_genotype
    from dnas.selection.select import load_selected, select

    say = lambda text: print(text, flush=True)
    selection.begin(trained.on)  # it may refuse this run, and then nothing is written
    config = {"run": str(trained.folder.absolute()), "epoch": trained.epoch, "selection": {"name": name, **chosen}}
    try:
        opened = open_run(out, config)
    except ValueError as error:
        raise ValueError(str(error).replace("--run", "--out")) from None
    with opened:
        for message in trained.notes:
            say(message)
        say(f"run        {trained.folder}, epoch {trained.epoch} of {trained.searched.epochs}")
        finished = load_selected(out)
        if finished:
            say(f"selection  {name}: finished before, read from {out}")
            return finished
        plan = selection.plan(trained.on)
        say(f"selection  {name}: {plan['evaluations']:,} images forward through the supernet, "
            f"{plan['epochs']} epochs of fine-tuning")
        if plan["evaluations"] or plan["epochs"]:
            say(f"estimated  {duration(trained.on.seconds(plan))} once compiled")
        result = select(selection, trained.on, folder=out, say=say)
        for suffix in ("svg", "png"):
            draw_genotype(result.genotype, trained.ready.space.groups, out / f"cells.{suffix}")
    return result


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{max(seconds, 1)} s"
    return f"{seconds // 60} min {seconds % 60} s" if seconds < 3600 else f"{seconds // 3600} h {seconds % 3600 // 60} min"


def _tuner(searched: Arguments, ready: Prepared) -> Method:
    """The method of the run at a tenth of its first learning rate, constant, if it has one."""
    config = {**ready.config, "method": dict(ready.config["method"])}
    if {"lr", "lr_min"} <= config["method"].keys():
        config["method"]["lr"] = config["method"]["lr_min"] = config["method"]["lr"] / 10
    if "arch_warmup" in config["method"]:
        config["method"]["arch_warmup"] = 0
    return built_method(config, ready.space, searched.epochs, ready.steps)
