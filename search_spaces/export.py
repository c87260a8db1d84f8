"""A trained network in forms that others read. Each is written into a folder and read back from there."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from dnas.runs import model_file
from dnas.runs.files import write_atomic
from search_spaces import standalone
from search_spaces.trained import Trained, function, load

NAME = "network"
PLATFORMS = ("cpu", "cuda", "tpu")


def stablehlo(trained: Trained, folder: Path, space: str | None, task: str | None = None) -> Callable:
    """One program, weights included, from inputs as the data set held them to outputs; for any number of inputs where the
    network can be traced for that, else for one. Beside it network.json says what goes in, and what comes out and means."""
    run, takes = function(trained.network, trained.described.input), trained.described.input
    gives = trained.described.output
    outputs = jax.jit(lambda inputs: run(trained.weights, trained.stats, inputs))

    def program(batch):
        return export.export(outputs, platforms=PLATFORMS)(jax.ShapeDtypeStruct((batch, *takes.shape), takes.dtype))

    try:
        found, batch = program(*export.symbolic_shape("batch")), "any"
    except Exception:  # whatever a network does with its shapes, it may do with a number
        found, batch = program(1), 1
    inputs = {"kind": takes.kind, "shape": [batch, *takes.shape], "type": takes.dtype}
    inputs |= {"fit": takes.fit} if takes.kind == "images" else {}
    inputs |= {"columns": takes.columns._asdict()} if takes.columns else {}
    inputs |= {"characters": takes.characters} if takes.characters else {}
    about = {"inputs": inputs, "outputs": {"shape": [batch, *found.out_avals[0].shape[1:]], **gives._asdict()},
             "platforms": PLATFORMS, "genotype": json.loads(trained.described.genotype.to_json())}
    write_atomic(folder / f"{NAME}.stablehlo", bytes(found.serialize()))
    write_atomic(folder / f"{NAME}.json", json.dumps(about, indent=1) + "\n")
    again = export.deserialize(bytearray((folder / f"{NAME}.stablehlo").read_bytes()))
    if batch == "any":
        return again.call
    return lambda inputs: jnp.concatenate([again.call(each[None]) for each in inputs])


def safetensors(trained: Trained, folder: Path, space: str | None, task: str | None = None) -> Callable:
    """The arrays by the names of their Flax variables; genotype, space, input, output and config in the metadata."""
    file = folder / f"{NAME}.safetensors"
    model_file.save(file, trained.described, trained.weights, trained.stats)
    return load(file, space=space, task=task).logits


def flax(trained: Trained, folder: Path, space: str | None, task: str | None = None) -> Callable:
    """A Python file that defines the network with Flax alone, and the same weights beside it."""
    text = flax_source(trained)
    safetensors(trained, folder, space, task)
    write_atomic(folder / f"{NAME}.py", text)
    spec = importlib.util.spec_from_file_location(f"dnas_exported_{NAME}", folder / f"{NAME}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    variables = module.load()
    return lambda images: module.logits(variables, images)


def flax_source(trained: Trained) -> str:
    """The text of that file. Raises ValueError, in one line, where there is none for the network."""
    described = trained.described
    if described.config.get("inherit"):
        raise ValueError("there is no Flax file for a network that goes on from the supernet's weights, which has the "
                         "supernet's operations; stablehlo is for every network")
    return standalone.source(described.space["name"], trained.space, described.genotype, described.input,
                             described.output)


FORMATS = {"stablehlo": stablehlo, "safetensors": safetensors, "flax": flax}
"""(trained, folder, space, task) -> outputs of what was written, as read back; space, task: as for `load`. Raises ValueError
where there is no such form of the network."""
