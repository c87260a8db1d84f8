"""`dnas.search`: one search or several, in memory or in run directories that resume."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from dnas import config as configs
from dnas.algorithms.budget import Budget, budgeted
from dnas.algorithms.method import Method
from dnas.api.devices import device_lines
from dnas.api.few_shot import search_few_shot
from dnas.api.open import Run
from dnas.api.search_plan import SearchPlan, Setting, plan_search, stem
from dnas.api.select import choose, selection_folder
from dnas.api.supernet import Supernet, program_key
from dnas.data import Dataset, describe
from dnas.engine import cache as caches
from dnas.engine.lanes import NonFiniteLoss
from dnas.engine.margin import margin_of
from dnas.engine.mesh import create_mesh, sizes_of
from dnas.engine.search import Lane, Result, check_search, input_shape, search_lanes
from dnas.printing import print_flushed
from dnas.reports import cells, figures
from dnas.reports.duplicates import draw_duplicates
from dnas.runs.directory import holds_run, open_run
from dnas.runs.files import read_json, write_json
from dnas.runs.tensorboard import events
from dnas.selection.types import Selection, Unsuitable
from dnas.types import Genotype, SearchSpace


def search(space: str | SearchSpace | Sequence[str | SearchSpace] = "nasbench201",
           method: str | Method | Sequence[str | Method] = "darts", data: str | Dataset = "digits", *,
           epochs: int = 30, batch: int | None = None, seed: int = 0, seeds: int | Sequence[int] | None = None,
           out: str | Path | None = None, budget: Budget | None = None, diagnose: int = 0, stop_on_collapse: bool = False,
           start: str | None = None, seconds: float | None = None, selection: str | None = None,
           preset: Literal["quick", "paper"] | None = None, split: Literal["gm", "exhaustive", "random"] | None = None,
           splits: int | None = None, split_epochs: tuple[int, ...] | None = None, split_batches: int | None = None,
           split_weights: Literal["inherit", "fresh"] | None = None, split_train_epochs: int | None = None,
           devices: int | Literal["all"] | None = None, progress: bool = True, cache: str | None = None) -> Run | list[Run]:
    """Searches a space by a method on the train and valid splits of a data set, looking at the hold-out split.

    With several spaces, methods or seeds every combination is a search; those that differ in seeds and in numbers of the
    method only run as one compiled program. The same arguments give the same bits on the same number of devices, interrupted
    or not. Unless `devices` is given, those are all of an accelerator, and one on a CPU.

    space, method: objects, or names or places that `dnas.space` and `dnas.method` build with their defaults; of a method by
        name `preset` may fit the architecture's rate. selection: a name, or a pair of a name and options.
    data: a data set, or what `dnas.data.load` takes.

    Args:
        epochs: Passes over the train split. Published for DARTS: 50.
        batch: Examples in a mini-batch; 64, or as many as the smaller split has, unless given.
        seed: Seed of everything random, 0 to 4294967295.
        seeds: Several seeds, or how many, starting at `seed`.
        out: The run directory, and of several searches a folder that holds one for each; None keeps them in memory. A
            search that was interrupted there continues from its last checkpoint.
        budget: Limits on the network that the search ends with.
        diagnose: Epochs between diagnoses: discretisation gap, sharpness, curvature, skips. 0: none.
        stop_on_collapse: End the search when a diagnosis says that it is collapsing.
        start: Run of a search whose logits, decisions and mask this one begins with, and whose weights where the network is
            the same; or of a training of the largest network of an entangled space, whose weights it begins with.
        seconds: Seconds of epochs, compiling not counted, after which a search ends, at the end of an epoch; its schedules
            still go over all epochs, and how far it comes depends on the machine. None: no limit.
        selection: What chooses the architecture in the end: own for the method's own rule, or one of `dnas selections`; the
            preset's unless given.
        preset: quick or paper. quick: a short search's architecture rate is larger, and where the method has no rule of its
            own, `zero-cost-gates` ends it. paper: as published, and the space's rule. Default: quick.
        split: Split the supernet into several, each with some operations of an edge, and choose the best of their networks
            by training them (few-shot search): gm, halves whose gradients agree, on the edge where they disagree most;
            random, random halves of a random edge; exhaustive, an operation each.
        splits: How often every supernet is split; 1 unless given.
        split_epochs: Epochs after which it is; equal stages unless given.
        split_batches: Mini-batches on which gm compares gradients; 16 unless given. Published: 100.
        split_weights: With which weights the last children begin, those that they inherit, or fresh ones whose schedules
            start anew; inherit unless given. Published: fresh.
        split_train_epochs: Epochs of training in the last round of choosing a child; 8 unless given.
        devices: Devices to use, a number or all. Each search of several gets its own, as far as they reach, and the batches
            of a search are divided among its devices.
        progress: Show how the search goes on.
        cache: Folder in which compiled programs are kept for the next time, or off.

    Returns the run; a list of them where several spaces, methods or seeds were given.
    Raises ValueError, in one line and before anything is written, for whatever does not fit, NonFiniteLoss if no search
    reaches its end, and RunWriteError.
    """
    plan = plan_search(space, method, data, epochs=epochs, batch=batch, seed=seed, seeds=seeds, budget=budget,
                       diagnose=diagnose, stop_on_collapse=stop_on_collapse, start=start, seconds=seconds,
                       selection=selection, preset=preset, devices=devices, split=split, splits=splits,
                       split_epochs=split_epochs, split_batches=split_batches, split_weights=split_weights,
                       split_train_epochs=split_train_epochs)
    runs = run_searches(plan, out, progress=progress, cache=cache, say=print_flushed if progress else lambda text: None)
    return runs if plan.several else runs[0]


def run_searches(plan: SearchPlan, out: str | Path | None, *, progress: bool = True, cache: str | None = None,
                 say: Callable[[str], None] = print_flushed) -> list[Run]:
    """Carries out a plan, in run directories below `out` unless that is None. say: what lines for a person go to.

    A search whose loss is not finite ends; the others go on. Raises NonFiniteLoss at the end if there was one.
    """
    folders = plan.folders(None if out is None else Path(out).expanduser())
    if out is not None and plan.several and (Path(out).expanduser() / "config.json").exists():
        raise ValueError(f"{out} is a run itself, and several searches write runs into folders of it; choose another folder")
    for folder, setting in zip(folders, plan.settings):
        if folder is not None:
            holds_run(folder, setting.config)
    for group in plan.groups:
        check_search(group[0].space, group[0].method, input_shape(plan.data, plan.batch), epochs=plan.epochs,
                     diagnose=plan.diagnose, start=plan.start)
    caches.enable(cache)
    runs, failed, first = [], [], 0
    for group in plan.groups:
        here, first = folders[first:first + len(group)], first + len(group)
        mesh = create_mesh(plan.devices, len(group))
        with contextlib.ExitStack() as stack:
            opened = [folder and stack.enter_context(open_run(folder, setting.config, mesh and sizes_of(mesh)))
                      for folder, setting in zip(here, group)]
            lines = [f"devices {line}" for line in device_lines(mesh, opened)]
            for line in (*announced(plan, group), *plan.notes, *lines, *_places(plan, opened)):
                say(line)
            space, budget = group[0].space, plan.budget
            method = budgeted(group[0].method, space, budget)
            draw_duplicates(plan.data, [run.folder for run in opened if run and not run.resumed])
            lanes = [Lane(method.replace(**setting.method.hyper), setting.seed, run, setting.title)
                     for setting, run in zip(group, opened)]
            key = program_key(space, group[0].method, plan.data, budget)

            def advance(lanes, until=None, space=space, key=key):
                return search_lanes(space, lanes, plan.data, epochs=plan.epochs, batch=plan.batch, progress=progress,
                                    diagnose=plan.diagnose, stop_on_collapse=plan.stop_on_collapse, start=plan.start,
                                    seconds=plan.seconds, mesh=create_mesh(plan.devices, len(lanes)), key=key, until=until)

            if plan.split:
                choose_from = lambda child: _chosen(plan.selection, child, say)[0]
                results = search_few_shot(plan, group, method, lanes, advance, choose_from, mesh and sizes_of(mesh), say)
            else:
                results = advance(lanes)
            for setting, run, result in zip(group, opened, results):
                if isinstance(result, NonFiniteLoss):
                    failed.append((setting, result))
                    continue
                few_shot = result if plan.split else None
                result = few_shot.result if few_shot else result
                states = tuple(child.supernet.state for child in few_shot.children) if few_shot and not run else ()
                supernet = Supernet(run.folder if run else None, setting.config, setting.space, setting.method, plan.data,
                                    result.state, len(result.records), children=states)
                searched = Run(supernet.folder, setting.config, {}, result, supernet)
                chosen_by: dict[str, Any] = {}
                if few_shot:
                    chosen_by = {name: few_shot.choice[name] for name in ("chosen", "children")}
                elif plan.selection:
                    genotype, cost = _chosen(plan.selection, searched, say)
                    result, chosen_by = result._replace(genotype=genotype), {"selection_seconds": cost["seconds"]}
                if run and chosen_by:
                    run.save_genotype(result.genotype)
                outcome = results_of(plan, setting, result) | chosen_by
                if run:
                    write_json(run.folder / "results.json", outcome)
                    _draw(run.folder, setting.space, result)
                runs.append(Run(supernet.folder, setting.config, outcome, result, supernet,
                                children=few_shot.children if few_shot else ()))
    if failed and not plan.several:
        raise failed[0][1]
    if failed:
        raise NonFiniteLoss(f"of {len(plan.settings)} searches {len(failed)} came to a loss that is not finite, "
                            f"{', '.join(setting.title for setting, _ in failed)}; a smaller learning rate may help")
    return runs


def _chosen(selection: Selection, run: Run, say: Callable[[str], None]) -> tuple[Genotype, Mapping[str, float]]:
    """What a selection chooses at the end of a search and its cost, or the method's own choice where it does not suit."""
    source = run.config["selection"]
    try:
        chosen = choose(run, selection, source, run.folder and selection_folder(run.folder, source["name"]), say)
        return chosen.genotype, chosen.cost
    except Unsuitable as error:
        say(f"selection  {source['name']} does not suit: {error}; the method's own rule chooses")
        return run.genotype, {"seconds": 0.0}


