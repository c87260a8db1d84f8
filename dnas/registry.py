"""From a name to the function that it stands for: registered names, entry points, modules and files.

A registry is a dict literal of places, `name: "package.module:factory"`, so that it can be listed without importing
what it names. Other distributions add names by entry points of the groups of GROUPS.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

GROUPS = {"space": "dnas.search_spaces", "method": "dnas.methods", "selection": "dnas.selections", "task": "dnas.tasks"}
"""Group of entry points of each kind."""


def names(registry: Mapping[str, str], kind: str) -> dict[str, str]:
    """Place of every name: those of `registry`, and of the entry points of `kind`, one of GROUPS."""
    points = {point.name: f"{point.module}:{point.attr}" for point in metadata.entry_points(group=GROUPS[kind])}
    return {**points, **registry}


def locate(name: str, registry: Mapping[str, str], kind: str) -> str:
    """The place `module:factory` or `file.py:factory` of `name`, which may be such a place itself.

    Raises ValueError naming the nearest right name, and all of them.
    """
    if name in registry:
        return registry[name]
    if ":" in name:
        return name
    known = names(registry, kind)
    if name in known:
        return known[name]
    if name.endswith(".py"):
        raise ValueError(f"{kind} {name!r} is a file without the name of its function; write {name}:FUNCTION")
    near = difflib.get_close_matches(name.lower(), known, 1, 0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no {kind} {name!r}; {hint}there are {', '.join(known)}, and others as "
                     "package.module:factory or file.py:factory")


def resolve(name: str, registry: Mapping[str, str], kind: str) -> Callable:
    """The factory that `name` stands for. Raises ValueError, in one line, if there is none or it cannot be imported."""
    return load(locate(name, registry, kind))


def made(name: str, registry: Mapping[str, str], kind: str, returns: type, *given, options: Mapping[str, Any], **offered):
    """What the factory `name` makes of its options, what it is given, and those parameters offered that it has.

    Raises ValueError where it returns anything but a `returns`, and what `resolve` and the factory raise.
    """
    factory = resolve(name, registry, kind)
    parameters = inspect.signature(factory).parameters
    wanted = {key: value for key, value in offered.items() if key in parameters}
    found = factory(*given, **wanted, **{key: value for key, value in options.items() if key not in offered})
    if not isinstance(found, returns):
        raise ValueError(f"{kind} {name}: it returned {type(found).__name__}; it must return a {returns.__name__}")
    return found


def describe(name: str, registry: Mapping[str, str], kind: str = "space") -> str:
    """First line of the docstring of the module that `name` lives in, read without importing it; "" if it has none."""
    path = source(locate(name, registry, kind))
    try:
        doc = path and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        doc = None
    return doc.splitlines()[0] if doc else ""


def source(place: str) -> Path | None:
    """The Python file of a place, without importing it (packages above it are); None if it is not found."""
    module, _, _ = place.rpartition(":")
    if module.endswith(".py"):
        path = Path(module).expanduser()
        return path if path.is_file() else None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def absolute(place: str) -> str:
    """`place`, the path of a file.py:factory in it absolute, so that it is the same from any folder."""
    path, colon, attribute = place.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(path))}:{attribute}" if colon and path.endswith(".py") else place


def load(place: str) -> Callable:
    """The callable at `package.module:factory` or `file.py:factory`. Raises ValueError, in one line, if it cannot."""
    where, _, attribute = place.rpartition(":")
    module = _file_module(place, where) if where.endswith(".py") else _module(place, where)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        callables = [key for key, value in vars(module).items() if callable(value)]
        near = difflib.get_close_matches(attribute, callables, 1)
        hint = f"did you mean {near[0]!r}?" if near else "it names a function"
        raise ValueError(f"{place}: {where} has no callable {attribute!r}; {hint}")
    return factory


def variant(factory: Callable, **defaults) -> Callable:
    """`factory` with other defaults for some of its keyword-only options: how a method says what it changes in another.

    Raises TypeError for an option that the factory does not have.
    """
    signature = inspect.signature(factory)
    unknown = defaults.keys() - {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    if unknown:
        raise TypeError(f"{factory.__name__} has no option {', '.join(sorted(unknown))}")

    @functools.wraps(factory)
    def varied(*args, **options):
        return factory(*args, **{**defaults, **options})

    varied.__signature__ = signature.replace(parameters=[
        p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()])
    return varied


def _module(place: str, where: str) -> ModuleType:
    try:
        if not all(part.isidentifier() for part in where.split(".")):
            raise ModuleNotFoundError(f"no file or module {where!r}", name=where)
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if not f"{where}.".startswith(f"{error.name}."):
            raise _failed(place, error) from error
        raise ValueError(f"{place}: {error}; it is package.module:factory of an installed package, or "
                         "file.py:factory") from None
    except Exception as error:
        raise _failed(place, error) from error


def _file_module(place: str, where: str) -> ModuleType:
    path = Path(where).expanduser()
    if not path.is_file():
        raise ValueError(f"{place}: no file {where!r}; it is file.py:factory or package.module:factory")
    spec = importlib.util.spec_from_file_location(f"dnas_file_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(place, error) from error
    return module


def _failed(place: str, error: Exception) -> ValueError:
    return ValueError(f"{place}: importing it failed with {type(error).__name__}: {error}")
