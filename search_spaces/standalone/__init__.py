"""A trained network as one readable Python file that imports nothing of this toolkit.

The file is composed of definitions: the network of its family as it is once nothing is searched, and of the operations
those that its genotype uses, as they stand in `search_spaces.layers.primitives`, calling plain `leaves`. The networks are
written a second time here, without what only a search needs; `dnas export` compares every file that it writes with the
network that was trained.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from dnas.runs.model_file import Input, Output
from dnas.types import Genotype, SearchSpace
from search_spaces.repeated import use_scan
from search_spaces.standalone.compose import Definition, assigned, compose, grouped

FAMILIES = {"darts": "darts", "nasbench201": "nasbench201", "s1": "darts", "s2": "darts", "s3": "darts", "s4": "darts",
            "width": "width"}
"""Module of the network of each space."""


def source(name: str, space: SearchSpace, genotype: Genotype, takes: Input, gives: Output) -> str:
    """The text of the file, whose `Network` has the variables of `space.network(genotype)`.

    name: of the space, as it is registered. Raises ValueError, in one line, where the network has no such file.
    """
    edges = {group: sorted(map(tuple, chosen), key=lambda choice, group=group: space.groups[group].edges.index(choice[:2]))
             for group, chosen in genotype.choices.items()}
    used = {op for chosen in edges.values() for _, _, op in chosen}
    if "noise" in used:
        raise ValueError("it has the operation noise, which draws")
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
    network, usage = (f"search_spaces.standalone.{family}", "Network"), "search_spaces.standalone.usage"
    parts = compose([network, (usage, "load"), (usage, "predict")], list(constants), lambda each: _only(each, used),
                    {("search_spaces.standalone.nasbench201", "Network"): network})
    values = "\n".join(assigned(name, value) for name, value in constants.items())
    return "\n\n\n".join([f"{header}\n{grouped(parts.imports)}\n\n{values}", *parts.definitions]) + "\n"


def _only(definition: Definition, used: set[str]) -> Definition:
    """The definition, of OPERATIONS with those entries alone that are used."""
    node = definition.node
    if not (isinstance(node, ast.Assign) and node.targets[0].id == "OPERATIONS"):
        return definition
    entries = [(key, value) for key, value in zip(node.value.keys, node.value.values) if key.value in used]
    text = "\n".join(f'    "{key.value}": {ast.unparse(value)},' for key, value in entries)
    chosen = ast.Dict([key for key, _ in entries], [value for _, value in entries])
    return definition._replace(text=f"OPERATIONS = {{\n{text}\n}}", node=chosen)
