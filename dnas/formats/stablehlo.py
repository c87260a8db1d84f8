"""One program with its weights, which JAX runs without this toolkit, and a JSON that describes inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import export

from dnas.engine.inference import function
from dnas.formats import NAME
from dnas.runs.files import write_atomic

if TYPE_CHECKING:
    from dnas.api.load import TrainedNetwork

PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(network: TrainedNetwork, folder: Path) -> Callable:
    """One program, weights included, from inputs as stored in the data set to outputs; for any number of inputs if the
    network can be traced so, else for one. Beside it a .json describes the inputs and outputs."""
    run, takes = function(network.network, network.described.input), network.described.input
    gives = network.described.output
    outputs = jax.jit(lambda inputs: run(network.weights, network.stats, inputs))

    def program(batch):
        return export.export(outputs, platforms=PLATFORMS)(jax.ShapeDtypeStruct((batch, *takes.shape), takes.dtype))

    try:
        exported, batch = program(*export.symbolic_shape("batch")), "any"
    except Exception:  # a network may do anything with its shapes, and may work with a number
        exported, batch = program(1), 1
    inputs = {"kind": takes.kind, "shape": [batch, *takes.shape], "type": takes.dtype}
    inputs |= {"fit": takes.fit} if takes.kind == "images" else {}
    inputs |= {"columns": takes.columns._asdict()} if takes.columns else {}
    inputs |= {"characters": takes.characters} if takes.characters else {}
    about = {"inputs": inputs, "outputs": {"shape": [batch, *exported.out_avals[0].shape[1:]], **gives._asdict()},
             "platforms": PLATFORMS, "genotype": json.loads(network.genotype.to_json())}
    file = folder / f"{NAME}.stablehlo"
    write_atomic(file, bytes(exported.serialize()))
    write_atomic(folder / f"{NAME}.json", json.dumps(about, indent=1) + "\n")
    again = export.deserialize(bytearray(file.read_bytes()))
    if batch == "any":
        return again.call
    return lambda inputs: jnp.concatenate([again.call(each[None]) for each in inputs])
