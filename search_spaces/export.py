"""A trained network as a Python file that defines it with Flax alone, and its weights: the form flax of `dnas.export`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from dnas.api.load import TrainedNetwork
from dnas.formats import NAME
from dnas.formats.safetensors import safetensors
from dnas.runs.directory import write_atomic
from search_spaces import standalone


def flax(trained: TrainedNetwork, folder: Path) -> Callable:
    """A Python file that defines the network with Flax alone, and the same weights beside it."""
    text = flax_source(trained)
    safetensors(trained, folder)
    write_atomic(folder / f"{NAME}.py", text)
    spec = importlib.util.spec_from_file_location(f"dnas_exported_{NAME}", folder / f"{NAME}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    variables = module.load()
    return lambda images: module.logits(variables, images)


def flax_source(trained: TrainedNetwork) -> str:
    """The text of that file. Raises ValueError, in one line, where there is none for the network."""
    described = trained.described
    if described.config.get("inherit"):
        raise ValueError("there is no Flax file for a network that goes on from the supernet's weights, which has the "
                         "supernet's operations; stablehlo is for every network")
    return standalone.source(described.space["name"], trained.space, described.genotype, described.input,
                             described.output)
