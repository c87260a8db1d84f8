"""`dnas.search`: one search or several, in memory or in run directories that resume."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dnas import config as configs
from dnas.algorithms.budget import Budget, budgeted
from dnas.algorithms.method import Method
from dnas.algorithms.players import SearchState
from dnas.api.open import Run
from dnas.api.supernet import Supernet, fingerprint, load_supernet, program_key
from dnas.data import Dataset, check_augment, describe, steps_per_epoch
from dnas.data import load as load_data
from dnas.engine import cache as caches
from dnas.engine.lanes import NonFiniteLoss
from dnas.engine.margin import margin_of
from dnas.engine.search import Lane, Result, input_shape, search_lanes, started_from, state_shape
from dnas.reports import cells, figures
from dnas.reports.duplicates import draw_duplicates
from dnas.runs.directory import flatten, holds_run, open_run
from dnas.runs.files import read_json, write_json
from dnas.runs.tensorboard import events
from dnas.task import task_of
from dnas.types import SearchSpace

BATCH = 64
"""Examples in a mini-batch unless given."""
MOST = 1000
"""Searches of one call."""
SEEDS = 2**32 - 1
"""The largest seed."""


def search(space: str | SearchSpace | Sequence[str | SearchSpace] = "nasbench201",
           method: str | Method | Sequence[str | Method] = "darts", data: str | Dataset = "digits", *,
           epochs: int = 30, batch: int | None = None, seed: int = 0, seeds: int | Sequence[int] | None = None,
           out: str | Path | None = None, budget: Budget | None = None, diagnose: int = 0, stop_on_collapse: bool = False,
           start: str | None = None, progress: bool = True, cache: str | None = None) -> Run | list[Run]:
    """Searches a space by a method on the train and valid splits of a data set, looking at the hold-out split.

    With several spaces, methods or seeds every combination is a search; those that differ in seeds and in numbers of the
    method only run as one compiled program. The same arguments give the same bits, interrupted or not.

    space, method: objects, or names or places that `dnas.space` and `dnas.method` build with their defaults.
    data: a data set, or what `dnas.data.load` takes.

    Args:
        epochs: Passes over the train split. Published for DARTS: 50.
        batch: Examples in a mini-batch; 64, or as many as the smaller split has, unless given.
        seed: Seed of everything random, 0 to 4294967295.
        seeds: Several seeds, or how many, starting at `seed`.
        out: The run directory, and of several searches a folder that holds one for each; None keeps them in memory. A
            search that was interrupted there goes on from its last checkpoint.
        budget: Limits on the network that the search ends with.
        diagnose: Epochs between diagnoses: discretisation gap, sharpness, curvature, skips. 0: none.
        stop_on_collapse: End the search when a diagnosis says that it is collapsing.
        start: Run of a search whose weights, logits, decisions and mask this one begins with.
        progress: Show how the search goes on.
        cache: Folder in which compiled programs are kept for the next time, or off.

    Returns the run; a list of them where several spaces, methods or seeds were given.
    Raises ValueError, in one line and before anything is written, for whatever does not fit, NonFiniteLoss if no search
    reaches its end, and RunWriteError.
    """
    plan = plan_search(space, method, data, epochs=epochs, batch=batch, seed=seed, seeds=seeds, budget=budget,
                       diagnose=diagnose, stop_on_collapse=stop_on_collapse, start=start)
    runs = run_searches(plan, out, progress=progress, cache=cache, say=print if progress else lambda text: None)
    return runs if plan.several else runs[0]


class Setting(NamedTuple):
    """One search of a plan. name: what tells it from the others of the plan, "" if it is the only one."""

    name: str
    space: SearchSpace
    method: Method
    seed: int
    config: dict[str, Any]

    @property
    def title(self) -> str:
        """A name for messages."""
        return ", ".join([*([self.name] if self.name else []), f"seed {self.seed}"])


@dataclass(frozen=True)
class SearchPlan:
    """Searches that were checked and can begin. groups: those that one program serves, in lists. several: whether the caller
    gave several spaces, methods or seeds."""

    data: Dataset
    groups: list[list[Setting]]
    several: bool
    epochs: int
    batch: int
    steps: int
    budget: Budget
    diagnose: int
    stop_on_collapse: bool
    start: SearchState | None
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> list[Setting]:
        """All searches, in the order of the groups."""
        return [setting for group in self.groups for setting in group]

    def folders(self, out: Path | None) -> list[Path | None]:
        """The run directory of each search, below `out` if there are several."""
        if out is None or not self.several:
            return [out] * len(self.settings)
        return [out / setting.name / str(setting.seed) for setting in self.settings]


def plan_search(space, method, data, *, epochs: int = 30, batch: int | None = None, seed: int = 0,
                seeds: int | Sequence[int] | None = None, budget: Budget | None = None, diagnose: int = 0,
                stop_on_collapse: bool = False, start: str | None = None) -> SearchPlan:
    """Loads, builds and checks all that a search needs, and computes and writes nothing. Arguments: as for `search`.

    Raises ValueError, in one line, for whatever does not fit.
    """
    spaces, methods = ([part] if isinstance(part, (str, SearchSpace, Method)) else list(part) for part in (space, method))
    several = [spaces, methods] != [[space], [method]] or seeds is not None
    seeds = _seeds(seed, seeds)
    bounds = ("epochs", epochs, 1, 10**6), ("batch", batch, 1, 10**9), ("diagnose", diagnose, 0, 10**6)
    for name, value, least, most in bounds:
        if value is not None and not (type(value) is int and least <= value <= most):
            raise ValueError(f"{name} is {value!r}; it must be a whole number, {least} to {most:,}")
    if stop_on_collapse and not diagnose:
        raise ValueError("stop_on_collapse needs diagnose, the epochs between diagnoses")
    budget = budget or Budget()
    _check_budget(budget)
    data = data if isinstance(data, Dataset) else load_data(data)
    notes, smaller = [], min(len(data.splits["train"]), len(data.splits["valid"]))
    if batch is None:
        batch = min(BATCH, smaller)
        if batch < BATCH:
            notes.append(f"batch   {batch} examples, all that the smaller of the splits train and valid has")
    steps = steps_per_epoch(data, batch)
    check_augment(data, batch)
    count = len(spaces) * len(methods) * len(seeds)
    if not 0 < count <= MOST:
        raise ValueError(f"that makes {count:,} searches; a call carries out 1 to {MOST:,}")
    spaces, methods = [_space(each, data) for each in spaces], [_method(each) for each in methods]
    common = {**configs.described(data), "epochs": epochs, "batch": batch, "diagnose": diagnose,
              "stop_on_collapse": stop_on_collapse, **({"budget": budget._asdict()} if budget.given else {})}
    pairs = list(itertools.product(spaces, methods))
    names, groups = _names(pairs), []
    for (space, method), name in zip(pairs, names):
        group = next((group for group in groups if _one_program(group[0], space, method)), None)
        if group is None:
            group = []
            groups.append(group)
            _trace(space, budgeted(method, space, budget), data, batch, epochs, steps)
        budgeted(method, space, budget).numbers_of(epochs=epochs, steps=steps)  # refuses what cannot be
        for seed in seeds:
            config = {"space": space_config(space), "method": method_config(method), **common, "seed": seed}
            config = {key: config[key] for key in (*configs.SEARCH, "digest") if key in config}
            group.append(Setting(name, space, method, seed, config))
    state = None
    if start is not None:
        state, said = _started(start, groups, data, batch, budget)
        notes += said
    return SearchPlan(data, groups, several, epochs, batch, steps, budget, diagnose, stop_on_collapse, state, tuple(notes))


def run_searches(plan: SearchPlan, out: str | Path | None, *, progress: bool = True, cache: str | None = None,
                 say: Callable[[str], None] = print) -> list[Run]:
    """Carries out a plan, in run directories below `out` unless that is None. say: what lines for a person go to.

    A search whose loss is not finite ends; the others go on. Raises NonFiniteLoss at the end if there was one.
    """
    folders = plan.folders(None if out is None else Path(out).expanduser())
    if out is not None and plan.several and (Path(out).expanduser() / "config.json").exists():
        raise ValueError(f"{out} is a run itself, and several searches write runs into folders of it; choose another folder")
    for folder, setting in zip(folders, plan.settings):
        if folder is not None:
            holds_run(folder, setting.config)
    caches.enable(cache)
    runs, failed, first = [], [], 0
    for group in plan.groups:
        here, first = folders[first:first + len(group)], first + len(group)
        with contextlib.ExitStack() as stack:
            opened = [folder and stack.enter_context(open_run(folder, setting.config)) for folder, setting in zip(here, group)]
            for line in (*announced(plan, group), *plan.notes, *_places(plan, opened)):
                say(line)
            space, budget = group[0].space, plan.budget
            method = budgeted(group[0].method, space, budget)
            draw_duplicates(plan.data, [run.folder for run in opened if run and not run.resumed])
            lanes = [Lane(method.replace(**setting.method.hyper), setting.seed, run, setting.title)
                     for setting, run in zip(group, opened)]
            results = search_lanes(space, lanes, plan.data, epochs=plan.epochs, batch=plan.batch, progress=progress,
                                   diagnose=plan.diagnose, stop_on_collapse=plan.stop_on_collapse, start=plan.start,
                                   key=program_key(space, group[0].method, plan.data, budget))
            for setting, run, result in zip(group, opened, results):
                if isinstance(result, NonFiniteLoss):
                    failed.append((setting, result))
                    continue
                outcome = results_of(plan, setting, result)
                if run:
                    write_json(run.folder / "results.json", outcome)
                    _draw(run.folder, setting.space, result)
                supernet = Supernet(run.folder if run else None, setting.config, setting.space, setting.method, plan.data,
                                    result.state, len(result.records))
                runs.append(Run(run.folder if run else None, setting.config, outcome, result, supernet))
    if failed and not plan.several:
        raise failed[0][1]
    if failed:
        raise NonFiniteLoss(f"of {len(plan.settings)} searches {len(failed)} came to a loss that is not finite, "
                            f"{', '.join(setting.title for setting, _ in failed)}; a smaller learning rate may help")
    return runs


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


def stem(name: str) -> str:
    """A short form of a name or path that can be part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", Path(name.rpartition(":")[2]).name.removesuffix(".npz")) or "own"


