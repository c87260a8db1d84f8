"""What a search is going to do, checked whole before anything is computed or written."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dnas import config as configs
from dnas import registry
from dnas.algorithms.budget import Budget, budgeted
from dnas.algorithms.method import Method
from dnas.algorithms.players import SearchState
from dnas.api.start import start_of
from dnas.data import Dataset, check_augment, steps_per_epoch
from dnas.data import load as load_data
from dnas.engine.mesh import device_count, refuse_undivided
from dnas.engine.search import input_shape
from dnas.fewshot.split import Split, check_splits, checked_split
from dnas.options import read as read_options
from dnas.runs.files import as_json
from dnas.selection import OWN
from dnas.selection.types import Selection
from dnas.task import task_of
from dnas.types import SearchSpace

BATCH = 64
"""Examples in a mini-batch unless given."""
MOST = 1000
"""Searches of one call."""
MOST_SEEDS = 10_000
"""Most seeds of one call."""
PRESET = "quick"
"""The preset of a search unless another is given."""
PRESETS = {"quick": "zero-cost-gates", "paper": OWN}
"""How a search ends, by preset (docs/leaderboard.md)."""
PUBLISHED_STEPS = 50 * 390
"""Steps of DARTS's published search, for which its architecture's rate is."""
LARGEST_ARCH_LR = 1e-2


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
    devices: int = 1
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    selection: Selection | None = None
    split: Split | None = None

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
                stop_on_collapse: bool = False, start: str | None = None, seconds: float | None = None,
                selection: str | tuple[str, Mapping[str, Any]] | None = None, preset: str | None = None,
                devices: int | Literal["all"] | None = None, **split) -> SearchPlan:
    """Loads, builds and checks all that a search needs, and computes and writes nothing. Arguments: as for `search`; split:
    those of `dnas.fewshot.SPLIT`.

    Raises ValueError, in one line, for whatever does not fit.
    """
    spaces, methods = (list(part) if type(part) in (list, tuple) else [part] for part in (space, method))
    several = [spaces, methods] != [[space], [method]] or seeds is not None
    seeds = seeds_of(seed, seeds)
    configs.refuse_out_of_range({"epochs": epochs, "diagnose": diagnose, **({} if batch is None else {"batch": batch})})
    configs.refuse_no_time(seconds)
    if stop_on_collapse and not diagnose:
        raise ValueError("stop_on_collapse needs diagnose, the epochs between diagnoses")
    if budget is not None and not isinstance(budget, Budget):
        raise ValueError(f"budget is {budget!r}; it must be a Budget, such as dnas.Budget(macs=20e6)")
    budget = (budget or Budget()).check()
    divided = checked_split({name: value for name, value in split.items() if value is not None}, epochs)
    if divided and (seconds is not None or stop_on_collapse):
        what = "seconds" if seconds is not None else "stop_on_collapse"
        raise ValueError(f"{what} ends a search early, and split divides its epochs into stages; leave one of them out")
    data = data if isinstance(data, Dataset) else load_data(data)
    notes, smaller = [], min(len(data.splits["train"]), len(data.splits["valid"]))
    if batch is None:
        batch = batch_of(data, batch)
        if batch < BATCH:
            notes.append(f"batch   {batch} examples, all that the smaller of the splits train and valid has")
    steps = steps_per_epoch(data, batch)
    check_augment(data, batch)
    count = len(spaces) * len(methods) * len(seeds)
    if not 0 < count <= MOST:
        raise ValueError(f"that makes {count:,} searches; a call carries out 1 to {MOST:,}")
    preset = PRESET if preset is None else preset
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    spaces = [_space(each, data) for each in spaces]
    methods = [_method(each, data, epochs=epochs, batch=batch, preset=preset) for each in methods]
    by_rule = any(method.select for method in methods)
    ends = {method.selection for method in methods}
    usual = (ends.pop() if len(ends) == 1 else None) or (OWN if by_rule else PRESETS[preset])
    chooses, chosen = _selection(usual if selection is None else selection)
    for each in spaces if chooses else ():
        try:
            chooses.check(each)
        except ValueError as error:
            raise error if selection else ValueError(f"the search would end with the selection {usual}: {error}; choose "
                                              "another by selection, or own for none") from None
    common = {**configs.described(data), "epochs": epochs, "batch": batch, "diagnose": diagnose,
              "stop_on_collapse": stop_on_collapse, **({"budget": budget._asdict()} if budget.limits else {}),
              **({} if seconds is None else {"seconds": float(seconds)}),
              **({"selection": as_json(chosen)} if chosen else {}),
              **({"split": divided.config} if divided else {})}
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
    devices = device_count(devices)
    for group in groups:
        refuse_undivided(batch, devices, len(group), most=smaller)
    state = None
    if start is not None:
        state, said = start_of(start, groups, data, batch, budget)
        notes += said
    for group in groups if divided else ():
        refuse_undivided(batch, devices, most=smaller)
        allowed = state.mask if state else {name: each.allowed for name, each in group[0].space.groups.items()}
        check_splits(divided, group[0].space, group[0].method, allowed, epochs=epochs, steps=steps)
    return SearchPlan(data, groups, several, epochs, batch, steps, budget, diagnose, stop_on_collapse, state, devices,
                      seconds, tuple(notes), chooses, divided)


def space_config(space: SearchSpace) -> dict[str, Any]:
    """What a config says of a space: how it was built by name, else its own name and options."""
    return dict(space.source) if space.source else {"name": space.name, **space.options}


def method_config(method: Method) -> dict[str, Any]:
    """What a config says of a method: how it was built by name, else its numbers, under no name."""
    return dict(method.source) if method.source else {"name": "", **method.hyper}


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
            raise ValueError(f"space {name} is built for {what} {built}, and {data.name} has {there}; build it for this "
                             f"data: dnas.space({space.name!r}, data)")


def stem(name: str) -> str:
    """A short form of a name or path that can be part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", Path(name.rpartition(":")[2]).name.removesuffix(".npz")) or "own"


