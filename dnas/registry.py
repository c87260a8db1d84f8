"""Finds the function that a name stands for: among registered names, entry points, modules and files.

A registry is a dict literal of places, `name: "package.module:factory"`, so that it can be listed without importing
them.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Collection, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

REGISTRIES = {
    "space": "search_spaces:SPACES",
    "method": "dnas.methods:METHODS",
    "selection": "dnas.selection:SELECTIONS",
    "task": "dnas.task:TASKS",
    "genotype": "search_spaces.genotypes:GENOTYPES",
    "export": "dnas.formats:FORMATS",
}
"""The registry of each kind. Only this module of `dnas` refers to `search_spaces`, which it imports to resolve a name."""
GROUPS = {**{kind: f"dnas.{kind}s" for kind in REGISTRIES}, "space": "dnas.search_spaces"}
"""Groups of entry points by which other distributions add names of each kind."""


_file_modules: dict[tuple, ModuleType] = {}
"""Modules of files that were imported, so that a file that has not changed stays one module."""


def registered(kind: str) -> Mapping[str, Any]:
    """The names of `kind`, one of REGISTRIES, that this toolkit has, each with its place."""
    module, _, attribute = REGISTRIES[kind].partition(":")
    return getattr(importlib.import_module(module), attribute)


def names(kind: str) -> dict[str, str]:
    """Place of every name of `kind`: those of this toolkit, and entry points of other distributions."""
    points = {point.name: f"{point.module}:{point.attr}" for point in metadata.entry_points(group=GROUPS[kind])}
    return {**points, **registered(kind)}


def locate(name: str, kind: str) -> str:
    """The place `module:factory` or `file.py:factory` of `name`, or `name` if it is a place.

    Methods can be joined, as in "drnas+beta-darts": the first, extended by each that follows. So are their places.

    Raises ValueError with the most similar name, and all names.
    """
    if not isinstance(name, str):
        raise ValueError(f"{kind} {name!r} must be a name, a place such as file.py:factory, or a {kind} itself")
    if name in registered(kind):
        return registered(kind)[name]
    if kind == "method" and len(names_of(name)) > 1:
        return JOIN.join(locate(part, kind) for part in names_of(name))
    if ":" in name:
        return name
    listed = names(kind)
    if name in listed:
        return listed[name]
    if name.endswith(".py"):
        raise ValueError(f"{kind} {name!r} is a file without the name of its function; write {name}:FUNCTION")
    begun = [each for each in listed if name and each.startswith(name.lower())]
    near = begun or difflib.get_close_matches(name.lower(), listed, 1, 0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no {kind} {name[:80]!r}; {hint}there are {', '.join(listed)}, and others as "
                     "package.module:factory or file.py:factory")


JOIN = "+"
"""Between the names of methods of which each extends the one before."""


def names_of(name: str) -> list[str]:
    """The names that are joined in `name`, which may also be one place of a file with a JOIN in its own name."""
    parts = name.split(JOIN)
    listed = ":" not in name and all(parts) or all(":" in part or part in registered("method") for part in parts)
    return parts if listed else [name]


def is_place(name: str, kind: str) -> bool:
    """Whether `name` is a place to import from rather than a registered name."""
    return ":" in name and (kind not in REGISTRIES or name not in registered(kind))


def refuse_untrusted(name: str, kind: str, where: str, trust: bool | Collection[str]) -> None:
    """Raises ValueError if `name`, read from the file `where`, is a place to import that the user has not named.

    A file must not decide what is imported. trust: True for any place, or the places that the user named in this command or
    call.
    """
    if trust is True or not is_place(name, kind) or trust and name in trust:
        return
    raise ValueError(f"{where} names the {kind} {name[:120]!r}, and nothing is imported because a file says so: if you "
                     f"trust that place, say --trust (in Python trust=True) or name it yourself where there is --{kind} "
                     f"({kind}=)")


def resolve(name: str, kind: str) -> Callable:
    """The factory that `name` stands for. Raises ValueError if there is none or it cannot be imported."""
    return load(locate(name, kind))


def build(name: str, kind: str, returns: type, *args, options: Mapping[str, Any], **offered):
    """The result of the factory `name` for its options, `args`, and those of the `offered` parameters that it has.

    Raises ValueError if it is not a `returns`, and the errors of `resolve` and the factory.
    """
    factory = resolve(name, kind)
    parameters = inspect.signature(factory).parameters
    wanted = {key: value for key, value in offered.items() if key in parameters}
    part = factory(*args, **wanted, **{key: value for key, value in options.items() if key not in offered})
    if not isinstance(part, returns):
        raise ValueError(f"{kind} {name}: it returned {type(part).__name__}; it must return a {returns.__name__}")
    return part


def describe(name: str, kind: str) -> str:
    """First line of the docstring of the module of `name`, or, in a module with several registered names of `kind`, of its
    function; read without importing it, and "" if there is none."""
    place = locate(name, kind)
    module, _, attribute = place.rpartition(":")
    path, several = source(place), sum(other.rpartition(":")[0] == module for other in registered(kind).values()) > 1
    try:
        tree = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([])
        functions = [node for node in tree.body if several and isinstance(node, ast.FunctionDef) and node.name == attribute]
        doc = ast.get_docstring(*functions or [tree])
    except (OSError, SyntaxError, ValueError):
        doc = None
    return doc.splitlines()[0] if doc else ""


def source(place: str) -> Path | None:
    """The Python file of a place, without importing it or a package above it; None if there is none."""
    module, _, _ = place.rpartition(":")
    if module.endswith(".py"):
        path = Path(module).expanduser()
        return path if path.is_file() else None
    top, *inside = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
        for name in inside:
            module = f"{spec.name}.{name}"
            spec = importlib.machinery.PathFinder.find_spec(module, spec.submodule_search_locations or [])
    except (AttributeError, ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def absolute(place: str) -> str:
    """`place` with an absolute path if it is a file.py:factory, so that it is valid from any folder."""
    if len(names_of(place)) > 1:
        return JOIN.join(map(absolute, names_of(place)))
    path, colon, attribute = place.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(path))}:{attribute}" if colon and path.endswith(".py") else place


def load(place: str) -> Callable:
    """The callable at `package.module:factory` or `file.py:factory`; of joined places the first, extended by the others.

    Raises ValueError if it cannot be imported, or does not extend a method where it should.
    """
    first, *others = names_of(place)
    if others:
        return functools.reduce(_joined, map(load, others), load(first))
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
    """`factory` with other defaults for some of its keyword-only options: how a method changes another.

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


