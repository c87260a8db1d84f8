"""A trained network of any space of `flax_space` as one Python file: its own Flax modules, copied.

Of a user's own space these are the classes of the user's file; of a network that goes on from a supernet's weights, those of
the supernet. With them come the definitions of this toolkit that they use, and `MixedOp` as it is once every operation is
chosen. The gates of the network, an index for each edge, stand in the file.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from dnas.runs.model_file import Input, Output
from dnas.types import Network
from search_spaces.standalone.compose import Parts, assigned, compose, grouped, key_of

USAGE = "search_spaces.standalone.copied_usage"


def copied_source(name: str, network: Network, takes: Input, gives: Output) -> str:
    """The text of the file, whose MODULE has the variables of `network`.

    name: of the space. Raises ValueError, in one line, where the network's modules cannot be copied.
    """
    if network.source is None:
        raise ValueError("its space is not one of flax_space")
    module, options, gates = network.source()
    if options.dtype != "float32":
        raise ValueError(f"it computes in {options.dtype}")
    constants = {"CLASSES": list(gives.classes), "GATES": {group: tuple(map(int, row)) for group, row in gates.items()},
                 "PARTIAL_CHANNELS": options.partial_channels, "SCAN": options.scan,
                 "SCALE": 255 if takes.dtype == "uint8" else 1, "MEAN": list(takes.mean), "STD": list(takes.std)}
    starts = [key_of(type(module))]

    def collect(value):
        starts.append(key_of(value))
        return ""

    expression(module, collect)
    usage = ["logits", *(["predict"] if gives.task == "classification" else [])]
    parts = compose([*starts, ("search_spaces.standalone.usage", "load"), *((USAGE, each) for each in usage)],
                    [*constants, "MODULE"])
    used = set(re.findall(r"\w+", "\n".join(parts.definitions))) | ({"CLASSES"} if gives.classes else set())
    values = "\n".join(assigned(each, value) for each, value in constants.items() if each in used)
    module_line = f"MODULE = {expression(module, lambda value: parts.names[key_of(value)])}"
    return "\n\n\n".join([f"{_header(name, takes, gives, parts)}\n{grouped(parts.imports)}\n\n{values}", *parts.definitions,
                          module_line]) + "\n"


def expression(value: Any, name_of: Callable[[Any], str]) -> str:
    """Python that makes `value`: a module, a record, a function or class at the top of a module, or plain data.

    name_of: what a function or class is called there. Raises ValueError for anything else.
    """
    of = functools.partial(expression, name_of=name_of)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{of(key)}: {of(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(of, value))}]"
    if type(value) is tuple:
        return f"({', '.join(map(of, value))}{',' * (len(value) == 1)})"
    if isinstance(value, functools.partial):
        arguments = [of(value.func), *map(of, value.args), *(f"{key}={of(each)}" for key, each in value.keywords.items())]
        return f"{name_of(functools.partial)}({', '.join(arguments)})"
    if isinstance(value, type) or callable(value) and not isinstance(value, nn.Module):
        return name_of(value)
    if isinstance(value, tuple):
        fields = value._fields
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
    else:
        raise ValueError(f"a {type(value).__name__} in its module cannot be written down")
    if isinstance(value, nn.Module):
        fields = [field for field in fields if field != "parent" and (field != "name" or value.name)]
    return f"{name_of(type(value))}({', '.join(f'{field}={of(getattr(value, field))}' for field in fields)})"


def _header(name: str, takes: Input, gives: Output, parts: Parts) -> str:
    shape = ", ".join(map(str, takes.shape))
    packages = {statement.split()[1].split(".")[0] for statement in parts.imports} - set(sys.stdlib_module_names)
    what = f"{len(gives.classes)} classes" if gives.classes else f"{gives.size} outputs ({gives.task})"
    return f'''"""A network of the space {name} for {takes.kind} [{shape}] ({takes.dtype}) and {what}.

    import numpy as np, network
    variables = network.load()          # network.safetensors, beside this file
    network.logits(variables, np.zeros((1, {shape}), "{takes.dtype}"))

MODULE is the Flax module. To train it further call MODULE.apply(variables, inputs, GATES, True, mutable=["batch_stats"])
with inputs scaled as in `logits`. It needs {", ".join(sorted(packages))}. Its definitions were copied from
{", ".join(parts.modules)}.
"""

from __future__ import annotations
'''
