"""Reads config.json, and builds the data, the space, the method and the selection that it describes.

A part of a config is {"name": a registered name or a place such as file.py:factory, and the options of that factory}.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnas import options as factory_options
from dnas import registry
from dnas.data import Dataset, balanced
from dnas.data import load as load_data
from dnas.data.sources import is_place
from dnas.shared_options import SharedOptions, shared_options

if TYPE_CHECKING:
    from dnas.algorithms.method import Method
    from dnas.selection.types import Selection
    from dnas.types import SearchSpace

DATA = ("data", "task", "target", "window", "standardise", "limit", "resize", "fit", "augment", "class_weights")
"""Keys of the data: the arguments of `dnas.data.load`."""
DESCRIBED = ("class_names", "metric")
"""Keys that describe the data and are not options."""
SEARCH = ("space", "method", *DATA, *DESCRIBED, "epochs", "seconds", "batch", "seed", "diagnose", "stop_on_collapse",
          "start", "budget", "selection", "split", "within")
"""Keys of the config of a search: all that its result depends on."""
ARRAYS = "array:"
"""Begins the name of data that was given as arrays."""
SHARED = "dnas.shared_options:SharedOptions"
BOUNDS = {"epochs": (1, 10**6), "batch": (1, 10**9), "seed": (0, 2**32 - 1), "diagnose": (0, 10**6)}
"""Least and largest value of each whole number of a search."""


def build_space(name: str, data: Any, options: Mapping[str, Any] | None = None) -> SearchSpace:
    """The search space `name` for this data, with the options of its factory and those of all spaces.

    name: a registered name (`dnas spaces`), package.module:factory or file.py:factory.
    data: a Dataset, or an object with its image, classes, graph and vocabulary.
    Raises ValueError for an unknown name or option, and for a value that an option cannot have.
    """
    from dnas.types import SearchSpace

    name = registry.absolute(name)
    own = factory_options.read(registry.locate(name, "space"))
    shared = [option for option in factory_options.read(SHARED) if option.name not in {option.name for option in own}]
    chosen = checked_options(f"space {name}", [*own, *shared], options or {})
    common = SharedOptions(**{field: chosen.get(field, default) for field, default in SharedOptions._field_defaults.items()})
    offered = {"image": data.image, "classes": data.classes, **common._asdict(),
               **{part: getattr(data, part) for part in ("graph", "vocabulary") if part not in chosen}}
    with shared_options(common):
        space = registry.build(name, "space", SearchSpace, options=chosen, **offered)
    for field, value in common._asdict().items():
        if space.options.get(field, SharedOptions._field_defaults[field]) != value:
            raise ValueError(f"space {name} takes no {field}: its operations are not mixed by MixedOp")
    return space._replace(source={"name": name, **chosen})


def build_method(name: str, options: Mapping[str, Any] | None = None) -> Method:
    """The method `name` with these options of its factory. Names and errors: as for `build_space`."""
    from dnas.algorithms.method import Method

    name = registry.absolute(name)
    chosen = checked_options(f"method {name}", factory_options.read(registry.locate(name, "method")), options or {})
    return replace(registry.build(name, "method", Method, options=chosen), source={"name": name, **chosen})


def build_selection(name: str, options: Mapping[str, Any] | None = None) -> tuple[Selection, dict[str, Any]]:
    """The selection `name` with these options of its factory, and its part of a config."""
    from dnas.selection.types import Selection

    name = registry.absolute(name)
    chosen = checked_options(f"selection {name}", factory_options.read(registry.locate(name, "selection")), options or {})
    return registry.build(name, "selection", Selection, options=chosen), {"name": name, **chosen}


def space_of(config: Mapping[str, Any], data: Dataset, where: str, trust: bool | Collection[str]) -> SearchSpace:
    """The space of the config that was read from the file `where`. trust: see `dnas.registry.refuse_untrusted`.

    A space that was an object is built again if its name is registered.
    """
    name, options = named_part(config, "space", where, trust)
    if not registry.is_place(name, "space") and name not in registry.names("space"):
        raise ValueError(f"{where}: the space {name[:80]!r} is not registered here; if it was an object of your own, pass "
                         "it again (in Python space=)")
    options = {option: value for option, value in options.items() if option not in ("image", "classes")}
    return build_space(name, data, options)


def method_of(config: Mapping[str, Any], where: str, trust: bool | Collection[str]) -> Method:
    """The method of the config that was read from the file `where`, without its budget."""
    return build_method(*named_part(config, "method", where, trust))


def data_of(config: Mapping[str, Any], where: str, trust: bool | Collection[str], splits=("train",)) -> Dataset:
    """The data set of the config that was read from the file `where`. splits: those that balance class weights."""
    names = refuse_untrusted_data(config, where, trust)
    options = {key: config[key] for key in DATA if key in config and key != "data"}
    chosen = checked_options(where, factory_options.read("dnas.data.sources:load"), options)
    try:
        data = load_data(names, **{key: chosen[key] for key in options})
    except ValueError as error:
        raise ValueError(f"{where} names data that cannot be loaded: {error}") from None
    if "digest" in config and data.digest() != config["digest"]:
        raise ValueError(f"{where}: the data {', '.join(names)[:200]} is not what it was when the run began; put it back")
    return data if data.class_weights is None else data._replace(class_weights=balanced(data, splits))


def refuse_untrusted_data(config: Mapping[str, Any], where: str, trust: bool | Collection[str]) -> list[str]:
    """The names or paths of a config's data, as `source_names`. Raises ValueError if loading it would import a place that
    the user has not named, see `dnas.registry.refuse_untrusted`."""
    names = source_names(config, where)
    for name in names:
        if is_place(name):
            registry.refuse_untrusted(name, "data", where, trust)
    for key in ("task", "augment"):
        if isinstance(config.get(key), str):
            registry.refuse_untrusted(config[key], key, where, trust)
    return names


def source_names(config: Mapping[str, Any], where: str) -> list[str]:
    """The names or paths of a config's data. Raises ValueError if there are none to load."""
    names = config.get("data")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}: data is {str(names)[:80]}; it must be a list of names or paths")
    if names[0].startswith(ARRAYS):
        raise ValueError(f"{where}: the run's data were arrays, {names[0]}; pass the same data again: "
                         "dnas.open(RUN, data=data)")
    return names


