"""One Python file out of definitions of several modules: those that some names need, in an order in which they can run.

Definitions of this toolkit, and of the modules beside the one that a network's class is in, are copied; everything else is
imported as it was. A name that two of the copied modules define stays that of the first module, and the other gets an
underscore. What `plain` defines is taken from there, wherever in the toolkit the same name is defined.
"""

from __future__ import annotations

import ast
import builtins
import graphlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import pairwise
from pathlib import Path
from pprint import pformat
from types import ModuleType
from typing import Any, NamedTuple

import flax.linen as nn

PLAIN = "search_spaces.standalone.plain"
TOOLKIT = ("dnas", "search_spaces")
WIDTH = 120

Key = tuple[str, str]
"""A module and a name at its top."""


class Definition(NamedTuple):
    """A function, a class or an assignment at the top of a module: its first line, its source and its syntax."""

    line: int
    text: str
    node: ast.stmt


class Import(NamedTuple):
    """A statement that binds one name; the module that it imports from, and what is imported, None for the module."""

    statement: str
    origin: str
    name: str | None


class Module(NamedTuple):
    """What a module defines and imports at its top, by name. file: the name of its file."""

    file: str
    definitions: Mapping[str, Sequence[Definition]]
    imports: Mapping[str, Sequence[Import]]


class Parts(NamedTuple):
    """imports: statements; definitions: module and text of each, in order; names: what each of `Key` is called there;
    modules: those that were copied from."""

    imports: tuple[str, ...]
    definitions: tuple[tuple[str, str], ...]
    names: Mapping[Key, str]
    modules: tuple[str, ...]


def compose(starts: Sequence[Key], constants: Sequence[str], used: Set[type], instead: Mapping[str, str]) -> Parts:
    """The parts of a file that defines `starts`, whose first module is the one that others must lie beside to be copied.

    constants: names that the file assigns itself, in place of definitions of the modules in this package.
    used: classes of Flax modules; of others in the toolkit only the name is defined. instead: of definitions of `plain`,
    others that take their place.

    Raises ValueError, in one line, for what cannot be copied.
    """
    modules: dict[str, Module] = {}
    needed: dict[Key, Definition] = {}
    bound: dict[str, tuple[Any, list[str]]] = {}
    edges: dict[str, set[str]] = {}

    def module_of(name: str) -> Module:
        if name not in modules:
            modules[name] = read(name)
        return modules[name]

    def resolve(module: str, name: str) -> Key | Sequence[Import] | None:
        """Where the name that a definition in `module` reads is defined, or how it is imported; None if it is local."""
        here = module_of(module)
        if module.startswith("search_spaces.standalone") and name in constants:
            return None
        if _in_toolkit(module) and module != PLAIN and name in module_of(PLAIN).definitions:
            return PLAIN, instead.get(name, name)
        if name in here.definitions:
            return module, name
        for one in here.imports.get(name, ()):
            if not _copied(one.origin, starts[0][0]):
                return here.imports[name]
            if one.name is None or isinstance(getattr(sys.modules.get(one.origin), one.name, None), ModuleType):
                module = ".".join(filter(None, (one.origin, one.name)))
                raise ValueError(f"{here.file} imports the module {module} as a whole; import the names that it uses")
            return resolve(one.origin, one.name) or key_of(getattr(sys.modules[module], name))
        if hasattr(sys.modules[module], name) and not hasattr(builtins, name) and not name.startswith("__"):
            raise ValueError(f"{name} is not set in {here.file} by one statement at its top, which could be copied")
        return None

    def need(key: Key) -> None:
        if key in needed:
            return
        module, name = key
        several = module_of(module).definitions.get(name, ())
        if len(several) != 1:
            raise ValueError(f"{name} is not set in {module_of(module).file} by one statement at its top, which could be "
                             "copied")
        needed[key] = definition = _unused(name) if _left_out(key, used) else several[0]
        edges.setdefault(module, set())
        read_names = {node.id for node in names_in(definition.node)}
        for other in sorted(read_names):
            target = resolve(module, other)
            if isinstance(target, tuple):
                edges[module] |= {target[0]} - {module}
                need(target)
            elif target:
                _bind(bound, other, target, getattr(sys.modules[module], other, None))
        for other in sorted({node.id for node in ast.walk(definition.node) if isinstance(node, ast.Name)} - read_names):
            several = module_of(module).imports.get(other, ())  # of annotations, which nothing evaluates
            if several and other not in bound and not _copied(several[0].origin, starts[0][0]):
                _bind(bound, other, several, getattr(sys.modules[module], other, None))

    for module, name in starts:
        if _copied(module, starts[0][0]):
            need(resolve(module, name) or (module, name))
        else:
            _bind(bound, name, [_public(module, name)], getattr(sys.modules[module], name))
    try:
        order = list(graphlib.TopologicalSorter(edges).static_order())
    except graphlib.CycleError as error:
        raise ValueError(f"the modules {', '.join(error.args[1])} need each other") from None
    finals = {key: key[1] for key in starts} | _finals(needed, starts[0][0], {*constants, *bound})
    texts = {}
    for key in sorted(needed, key=lambda key: (order.index(key[0]), needed[key].line)):
        targets = {node.id: resolve(key[0], node.id) for node in names_in(needed[key].node)} | {key[1]: key}
        changes = {name: finals[target] for name, target in targets.items()
                   if isinstance(target, tuple) and finals.get(target, name) != name}
        texts.setdefault((key[0], needed[key].text), renamed(needed[key], changes))
    statements = tuple(statement for _, several in bound.values() for statement in several)
    copied = tuple(module_of(name).file for name in order if not name.startswith("search_spaces.standalone"))
    return Parts(statements, tuple((module, text) for (module, _), text in texts.items()), finals, copied)


