"""A trained network as one readable Python file that imports nothing of this toolkit.

The file is put together of definitions: the network of its family as it is once nothing is searched, and of the operations
those that its genotype uses, as they stand in `search_spaces.layers.primitives`, calling plain `leaves`. The networks are
written a second time here, without what only a search needs; `dnas export` compares every file that it writes with the
network that was trained.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Mapping
from pprint import pformat
from typing import Any, NamedTuple

from dnas import registry
from dnas.runs.model_file import Input, Output
from dnas.types import Genotype, SearchSpace
from search_spaces.repeated import use_scan

FAMILIES = {"darts": "darts", "nasbench201": "nasbench201", "s1": "darts", "s2": "darts", "s3": "darts", "s4": "darts",
            "width": "width"}
"""Module of the network of each space."""
ORDER = ("search_spaces.standalone.leaves", "search_spaces.layers.mixed", "search_spaces.layers.primitives",
         "search_spaces.nasbench201")
"""Modules whose definitions come first in the file, the first of them in place of the others' of the same names."""

WIDTH = 120


class Definition(NamedTuple):
    """A function, a class or a constant at the top of a module: the module, where in it, its source and its syntax."""

    module: str
    line: int
    text: str
    node: ast.AST


class Module(NamedTuple):
    """What a module defines at its top by name, and what it imports: the statement, and the module imported from."""

    definitions: Mapping[str, Definition]
    imported: Mapping[str, tuple[str, str]]


def source(name: str, space: SearchSpace, genotype: Genotype, takes: Input, gives: Output) -> str:
    """The text of the file, whose `Network` has the variables of `space.network(genotype)`.

    name: of the space, as it is registered. Raises ValueError, in one line, where there is no such file for it.
    """
    if name not in FAMILIES:
        raise ValueError(f"there is no Flax file for the space {name[:80]!r}, but for {', '.join(FAMILIES)}; stablehlo is "
                         "for every space")
    if gives.task != "classification":
        raise ValueError(f"there is no Flax file for the task {gives.task[:80]!r}, but for classification; stablehlo is for "
                         "every task")
    edges = {group: sorted(map(tuple, chosen), key=lambda choice, group=group: space.groups[group].edges.index(choice[:2]))
             for group, chosen in genotype.choices.items()}
    used = {op for chosen in edges.values() for _, _, op in chosen}
    if "noise" in used:
        raise ValueError("there is no Flax file for a network with the operation noise, which draws; stablehlo is for "
                         "every network")
    constants = {"GENOTYPE": edges, "CLASSES": list(gives.classes), **_sizes(FAMILIES[name], space),
                 "SCALE": 255 if takes.dtype == "uint8" else 1, "MEAN": list(takes.mean), "STD": list(takes.std)}
    return _composed(FAMILIES[name], constants, used, _header(name, takes, gives))


def _sizes(family: str, space: SearchSpace) -> dict[str, Any]:
    options = space.options
    if family == "width":
        return {"STRIDES": [1 + (stage > 0 and layer == 0) for stage in range(options["stages"])
                            for layer in range(options["layers"])]}
    stacked = {"STACKED": use_scan(options["scan"], options["cells"])} if family == "nasbench201" else {}
    return {"CHANNELS": options["channels"], "CELLS": options["cells"], **stacked}


def _header(name: str, takes: Input, gives: Output) -> str:
    shape = "x".join(map(str, takes.shape))
    return f'''"""A network of the space {name} for images {shape} ({takes.dtype}) and {len(gives.classes)} classes.

    import numpy as np, network
    variables = network.load()          # network.safetensors, beside this file
    network.predict(variables, np.zeros((1, {", ".join(map(str, takes.shape))}), "{takes.dtype}"))

It needs jax, flax and safetensors. To train it further, take Network() as any Flax module:
Network().apply(variables, images, train=True, mutable=["batch_stats"]) with images normalised as in `logits`.
"""
'''


def _composed(family: str, constants: Mapping[str, Any], used: set[str], header: str) -> str:
    """The file: header, imports, constants, and the definitions that `Network`, `load` and `predict` need."""
    main, using = (f"search_spaces.standalone.{name}" for name in (family, "using"))
    found: dict[str, Definition] = {}
    imports: set[str] = set()

    def need(name: str, module: str) -> None:
        module = ORDER[0] if name in _module(ORDER[0]).definitions else main if name == "Network" else module
        definitions, imported = _module(module)
        if name in definitions and name not in constants and name not in found:
            found[name] = definition = _only(definitions[name], used)
            for other in {node.id for node in ast.walk(definition.node) if isinstance(node, ast.Name)}:
                need(other, module)
        elif name in imported:
            statement, origin = imported[name]
            if origin.startswith("search_spaces."):
                need(name, origin)
            else:
                imports.add(statement)

    need("load", using)
    need("predict", using)
    order = [*ORDER, main, using]
    definitions = sorted(found.values(), key=lambda definition: (order.index(definition.module), definition.line))
    values = "\n".join(_assigned(name, value) for name, value in constants.items())
    return "\n\n\n".join([f"{header}\n{_grouped(imports)}\n\n{values}", *(each.text for each in definitions)]) + "\n"


@functools.cache
def _module(name: str) -> Module:
    text = registry.source(f"{name}:").read_text(encoding="utf-8")
    definitions, imported = {}, {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            start = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
            for alias in node.names:
                statement = start + alias.name + (f" as {alias.asname}" if alias.asname else "")
                imported[alias.asname or alias.name] = statement, getattr(node, "module", alias.name)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            lines = text.splitlines()[first - 1:node.end_lineno]
            definitions[node.name] = Definition(name, first, "\n".join(lines), node)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            definitions[node.targets[0].id] = Definition(name, node.lineno, ast.get_source_segment(text, node), node)
    return Module(definitions, imported)


def _only(definition: Definition, used: set[str]) -> Definition:
    """The definition, of OPERATIONS with those entries alone that are used."""
    node = definition.node
    if not (isinstance(node, ast.Assign) and node.targets[0].id == "OPERATIONS"):
        return definition
    entries = [(key, value) for key, value in zip(node.value.keys, node.value.values) if key.value in used]
    text = "\n".join(f'    "{key.value}": {ast.unparse(value)},' for key, value in entries)
    kept = ast.Dict([key for key, _ in entries], [value for _, value in entries])
    return definition._replace(text=f"OPERATIONS = {{\n{text}\n}}", node=kept)


def _assigned(name: str, value: Any) -> str:
    lines = pformat(value, width=WIDTH - len(name) - 3, compact=True, sort_dicts=False).splitlines()
    return f"{name} = " + f"\n{' ' * (len(name) + 3)}".join(lines)


def _grouped(imports: set[str]) -> str:
    """The statements in two groups, of the standard library and of others, each in order."""
    module = lambda statement: statement.split()[1]
    order = sorted(imports, key=lambda statement: (statement.startswith("from"), module(statement)))
    ours = [statement for statement in order if module(statement).split(".")[0] in sys.stdlib_module_names]
    return "\n".join([*ours, "", *(statement for statement in order if statement not in ours)])
