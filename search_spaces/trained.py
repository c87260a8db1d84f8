"""A trained network from its run directory, ready for use: `dnas.load`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dnas import registry
from dnas.data import evaluation_indices, normalise
from dnas.runs import checkpoint, model_file
from dnas.runs.model_file import Input, Portable
from dnas.task import Task
from dnas.types import Array, Network, SearchSpace, Stats, Weights
from search_spaces import SPACES
from search_spaces.layers.mixed import MixedOptions, mixed_options


class FlaxNetwork(nn.Module):
    """A network of any space as a Linen module, called with normalised images `[B, H, W, C]`, features or tokens; returns
    outputs `[B, ..., size]`.

    `module.apply(variables, images)` uses the running averages; with `train=True, mutable=["batch_stats"]` those of the
    batch, to train it further. `init` gives new weights.
    """

    network: Network

    @nn.compact
    def __call__(self, images, train: bool = False):
        if self.is_initializing():
            made = self.network.init(self.make_rng("params"), images)
            for kind, tree in zip(("params", "batch_stats"), made):
                for name, value in tree.items():
                    self.put_variable(kind, name, value)
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        weights, stats = (self.variables.get(kind, {}) for kind in ("params", "batch_stats"))
        logits, updated = self.network.apply(weights, stats, images, train=train, key=key)
        if train and self.is_mutable_collection("batch_stats") and not self.is_initializing():
            for name, value in updated.items():
                self.put_variable("batch_stats", name, value)
        return logits


class Trained(NamedTuple):
    """A trained network.

    described: its genotype, how its space was built, what it takes, what it says and how its classes are called.
    task: what it predicts. weights, stats: nested dicts of arrays. network: their pure functions; module: the same as a
        Linen module.
    logits: inputs `[B, ...]` as the data set held them, so neither divided nor standardised -> outputs `[B, ..., size]`.
    predict: the same inputs -> of classification the probabilities `[B, classes]` float32; of other tasks what the task
        predicts: values `[B, D]` in their own units, 0 or 1 for each label, or the class of each pixel or next token.
    Both are compiled once for each B, and raise ValueError for inputs of another shape or type.
    """

    described: Portable
    space: SearchSpace
    task: Task
    weights: Weights
    stats: Stats
    network: Network
    module: nn.Module
    logits: Callable[[Any], Array]
    predict: Callable[[Any], Array]

    def __repr__(self) -> str:
        takes, gives = self.described.input, self.described.output
        weights = sum(leaf.size for leaf in jax.tree.leaves(self.weights))
        what = f"{gives.size} classes" if self.task.confusion else f"{self.task.name}, {gives.size} outputs"
        return (f"<a trained network of the space {self.space.name}: {'x'.join(map(str, takes.shape))} {takes.dtype} "
                f"{takes.kind}, {what}, {weights:,} parameters>")

    @property
    def variables(self) -> dict[str, Any]:
        """Of the module: {"params": ..., "batch_stats": ...}."""
        return {"params": self.weights, "batch_stats": self.stats}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, () where targets are not classes."""
        return self.described.output.classes


def load(path: str | Path, *, space: str | None = None, task: str | None = None) -> Trained:
    """The network that `dnas train` trained.

    path: its run directory, or the one file of it that this reads, weights.safetensors, which may be anywhere.
    space: its factory, package.module:factory or file.py:factory, where it is none of those installed: a file is
        never asked what to import. task: likewise, the place of a task of your own.

    Raises ValueError, in one line, for whatever is missing, damaged or does not fit together.
    """
    path = Path(path).expanduser()
    file = _file(path) if path.is_dir() else path
    if file.exists() and file.suffix != ".safetensors":
        raise ValueError(f"{file} is no .safetensors file; name the run directory of a training, or its {model_file.FILE}")
    content = checkpoint.read(file)
    found = model_file.describe(content)
    made = _space(file, found, space)
    try:
        how = model_file.task_of(found.output, task)
    except ValueError as error:
        raise ValueError(f"{file}: {_said(error)}") from None
    dtype = "int32" if found.input.kind == "tokens" else "float32"
    try:
        network = made.network(found.genotype)
        shapes = jax.eval_shape(lambda key: network.init(key, jax.ShapeDtypeStruct((1, *found.input.shape), dtype)),
                                jax.random.key(0))
    except Exception as error:
        raise ValueError(f"{file}: space {made.name} has no such network: {_said(error)}") from error
    weights, stats = jax.device_put(model_file.restore(content, *shapes))
    run = jax.jit(function(network, found.input))
    logits = lambda inputs: run(weights, stats, checked(inputs, found.input))
    says = jax.jit(predictions(how))
    return Trained(found, made, how, weights, stats, network, FlaxNetwork(network), logits,
                   lambda inputs: says(logits(inputs)))


