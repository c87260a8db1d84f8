"""The weights by name, with metadata that is enough to use them: the format of `dnas.load`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from dnas.engine.inference import checked, function
from dnas.formats import NAME
from dnas.runs import checkpoint, model_file

if TYPE_CHECKING:
    from dnas.api.load import TrainedNetwork


def safetensors(network: TrainedNetwork, folder: Path) -> Callable:
    """The arrays by the names of their Flax variables; genotype, space, input, output and config in the metadata."""
    file = folder / f"{NAME}.safetensors"
    model_file.save(file, network.described, network.weights, network.stats)
    content = checkpoint.read(file)
    described, arrays = model_file.describe(content), model_file.restore(content, network.weights, network.stats)
    outputs = jax.jit(function(network.space.network(described.genotype), described.input))
    return lambda inputs: outputs(*arrays, checked(inputs, described.input))
