"""A trained network as a Python file that defines it with Flax alone, and its weights: the form flax of `dnas.export`.

The file holds copies of the network's own Flax modules, of the definitions that they use, of this toolkit or beside a user's
space, and `MixedOp` as it is once every operation is chosen. Modules of the toolkit that the network never calls, such as
operations that its genotype does not have, are left out. The gates, an index for each edge, stand in the file.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from dnas.api.load import TrainedNetwork
from dnas.formats import NAME
from dnas.formats.safetensors import safetensors
from dnas.runs.files import write_atomic
from search_spaces.standalone.compose import WIDTH, assigned, compose, grouped, key_of, spaced

USAGE = "search_spaces.standalone.usage"


def flax(trained: TrainedNetwork, folder: Path) -> Callable:
    """A Python file that defines the network without this toolkit, and the same weights beside it."""
    try:
        text = flax_source(trained)
    except ValueError as error:
        raise ValueError(f"there is no Flax file for this network of the space {trained.described.space['name'][:80]!r}: "
                         f"{error}; stablehlo is for every network") from None
    safetensors(trained, folder)
    write_atomic(folder / f"{NAME}.py", text)
    spec = importlib.util.spec_from_file_location(f"dnas_exported_{NAME}", folder / f"{NAME}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        variables = module.load()
        takes = trained.described.input
        jax.eval_shape(module.logits, variables, jax.ShapeDtypeStruct((1, *takes.shape), takes.dtype))
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        raise ValueError(f"the Flax file does not run: {said}; stablehlo is for every network") from error
    return lambda images: module.logits(variables, images)


def flax_source(trained: TrainedNetwork) -> str:
    """The text of that file, whose MODULE has the network's variables. Raises ValueError where it cannot be written."""
    if trained.network.source is None:
        raise ValueError("its space is not one of flax_space")
    module, options, gates = trained.network.source()
    if options.dtype != "float32":
        raise ValueError(f"it computes in {options.dtype}")
    takes, classes = trained.described.input, trained.classes
    constants = {"CLASSES": list(classes), "GATES": {group: tuple(map(int, row)) for group, row in gates.items()},
                 "PARTIAL_CHANNELS": options.partial_channels, "SCAN": options.scan,
                 "SCALE": 255 if takes.dtype == "uint8" else 1, "MEAN": list(takes.mean), "STD": list(takes.std)}
    starts = [key_of(type(module))]

    def collect(value):
        starts.append(key_of(value))
        return ""

    expression(module, collect)
    usage = ["load", "logits", *(["predict"] if trained.task.confusion else [])]
    parts = compose([*starts, *((USAGE, each) for each in usage)], [*constants, "MODULE"], called(trained),
                    {"MixedOp": "PartialMixedOp", "bundle": "partial_bundle"} if options.partial_channels > 1 else {})
    last = [text for name, text in parts.definitions if name == USAGE]
    copied = [text for name, text in parts.definitions if name != USAGE]
    used = set(re.findall(r"\w+", "\n".join(copied + last))) | ({"CLASSES"} if classes else set())
    values = [assigned(name, value) for name, value in constants.items() if name in used]
    genotype = textwrap.indent(textwrap.fill(trained.space.format(trained.genotype), WIDTH - 2), "# ")
    module = f"MODULE = {expression(module, lambda value: parts.names[key_of(value)])}"
    packages = {statement.split()[1].split(".")[0] for statement in parts.imports} - set(sys.stdlib_module_names)
    header = _header(trained, ", ".join(sorted(packages)), ", ".join(parts.modules))
    return "\n\n".join([header, "from __future__ import annotations", grouped(parts.imports),
                        "\n".join([genotype, *values]) + "\n", spaced([*copied, module, *last])])


def called(trained: TrainedNetwork) -> set[type]:
    """The classes of the modules that the network calls, and what they inherit from."""
    classes = set()

    def note(call, args, kwargs, context):
        classes.update(type(context.module).__mro__)
        return call(*args, **kwargs)

    inputs = jax.ShapeDtypeStruct((2, *trained.described.input.shape), trained.space.input_dtype)
    with nn.intercept_methods(note):
        for train in True, False:
            jax.eval_shape(functools.partial(trained.network.apply, train=train), trained.weights, trained.stats, inputs,
                           key=jax.random.key(0))
    return classes


def expression(value: Any, name_of: Callable[[Any], str]) -> str:
    """Python that makes `value`: a module, a record, a function or class at the top of a module, or plain data.

    name_of: what a function or class is called there. Raises ValueError for anything else.
    """
    of = functools.partial(expression, name_of=name_of)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, Mapping):
        return _listed("{", [f"{of(key)}: {of(each)}" for key, each in value.items()], "}")
    if isinstance(value, list):
        return _listed("[", list(map(of, value)), "]")
    if type(value) is tuple:
        return _listed("(", list(map(of, value)), ",)" if len(value) == 1 else ")")
    if isinstance(value, functools.partial):
        arguments = [of(value.func), *map(of, value.args), *(f"{key}={of(each)}" for key, each in value.keywords.items())]
        return _listed(f"{name_of(functools.partial)}(", arguments, ")")
    if isinstance(value, type) or callable(value) and not isinstance(value, nn.Module):
        return name_of(value)
    if isinstance(value, tuple):
        fields = value._fields
    elif dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value)
                  if field.init and getattr(value, field.name) is not field.default]
    else:
        raise ValueError(f"a {type(value).__name__} in its module cannot be written down")
    if isinstance(value, nn.Module):
        fields = [field for field in fields if field != "parent" and (field != "name" or value.name)]
    return _listed(f"{name_of(type(value))}(", [f"{field}={of(getattr(value, field))}" for field in fields], ")")


def _listed(start: str, items: Sequence[str], end: str) -> str:
    """The items between `start` and `end`, on lines of their own where one line is too short for them."""
    line = start + ", ".join(items) + end
    if len(line) < WIDTH and "\n" not in line:
        return line
    lines = [""]
    for item in items:
        if "\n" in lines[-1] + item or len(lines[-1] + item) > WIDTH - 20:
            lines.append("")
        lines[-1] += f"{item}, "
    inside = textwrap.indent("\n".join(each.rstrip() for each in lines if each), "    ")
    return f"{start}\n{inside}\n{end.lstrip(',')}"


def _header(trained: TrainedNetwork, packages: str, modules: str) -> str:
    """What the file says of itself, in which nothing is a text of the network's own file."""
    takes, gives = trained.described.input, trained.described.output
    shape, modules = ", ".join(map(str, takes.shape)), textwrap.fill(f"{modules}.", WIDTH)
    what = f"{gives.size} classes" if gives.classes else f"{gives.size} outputs ({trained.task.name})"
    return f'''"""A network of the space {trained.space.name} for {takes.kind} [{shape}] ({takes.dtype}) and {what}.

    import numpy as np, network
    variables = network.load()          # network.safetensors, beside this file
    network.logits(variables, np.zeros((1, {shape}), "{takes.dtype}"))

MODULE is the Flax module. To train it further call MODULE.apply(variables, inputs, GATES, True, mutable=["batch_stats"])
with inputs scaled as in `logits`. It needs {packages}. Its definitions were copied from
{modules}
"""'''
