"""The command line of `dnas search` and `dnas estimate`: common options, and those of the chosen space and method."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dnas import options, registry
from dnas.data import DATASETS
from dnas.data.decode import FITS, Fit
from dnas.data.huggingface import PREFIX
from dnas.methods import METHODS
from dnas.task import TASKS
from search_spaces import SPACES

DATA = ("data", "task", "target", "window", "standardise", "limit", "resize", "fit", "augment", "class_weights")
"""Options that say what is learnt from."""
FOUND = ("class_names", "metric")
"""Keys of a config.json that are no options: what the data itself says."""
OPTIONAL = ("task", "target", "window", "standardise", "resize", "fit", "augment", "class_weights", *FOUND, "budget",
            "start")
"""Keys of a config.json that are there only if they say something."""
CONFIG = ("space", "method", *DATA, *FOUND, "epochs", "batch", "seed", "diagnose", "stop_on_collapse", "start", "budget")
"""Keys of a run's config.json: all that its result depends on."""
BOUNDS = {"epochs": (1, 10**6), "batch": (1, None), "seed": (0, 2**32 - 1), "seeds": (1, 1000), "limit": (1, None),
          "diagnose": (0, 10**6), "cutout": (0, None), "window": (1, 10**6)}
"""Least and greatest values of common options."""
SHARED = "search_spaces.layers.mixed:MixedOptions"
"""Options that every space has."""
PARTS = {"space": SPACES, "method": METHODS}


def shown(metavar: str, unset: str | None = None):
    """How --help shows an option: what it takes, and what goes where it is not given, if its default does not say."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=unset and f"(default: {unset})")


Resize = Annotated[tuple[int, ...], shown("SIDE|HEIGHT WIDTH", "32; pictures of one size up to 64 are kept as they are")]
Fitting = Annotated[Fit | None, shown("{" + ",".join(FITS) + "}", "crop")]
Augment = Annotated[str | None, shown("FUNCTION", "random crops, and flips where they suit")]
Weighing = Literal["equal", "balanced"]
TaskName = Annotated[str | None, shown("{" + ",".join(TASKS) + "}|FACTORY", "what fits the data")]
Target = Annotated[str | None, shown("COLUMN", "target, label, class or y")]
Window = Annotated[int | None, shown("N", "64")]
"""Types of options of DATA, which several commands have."""


@dataclass(frozen=True)
class BudgetOptions:
    """What the network that is found may cost; it will use up all but 5 % of it."""

    params: Annotated[float | None, shown("N", "any")] = None
    """Parameters at most, as a network of its own."""
    macs: Annotated[float | None, shown("N", "any")] = None
    """Multiply-adds per example at most, such as 20e6."""
    weight: float = 2.0
    """Of the penalty that pulls the architecture towards the budget. Published for TAS: 2."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says. `_form` adds `space_options` and `method_options`, dataclasses of their own."""

    space: Annotated[str, shown("{" + ",".join(SPACES) + "}|FACTORY")] = "nasbench201"
    """What is searched: a name (`dnas spaces`), package.module:factory or file.py:factory."""
    method: Annotated[str, shown("{" + ",".join(METHODS) + "}|FACTORY")] = "darts"
    """How it is searched: a name (`dnas methods`), package.module:factory or file.py:factory."""
    data: Annotated[tuple[str, ...], shown("{" + ",".join(DATASETS) + "}|PATH ...")] = ("digits",)
    """A name or other source of data (`dnas datasets`), or the several files of one set."""
    epochs: int = 30
    """Passes over the train split. Published for DARTS: 50."""
    batch: int = 64
    """Examples in a mini-batch."""
    seed: int = 0
    """Seed of everything random, 0 to 4294967295."""
    seeds: int = 1
    """Number of seeds to search, starting at --seed, in one program. Several write into DIR/SEED."""
    sweep: Annotated[tuple[str, ...], shown("OPTION=V1,V2 ...", "none")] = ()
    """Values of a method's or space's option to search with, such as method.arch-lr=1e-4,3e-4; several multiply.
    Written into DIR/SETTING/SEED. Numbers of the method share one program."""
    start: Annotated[str | None, shown("RUN", "new weights")] = None
    """Run of a search whose weights, logits, decisions and mask this one begins with."""
    task: TaskName = None
    """What is predicted: a name, or a function of yours that returns a Task."""
    target: Target = None
    """Column of a .csv that is predicted."""
    window: Window = None
    """Characters of a text that the network is given at once."""
    standardise: bool = True
    """Bring images and features to mean 0 and standard deviation 1, or leave them as they are."""
    limit: Annotated[int | None, shown("N", "all")] = None
    """Examples to keep outside the test set, evenly of each class."""
    resize: Resize = ()
    """Size in pixels of pictures from folders and hf:."""
    fit: Fitting = None
    """How pictures get it: cut to fill, whole on black, or stretched."""
    augment: Augment = None
    """Yours: (key, images) -> images, as file.py:function or package.module:function."""
    class_weights: Weighing = "equal"
    """Losses of classes: as they come, or each class the same however few its examples."""
    diagnose: int = 0
    """Epochs between diagnoses: discretisation gap, sharpness, curvature, skips. 0: none."""
    stop_on_collapse: bool = False
    """End the search when a diagnosis says that it is collapsing."""
    budget: BudgetOptions = field(default_factory=BudgetOptions)
    """Limits on the network that is found."""
    run: Annotated[str | None, shown("DIR", "runs/SPACE-METHOD-DATA-SEED")] = None
    """Where the run is written, and continued if it was interrupted."""
    config: Annotated[str | None, shown("FILE", "none")] = None
    """config.json of a run to repeat; options given besides it override it."""
    cache: Annotated[str | None, shown("DIR|off", "$DNAS_CACHE, else dnas/xla in your cache folder")] = None
    """Where compiled programs are kept for the next time."""
    progress: bool = True
    """Show how the search goes on."""


