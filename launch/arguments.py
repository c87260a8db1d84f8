"""Options that commands share, and the options of a function of `dnas`, read from its signature, as those of a command."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from dnas import options as factory_options
from dnas import registry
from dnas.options import Option
from launch import parser, text
from launch.parser import Shown

SHARED = "dnas.shared_options:SharedOptions"
SHOWN = {"devices": Shown("all|N", "all of an accelerator's, one on a CPU"),
         "cache": Shown("DIR|off", "$DNAS_CACHE, else dnas/xla in your cache folder"),
         "space": Shown("FACTORY", "as searched"),
         "task": Shown("{" + ",".join(registry.registered("task")) + "}|FACTORY", "by the targets"),
         "resize": Shown("SIDE|HEIGHT WIDTH", "32; pictures of one size up to 64 stay as they are"),
         "fit": Shown("{crop,pad,stretch}", "crop"), "augment": Shown("FUNCTION", "random crops, and flips for some data"),
         "target": Shown("COLUMN", "target, label, class or y"), "window": Shown("N", "64"), "limit": Shown("N", "all"),
         "json": Shown("FILE", "none")}
"""How --help shows options that several commands have."""
DATA = Option("data", tuple[str, ...], (),
              "A name or other source of data (`dnas datasets`), or the several files of one set.")
JSON = Option("json", str | None, None, "File to write the result to as JSON.")
LOAD = "dnas.data.sources:load"


def read_command(command: str, description: str, argv: Sequence[str], options: Sequence[Option], *,
                 shown: Mapping[str, Shown] = {}, groups: Mapping[str, Sequence[Option]] = {},
                 titles: Mapping[str, str] = {}, defaults: Mapping[str, Any] = {}) -> dict[str, Any]:
    """The values of these options in `argv`, by name; those of each group in a dict "GROUP_options".

    shown: how --help shows options, beside SHOWN; Positional ones have no flag. groups: options `--GROUP.NAME`; titles: of
    groups in --help. defaults: replace those of the options, such as by values of a config.json; same form as the result.
    Raises as `launch.parser.parse` does, SystemExit(0) for --help and ValueError.
    """
    text.options.set(frozenset(option.name for listed in (options, *groups.values()) for option in listed))
    shown = {**SHOWN, **shown}
    fields = [_field(option, shown.get(option.name), defaults) for option in options]
    for name, listed in groups.items():
        usual = defaults.get(f"{name}_options", {})
        part = dataclasses.make_dataclass(name, [_field(option, None, usual) for option in listed], frozen=True)
        part.__doc__ = titles.get(name, f"options of the {name}")
        fields.append((f"{name}_options", part, dataclasses.field(default=part())))
    form = dataclasses.make_dataclass("Arguments", fields, frozen=True)
    return dataclasses.asdict(parser.parse(form(), f"dnas {command}", description, argv))


def options_of(function: str, *, without: Collection[str] = ()) -> list[Option]:
    """The keyword-only options of the function at a place, read from its source, `without` some."""
    return [option for option in factory_options.read(function) if option.name not in without]


def data_options(default: tuple[str, ...] = ()) -> list[Option]:
    """The options of the data: --data, and those of `dnas.data.load`."""
    listed = [option._replace(annotation=bool, default=True) if option.name == "standardise" else option
              for option in options_of(LOAD)]
    return [DATA._replace(default=default), *listed]


def load_data(values: Mapping[str, Any]):
    """The data set by the values of `data_options`."""
    from dnas.data import load

    options = {option.name: values[option.name] for option in options_of(LOAD)}
    return load(list(values["data"]), **options | {"standardise": None if options["standardise"] else False})


def part_options(kind: Literal["space", "method", "selection"], name: str) -> list[Option]:
    """The options of the factory `name`, and for a space those of all spaces."""
    listed = factory_options.read(registry.locate(name, kind))
    if kind != "space":
        return listed
    names = [option.name for option in listed]
    return [*listed, *(option for option in factory_options.read(SHARED) if option.name not in names)]


def json_file(json: str | None, inputs: Sequence[str]) -> Path | None:
    """The file of --json, None where it is not given. Raises ValueError if it cannot be written, is a file that a run is
    made of, or is one of the inputs."""
    if json is None:
        return None
    from dnas.runs.directory import refuse_no_file, refuse_run_file

    out = Path(json).expanduser()
    refuse_no_file(out, f"--json {out}:")
    for path in map(Path, inputs):
        if out.resolve() in (path.expanduser().resolve(), (path.expanduser() / "genotype.json").resolve()):
            raise ValueError(f"--json {out} would replace what is evaluated; choose another file")
    refuse_run_file(out)
    return out


def flag_value(argv: Sequence[str], flag: str) -> str | None:
    """The value of the last `flag VALUE` or `flag=VALUE`, without parsing the other options."""
    value = None
    for word, following in zip(argv, [*argv[1:], "--"]):
        if word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        elif word == flag and not following.startswith("--"):
            value = following
    return value


def has_option(argv: Sequence[str], name: str) -> bool:
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


def _field(option: Option, shown: Shown | None, defaults: Mapping[str, Any]) -> tuple:
    annotation = Annotated[option.annotation, shown] if shown else option.annotation
    default = defaults.get(option.name, option.default)
    return option.name, annotation, dataclasses.field(default=default, metadata={"help": option.help or " "})