def results_of(plan: SearchPlan, setting: Setting, result: Result) -> dict[str, Any]:
    """What results.json holds of a search that has ended."""
    margin = margin_of(setting.space.groups, result.gates)
    return {"holdout": dict(result.holdout), "cell": setting.space.format(result.genotype),
            **setting.space.cost(result.genotype), "margin": margin.lead, "largest_gate": margin.largest,
            "uniform": margin.uniform,
            **({"stopped": result.stopped.reason} if result.stopped else {})}


def default_folder(plan: SearchPlan) -> Path:
    """Where a plan is written below the folder runs, unless a person says: the first that is free or holds this plan."""
    config = plan.settings[0].config
    names = [config["space"]["name"], config["method"]["name"], config["data"][0]]
    name = "-".join([*(stem(name) for name in names), *([] if plan.several else [str(config["seed"])])])
    same = [json.loads(json.dumps(setting.config)) for setting in plan.settings]
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        inside = [_config(each) for each in plan.folders(folder)]
        if not folder.exists() or folder.is_dir() and (
                not any(folder.iterdir()) or all(there in (None, config) for there, config in zip(inside, same))
                and any(there is not None for there in inside)):
            return folder


def announced(plan: SearchPlan, group: Sequence[Setting]) -> list[str]:
    """What a group of searches begins with, for a person: the data, the space, the method and how long it goes."""
    shared = {name: value for name, value in group[0].config["method"].items()
              if all(setting.config["method"].get(name) == value for setting in group)}
    which = f"seed {group[0].seed}" if len(group) == 1 else f"{len(group)} searches: {group[0].title} to {group[-1].title}"
    return [describe(plan.data), f"space   {configs.label(group[0].config['space'], 'space')}",
            f"method  {configs.label(shared, 'method')}, "
            f"{plan.epochs} epochs of {plan.steps} steps of {plan.batch} examples, "
            + (f"at most {plan.seconds:g} seconds, " if plan.seconds else "") + which]


def _places(plan: SearchPlan, opened: Sequence[Any]) -> list[str]:
    """Where a group is written, and whether it goes on."""
    if opened[0] is None:
        return []
    if len(opened) > 1:
        return [f"runs    {opened[0].folder} to {opened[-1].folder}"]
    run = opened[0]
    done, begun = len(run.metrics()) >= plan.epochs, any(run.checkpoints.glob("*.safetensors"))
    return [f"run     {run.folder}{', complete: this is its result' if done else ', continued' if begun else ''}"]


def _draw(folder: Path, space: SearchSpace, result: Result) -> None:
    """The pictures of a search that has ended."""
    for suffix in ("svg", "png"):
        cells.draw_genotype(result.genotype, space.groups, folder / f"cells.{suffix}")
    figures.draw_logits(result.trajectory, space.groups, folder / "logits.svg")
    figures.draw_curves(result.records, folder / "curves.svg")
    board = events(folder, {})
    board.picture(folder / "cells.png", len(result.records))
    board.close()


def _config(folder: Path) -> Mapping[str, Any] | None:
    try:
        return read_json(folder / "config.json")
    except ValueError:
        return None