def described(data: Dataset) -> dict[str, Any]:
    """The config of loaded data: its source, the task and its metric unless that is classification, the class names, and
    the size and fit of pictures."""
    from dnas.task import task_of

    parts = {"resize": list(data.image[:2]), "fit": data.pictures.fit} if data.pictures else {}
    if data.task != "classification":
        task = task_of(data)
        parts |= {"task": data.task, "metric": {"name": task.metric, "better": task.better, "percent": task.percent}}
    return {**data_source(data), **parts, **({"class_names": list(data.class_names)} if data.class_names else {})}


def data_source(data: Dataset) -> dict[str, Any]:
    """The arguments of `dnas.data.load` for the data, or a name of arrays in memory; and a digest of its content."""
    return {**(data.source or {"data": [f"{ARRAYS}{data.name}"]}), "digest": data.digest()}


def label(source: Mapping[str, Any], kind: str, also: Collection[str] = ()) -> str:
    """The space or method of a config on one line, with the options that differ from their defaults, and those in `also`.

    Imports nothing: if the defaults cannot be read in its source, it shows all options.
    """
    name = source["name"]
    try:
        listed = factory_options.spelled_out(registry.locate(name, kind)) or []
    except ValueError:
        listed = []
    usual = {option.name: option.default for option in (*(factory_options.read(SHARED) if kind == "space" else ()), *listed)}
    spell = lambda value: " ".join(map(str, value)) if isinstance(value, list | tuple) else value
    shown = ", ".join(f"{option} {spell(value)}" for option, value in source.items()
                      if option != "name" and (option in also or spell(usual.get(option)) != spell(value)))
    name = name or f"a {kind} of your own"
    return f"{name} ({shown})" if shown else name


def chosen_by(selection: Mapping[str, Any]) -> str:
    """The selection of a config on one line, and what it chooses, where it is of this toolkit. Imports nothing."""
    name = selection["name"]
    purpose = registry.describe(name, "selection") if name in registry.registered("selection") else ""
    first = purpose[:1] if purpose[1:2].isupper() else purpose[:1].lower()  # DARTS-PT stays
    return label(selection, "selection") + (f": {first}{purpose[1:].rstrip('.')}" if purpose else "")


