"""The options of a space or method: the keyword-only parameters of its factory, read without importing it if possible.

Importing a factory imports jax, which takes longer than a person waits for `--help`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import operator
import re
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from dnas import registry

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "None": None}
REQUIRED: Any = inspect.Parameter.empty


class Option(NamedTuple):
    """A keyword-only parameter: annotation of TYPES, Literal, tuple, or a union of them; default may be REQUIRED."""

    name: str
    annotation: Any
    default: Any
    help: str


class _Unreadable(Exception):
    """The source alone does not define an option."""


def read(place: str) -> list[Option]:
    """Options of the factory at `place` (`module:factory` or `file.py:factory`), in order.

    Raises ValueError if there is no such factory or an option's type is not possible on a command line.
    """
    options = spelled_out(place)
    return from_signature(registry.load(place), place) if options is None else options


def spelled_out(place: str) -> list[Option] | None:
    """The same without importing anything; None if the source alone does not define them."""
    first, *others = registry.names_of(place)
    if others:
        inherited, changes = spelled_out(first), [_own(other) for other in reversed(others)]
        listed = None if None in (inherited, *changes) else [option for own in (*changes, inherited) for option in own]
        return listed if listed and len({option.name for option in listed}) == len(listed) else None
    path = registry.source(place)
    try:
        return from_source(path.read_text(encoding="utf-8"), place.rpartition(":")[2])
    except (_Unreadable, AttributeError, OSError, RecursionError, SyntaxError, TypeError, ValueError):
        return None


def _own(place: str) -> list[Option] | None:
    """Those of a function under `@extends(other)` without those of `other`; None if the source does not define them."""
    path = registry.source(place)
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        function = next(node for node in body if getattr(node, "name", None) == place.rpartition(":")[2])
        if [call.func.id for call in function.decorator_list] != ["extends"]:
            return None
        function.decorator_list.clear()
        return from_source(ast.unparse(function), function.name)
    except (_Unreadable, AttributeError, OSError, RecursionError, StopIteration, SyntaxError, TypeError, ValueError):
        return None


def from_source(text: str, name: str) -> list[Option]:
    """Options of the function `name` in a module's source; fails if its parameters are not spelled out there.

    `name = variant(other, option=value, ...)` has the options of `other`, imported by name, with those defaults; a
    class has its annotated fields, and a function under `@extends(other, option=value, ...)` its own options first.
    """
    body = ast.parse(text).body
    varied = [node.value for node in body if isinstance(node, ast.Assign) and node.targets[0].id == name]
    if varied:
        return _varied(varied[0], body)
    nodes = [node for node in body if getattr(node, "name", None) == name]
    if len(nodes) == 1 and isinstance(nodes[0], ast.ClassDef):
        helps = _helps(ast.get_docstring(nodes[0]))
        return [Option(field.target.id, _annotation(field.annotation), ast.literal_eval(field.value),
                       helps.get(field.target.id, "")) for field in nodes[0].body if isinstance(field, ast.AnnAssign)]
    if len(nodes) != 1 or not isinstance(nodes[0], ast.FunctionDef) or len(nodes[0].decorator_list) > 1:
        raise _Unreadable
    inherited = [option for call in nodes[0].decorator_list for option in _varied(call, body, "extends")]
    arguments, helps = nodes[0].args, _helps(ast.get_docstring(nodes[0]))
    options = []
    for argument, value in zip(arguments.kwonlyargs, arguments.kw_defaults):
        try:
            default = REQUIRED if value is None else ast.literal_eval(value)
            annotation = _annotation(argument.annotation) if argument.annotation else type(default)
        except _Unreadable:
            if value is None:
                raise
            continue  # of another type, with a default
        options.append(Option(argument.arg, annotation, default, helps.get(argument.arg, "")))
    return options + inherited


def _varied(call: ast.expr, body: list[ast.stmt], function: str = "variant") -> list[Option]:
    """Options of `function(other, option=value, ...)`: those of `other`, with these defaults."""
    if not (isinstance(call, ast.Call) and call.func.id == function and len(call.args) == 1):
        raise _Unreadable
    other = call.args[0].id
    module = next((node.module for node in body if isinstance(node, ast.ImportFrom)
                   and any(alias.name == other and not alias.asname for alias in node.names)), None)
    if module is None:
        raise _Unreadable
    changed = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    options = spelled_out(f"{module}:{other}")
    if options is None:
        raise _Unreadable
    return [option._replace(default=changed.get(option.name, option.default)) for option in options]


def constant(place: str, name: str) -> Any:
    """The literal that the module of `place` assigns to `name`, of joined places the first; None if there is none."""
    path = registry.source(registry.names_of(place)[0])
    try:
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        return next((ast.literal_eval(node.value) for node in nodes if isinstance(node, ast.Assign)
                     and getattr(node.targets[0], "id", None) == name), None)
    except (AttributeError, OSError, SyntaxError, ValueError):
        return None


def from_signature(factory: Callable, place: str) -> list[Option]:
    """The same of a callable, without options of other types. ValueError if such an option has no default."""
    helps = _all_helps(factory)
    options = []
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        annotation = type(parameter.default) if parameter.annotation is REQUIRED else parameter.annotation
        try:
            if isinstance(annotation, str):
                annotation = _annotation(ast.parse(annotation, mode="eval").body)
            elif not _simple(annotation):
                raise _Unreadable
        except (_Unreadable, SyntaxError, TypeError, ValueError):
            if parameter.default is REQUIRED:
                raise ValueError(f"{place}: option {name} has no default, and its type {annotation} is not "
                                 "possible on a command line; use int, float, str, bool, Literal or a default") from None
            continue
        options.append(Option(name, annotation, parameter.default, helps.get(name, "")))
    return options


def _annotation(node: ast.expr) -> Any:
    """int, float, str, bool, None, `A | B`, Optional[A], Literal[...] and tuple[A, ...] from their syntax."""
    if isinstance(node, ast.Constant) and node.value in (None, ...):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union(node)
    if isinstance(node, ast.Subscript):
        outer = getattr(node.value, "id", None) or getattr(node.value, "attr", None)
        if outer == "Literal":
            value = ast.literal_eval(node.slice)
            return Literal[value]
        inner = [_annotation(item) for item in getattr(node.slice, "elts", [node.slice])]
        if outer == "tuple":
            return tuple[tuple(inner)]
        if outer == "Optional":
            return inner[0] | None
    if isinstance(node, ast.Name) and node.id in TYPES:
        return TYPES[node.id]
    raise _Unreadable


def _union(node: ast.BinOp) -> Any:
    """A union without the members that are not possible on a command line."""
    members = []
    for side in (node.left, node.right):
        with contextlib.suppress(_Unreadable):
            members.append(_annotation(side))
    if not members or members == [None]:
        raise _Unreadable
    return functools.reduce(operator.or_, members)


def _simple(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (tuple, typing.Union, types.UnionType):
        return all(_simple(part) for part in typing.get_args(annotation))
    return typing.get_origin(annotation) is Literal or annotation in (*TYPES.values(), type(None), ...)


def _all_helps(factory: Callable) -> dict[str, str]:
    inherited = getattr(factory, "inherited", None)
    return (_all_helps(inherited) if inherited else {}) | _helps(inspect.getdoc(factory))


def _helps(doc: str | None) -> dict[str, str]:
    """Texts of the `Args:` section of a docstring, by name. Where the text is "as for `module.function`." it is that
    function's of the same option."""
    section = re.search(r"^Args:\n((?:[ \t]+.*\n|[ \t]*\n)*)", f"{doc or ''}\n", re.MULTILINE)
    entries: dict[str, str] = {}
    for line in textwrap.dedent(section[1]).splitlines() if section else ():
        entry = re.match(r"(\w+(?:, \w+)*)(?: \(.*?\))?:\s+(.*)", line)
        if entry:
            current = entry[1].split(", ")
            entries |= dict.fromkeys(current, entry[2])
        elif line.strip() and entries:
            entries |= {name: f"{entries[name]} {line.strip()}" for name in current}
    return {name: _text_of(name, text) for name, text in entries.items()}


def _text_of(name: str, text: str) -> str:
    other = re.fullmatch(r"[Aa]s for `([\w.]+)\.(\w+)`\.", text)
    listed = spelled_out(f"{other[1]}:{other[2]}") if other else None
    return next((option.help for option in listed or () if option.name == name), text)