def parse(command: str, description: str, argv: Sequence[str]) -> Arguments:
    """Arguments of `dnas command`. Prints the help and raises SystemExit(0) for --help.

    Raises ValueError, in one line, for an unknown option or name, or a value that an option cannot have.
    """
    argv = [re.sub(r"^--distill(?==|$)", "--method.distill", word) for word in argv]
    path, config = given(argv, "--config"), {}
    if path is not None:
        config = read_config(path)
    names = {}
    for part in PARTS:
        asked, there = given(argv, f"--{part}"), config.get(part, {}).get("name")
        names[part] = asked or there or getattr(Arguments, part)
        if asked and there and absolute(asked) != there:
            config[part] = {}
    default, program = _form(names), f"dnas {command}"
    if config:
        try:
            default = parsed(default, program, description, words(config))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    return _checked(parsed(default, program, description, list(argv)))


def resolved(arguments: Arguments) -> dict[str, Any]:
    """The config that config.json holds. Paths in it are absolute, so that it can be repeated from any folder."""
    config = {key: getattr(arguments, key) for key in CONFIG if key not in (*DATA, *FOUND)} | learnt_from(arguments)
    for part in PARTS:
        config[part] = {"name": absolute(config[part]), **dataclasses.asdict(getattr(arguments, f"{part}_options"))}
    config["budget"] = dataclasses.asdict(arguments.budget)
    if not _limits(arguments.budget):
        del config["budget"]
    config["start"] = arguments.start and os.path.abspath(os.path.expanduser(arguments.start))
    if not config["start"]:
        del config["start"]
    return {key: config[key] for key in CONFIG if key in config}


def learnt_from(arguments: Any) -> dict[str, Any]:
    """The part of a config that says what is learnt from: the options of DATA, those OPTIONAL only if they are given."""
    found = {key: getattr(arguments, key) for key in DATA}
    found["data"] = [_source(name) for name in arguments.data]
    for name in ("augment", "task"):
        found[name] = found[name] and absolute(found[name])
    if found["standardise"]:
        del found["standardise"]  # tokens never are
    return {key: value for key, value in found.items() if key not in OPTIONAL or value not in (None, (), "equal")}


def _source(name: str) -> str:
    """A source of data, from any folder."""
    if name.startswith(PREFIX):
        return PREFIX + absolute(name.removeprefix(PREFIX), files=True)
    return absolute(name, files=name not in DATASETS)