def read_config(path: str | Path) -> dict[str, Any]:
    """The config.json of a search, or of the run directory `path`. Raises ValueError for anything else."""
    from dnas.runs.files import read_json

    path = Path(path).expanduser()
    file = path / "config.json" if path.is_dir() else path
    config = read_json(path.resolve() if path.is_symlink() and path.is_file() else file)  # a person may name a link
    for key in config:
        if key not in (*SEARCH, "digest"):
            near = difflib.get_close_matches(key, SEARCH, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"its keys are {', '.join(SEARCH)}"
            raise ValueError(f"{file}: unknown key {key!r}; {hint}")
    for part in ("space", "method"):
        if part in config and not (isinstance(config[part], Mapping) and config[part].get("name") == ""):
            named_part(config, part, str(file), True)
    return config


def refuse_out_of_range(values: Mapping[str, Any], where: str = "") -> None:
    """Raises ValueError, that begins with `where`, for one of the numbers in BOUNDS that is not a whole one in them."""
    for name, value in values.items():
        least, most = BOUNDS[name]
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{where}{name} is {repr(value)[:80]}; it must be a whole number, {least} to {most:,}")


def refuse_no_time(seconds: Any, where: str = "") -> None:
    """Raises ValueError, that begins with `where`, where a limit of time is neither None nor a number above 0."""
    if seconds is not None and not (type(seconds) in (int, float) and 0 < seconds <= 1e9):
        raise ValueError(f"{where}seconds is {repr(seconds)[:80]}; it must be a number above 0, and at most 1e9")


def named_part(config: Mapping[str, Any], part: str, where: str,
               trust: bool | Collection[str]) -> tuple[str, dict[str, Any]]:
    """Name and options of a part of a config. Raises ValueError if it has no name, or one that may not be imported, see
    `dnas.registry.refuse_untrusted`."""
    said = config.get(part)
    if not isinstance(said, Mapping) or not isinstance(said.get("name"), str):
        raise ValueError(f'{where}: {part} is {str(said)[:80]}; it must be {{"name": ..., and its options}}')
    if not said["name"]:
        raise ValueError(f"{where}: the {part} was an object without a name; pass it again (in Python "
                         f"{part}=)")
    registry.refuse_untrusted(said["name"], part, where, trust)
    return said["name"], {option: value for option, value in said.items() if option != "name"}


def checked_options(where: str, listed: Collection[factory_options.Option], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """All of the listed options, with their defaults if `chosen` lacks them.

    Raises ValueError that begins with `where` for an option that is not listed, is missing, or has a value of another type.
    """
    names = [option.name for option in listed]
    for name in chosen:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"its options are {', '.join(names) or 'none'}"
            raise ValueError(f"{where} has no option {name}; {hint}")
    values = {}
    for option in listed:
        if option.name not in chosen and option.default is factory_options.REQUIRED:
            raise ValueError(f"{where} needs the option {option.name}: {option.help or 'it has no default'}")
        value = chosen.get(option.name, option.default)
        values[option.name] = value if option.name not in chosen else checked_value(where, option, value)
    return values


def checked_value(where: str, option: factory_options.Option, value: Any) -> Any:
    """`value` in the option's type: JSON lists become tuples, and whole numbers floats if required.

    Raises ValueError for a value of another type.
    """
    fitting = _fit(option.annotation, value)
    if fitting is _NO:
        raise ValueError(f"{where}: {option.name} is {value!r}; it must be {spelled(option.annotation)}")
    return fitting


_NO = object()


def _fit(annotation: Any, value: Any) -> Any:
    """The value in the type `annotation`, _NO if it is of another type."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return next((fit for fit in (_fit(part, value) for part in inside) if fit is not _NO), _NO)
    if origin is typing.Literal:
        return value if any(value == part and type(value) is type(part) for part in inside) else _NO
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or inside[-1] is not ... and len(value) != len(inside):
            return _NO
        parts = [_fit(inside[0] if inside[-1] is ... else part, item)
                 for item, part in zip(value, inside[:1] * len(value) if inside[-1] is ... else inside)]
        return _NO if _NO in parts else tuple(parts)
    if annotation is type(None) or annotation is None:
        return None if value is None else _NO
    if annotation is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _NO if value != value or isinstance(value, int) and abs(value) >= 2**1023 else float(value)
    return value if type(value) is annotation else _NO


def spelled(annotation: Any) -> str:
    """A type as text: a whole number; one of auto, on, off."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "none"}
    if origin in (typing.Union, types.UnionType):
        return " or ".join(spelled(part) for part in inside)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is tuple:
        return f"a list of which each is {spelled(inside[0])}" if inside[-1] is ... else f"a list of {len(inside)} values"
    return words.get(annotation, inspect.formatannotation(annotation))