def extends(factory: Callable, **defaults) -> Callable:
    """Decorates `change(method, *, options) -> method` and makes it a factory: `factory`, changed so.

    Its options are its own, and those of `factory` with other defaults for some: all that can be said of DARTS can be said
    of a method that extends it. The undecorated function is its attribute `change`.

    Raises TypeError for a default of an option that `factory` does not have, and an option that both have.
    """
    inherited = variant(factory, **defaults)

    def decorate(change):
        theirs, own = (inspect.signature(function).parameters for function in (inherited, change))
        own = {name: parameter for name, parameter in own.items() if parameter.kind is parameter.KEYWORD_ONLY}
        both = own.keys() & theirs.keys()
        if both:
            raise TypeError(f"{change.__name__} and {factory.__name__} both have the option {min(both)}")

        @functools.wraps(change)
        def extended(*args, **options):
            mine = {name: options.pop(name) for name in own if name in options}
            return change(inherited(*args, **options), **mine)

        extended.__signature__ = inspect.Signature([*own.values(), *theirs.values()])
        extended.change, extended.inherited = change, inherited
        return extended

    return decorate


def _joined(factory: Callable, other: Callable) -> Callable:
    if not hasattr(other, "change"):
        raise ValueError(f"{other.__name__} cannot follow a {JOIN!r}: it is a method of its own, not one that extends "
                         "another (@extends); put it first")
    names = tuple(function.__name__.replace("_", "-") for function in (factory, other))

    @functools.wraps(other.change)
    def change(method, **options):
        return method.join(other.change, options, names)

    try:
        both = extends(factory)(change)
    except TypeError as error:
        raise ValueError(f"{JOIN.join(names)} cannot be joined: {error}".replace("_", "-")) from None
    both.__name__ = JOIN.join(names)
    return both


def _module(place: str, where: str) -> ModuleType:
    try:
        if not all(part.isidentifier() for part in where.split(".")):
            raise ModuleNotFoundError(f"no file or module {where!r}", name=where)
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if not f"{where}.".startswith(f"{error.name}."):
            raise _failed(place, error) from error
        raise ValueError(f"{place}: {error}; it must be package.module:factory of an installed package, or "
                         "file.py:factory") from None
    except Exception as error:
        raise _failed(place, error) from error


def _file_module(place: str, where: str) -> ModuleType:
    path = Path(where).expanduser()
    if not path.is_file():
        raise ValueError(f"{place}: no file {where!r}; it must be file.py:factory or package.module:factory")
    status, text = path.stat(), path.read_bytes()
    version = os.path.realpath(path), status.st_mtime_ns, text
    if version in _file_modules:
        return _file_modules[version]
    spec = importlib.util.spec_from_file_location(f"dnas_file_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(place, error) from error
    _file_modules[version] = module
    return module


def _failed(place: str, error: Exception) -> ValueError:
    return ValueError(f"{place}: importing it failed with {type(error).__name__}: {error}")