def _limits(budget: BudgetOptions) -> dict[str, float]:
    return {name: value for name in ("params", "macs") if (value := getattr(budget, name)) is not None}


def given(argv: Sequence[str], flag: str) -> str | None:
    """The value of the last `flag VALUE` or `flag=VALUE`, before anything else of the command line is known."""
    value = None
    for word, following in zip(argv, [*argv[1:], "--"]):
        if word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        elif word == flag and not following.startswith("--"):
            value = following
    return value


def _form(names: dict[str, str]) -> Arguments:
    """The default arguments with the options of the space and method of these names."""
    parts = []
    for part, registered in PARTS.items():
        found = options.read(registry.locate(names[part], registered, part))
        if part == "space":
            suits = options.constant(registry.locate(names["method"], METHODS, "method"), "SPACE") or {}
            own = [option.name for option in found]
            found += [option._replace(default=suits.get(option.name, option.default))
                      for option in options.read(SHARED) if option.name not in own]
        parts.append(part_of(part, found))
    return dataclasses.make_dataclass("Arguments", parts, bases=(Arguments,), frozen=True)(**names)


def part_of(part: str, found: Sequence[options.Option]) -> tuple:
    """A field of a dataclass that holds the options of a space, a method or a selection, named `part.option`."""
    made = dataclasses.make_dataclass(part, [_field(option) for option in found], frozen=True)
    return f"{part}_options", Annotated[made, tyro.conf.arg(name=part)], field(default=made())


def _field(option: options.Option) -> tuple:
    default = tyro.MISSING if option.default is options.REQUIRED else option.default
    return option.name, Annotated[option.annotation, tyro.conf.arg(help=option.help or " ")], field(default=default)


def parsed(default: Any, program: str, description: str, argv: list[str]) -> Arguments:
    """`default` with what `argv` says; tyro's boxes become one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            found, unknown = tyro.cli(type(default), prog=program, description=description, args=argv, default=default,
                                      return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_first_paragraph(box.getvalue())} ({program} --help lists the options)") from None
    if unknown:
        raise ValueError(_unknown(unknown[0], unknown[1:], _flags(default), program))
    return found


def _first_paragraph(box: str) -> str:
    """What stands below the title of a box of tyro's, down to the next rule."""
    lines = [line.strip(" │╰╯") for line in re.sub(r"\x1b\[[\d;]*m", "", box).splitlines()[1:]]
    split = itertools.groupby(lines, lambda line: not line.strip("─-"))
    blocks = [" ".join(block) for rule, block in split if not rule]
    line = (blocks or ["the command line cannot be read"])[0].removeprefix("Error parsing ").rstrip(".")
    line = re.sub(r"invalid literal for int\(\) with base 10: ('.*?')", r"\1 is no whole number", line)
    return re.sub(r"could not convert string to float: ('.*?')", r"\1 is no number", line)


def _flags(default: Any) -> dict[str, str]:
    """Every flag by what a person may write for it: itself, or without `space.` or `method.` before its name."""
    flags = {}
    parts = [f.name.removesuffix("_options") for f in dataclasses.fields(default) if f.name.endswith("_options")]
    for part in parts:
        names = [f.name.replace("_", "-") for f in dataclasses.fields(getattr(default, f"{part}_options"))]
        flags |= {f"--{name}": f"--{part}.{name}" for name in names}
        flags |= {f"--{part}.{name}": f"--{part}.{name}" for name in names}
    own = [f"--{f.name.replace('_', '-')}" for f in dataclasses.fields(default)
           if not f.name.endswith("_options") and f.name != "budget"] + ["--no-progress", "--no-standardise"]
    own += [f"--budget.{f.name}" for f in dataclasses.fields(BudgetOptions)]
    return flags | dict(zip(own, own))


def _unknown(word: str, rest: list[str], flags: dict[str, str], program: str) -> str:
    flag = word.partition("=")[0].replace("_", "-")
    if not word.startswith("-"):
        return f"unexpected argument {word!r} ({program} --help lists the options)"
    if flags.get(flag) == flag:
        return f"{flag} takes one value, not {' '.join(rest)}"
    near = difflib.get_close_matches(flag, flags, 1)
    hint = f"did you mean {flags[near[0]]}?" if near else f"{program} --help lists them"
    return f"unknown option {word.partition('=')[0]}; {hint}"