def space_config(space: SearchSpace) -> dict[str, Any]:
    """What a config says of a space: how it was built by name, else its own name and options."""
    return dict(space.source) if space.source else {"name": space.name, **space.options}


def method_config(method: Method) -> dict[str, Any]:
    """What a config says of a method: how it was built by name, else its numbers, under no name."""
    return dict(method.source) if method.source else {"name": "", **method.hyper}


def announced(plan: SearchPlan, group: Sequence[Setting]) -> list[str]:
    """What a group of searches begins with, for a person: the data, the space, the method and how long it goes."""
    shared = {name: value for name, value in group[0].config["method"].items()
              if all(setting.config["method"].get(name) == value for setting in group)}
    which = f"seed {group[0].seed}" if len(group) == 1 else f"{len(group)} searches: {group[0].title} to {group[-1].title}"
    return [describe(plan.data), f"space   {configs.label(group[0].config['space'], 'space')}",
            f"method  {configs.label(shared, 'method')}, {plan.epochs} epochs of {plan.steps} steps of {plan.batch} examples, "
            f"{which}"]


def _places(plan: SearchPlan, opened: Sequence[Any]) -> list[str]:
    """Where a group is written, and whether it goes on."""
    if opened[0] is None:
        return []
    if len(opened) > 1:
        return [f"runs    {opened[0].folder} to {opened[-1].folder}"]
    done = len(opened[0].metrics()) >= plan.epochs
    state = ", complete: this is its result" if done else ", continued" if any(opened[0].checkpoints.glob("*.safetensors")) else ""
    return [f"run     {opened[0].folder}{state}"]


