"""What a study declares, read from a TOML file or a mapping and checked whole before anything is computed or written."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dnas import config as configs
from dnas import options as factory_options
from dnas import registry
from dnas.api.search_plan import batch_of, check_space, seeds_of
from dnas.data import Dataset, steps_per_epoch
from dnas.data import load as load_data
from dnas.data.files import expanded
from dnas.fewshot import SPLIT
from dnas.fewshot.split import check_splits, checked_split
from dnas.options import REQUIRED, Option
from dnas.runs.study_folder import LABEL
from dnas.selection import COMPARED
from dnas.selection.scoring import checked_examples
from dnas.task import task_of

TEXTS = str | tuple[str, ...]
PARTS = "space", "spaces", "data", "methods", "selections", "seeds", "budget", "table", "slurm"
"""Keys of a study file."""
BUDGET = (Option("epochs", int, 30, "of each search"), Option("steps", int | None, None, "of each search, at least"),
          Option("seconds", float | None, None, "of a search's epochs, after which it ends"),
          Option("batch", int | None, None, "examples in a mini-batch"),
          Option("train_epochs", int, 0, "of training each choice from scratch, 0 for none"))
TABLE = (Option("file", str, REQUIRED, "a table of a benchmark"),
         Option("truth", str | None, None, "column that is reported; default: the benchmark's test accuracy"),
         Option("choose", str | None, None, "column of validation results by which methods may be chosen"),
         Option("rank", bool, False, "whether each supernet scores networks of the table, to see how well it ranks them"),
         Option("networks", int | None, None, "of the table that are scored, drawn; default: all"),
         Option("examples", int | None, None, "of the validation split that score a network; default: all"))
OPTION = re.compile(r"[a-z][a-z0-9-]*")
"""What an option of sbatch may be called."""
OF_SUBMISSION = ("array", "chdir", "error", "help", "input", "output", "parsable", "test-only", "usage", "version", "wait",
                 "wrap")
"""Options of sbatch on which a submission depends."""
LONGEST = 100
"""Characters of a label, which names folders."""


class PlannedMethod(NamedTuple):
    """A method of a study in a space of it. method, space: {"name", all options}, as a config has them. within: the label of
    the space, "" in a study of one `[space]`; the label of the method ends with it, so that it is another in each space.
    split: the options of a few-shot search, by the names of `dnas.search`; {} of another."""

    label: str
    method: dict[str, Any]
    space: dict[str, Any]
    within: str = ""
    split: dict[str, Any] = {}


class StudyPlan(NamedTuple):
    """A study that was checked and can begin. All of it is JSON.

    data: {"data": names or paths, options}. described: what the config of a run says of it. selections: {name: {"name",
    options}}. steps: of an epoch. quality: {"name", "better", "percent"} of the task's metric. table: TABLE's, or None; it
    is for the report, and no job has it. ranked: what the supernets of the table's space score, {"space", "examples",
    "networks": operation indices [N][E], "digest" of both}, or {}; study.json lacks the networks. slurm: options of sbatch.
    seconds: of a search, see `dnas.search`. sizes: of the splits.
    """

    methods: list[PlannedMethod]
    selections: dict[str, dict[str, Any]]
    seeds: list[int]
    data: dict[str, Any]
    described: dict[str, Any]
    epochs: int
    batch: int
    train_epochs: int
    steps: int
    quality: dict[str, Any]
    table: dict[str, Any] | None
    slurm: dict[str, Any] = {}
    seconds: float | None = None
    sizes: dict[str, int] = {}
    ranked: dict[str, Any] = {}


def methods_in_spaces(methods: Iterable[Sequence[Any]]) -> dict[str, list[str]]:
    """The labels of the methods in each space, by its label. methods: as in a plan, or as they were declared earlier."""
    spaces: dict[str, list[str]] = {}
    for label, _, _, *within in methods:
        spaces.setdefault(within[0] if within else "", []).append(label)
    return spaces


def plan_study(study: str | Path | Mapping[str, Any], trust: bool | Collection[str] = False) -> StudyPlan:
    """Reads and checks a study file, or a mapping with the same content. Loads the data; computes and writes nothing.

    Paths in a file are relative to its folder. trust: see `dnas.registry.refuse_untrusted`.
    Raises ValueError, in one line, for whatever does not fit.
    """
    said, where, folder = (study, "the study", Path()) if isinstance(study, Mapping) else _read(study)
    for key in said:
        if key not in PARTS:
            near = difflib.get_close_matches(key, PARTS, 1)
            raise ValueError(f"{where} has no part {key!r}; " + (f"did you mean {near[0]}?" if near else
                                                               f"its parts are {', '.join(PARTS)}"))
    budget = _budget(said, where)
    options, data = _data(said, where, folder, trust)
    batch = batch_of(data, budget["batch"])
    steps = steps_per_epoch(data, batch)
    epochs = _epochs(budget, steps, where)
    selections = _selections(said, where, folder, trust)
    methods = _methods(said, where, folder, trust, data, epochs, steps)
    seeds = said.get("seeds", 3)
    if type(seeds) is not int and not isinstance(seeds, list):
        raise ValueError(f"{where}: seeds is {seeds!r}; it must be a number of seeds, or a list of them")
    task = task_of(data)
    quality = {"name": task.metric, "better": task.better, "percent": task.percent}
    sizes = {name: len(rows) for name, rows in data.splits.items()}
    return StudyPlan(methods, selections, seeds_of(0, seeds), options, configs.described(data), epochs, batch,
                     budget["train_epochs"], steps, quality, _table(said, where, folder, sizes),
                     _slurm(said, where), budget["seconds"], sizes)


def _read(path: str | Path) -> tuple[dict[str, Any], str, Path]:
    path = expanded(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path), path.absolute().parent
    except (OSError, UnicodeError) as error:
        raise ValueError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}; give a study "
                         "file, such as studies/digits.toml") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None


def _budget(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    part = _mapping(said, "budget", where)
    if {"steps", "epochs"} <= part.keys():
        raise ValueError(f"{where}: budget has epochs and steps; give one of them")
    budget = configs.checked_options(f"{where}: budget", BUDGET, part)
    configs.refuse_out_of_range({name: budget[name] for name in ("epochs", "batch") if budget[name] is not None},
                                f"{where}: budget: ")
    configs.refuse_no_time(budget["seconds"], f"{where}: budget: ")
    if not 0 <= budget["train_epochs"] <= configs.BOUNDS["epochs"][1]:
        raise ValueError(f"{where}: budget: train_epochs is {budget['train_epochs']}; it must be 0 or more")
    return budget


def _epochs(budget: Mapping[str, Any], steps: int, where: str) -> int:
    """Of each search: those that are declared, or as many of `steps` steps as reach the steps that are."""
    if budget["steps"] is None:
        return budget["epochs"]
    epochs = -(-budget["steps"] // steps)
    if not 1 <= epochs <= configs.BOUNDS["epochs"][1]:
        raise ValueError(f"{where}: budget: steps is {budget['steps']}, {epochs:,} epochs of {steps}; it must be 1 to "
                         f"{steps * configs.BOUNDS['epochs'][1]:,}")
    return epochs


def _data(said: Mapping[str, Any], where: str, folder: Path,
          trust: bool | Collection[str]) -> tuple[dict[str, Any], Dataset]:
    listed = factory_options.read("dnas.data.sources:load")
    part = _mapping(said, "data", where)
    chosen = configs.checked_options(f"{where}: data", [Option("source", TEXTS, "digits", ""), *listed], part)
    names = [chosen["source"]] if isinstance(chosen["source"], str) else list(chosen["source"])
    options = {"data": [_source(name, folder) for name in names],
               **{key: chosen[key] for key in part if key != "source"}}
    for key in "task", "augment":
        if isinstance(options.get(key), str):
            options[key] = _placed(options[key], folder)
    configs.refuse_untrusted_data(options, where, trust)
    return options, load_data(options["data"], **{key: value for key, value in options.items() if key != "data"})


def _methods(said: Mapping[str, Any], where: str, folder: Path, trust: bool | Collection[str],
             data: Dataset, epochs: int, steps: int) -> list[PlannedMethod]:
    spaces = _spaces(said, where, folder, trust)
    methods: list[PlannedMethod] = []
    for within, (space_name, shared) in spaces.items():
        direct = [option.name for option in factory_options.read(registry.locate(space_name, "space"))]
        for part in _listed(said, "methods", where, ["darts"]):
            name, options = _named(part, "method", where, folder, trust)
            own, split = options.pop("space", {}), _split(options, where)
            label = ",".join([_label(options, name, where), *([within] if within else [])])
            if label.lower() in [each.label.lower() for each in methods]:
                raise ValueError(f"{where}: two methods are called {label}; give each a label of its own")
            if not isinstance(own, Mapping) or "name" in own:
                raise ValueError(f"{where}: space of method {label} is {own!r}; it must be a table of options of the space")
            suits = factory_options.constant(registry.locate(name, "method"), "SPACE") or {}
            suits = {option: value for option, value in suits.items() if option not in direct}
            space = configs.build_space(space_name, data, {**suits, **shared, **own})
            check_space(space, data)
            method = configs.build_method(name, options)
            try:
                method.numbers_of(epochs=epochs, steps=steps)
                divided = checked_split(split, epochs)
                if divided:
                    allowed = {name: group.allowed for name, group in space.groups.items()}
                    check_splits(divided, space, method, allowed, epochs=epochs, steps=steps)
            except ValueError as error:
                raise ValueError(f"{where}: method {label}: {error}") from None
            methods.append(PlannedMethod(label, dict(method.source), dict(space.source), within,
                                         divided.config if divided else {}))
    return methods


def _split(options: dict[str, Any], where: str) -> dict[str, Any]:
    """The options of a few-shot search, which are taken out of those of a method."""
    listed = [option for option in factory_options.read("dnas.api.search:search") if option.name in SPLIT]
    said = {option.name: options.pop(option.name) for option in listed if option.name in options}
    return {name: value for name, value in configs.checked_options(where, listed, said).items() if value is not None}


def _spaces(said: Mapping[str, Any], where: str, folder: Path,
            trust: bool | Collection[str]) -> dict[str, tuple[str, dict[str, Any]]]:
    """The name and the options of each space, by its label, which is "" where the study has one `[space]`."""
    if "spaces" not in said:
        return {"": _named(_mapping(said, "space", where) or {"name": "nasbench201"}, "space", where, folder, trust)}
    if "space" in said:
        raise ValueError(f"{where} has space and spaces; put all of them into [[spaces]]")
    spaces: dict[str, tuple[str, dict[str, Any]]] = {}
    for part in _listed(said, "spaces", where, []):
        name, options = _named(part, "space", where, folder, trust)
        label = _label(options, name, where)
        if label.lower() in map(str.lower, spaces):
            raise ValueError(f"{where}: two spaces are called {label}; give each a label of its own")
        spaces[label] = name, options
    return spaces


def _label(options: dict[str, Any], name: str, where: str) -> str:
    """The label that is taken out of the options of a part, by default its name. Raises ValueError if it names no folder."""
    label = options.pop("label", name.rpartition(":")[2])
    if not isinstance(label, str) or not LABEL.fullmatch(label) or len(label) > LONGEST:
        raise ValueError(f"{where}: label {str(label)[:LONGEST]!r} names a folder; use letters, digits and . , = + - _, "
                         f"at most {LONGEST}")
    return label


def _selections(said: Mapping[str, Any], where: str, folder: Path,
                trust: bool | Collection[str]) -> dict[str, dict[str, Any]]:
    selections: dict[str, dict[str, Any]] = {}
    for part in _listed(said, "selections", where, list(COMPARED)):
        name, options = _named(part, "selection", where, folder, trust)
        short = name.rpartition(":")[2]
        if short in selections:
            raise ValueError(f"{where}: two selections are called {short}; each needs a name of its own")
        selections[short] = configs.build_selection(name, options)[1]
    return selections


def _table(said: Mapping[str, Any], where: str, folder: Path, sizes: Mapping[str, int]) -> dict[str, Any] | None:
    if "table" not in said:
        return None
    chosen = configs.checked_options(f"{where}: table", TABLE, _mapping(said, "table", where))
    if not chosen["rank"] and (chosen["networks"], chosen["examples"]) != (None, None):
        raise ValueError(f"{where}: table has networks or examples, which are scored with rank = true only")
    if chosen["rank"]:
        try:
            checked_examples(chosen["examples"], sizes["valid"])
        except ValueError as error:
            raise ValueError(f"{where}: table: {error}") from None
    return {**chosen, "file": str(folder / expanded(chosen["file"]))}


def _slurm(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Options of sbatch, which lines of a script will hold in quotes."""
    part = _mapping(said, "slurm", where)
    for name, value in part.items():
        if not OPTION.fullmatch(name):
            raise ValueError(f"{where}: slurm has {name[:80]!r}; an option of sbatch is a name of small letters, digits and "
                             "-, such as cpus-per-task")
        if name in OF_SUBMISSION:
            raise ValueError(f"{where}: slurm: {name} is set by dnas study itself; leave it out")
        text = isinstance(value, str) and value.isprintable() and not set(value) & set('"\\')
        if not text and value is not True and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"{where}: slurm: {name} is {str(value)[:80]!r}; it must be a number, a text of one line "
                             "without \" and \\, or true for an option without a value")
    return part