def _space(space: str | SearchSpace, data: Dataset) -> SearchSpace:
    if isinstance(space, str):
        space = configs.build_space(space, data)
    if not isinstance(space, SearchSpace):
        raise ValueError(f"space is {type(space).__name__}; it must be a SearchSpace, or the name of one")
    check_space(space, data)
    return space


def fitting_method(name: str, options: Mapping[str, Any], data: Dataset, *, epochs: int, batch: int | None,
                   preset: str | None) -> Method:
    """The method `name` with these options, as a search of this length builds it: by the preset "quick" an `arch_lr` that is
    not among the options is as many times the published one as the search has fewer steps than DARTS's, so that the logits
    can come as far, at most LARGEST_ARCH_LR."""
    published = {option.name: option.default for option in read_options(registry.locate(name, "method"))}.get("arch_lr")
    if (preset or PRESET) == "quick" and published is not None and "arch_lr" not in options:
        steps = epochs * steps_per_epoch(data, batch_of(data, batch))
        longer = min(published * PUBLISHED_STEPS / max(steps, 1), LARGEST_ARCH_LR)
        options = {**options, "arch_lr": float(f"{max(published, longer):.2g}")}
    return configs.build_method(name, options)


def batch_of(data: Dataset, batch: int | None) -> int:
    """Examples in a mini-batch: those given, else BATCH or as many as the smaller of train and valid has."""
    return min(BATCH, len(data.splits["train"]), len(data.splits["valid"])) if batch is None else batch


def _selection(selection) -> tuple[Selection | None, dict[str, Any] | None]:
    """The selection by which searches end, and its part of a config; None for the method's own rule."""
    pair = (selection, {}) if isinstance(selection, str) else selection
    if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str) or not isinstance(pair[1], Mapping):
        raise ValueError(f"selection is {str(selection)[:80]!r}; it must be a name, or a pair of a name and its options")
    name, options = pair
    return (None, None) if name == OWN else configs.build_selection(name, options)


def _method(method: str | Method, data: Dataset, **length) -> Method:
    method = fitting_method(method, {}, data, **length) if isinstance(method, str) else method
    if not isinstance(method, Method):
        raise ValueError(f"method is {type(method).__name__}; it must be a Method, or the name of one")
    return method


def seeds_of(seed: int, seeds: int | Sequence[int] | None) -> list[int]:
    """The seeds of several searches: those listed, or as many as `seeds` says, starting at `seed`. Raises ValueError."""
    if isinstance(seeds, int) and seeds > MOST_SEEDS:
        raise ValueError(f"seeds is {seeds}; it must be at most {MOST_SEEDS}")
    listed = [seed] if seeds is None else list(range(seed, seed + seeds)) if isinstance(seeds, int) else list(seeds)
    if not listed:
        raise ValueError(f"seeds is {seeds!r}; a search needs at least one seed")
    for each in listed:
        if type(each) is not int or not 0 <= each <= configs.BOUNDS["seed"][1]:
            raise ValueError(f"seed {each!r}: it must be a whole number, 0 to {configs.BOUNDS['seed'][1]}")
    if len(set(listed)) < len(listed):
        raise ValueError(f"seeds {listed} name a seed twice; each search needs a seed of its own")
    return listed


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
    first, parts = setting.method, ("arch", "weights", "algorithm", "select", "decide", "stop")
    if space is not setting.space or method.hyper.keys() != first.hyper.keys():
        return False
    if all(getattr(method, part) is getattr(first, part) for part in parts):
        return True
    structures = [each.source and {name: value for name, value in each.source.items() if name not in each.hyper}
                  for each in (first, method)]
    return structures[0] is not None and structures[0] == structures[1]


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
