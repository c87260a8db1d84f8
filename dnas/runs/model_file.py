"""A trained network in one file: weights and running averages, and in the metadata all that is needed to use them.

Any reader of safetensors opens it. The arrays are called `params/stem_conv/kernel` and `batch_stats/stem_bn/mean`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas import registry
from dnas.data import Dataset
from dnas.data.dataset import Columns
from dnas.data.decode import FITS, Fit
from dnas.data.pictures import LARGEST
from dnas.runs import checkpoint
from dnas.task import Task, named
from dnas.types import Genotype, Stats, Weights

FILE = "weights.safetensors"
"""Its name in a run."""
DTYPES = {"images": ("uint8", "float32"), "features": ("float32",), "tokens": ("int32",), "nodes": ("float32",)}
"""Of the inputs of each kind."""
MOST = 2**20
TINY = 1e-30
"""Entries along an axis of inputs other than images, and of outputs."""
LONGEST = {"genotype": 10**6, "space": 10**6, "input": 10**8, "output": 10**8, "config": 10**6}
"""Characters of each part of the metadata. Inputs of many features have as many means, outputs as many names of classes."""


class Input(NamedTuple):
    """What a network takes.

    kind, shape, dtype: of the inputs of the data set that it was trained on: "images" (H, W, C) uint8 or float32,
        "features" (F,) or (T, F) float32, "tokens" (T,) int32, or "nodes" of a graph.
    mean, std: of the pixels divided by 255 if uint8, of other inputs as they are; one number for each entry of the last
        axis, of tokens one in all, which is not used.
    fit: how a picture of another size is brought to this one, see `dnas.data.decode`.
    vocabulary: how many tokens there are, None of other inputs.
    columns, characters: of the table or text that the inputs are from, see `dnas.data.dataset`.
    """

    kind: str
    shape: tuple[int, ...]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: Fit = FITS[0]
    vocabulary: int | None = None
    columns: Columns | None = None
    characters: str = ""


class Output(NamedTuple):
    """What a network says.

    task: a name or place, see `dnas.task`. size: of the last axis of the outputs.
    classes: their names where targets are classes, () where they are not.
    target_mean, target_std: (D,) of targets that are numbers, None of classes.
    """

    task: str
    size: int
    classes: tuple[str, ...] = ()
    target_mean: tuple[float, ...] | None = None
    target_std: tuple[float, ...] | None = None


class ModelDescription(NamedTuple):
    """What a file says of its network.

    space: {"name": a registered name or module:factory or file.py:factory, its options}.
    config: of the training, for people.
    """

    genotype: Genotype
    space: dict[str, Any]
    input: Input
    output: Output
    config: dict[str, Any]


def input_of(data: Dataset, config: Mapping[str, Any]) -> Input:
    """What a network takes that is trained on `data`. config: of the training, with `fit` if it has it."""
    mean, std = (tuple(map(float, values)) for values in (data.mean, data.std))
    return Input(data.kind, data.image, str(data.inputs.dtype), mean, std, config.get("fit") or FITS[0], data.vocabulary,
                 data.columns, data.characters)


def output_of(data: Dataset) -> Output:
    """What a network says that is trained on `data`. Classes without a name are called by their number."""
    scale = [None if values is None else tuple(map(float, values)) for values in (data.target_mean, data.target_std)]
    classed = data.targets.dtype.kind in "iu"
    return Output(data.task, data.classes, (data.class_names or tuple(map(str, range(data.classes)))) if classed else (),
                  *scale)


def task_of(gives: Output, name: str | None = None) -> Task:
    """The task of a network, on the scale of its targets. name: its name or place, in place of that in the file.

    Raises ValueError, in one line, for a place that only the file names: a file never says what to import.
    """
    if name is None:
        registry.refuse_untrusted(gives.task, "task", "its metadata", False)
    mean, std = (None if values is None else np.array(values, np.float32)
                 for values in (gives.target_mean, gives.target_std))
    scale = {} if mean is None else {"target_mean": mean, "target_std": std}
    return named(name or gives.task, classes=gives.size, **scale)


def save(path: str | Path, network: ModelDescription, weights: Weights, stats: Stats) -> None:
    """Writes the file, atomically; the same network gives the same bytes. Of paths in it only the last part is kept."""
    config = network.config | {"data": [_last(name) for name in network.config.get("data", [])]}
    config = {name: _last(value) if name in ("task", "augment") and isinstance(value, str) else value
              for name, value in config.items() if name not in ("genotype", "space")}
    space = network.space | {"name": _last(network.space["name"])}
    columns, output = network.input.columns, network.output._replace(task=_last(network.output.task))
    described = network.input._replace(columns=columns and columns._asdict())
    parts = {"space": space, "input": described._asdict(), "output": output._asdict(), "config": config}
    metadata = {"genotype": network.genotype.to_json(), **{name: json.dumps(part) for name, part in parts.items()}}
    checkpoint.save(path, {"params": weights, "batch_stats": stats}, metadata, name=checkpoint.PLAIN)


def describe(file: checkpoint.File) -> ModelDescription:
    """What the file says of its network. Raises ValueError, in one line that names the file, where that is none."""
    path, metadata = file.path, file.metadata
    for name, most in LONGEST.items():
        if not isinstance(metadata.get(name), str):
            raise ValueError(f"{path} has no {name} in its metadata; a trained network is read from a run's {FILE}")
        if len(metadata[name]) > most:
            raise ValueError(f"{path}: its {name} has {len(metadata[name]):,} characters; more than {most:,} are refused")
    try:
        genotype = Genotype.from_json(metadata["genotype"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    space, taken, given, config = (_object(path, name, metadata[name]) for name in ("space", "input", "output", "config"))
    if not isinstance(space.get("name"), str):
        raise ValueError(f'{path}: its space is no {{"name": ..., and its options}}')
    return ModelDescription(genotype, space, _input(path, taken), _output(path, given), config)


def restore(file: checkpoint.File, weights: Weights, stats: Stats) -> tuple[Weights, Stats]:
    """The arrays of the file in the structure of `weights` and `stats`, which may be ShapeDtypeStructs.

    Raises ValueError naming the first that is missing, new, of another shape or type, or not finite.
    """
    arrays = checkpoint.arrays(file, {"params": weights, "batch_stats": stats}, name=checkpoint.PLAIN)
    checkpoint.refuse_non_finite(arrays, f"{file.path}: the network")
    return arrays["params"], arrays["batch_stats"]


def _last(name: str) -> str:
    """`name` without the folders of a path in it."""
    return Path(name).name


def _object(path: str | Path, name: str, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: its {name} is no valid JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: its {name} is no JSON object")
    return found


def _input(path: str | Path, said: Mapping[str, Any]) -> Input:
    """`said` as an Input. Raises ValueError where it is none."""
    try:
        columns = said["columns"] and _columns(said["columns"])
        found = Input(**{name: said[name] for name in Input._fields})._replace(
            shape=tuple(said["shape"]), mean=tuple(said["mean"]), std=tuple(said["std"]), columns=columns)
        tokens, most = found.kind == "tokens", LARGEST if found.kind == "images" else MOST
        sound = (found.kind in DTYPES and found.dtype in DTYPES[found.kind]
                 and all(type(size) is int and 0 < size <= most for size in found.shape)
                 and (len(found.shape) == 3 if found.kind == "images" else len(found.shape) > 0)
                 and len(found.mean) == len(found.std) == (1 if tokens else found.shape[-1])
                 and _finite(found.mean) and _finite(found.std) and min(found.std) >= TINY
                 and found.fit in FITS and (type(found.vocabulary) is int and found.vocabulary > 0) == tokens
                 and isinstance(found.characters, str) and len(found.characters) in (0, found.vocabulary)
                 and list(found.characters) == sorted(set(found.characters))
                 and (columns is None or found.shape == (columns.width,)))
    except (LookupError, OverflowError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"{path}: its input is not that of a network: kind, shape, dtype, mean and std of each channel or "
                         "feature, fit, vocabulary, columns, characters")
    return found


def _columns(said: Mapping[str, Any]) -> Columns:
    found = Columns(tuple((name, tuple(texts)) for name, texts in said["features"]), said["target"])
    words = [found.target, *(word for name, texts in found.features for word in (name, *texts))]
    if not all(isinstance(word, str) for word in words):
        raise TypeError("names and texts must be strings")
    return found


def _output(path: str | Path, said: Mapping[str, Any]) -> Output:
    """`said` as an Output. Raises ValueError where it is none."""
    try:
        several = lambda values: None if values is None else tuple(values)
        found = Output(said["task"], said["size"], tuple(said["classes"]), several(said["target_mean"]),
                       several(said["target_std"]))
        mean, std = found.target_mean, found.target_std
        sound = (isinstance(found.task, str) and found.task.isprintable() and type(found.size) is int
                 and 0 < found.size <= MOST and len(found.classes) in (0, found.size)
                 and (found.classes or found.task != "classification")
                 and all(isinstance(name, str) and name.isprintable() for name in found.classes)
                 and (mean is None) == (std is None)
                 and (mean is None or len(mean) == len(std) == found.size and _finite(mean + std) and min(std) >= TINY))
    except (LookupError, OverflowError, TypeError):
        sound = False
    if not sound:
        raise ValueError(f"{path}: its output is not that of a network: task, size, names of the classes, and mean and std "
                         "of the targets")
    return found


def _finite(values: tuple[Any, ...]) -> bool:
    return all(abs(value) < 1 / TINY for value in values)