def _mapping(said: Mapping[str, Any], part: str, where: str) -> dict[str, Any]:
    value = said.get(part, {})
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: {part} is {str(value)[:80]}; it must be a table, [{part}]")
    return dict(value)


def _listed(said: Mapping[str, Any], part: str, where: str, usual: list[str]) -> list[dict[str, Any]]:
    value = said.get(part, usual)
    if not isinstance(value, list) or not value or not all(isinstance(each, str | Mapping) for each in value):
        raise ValueError(f"{where}: {part} is {str(value)[:80]}; it must be a list of names or tables, [[{part}]]")
    return [{"name": each} if isinstance(each, str) else dict(each) for each in value]


def _named(part: Mapping[str, Any], kind: str, where: str, folder: Path,
           trust: bool | Collection[str]) -> tuple[str, dict[str, Any]]:
    """The name of a part, absolute if it is a file, and what else is said of it."""
    name = part.get("name")
    if not isinstance(name, str):
        raise ValueError(f"{where}: a {kind} has no name; it must have name = \"...\"")
    name = _placed(name, folder)
    registry.refuse_untrusted(name, kind, where, trust)
    return name, {option: value for option, value in part.items() if option != "name"}


def _placed(name: str, folder: Path) -> str:
    """A place or joined places, of which files are relative to the folder of the study, with absolute files."""
    parts = registry.names_of(name)
    if len(parts) > 1:
        return registry.JOIN.join(_placed(part, folder) for part in parts)
    file, colon, factory = name.rpartition(":")
    return registry.absolute(f"{folder.absolute() / expanded(file)}:{factory}") if colon and file.endswith(".py") else name


def _source(name: str, folder: Path) -> str:
    """The name of data, or its path or place, relative to the folder of the study, as an absolute one."""
    placed = _placed(name, folder)
    try:
        return str(folder.absolute() / name) if placed == name and (folder / name).exists() else placed
    except OSError as error:
        raise ValueError(f"data {name[:80]!r}: {error.strerror}; give a name or a path") from None