def read_config(path: str) -> dict[str, Any]:
    """A run's config.json, or that of a run directory; its values are checked as those of flags are."""
    file = Path(path).expanduser()
    file = file / "config.json" if file.is_dir() else file
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}; --config is a run's config.json") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: no valid JSON ({error}); --config is a run's config.json") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file}: no JSON object; --config is a run's config.json")
    for key in config:
        if key not in CONFIG:
            near = difflib.get_close_matches(key, CONFIG, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(CONFIG)}"
            raise ValueError(f"{file}: unknown key {key!r}; {hint}")
    for part in PARTS:
        named = config.get(part, {"name": ""})
        if not isinstance(named, dict) or not isinstance(named.get("name"), str):
            raise ValueError(f'{file}: {part} is {json.dumps(named)}; it is {{"name": ..., and its options}}')
    return config


def words(config: dict[str, Any]) -> list[str]:
    """The flags that say the same as a config."""
    found = []
    for key, value in config.items():
        if key in FOUND:
            continue
        if key in PARTS or key == "budget" and isinstance(value, dict):
            for name, item in value.items():
                found += _flag(f"--{key}.{name}", item) if name != "name" else [f"--{key}={item}"]
        else:
            found += _flag(f"--{key}", value)
    return found


def _flag(flag: str, value: Any) -> list[str]:
    flag = flag.replace("_", "-")
    if isinstance(value, bool):
        head, name = re.fullmatch(r"(--(?:\w+\.)?)(.*)", flag).groups()
        return [flag if value else f"{head}no-{name}"]
    if isinstance(value, list):
        if any(isinstance(item, str) and item.startswith("-") for item in value):
            raise ValueError(f"{flag[2:]} is {json.dumps(value)}; a text in it cannot begin with -, a path may with ./")
        return [flag, *map(str, value)]
    if value is None or isinstance(value, (str, int, float)):
        return [f"{flag}={value}"]
    raise ValueError(f"{flag[2:]} is {json.dumps(value)}; it is a number, a text, true, false, null or a list")


def _checked(arguments: Arguments) -> Arguments:
    """The arguments, if their values are in range."""
    check_bounds(arguments)
    if arguments.seed + arguments.seeds - 1 > BOUNDS["seed"][1]:
        raise ValueError(f"--seeds {arguments.seeds} from --seed {arguments.seed} on: the last would be beyond "
                         f"{BOUNDS['seed'][1]}")
    for name, value in dataclasses.asdict(arguments.budget).items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"--budget.{name} {value:g}: it must be a positive number")
    if arguments.budget.weight != BudgetOptions.weight and not _limits(arguments.budget):
        raise ValueError("--budget.weight needs --budget.params or --budget.macs")
    if arguments.stop_on_collapse and not arguments.diagnose:
        raise ValueError("--stop-on-collapse needs --diagnose N, the epochs between diagnoses")
    if not arguments.data:
        raise ValueError("--data needs a name or a path (`dnas datasets` lists what there is)")
    for part in PARTS:
        for name, value in dataclasses.asdict(getattr(arguments, f"{part}_options")).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{part}.{name.replace('_', '-')} {value}: it must be a finite number")
    return arguments


def check_bounds(arguments: Any) -> None:
    """Raises ValueError for the first common option of `arguments` that is out of its BOUNDS."""
    for name, (least, most) in BOUNDS.items():
        value = getattr(arguments, name, None)
        if value is not None and (value < least or most is not None and value > most):
            bounds = f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"--{name} {value}: it must be {bounds}")


def absolute(name: str, files: bool = False) -> str:
    """`name`, with a path in it made absolute: that of file.py:factory or, if `files`, of an existing file."""
    path, colon, factory = name.rpartition(":")
    if colon and path.endswith(".py"):
        return f"{os.path.abspath(os.path.expanduser(path))}:{factory}"
    whole = os.path.expanduser(name)
    return os.path.abspath(whole) if files and os.path.exists(whole) else name
