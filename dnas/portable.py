"""A trained network in one file: weights and running averages, and in the metadata all that is needed to use them.

Any reader of safetensors opens it. The arrays are called `params/stem_conv/kernel` and `batch_stats/stem_bn/mean`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dnas import checkpoint
from dnas.data import Dataset
from dnas.data.decode import FITS, Fit
from dnas.data.pictures import LARGEST
from dnas.types import LONGEST, Genotype, Stats, Weights

FILE = "weights.safetensors"
"""Its name in a run."""


class Input(NamedTuple):
    """What a network takes and what its classes are called.

    image: (H, W, C). pixels: "uint8" or "float32", as in the data set that it was trained on.
    mean, std: of the pixels divided by 255 if uint8, as they are if float; one number a channel.
    fit: how a picture of another size is brought to this one, see `dnas.data.decode`.
    """

    image: tuple[int, int, int]
    pixels: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    fit: Fit


class Portable(NamedTuple):
    """What a file says of its network.

    space: {"name": a registered name or module:factory or file.py:factory, its options}.
    config: of the training, for people.
    """

    genotype: Genotype
    space: dict[str, Any]
    input: Input
    config: dict[str, Any]


def input_of(data: Dataset, config: Mapping[str, Any]) -> Input:
    """What a network takes that is trained on `data`. config: of the training, with `class_names` and `fit` if it has
    them; classes without a name are called by their number."""
    mean, std = (tuple(map(float, values)) for values in (data.mean, data.std))
    classes = tuple(config.get("class_names") or map(str, range(data.classes)))
    return Input(data.image, str(data.inputs.dtype), mean, std, classes, config.get("fit") or FITS[0])


def save(path: str | Path, network: Portable, weights: Weights, stats: Stats) -> None:
    """Writes the file, atomically; the same network gives the same bytes. Of paths in it only the last part is kept."""
    config = network.config | {"data": [_last(name) for name in network.config.get("data", [])]}
    config = {name: value for name, value in config.items() if name not in ("genotype", "space")}
    space = network.space | {"name": _last(network.space["name"])}
    parts = {"space": space, "input": network.input._asdict(), "config": config}
    metadata = {"genotype": network.genotype.to_json(), **{name: json.dumps(part) for name, part in parts.items()}}
    checkpoint.save(path, {"params": weights, "batch_stats": stats}, metadata, name=checkpoint.PLAIN)


def describe(file: checkpoint.File) -> Portable:
    """What the file says of its network. Raises ValueError, in one line that names the file, where that is none."""
    path, metadata = file.path, file.metadata
    for name in ("genotype", "space", "input", "config"):
        if not isinstance(metadata.get(name), str):
            raise ValueError(f"{path} has no {name} in its metadata; a trained network is read from a run's {FILE}")
        if len(metadata[name]) > LONGEST:
            raise ValueError(f"{path}: its {name} has {len(metadata[name]):,} characters; more than {LONGEST:,} are refused")
    try:
        genotype = Genotype.from_json(metadata["genotype"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    space, given, config = (_object(path, name, metadata[name]) for name in ("space", "input", "config"))
    if not isinstance(space.get("name"), str):
        raise ValueError(f'{path}: its space is no {{"name": ..., and its options}}')
    return Portable(genotype, space, _input(path, given), config)


def restore(file: checkpoint.File, weights: Weights, stats: Stats) -> tuple[Weights, Stats]:
    """The arrays of the file in the structure of `weights` and `stats`, which may be ShapeDtypeStructs.

    Raises ValueError naming the first that is missing, new, or of another shape or type.
    """
    found = checkpoint.arrays(file, {"params": weights, "batch_stats": stats}, name=checkpoint.PLAIN)
    return found["params"], found["batch_stats"]


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


def _input(path: str | Path, given: Mapping[str, Any]) -> Input:
    """`given` as an Input. Raises ValueError where it is none."""
    try:
        found = Input(*(given[name] if name in ("pixels", "fit") else tuple(given[name]) for name in Input._fields))
        sound = (len(found.image) == 3 and all(type(size) is int and 0 < size <= LARGEST for size in found.image)
                 and found.pixels in ("uint8", "float32")
                 and len(found.mean) == len(found.std) == found.image[2]
                 and all(math.isfinite(mean) for mean in found.mean)
                 and all(math.isfinite(std) and std > 0 for std in found.std)
                 and len(found.classes) > 1 and all(isinstance(name, str) and name.isprintable() for name in found.classes)
                 and found.fit in FITS)
    except (LookupError, OverflowError, TypeError):
        sound = False
    if not sound:
        raise ValueError(f"{path}: its input is not that of a network: image sizes, pixels, mean and std of each channel, "
                         "names of the classes, fit")
    return found
