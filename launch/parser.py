"""Reads a command line into a frozen dataclass: its fields are the options, the text under a field is its help.

A field is an int, float, str, bool, Literal, tuple of these, or a union. `Annotated[..., Shown(...)]` says how --help shows
its value, and `Annotated[..., Positional(...)]` that it has no flag. A field whose value is a dataclass, such as `budget` or
`space_options`, holds the options `--budget.NAME` or `--space.NAME`, a group of their own titled by its docstring.
"""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from dnas.options import REQUIRED

T = TypeVar("T")
WIDTH = 80
"""Columns of --help."""
CLOSE = 0.75
"""Least similarity, 0 to 1, of an option that is suggested for an unknown one."""
NEGATIVE = re.compile(r"-\.?\d|-inf|-nan")
"""Beginnings of values that start with a hyphen and are not options."""
DEVICE = ("gpu", "cpu", "tpu", "cuda", "device", "accelerator", "platform")
"""Options of other programs that dnas does not need."""
PLAIN = {int: ("INT", "a whole number"), float: ("FLOAT", "a number"), str: ("STR", "a text")}
"""Names of types, in --help and in errors."""


class Shown(NamedTuple):
    """How --help shows an option. metavar: its value; unset: the meaning of None or an empty value."""

    metavar: str
    unset: str | None = None


class Positional(Shown):
    """The same for a field without a flag; a tuple takes all remaining words."""


class Entry(NamedTuple):
    """An option. dest: its path of fields, joined by dots; flags: () if it is positional, two of a bool for True and False;
    kind: its type; group: title of its group in --help, None for the common options."""

    dest: str
    flags: tuple[str, ...]
    kind: Any
    default: Any
    help: str
    shown: Shown
    group: str | None

    @property
    def several(self) -> bool:
        """Whether it takes any number of words."""
        return any(typing.get_origin(kind) is tuple for kind in (self.kind, *typing.get_args(self.kind)))


def parse(default: T, program: str, description: str, argv: Sequence[str]) -> T:
    """`default`, a dataclass, with the values in `argv`, which must have those that are REQUIRED.

    Names may be written with _ for -; the last of several values of an option counts. Prints the help and raises
    SystemExit(0) for --help. Raises ValueError for an unknown or missing option and for a value that an option cannot have.
    """
    entries = list(_entries(default))
    if {"-h", "--help"} & set(argv):
        print(_parser(entries, program, description).format_help(), end="")
        raise SystemExit(0)
    words = [re.sub(r"^--[^=]*", lambda name: name[0].replace("_", "-"), word) for word in argv]
    try:
        namespace, rest = _parser([entry for entry in entries if entry.flags], program).parse_known_args(words)
    except argparse.ArgumentError as error:  # only a bool's flag can have a value too many
        raise ValueError(f"{error.argument_name}: it takes no value") from None
    unknown = next((word for word in rest if re.match("-.", word) and not NEGATIVE.match(word)), None)
    if unknown:
        raise ValueError(_unknown(unknown.partition("=")[0], entries, program))
    values = {}
    for entry in entries:
        if hasattr(namespace, entry.dest):
            values[entry.dest] = _value(entry, *getattr(namespace, entry.dest))
        elif rest and not entry.flags:
            count = len(rest) if entry.several else 1
            values[entry.dest] = _value(entry, entry.shown.metavar, rest[:count])
            rest = rest[count:]
        elif entry.default is REQUIRED:
            name = " ".join([*entry.flags[:1], entry.shown.metavar])
            raise ValueError(f"{name} is missing ({program} --help describes it)")
    if rest:
        data = any("--data" in entry.flags for entry in entries) and not re.fullmatch(r"[-+.\de]+", rest[0])
        hint = f"; name data by --data {rest[0]}" if data else f" ({program} --help lists the options)"
        raise ValueError(f"unexpected argument {rest[0]!r}{hint}")
    return _filled(default, values)


def _entries(default: Any, place: str = "", prefix: str = "", group: str | None = None) -> Iterator[Entry]:
    kinds, helps = typing.get_type_hints(type(default), include_extras=True), _helps(type(default))
    for field in dataclasses.fields(default):
        dest, kind, value, shown = place + field.name, kinds[field.name], getattr(default, field.name), None
        if dataclasses.is_dataclass(value):
            part = field.name.removesuffix("_options")
            yield from _entries(value, f"{dest}.", f"{part}.", type(value).__doc__.rstrip("."))
            continue
        if typing.get_origin(kind) is typing.Annotated:
            kind, shown = typing.get_args(kind)
        names = (field.name, f"no_{field.name}") if kind is bool else (field.name,)
        flags = () if isinstance(shown, Positional) else tuple(f"--{prefix}{name}".replace("_", "-") for name in names)
        said = field.metadata.get("help") or helps.get(field.name, "")
        yield Entry(dest, flags, kind, value, said, shown or Shown(_metavar(kind)), group)


def _helps(cls: type) -> dict[str, str]:
    """The texts under the fields of a dataclass and its bases, if their source is available."""
    helps = {}
    for base in cls.__mro__:
        with contextlib.suppress(OSError, TypeError):
            body = ast.parse(inspect.getsource(base)).body[0].body
            helps |= {field.target.id: text.value.value for field, text in zip(body, body[1:])
                      if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)}
    return helps


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=8, width=WIDTH)

    def _format_args(self, action, default_metavar):
        return action.metavar

    def _format_action_invocation(self, action):
        text = super()._format_action_invocation(action)
        if len(text) <= WIDTH - 2:
            return text
        return textwrap.fill(text.replace(",", ", "), WIDTH - 2, subsequent_indent=" " * 8, break_on_hyphens=False)