def read(name: str) -> Module:
    """The definitions and imports of an imported or importable module."""
    path = Path(inspect.getsourcefile(importlib.import_module(name)))
    text = path.read_text(encoding="utf-8")
    definitions, imports = {}, {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for bound, one in _imports(node, name):
                imports.setdefault(bound, []).append(one)
            continue
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        else:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(
                node, ast.AnnAssign | ast.AugAssign) else []
            names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
        definition = Definition(first, "\n".join(text.splitlines()[first - 1:node.end_lineno]), node)
        for each in names:
            definitions.setdefault(each, []).append(definition)
    return Module(path.name if not _in_toolkit(name) else name, definitions, imports)


def key_of(value: Any) -> Key:
    """Where a function or a class is defined. Raises ValueError if not at the top of a module."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if getattr(sys.modules.get(module), name or "", None) is not value:
        raise ValueError(f"{name or repr(value)[:80]} is not at the top of a module")
    return module, name


def names_in(node: ast.AST) -> Iterator[ast.Name]:
    """The names that `node` reads or binds, without annotations, which nothing evaluates."""
    if isinstance(node, ast.Name):
        yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from names_in(child)


def renamed(definition: Definition, changes: Mapping[str, str]) -> str:
    """The text of a definition in which some names, its own among them, are others.

    Raises ValueError where one of them is a parameter or a field too, which has to keep its name.
    """
    if not changes:
        return definition.text
    fixed = {node.arg for node in ast.walk(definition.node) if isinstance(node, ast.arg)}
    for node in ast.walk(definition.node):
        if isinstance(node, ast.ClassDef):
            fixed |= {name.id for each in node.body for target in getattr(each, "targets", [getattr(each, "target", None)])
                      if target is not None for name in names_in(target)}
    if fixed & changes.keys():
        raise ValueError(f"two of its parts are called {min(fixed & changes.keys())!r}")
    lines = [line.encode() for line in definition.text.splitlines()]
    for node in sorted(names_in(definition.node), key=lambda node: (node.lineno, -node.col_offset)):
        if node.id in changes:
            row = node.lineno - definition.line
            lines[row] = lines[row][:node.col_offset] + changes[node.id].encode() + lines[row][node.end_col_offset:]
    text = b"\n".join(lines).decode()
    name = getattr(definition.node, "name", None)
    return re.sub(rf"^((?:def|class)\s+){name}\b", rf"\g<1>{changes.get(name, name)}", text, count=1, flags=re.MULTILINE)


def assigned(name: str, value: Any) -> str:
    """`name = value` over as many lines as it takes."""
    lines = pformat(value, width=WIDTH - len(name) - 3, compact=True, sort_dicts=False).splitlines()
    return f"{name} = " + f"\n{' ' * (len(name) + 3)}".join(lines)


def spaced(definitions: Sequence[str]) -> str:
    """The definitions one after another, assignments in one block."""
    text = definitions[0]
    for before, after in pairwise(definitions):
        assignments = not any(each.startswith(("def ", "class ", "@")) for each in (before, after))
        text += ("\n" if assignments else "\n\n\n") + after
    return text + "\n"


def grouped(imports: Sequence[str]) -> str:
    """The statements in two groups, of the standard library and of others, each in order and one for each module."""
    names = defaultdict(set)
    for statement in imports:
        start, _, name = statement.partition(" import ") if statement.startswith("from ") else (statement, "", "")
        names[start].add(name)
    order = sorted(names, key=lambda start: (start.startswith("from"), start))
    standard = [start for start in order if start.split()[1].split(".")[0] in sys.stdlib_module_names]
    line = lambda start: f"{start} import {', '.join(sorted(names[start]))}" if start.startswith("from") else start
    return "\n".join([*map(line, standard), "", *(line(start) for start in order if start not in standard)])


def _left_out(key: Key, used: Set[type]) -> bool:
    """Whether it is a Flax module of the toolkit that is not among those used."""
    value = getattr(sys.modules[key[0]], key[1]) if _in_toolkit(key[0]) and key[0] != PLAIN else None
    return isinstance(value, type) and issubclass(value, nn.Module) and value not in used


def _unused(name: str) -> Definition:
    text = f"{name} = nn.Module  # not in this network"
    return Definition(1, text, ast.parse(text).body[0])


def _imports(node: ast.Import | ast.ImportFrom, module: str) -> Iterator[tuple[str, Import]]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            statement = f"import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
            yield alias.asname or alias.name.split(".")[0], Import(statement, alias.name, None)
        return
    package = module if Path(getattr(sys.modules.get(module), "__file__", "")).name == "__init__.py" \
        else module.rpartition(".")[0]
    origin = importlib.util.resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
    for alias in node.names:
        if origin != "__future__":
            statement = f"from {origin} import {alias.name}" + (f" as {alias.asname}" if alias.asname else "")
            yield alias.asname or alias.name, Import(statement, origin, alias.name)


def _in_toolkit(module: str) -> bool:
    return module.split(".")[0] in TOOLKIT


def _copied(module: str, beside: str) -> bool:
    """Whether the definitions of `module` are copied: of this toolkit, and of the package or folder of `beside`."""
    if _in_toolkit(module) or ("." in beside and module.split(".")[0] == beside.split(".")[0]):
        return True
    files = [getattr(sys.modules.get(name), "__file__", None) for name in (module, beside)]
    return None not in files and Path(files[0]).parent == Path(files[1]).parent


def _bind(bound: dict[str, tuple[Any, list[str]]], name: str, imports: Sequence[Import], value: Any) -> None:
    before, statements = bound.setdefault(name, (value, []))
    if before is not value:
        raise ValueError(f"two of its parts import different things as {name!r}")
    statements += [one.statement for one in imports if one.statement not in statements]


def _public(module: str, name: str) -> Import:
    """The import of what is `name` in `module`, from the module of its documentation where that is among the usual ones."""
    value = getattr(sys.modules[module], name)
    places = [place for place in ("flax.linen", "jax.nn", "jax.numpy", module.split(".")[0], module)
              if getattr(sys.modules.get(place), name, None) is value]
    return Import(f"from {places[0]} import {name}", places[0], name)


def _finals(needed: Mapping[Key, Definition], first: str, reserved: set[str]) -> dict[Key, str]:
    """What each definition is called in the file."""
    finals, seen = {}, set(reserved)
    for key in sorted(needed, key=lambda key: key[0] != first):
        name = key[1]
        while name in seen:
            name += "_"
        finals[key] = name
        seen.add(name)
    return finals
