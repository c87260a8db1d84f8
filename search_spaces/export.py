"""A trained network as a Python file that defines it with Flax alone, and its weights: the form flax of `dnas.export`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from dnas.api.load import TrainedNetwork
from dnas.formats import NAME
from dnas.formats.safetensors import safetensors
from dnas.runs.directory import write_atomic
from search_spaces import standalone
from search_spaces.standalone.copied import copied_source


def flax(trained: TrainedNetwork, folder: Path) -> Callable:
    """A Python file that defines the network without this toolkit, and the same weights beside it."""
    text = flax_source(trained)
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
    """The text of that file. Raises ValueError, in one line, where there is none for the network."""
    described, name = trained.described, trained.described.space["name"]
    try:
        if name in standalone.FAMILIES and described.output.task == "classification" and not described.config.get("inherit"):
            return standalone.source(name, trained.space, described.genotype, described.input, described.output)
        return copied_source(name, trained.network, described.input, described.output)
    except ValueError as error:
        raise ValueError(f"there is no Flax file for this network of the space {name[:80]!r}: {error}; stablehlo is for "
                         "every network") from None