def function(network: Network, takes: Input) -> Callable:
    """(weights, stats, inputs as the data set held them) -> outputs, a pure function."""
    mean, std = (np.asarray(values, np.float32) for values in (takes.mean, takes.std))
    return lambda weights, stats, inputs: network.apply(weights, stats, normalise(inputs, mean, std), train=False,
                                                        key=None)[0]


def predictions(task: Task) -> Callable:
    """outputs -> what `Trained.predict` gives: probabilities of classification, else what the task predicts."""
    return jax.nn.softmax if task.confusion else task.predict


def in_batches(of_inputs: Callable, inputs: np.ndarray, batch: int = 256) -> np.ndarray:
    """`of_inputs` of all inputs, in batches of one size of `batch` at most."""
    rows, _ = evaluation_indices(np.arange(len(inputs)), batch)
    return np.concatenate([np.asarray(of_inputs(inputs[row])) for row in rows])[:len(inputs)]


def scores(task: Task, of_inputs: Callable, inputs: np.ndarray, targets: np.ndarray, batch: int = 256) -> dict[str, float]:
    """The mean over examples of each of the task's metrics. of_inputs: inputs `[B, ...]` -> outputs `[B, ..., size]`."""
    of = jax.jit(lambda outputs, targets: {name: metric(outputs, targets) for name, metric in task.metrics.items()})
    rows, weights = evaluation_indices(np.arange(len(inputs)), batch)
    found = [of(of_inputs(inputs[row]), targets[row]) for row in rows]
    values = {name: np.concatenate([np.asarray(each[name], np.float64) for each in found]) for name in task.metrics}
    return {name: float(np.average(of_all, weights=weights.reshape(-1))) for name, of_all in values.items()}


def checked(inputs, takes: Input) -> Array:
    """`inputs` if the network takes them. Raises ValueError, in one line, if not."""
    if not hasattr(inputs, "dtype"):
        inputs = np.asarray(inputs, "float32" if takes.kind == "features" else None)
    shape = "".join(f", {size}" for size in takes.shape)
    if inputs.ndim != 1 + len(takes.shape) or inputs.shape[1:] != takes.shape:
        raise ValueError(f"{takes.kind} have shape {inputs.shape}; this network takes [B{shape}], a single one as x[None]")
    if takes.kind == "tokens":
        if inputs.dtype.kind not in "iu":
            raise ValueError(f"tokens are {inputs.dtype}; they must be integers 0..{takes.vocabulary - 1}")
        return jnp.asarray(inputs).astype("int32")
    if (str(inputs.dtype) == "uint8") != (takes.dtype == "uint8") or inputs.dtype.kind not in "uf":
        scale = "0 to 255" if takes.dtype == "uint8" else "scaled as they were"
        what = "pixels" if takes.kind == "images" else "numbers"
        raise ValueError(f"{takes.kind} are {inputs.dtype}; this network was trained on {takes.dtype} {what}, {scale}")
    return jnp.asarray(inputs)


def _file(folder: Path) -> Path:
    """The weights of the run in `folder`. Raises ValueError that says what to do where there are none."""
    file = folder / model_file.FILE
    if file.is_file():
        return file
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no run directory: it has no {model_file.FILE} and no config.json")
    raise ValueError(f"{folder} holds no trained network: {model_file.FILE} is written at the end of a training; "
                     f"`dnas train {folder}` trains what a search found, and goes on with a training")


def _space(file: Path, found: Portable, place: str | None) -> SearchSpace:
    name = place or found.space["name"]
    if ":" in name and not place:
        raise ValueError(f"{file}: its network is of the space {name[:80]!r}; if you trust that, say where it is: --space "
                         "(in Python space=) package.module:factory or file.py:factory")
    options = {option: value for option, value in found.space.items() if option != "name"}
    shared = {option: options[option] for option in MixedOptions._fields if option in options}
    offered = {"image": found.input.shape, "classes": found.output.size}
    if found.input.vocabulary is not None and "vocabulary" not in options:
        offered["vocabulary"] = found.input.vocabulary
    try:
        with mixed_options(MixedOptions(**shared)):
            made = registry.made(name, SPACES, "space", SearchSpace, options=options, **offered, **shared)
        if not found.config.get("inherit"):
            return made
        if made.inherited is None:
            raise ValueError(f"space {made.name} does not say how its networks run on a supernet's weights")
        return made.inherited
    except ValueError as error:
        raise ValueError(f"{file}: {_said(error)}") from None
    except Exception as error:
        raise ValueError(f"{file}: space {name[:80]!r} cannot be built: {_said(error)}") from error


def _said(error: Exception) -> str:
    """The error on one line of bounded length: what a file holds may be in it."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:400]
