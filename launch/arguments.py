"""What commands have in common: the options of a function of `dnas`, read from its signature, as options of a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from dnas import options as factory_options
from dnas import registry
from dnas.options import Option
from launch import parser
from launch.parser import Shown

SHARED = "dnas.shared_options:SharedOptions"
SHOWN = {"cache": Shown("DIR|off", "$DNAS_CACHE, else dnas/xla in your cache folder"),
         "space": Shown("FACTORY", "as searched"),
         "task": Shown("{" + ",".join(registry.registered("task")) + "}|FACTORY", "what fits the data"),
         "resize": Shown("SIDE|HEIGHT WIDTH", "32; pictures of one size up to 64 are kept as they are"),
         "fit": Shown("{crop,pad,stretch}", "crop"), "augment": Shown("FUNCTION", "random crops, and flips where they suit"),
         "target": Shown("COLUMN", "target, label, class or y"), "window": Shown("N", "64"), "limit": Shown("N", "all")}
"""How --help shows options that several commands have."""
DATA = Option("data", tuple[str, ...], (),
              "A name or other source of data (`dnas datasets`), or the several files of one set.")
LOAD = "dnas.data.sources:load"


def read_command(command: str, description: str, argv: Sequence[str], options: Sequence[Option], *,
                 shown: Mapping[str, Shown] = {}, groups: Mapping[str, Sequence[Option]] = {},
                 titles: Mapping[str, str] = {}, defaults: Mapping[str, Any] = {}) -> dict[str, Any]:
    """What `argv` says of these options, by name; of each group a dict "GROUP_options".

    shown: how --help writes options, beside SHOWN; those that are Positional have no flag. groups: options `--GROUP.NAME`;
    titles: of groups in --help.
    defaults: in place of those of the options, such as what a config.json says; those of a group in a dict "GROUP_options".
    Raises as `launch.parser.parse` does, SystemExit(0) for --help and ValueError.
    """
    looks = {**SHOWN, **shown}
    fields = [_field(option, looks.get(option.name), defaults) for option in options]
    for name, listed in groups.items():
        usual = defaults.get(f"{name}_options", {})
        part = dataclasses.make_dataclass(name, [_field(option, None, usual) for option in listed], frozen=True)
        part.__doc__ = titles.get(name, f"options of the {name}")
        fields.append((f"{name}_options", part, dataclasses.field(default=part())))
    form = dataclasses.make_dataclass("Arguments", fields, frozen=True)
    return dataclasses.asdict(parser.parse(form(), f"dnas {command}", description, argv))


def options_of(function: str, *, without: Collection[str] = ()) -> list[Option]:
    """The keyword-only options of the function at a place, read from its source, but for some."""
    return [option for option in factory_options.read(function) if option.name not in without]


def data_options(default: tuple[str, ...] = ()) -> list[Option]:
    """The options that say what is learnt from: --data, and those of `dnas.data.load`."""
    listed = [option._replace(annotation=bool, default=True) if option.name == "standardise" else option
              for option in options_of(LOAD)]
    return [DATA._replace(default=default), *listed]


def load_data(values: Mapping[str, Any]):
    """The data set that the options of `data_options` name."""
    from dnas.data import load

    given = {option.name: values[option.name] for option in options_of(LOAD)}
    return load(list(values["data"]), **given | {"standardise": None if given["standardise"] else False})


def part_options(kind: Literal["space", "method", "selection"], name: str) -> list[Option]:
    """The options of the factory that `name` stands for, and of a space those that all have."""
    listed = factory_options.read(registry.locate(name, kind))
    if kind != "space":
        return listed
    names = [option.name for option in listed]
    return [*listed, *(option for option in factory_options.read(SHARED) if option.name not in names)]


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The value of the last `flag VALUE` or `flag=VALUE`, before anything else of the command line is known."""
    value = None
    for word, following in zip(argv, [*argv[1:], "--"]):
        if word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        elif word == flag and not following.startswith("--"):
            value = following
    return value


def is_given(argv: Sequence[str], name: str) -> bool:
    """Whether the command line has the option, in either form."""
    flags = {f"--{name}", f"--no-{name}"}
    return any(word.partition("=")[0].replace("_", "-") in {flag.replace("_", "-") for flag in flags} for word in argv)


def flag_values(argv: Sequence[str], flag: str) -> list[str]:
    """The values that follow the last `flag`, up to the next one."""
    values: list[str] = []
    for i, word in enumerate(argv):
        if word == flag or word.startswith(f"{flag}="):
            values = [word.partition("=")[2]] if "=" in word else []
            for following in argv[i + 1:]:
                if following.startswith("--"):
                    break
                values.append(following)
    return values


def _field(option: Option, look: Shown | None, defaults: Mapping[str, Any]) -> tuple:
    annotation = Annotated[option.annotation, look] if look else option.annotation
    default = defaults.get(option.name, option.default)
    return option.name, annotation, dataclasses.field(default=default, metadata={"help": option.help or " "})
