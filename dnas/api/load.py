"""`dnas.load`: a trained network, ready for use."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax

from dnas import config as configs
from dnas import registry
from dnas.api.open import Run
from dnas.api.open import open as open_run
from dnas.engine import cache as caches
from dnas.engine.inference import checked, function, predictions
from dnas.runs import checkpoint, model_file
from dnas.runs.model_file import ModelDescription
from dnas.runs.trust import begun_here
from dnas.task import Task
from dnas.types import Array, Genotype, Network, SearchSpace, Stats, Weights


@dataclass(frozen=True, eq=False)
class TrainedNetwork:
    """A trained network.

    described: its genotype, how its space was built, what it takes, what it says and how its classes are called.
    task: what it predicts. weights, stats: nested dicts of arrays. network: their pure functions.
    logits: inputs `[B, ...]` as the data set held them, so neither divided nor standardised -> outputs `[B, ..., size]`.
    predict: the same inputs -> of classification the probabilities `[B, classes]` float32; of other tasks what the task
        predicts: values `[B, D]` in their own units, 0 or 1 for each label, or the class of each pixel or next token.
    Both are compiled once for each B, and raise ValueError for inputs of another shape or type.
    run: the training, where it is at hand: its config, records and results; None of a file that lies alone.
    """

    described: ModelDescription
    space: SearchSpace
    task: Task
    weights: Weights
    stats: Stats
    network: Network
    logits: Callable[[Any], Array]
    predict: Callable[[Any], Array]
    run: Run | None = None

    def __repr__(self) -> str:
        takes, gives = self.described.input, self.described.output
        weights = sum(leaf.size for leaf in jax.tree.leaves(self.weights))
        what = f"{gives.size} classes" if self.task.confusion else f"{self.task.name}, {gives.size} outputs"
        test = self.results.get("test", {}).get(self.task.metric)
        shown = "" if test is None else f", test {self.task.metric} {test:.4g}"
        return (f"<trained network of the space {self.space.name}: {'x'.join(map(str, takes.shape))} {takes.dtype} "
                f"{takes.kind}, {what}, {weights:,} parameters{shown}>")

    def _repr_svg_(self) -> str:
        return self.genotype._repr_svg_()

    @property
    def genotype(self) -> Genotype:
        """Its architecture."""
        return self.described.genotype

    @property
    def results(self) -> Mapping[str, Any]:
        """What the training ended with: {"test": {"loss", and each metric}, "holdout", ...}; {} if it is not at hand."""
        return self.run.results if self.run else {}

    @property
    def module(self):
        """The network as a Flax Linen module, called with normalised inputs and `variables`."""
        return registry.load("search_spaces.flax_network:FlaxNetwork")(self.network)

    @property
    def variables(self) -> dict[str, Any]:
        """Of the module: {"params": ..., "batch_stats": ...}."""
        return {"params": self.weights, "batch_stats": self.stats}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, () where targets are not classes."""
        return self.described.output.classes


def load(path: str | Path, *, space: str | None = None, task: str | None = None, trust: bool = False,
         cache: str | None = None) -> TrainedNetwork:
    """The network that `dnas.train` trained.

    path: the run directory of a training, or the one file of it that this reads, weights.safetensors, which may be anywhere.

    Args:
        space: Where the network's space is, if it is your own: package.module:factory or file.py:factory.
        task: Where its task is, likewise.
        trust: Import whatever places the file names.
        cache: Folder in which compiled programs are kept for the next time, or off.

    Raises ValueError, in one line, for whatever is missing, damaged or does not fit together, and as
    `dnas.registry.refuse_untrusted` for a place that only the file names.
    """
    path = Path(path).expanduser()
    folder, file = (path, _file(path)) if path.is_dir() else (path.parent, path)
    if file.exists() and file.suffix != ".safetensors":
        raise ValueError(f"{file} is not a .safetensors file; name the run directory of a training, or its "
                         f"{model_file.FILE}")
    content = checkpoint.read(file, follow=not path.is_dir())
    described = model_file.describe(content)
    run = open_run(folder) if file.name == model_file.FILE and (folder / "config.json").is_file() else None
    space, task = _places(described, run, space, task, trust)
    caches.enable(cache)
    built = _space(file, described, space)
    try:
        how = model_file.task_of(described.output, task)
    except ValueError as error:
        raise ValueError(f"{file}: {_bounded(error)}") from None
    dtype = "int32" if described.input.kind == "tokens" else "float32"
    try:
        network = built.network(described.genotype)
        shapes = jax.eval_shape(lambda key: network.init(key, jax.ShapeDtypeStruct((1, *described.input.shape), dtype)),
                                jax.random.key(0))
    except Exception as error:
        raise ValueError(f"{file}: space {built.name} has no such network: {_bounded(error)}") from error
    weights, stats = jax.device_put(model_file.restore(content, *shapes))
    return trained_network(described, built, how, weights, stats, network, run)