def _draw(folder: Path, space: SearchSpace, result: Result) -> None:
    """The pictures of a search that has ended."""
    for suffix in ("svg", "png"):
        cells.draw_genotype(result.genotype, space.groups, folder / f"cells.{suffix}")
    figures.draw_logits(result.trajectory, space.groups, folder / "logits.svg")
    figures.draw_curves(result.records, folder / "curves.svg")
    board = events(folder, {})
    board.picture(folder / "cells.png", len(result.records))
    board.close()


def _space(space: str | SearchSpace, data: Dataset) -> SearchSpace:
    if isinstance(space, str):
        space = configs.build_space(space, data)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"space is {type(space).__name__}; it must be a SearchSpace, or the name of one")
    check_space(space, data)
    return space


def check_space(space: SearchSpace, data: Dataset) -> None:
    """Raises ValueError, in one line, where the space is for other inputs or outputs than those of the data set."""
    name = space_config(space)["name"]
    if (data.kind == "tokens") != (space.input_dtype == "int32"):
        takes = "tokens, integers" if space.input_dtype == "int32" else "numbers"
        raise ValueError(f"space {name} takes {takes} and {data.name} has {data.kind}: choose another space or other data")
    for option, there in (("image", list(data.image)), ("classes", data.classes)):
        built = space.options.get(option)
        if built is not None and data.kind != "nodes" and (list(built) if option == "image" else built) != there:
            what = "inputs" if option == "image" else "classes"
            raise ValueError(f"space {name} is built for {what} {built}, and {data.name} has {there}; build it for this data: "
                             f"dnas.space({space.name!r}, data)")