class _Keep(argparse.Action):
    """Stores the flag and its words for `_value`."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, (option_string, values if isinstance(values, list) else [values]))


def _parser(entries: Sequence[Entry], program: str, description: str = "") -> argparse.ArgumentParser:
    names = [(entry.shown.metavar, entry.default is REQUIRED) for entry in entries if not entry.flags]
    usage = " ".join([program, *(name if required else f"[{name}]" for name, required in names), "[OPTIONS]"])
    paragraphs = [textwrap.fill(part, WIDTH, break_on_hyphens=False) for part in re.split(r"\n\s*\n", description.strip())]
    parser = argparse.ArgumentParser(program, usage, "\n\n".join(paragraphs), formatter_class=_Formatter, allow_abbrev=False,
                                     exit_on_error=False)
    parser._negative_number_matcher = NEGATIVE  # its own does not know -1e-3
    groups: dict[str | None, Any] = {None: parser}
    for entry in entries:
        if entry.group not in groups:
            groups[entry.group] = parser.add_argument_group(entry.group)
        place = {"dest": entry.dest} if entry.flags else {}
        count = 0 if entry.kind is bool else "*" if entry.several else "?"
        groups[entry.group].add_argument(*entry.flags or (entry.dest,), **place, action=_Keep, nargs=count,
                                         default=argparse.SUPPRESS, metavar=entry.shown.metavar, help=_help(entry))
    return parser


def _help(entry: Entry) -> str:
    value = entry.default
    listed = " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)
    default = entry.shown.unset if value in (None, ()) and entry.shown.unset else listed
    said = f"{entry.help} (required)" if value is REQUIRED else f"{entry.help} (default: {default})"
    return said.replace("%", "%%")


def _value(entry: Entry, flag: str, words: Sequence[str | None]) -> Any:
    """The value of the words after a flag. Raises ValueError if they are not one."""
    if entry.kind is bool:
        return flag == entry.flags[0]
    if words == [None]:
        raise ValueError(f"{flag}: it needs a value")
    try:
        return _read(entry.kind, words)
    except ValueError:
        which = "each" if entry.several else "it"
        raise ValueError(f"{flag} {' '.join(words)}: {which} must be {_wanted(entry.kind)}") from None


def _choices(kind: Any) -> dict[str, Any]:
    """The values of a type that has few, by their spelling; {} for another type."""
    few = {bool: (True, False), types.NoneType: (None,)}
    values = typing.get_args(kind) if typing.get_origin(kind) is Literal else few.get(kind, ())
    return {str(value): value for value in values}


def _read(kind: Any, words: Sequence[str]) -> Any:
    """The words as a value of this type. Raises ValueError if they are not one."""
    outer, inner, choices = typing.get_origin(kind), typing.get_args(kind), _choices(kind)
    if outer in (typing.Union, types.UnionType):
        for each in sorted(inner, key=lambda each: each is not types.NoneType):
            with contextlib.suppress(ValueError):
                return _read(each, words)
        raise ValueError
    if outer is tuple:
        kinds = inner[:1] * len(words) if inner[-1] is ... else inner
        return tuple(_read(each, [word]) for each, word in zip(kinds, words, strict=True))
    (word,) = words
    if choices and word not in choices:
        raise ValueError
    return choices[word] if choices else kind(word)


def _wanted(kind: Any) -> str:
    """This type, or that of each of several values, as text."""
    outer, inner, choices = typing.get_origin(kind), typing.get_args(kind), _choices(kind)
    if outer is tuple:
        return ", ".join(_wanted(each) for each in inner if each is not ...)
    if outer in (typing.Union, types.UnionType):
        return " or ".join(_wanted(each) for each in inner if each is not types.NoneType)
    return f"one of {', '.join(choices)}" if choices else PLAIN[kind][1]


def _metavar(kind: Any) -> str:
    outer, inner, choices = typing.get_origin(kind), typing.get_args(kind), _choices(kind)
    if outer is tuple:
        return f"{_metavar(inner[0])} ..." if inner[-1] is ... else " ".join(map(_metavar, inner))
    if outer in (typing.Union, types.UnionType):
        return "|".join(map(_metavar, inner))
    return "{" + ",".join(choices) + "}" if len(choices) > 1 else "".join(choices) or PLAIN[kind][0]


def _unknown(flag: str, entries: Sequence[Entry], program: str) -> str:
    """The message for an unknown flag; it suggests another only if that is almost certainly meant."""
    name = flag.lstrip("-")
    if name.rstrip("s") in DEVICE:
        return (f"unknown option {flag}; dnas uses the accelerator that JAX finds (JAX_PLATFORMS=cpu: none), and as many "
                "of its devices as --devices says")
    names = [each.lstrip("-") for entry in entries for each in entry.flags]
    near = [each for each in names if each.partition(".")[2] == name] or difflib.get_close_matches(name, names, 1, CLOSE)
    hint = f"did you mean {' or '.join(f'--{each}' for each in near)}?" if near else f"{program} --help lists them"
    return f"unknown option {flag}; {hint}"


def _filled(default: T, values: Mapping[str, Any], place: str = "") -> T:
    """`default` with `values`, by their paths of fields."""
    changes = {}
    for field in dataclasses.fields(default):
        dest, value = place + field.name, getattr(default, field.name)
        held = dataclasses.is_dataclass(value)
        changes[field.name] = _filled(value, values, f"{dest}.") if held else values.get(dest, value)
    return dataclasses.replace(default, **changes)