def network_of(network: str | Path | TrainedNetwork, *, space: str | None, task: str | None, trust: bool,
               cache: str | None) -> TrainedNetwork:
    """`network`, or what `load` reads at that path. Raises ValueError, in one line, for anything else."""
    if isinstance(network, (str, os.PathLike)):
        return load(network, space=space, task=task, trust=trust, cache=cache)
    if not isinstance(network, TrainedNetwork):
        raise ValueError(f"network is {type(network).__name__}; it must be what dnas.load or dnas.train returns, or the "
                         "path of a training")
    caches.enable(cache)
    return network


def trained_network(described: ModelDescription, space: SearchSpace, task: Task, weights: Weights, stats: Stats,
                    network: Network, run: Run | None) -> TrainedNetwork:
    """A TrainedNetwork of these parts."""
    program = jax.jit(function(network, described.input))
    predict = jax.jit(predictions(task))
    logits = lambda inputs: program(weights, stats, checked(inputs, described.input))
    return TrainedNetwork(described, space, task, weights, stats, network, logits,
                          lambda inputs: predict(logits(inputs)), run)


def _file(folder: Path) -> Path:
    """The weights of the run in `folder`. Raises ValueError that says what to do where there are none."""
    file = folder / model_file.FILE
    if file.is_file():
        return file
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no {model_file.FILE} and no config.json")
    raise ValueError(f"{folder} holds no trained network: {model_file.FILE} is written at the end of a training; "
                     f"`dnas train {shlex.quote(str(folder))}` trains what a search found, and goes on with a training")


def _places(described: ModelDescription, run: Run | None, space: str | None, task: str | None,
            trust: bool) -> tuple[str | None, str | None]:
    """The places of the space and the task that may be imported: those that the user names, else those that the config of a
    run which was begun here says, else with `trust` whatever the file says. The file alone keeps no path."""
    config = run.config if run and (trust is True or begun_here(run.folder, run.config)) else {}
    known = config["space"].get("name") if isinstance(config.get("space"), Mapping) else None
    if space is None and isinstance(known, str) and registry.is_place(known, "space"):
        space = known
    if task is None and isinstance(config.get("task"), str):
        task = config["task"]
    return space or (described.space["name"] if trust is True else None), task or (
        described.output.task if trust is True else None)


def _space(file: Path, described: ModelDescription, place: str | None) -> SearchSpace:
    name, takes = place or described.space["name"], described.input
    if not place:
        registry.refuse_untrusted(name, "space", f"{file}", False)
    options = {option: value for option, value in described.space.items() if option not in ("name", "image", "classes")}
    data = SimpleNamespace(image=takes.shape, classes=described.output.size, graph=None, vocabulary=takes.vocabulary)
    try:
        built = configs.build_space(name, data, options)
        if not described.config.get("inherit"):
            return built
        if built.inherited is None:
            raise ValueError(f"space {built.name} does not say how its networks run on a supernet's weights")
        return built.inherited
    except ValueError as error:
        raise ValueError(f"{file}: {_bounded(error)}") from None
    except Exception as error:
        raise ValueError(f"{file}: space {name[:80]!r} cannot be built: {_bounded(error)}") from error


def _bounded(error: Exception) -> str:
    """The error on one line of bounded length: what a file holds may be in it."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())[:400]