def _method(method: str | Method) -> Method:
    method = configs.build_method(method) if isinstance(method, str) else method
    if not isinstance(method, Method):
        raise ValueError(f"method is {type(method).__name__}; it must be a Method, or the name of one")
    return method


def _seeds(seed: int, seeds: int | Sequence[int] | None) -> list[int]:
    listed = [seed] if seeds is None else list(range(seed, seed + seeds)) if isinstance(seeds, int) else list(seeds)
    if not listed:
        raise ValueError(f"seeds is {seeds!r}; a search needs at least one seed")
    for each in listed:
        if type(each) is not int or not 0 <= each <= SEEDS:
            raise ValueError(f"seed {each!r}: it must be a whole number, 0 to {SEEDS}")
    if len(set(listed)) < len(listed):
        raise ValueError(f"seeds {listed} name a seed twice; each search needs a seed of its own")
    return listed


def _check_budget(budget: Budget) -> None:
    for name, value in budget._asdict().items():
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
            raise ValueError(f"budget.{name} is {value!r}; it must be a positive number")
    if budget.weight != Budget().weight and not budget.given:
        raise ValueError("budget.weight needs budget.params or budget.macs")


def _names(pairs: Sequence[tuple[SearchSpace, Method]]) -> list[str]:
    """For each space and method the options in which it differs from the others, as a name that a folder can have."""
    flat = [{**{("space", key): value for key, value in space_config(space).items()},
             **{("method", key): value for key, value in method_config(method).items()}} for space, method in pairs]
    keys = [key for key in dict.fromkeys(key for each in flat for key in each)
            if len({json.dumps(each.get(key)) for each in flat}) > 1]
    spell = lambda part, key, value: stem(str(value)) if key == "name" else f"{key.replace('_', '-')}={stem(str(value))}"
    names = [",".join(spell(*key, each[key]) for key in keys if key in each) for each in flat]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of the searches have the same space and method{twice and f' ({twice})'}; each must differ")
    return names


def _one_program(setting: Setting, space: SearchSpace, method: Method) -> bool:
    """Whether a search of `space` by `method` differs from `setting` in numbers of the method only."""
    first = setting.method
    if space is not setting.space or method.hyper.keys() != first.hyper.keys():
        return False
    if all(getattr(method, part) is getattr(first, part) for part in ("arch", "weights", "algorithm", "select", "decide", "stop")):
        return True
    structure = lambda source, hyper: {name: value for name, value in source.items() if name not in hyper}
    return bool(first.source and method.source) and structure(first.source, first.hyper) == structure(method.source, method.hyper)


def _trace(space: SearchSpace, method: Method, data: Dataset, batch: int, epochs: int, steps: int) -> None:
    """Traces the first state, so that options which no network can have are refused before anything is written."""
    import jax

    algorithm, hyper = method.bind(space, task_of(data)), method.numbers_of(epochs=epochs, steps=steps)
    try:
        jax.jit(algorithm.init).trace(jax.random.key(0), input_shape(data, batch), hyper)  # which the search finds traced
    except ValueError:
        raise
    except Exception as error:
        name = configs.label(space_config(space), "space")
        raise ValueError(f"space {name} cannot be built for this data: {type(error).__name__}: {error}") from error


def _started(start: str | Path | Run, groups: list[list[Setting]], data: Dataset, batch: int, budget: Budget):
    """The state that all searches begin with, and lines about it; their configs name it. Raises ValueError if it does not fit."""
    other = start.supernet if isinstance(start, Run) else load_supernet(start)
    where = other.folder or "the run in memory"
    for group in groups:
        space, method = group[0].space, budgeted(group[0].method, group[0].space, budget)
        if other.space.groups != space.groups:
            raise ValueError(f"start {where}: it searched space {configs.label(other.config['space'], 'space')}, and this is "
                             f"{configs.label(group[0].config['space'], 'space')}; both must have the same edges and operations")
        try:
            started_from(state_shape(space, method, data, batch), other.state)
        except ValueError as error:
            there, here = (flatten({part: config[part] for part in ("space", "method", "data")}, ".")
                           for config in (other.config, group[0].config))
            differ = ", ".join(f"{key} is {there.get(key)} there, {here.get(key)} here" for key in {**there, **here}
                               if there.get(key) != here.get(key))
            raise ValueError(f"start {where}: {error} ({differ})") from None
        for setting in group:
            setting.config["start"] = {"run": other.folder and str(other.folder.absolute()), **fingerprint(other)}
    return other.state, [f"start   {where}, epoch {other.epoch}", *other.messages]


def _config(folder: Path) -> Mapping[str, Any] | None:
    try:
        return read_json(folder / "config.json")
    except ValueError:
        return None
