"""What a training is going to do, checked whole before anything is computed or written."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from dnas import config as configs
from dnas import options as factory_options
from dnas import registry
from dnas.algorithms.distillation import supernet_teacher
from dnas.algorithms.supervised import Recipe
from dnas.api.architectures import Architecture, architecture_of, choice_fingerprint, network_space, picked
from dnas.api.search_plan import BATCH, check_space, space_config
from dnas.api.supernet import Supernet, fingerprint, refuse_other_state
from dnas.data import Dataset, balanced, check_augment, steps_per_epoch
from dnas.data import load as load_data
from dnas.engine.mesh import device_count, refuse_undivided
from dnas.engine.search import input_shape
from dnas.runs.files import read_json
from dnas.types import Network, SearchSpace

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "cifar": {"epochs": 600, "batch": 96, "lr": 0.025, "nesterov": False, "weight_decay": 3e-4, "clip": 5.0, "cutout": 16,
              "drop_path": 0.2, "auxiliary": 0.4, "cells": 20, "channels": 36, "splits": ("train", "valid", "holdout")},
    "nasbench201": {"epochs": 200, "batch": 256, "lr": 0.1, "nesterov": True, "weight_decay": 5e-4, "clip": 0.0,
                    "cells": 5, "channels": 16, "splits": ("train", "valid", "holdout")},
}
"""Values that differ from the defaults: cifar as DARTS trains its final networks (arXiv 1806.09055), nasbench201 as the
networks of that table were (arXiv 2001.00326)."""
SPLITS = ("train", "valid")
OPTIONS = ("cells", "channels", "epochs", "batch", "seed", "splits", "inherit")
"""Options of a training that are not of its Recipe."""
STRAY = 0.01
"""Share of the examples that judge a network which may be among those that the supernet was trained on: data sets have
duplicates."""


class TrainingPlan(NamedTuple):
    """A training that was checked and can begin.

    steps: of an epoch. arguments: of `dnas.engine.train.train`, beside the recipe. lines: for a person, what it takes from
    a front and a supernet.
    """

    architecture: Architecture
    data: Dataset
    space: SearchSpace
    network: Network
    recipe: Recipe
    epochs: int
    batch: int
    seed: int
    splits: tuple[str, ...]
    steps: int
    config: dict[str, Any]
    arguments: Mapping[str, Any]
    lines: Sequence[str]
    devices: int = 1


def plan_training(what, data=None, *, preset=None, splits=None, space=None, cells=None, channels=None, epochs=None,
                  batch=None, seed=None, inherit=None, pick=(), trust=False,
                  devices: int | Literal["all"] | None = None, **recipe) -> TrainingPlan:
    """Loads, builds and checks all that a training needs, and computes and writes nothing. Arguments: as for `train`.

    Raises ValueError, in one line, for whatever does not fit.
    """
    architecture = architecture_of(what, space=space, trust=trust)
    architecture = picked(architecture, pick) if pick else architecture
    chosen = {"cells": cells, "channels": channels, "epochs": epochs, "batch": batch, "seed": seed, "splits": splits,
              "inherit": inherit, **recipe}
    options = default_options(architecture, preset) | {name: value for name, value in chosen.items() if value is not None}
    inherit, seed = options["inherit"], options["seed"]
    if inherit:
        _refuse_other_size(architecture, space, cells, channels, recipe.get("auxiliary", 0.0))
        options |= {"cells": None, "channels": None, "auxiliary": 0.0}
    how = _recipe({name: value for name, value in options.items() if name not in OPTIONS})
    splits = options["splits"]
    epochs, batch, splits = options["epochs"], options["batch"], (splits,) if isinstance(splits, str) else tuple(splits)
    _check(epochs, batch, seed, splits, least=0 if inherit else 1)
    data = _data(architecture, data, splits)
    origin = _origin(architecture, how, inherit, splits, data)
    if inherit:
        built = origin.space
    else:
        built = network_space(architecture, data, space, cells=options.get("cells"), channels=options.get("channels"))
    check_space(built, data)
    network = built.network(architecture.genotype, auxiliary=how.auxiliary > 0)
    examples = sum(len(data.splits[name]) for name in splits)
    shrunk = batch is None and examples < BATCH
    batch = min(BATCH, examples) if batch is None else batch
    steps = steps_per_epoch({"train": examples}, batch)
    devices = device_count(devices)
    refuse_undivided(batch, devices, most=examples)
    check_augment(data, batch)
    _trace(network, data, space_config(built)["name"], how.drop_path)
    config = {"genotype": {"name": built.format(architecture.genotype), **json.loads(architecture.genotype.to_json())},
              "space": space_config(built), **configs.described(data), "splits": list(splits), "epochs": epochs,
              "batch": batch, "seed": seed, **how._asdict(), "inherit": inherit, **origin.config}
    lines = [*([f"pick      {architecture.picked}"] if architecture.picked else []), *origin.lines,
             *([f"batch     {batch} examples, all that there are"] if shrunk else [])]
    return TrainingPlan(architecture, data, built, network, how, epochs, batch, seed, splits, steps, config,
                        origin.arguments, lines, devices)


def default_options(architecture: Architecture, preset: str | None) -> dict[str, Any]:
    """The options of a training that are not given: those of a preset, or of the earlier training that is repeated.

    Raises ValueError, in one line, for an unknown preset, and where the earlier training's config has no such values.
    """
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}; it must be one of {', '.join(PRESETS)}")
    options = {"epochs": 30, "batch": None, "seed": 0, "splits": SPLITS, "inherit": False} | PRESETS[preset or "quick"]
    if preset is None and architecture.training:
        listed = {option.name: option for option in factory_options.read("dnas.algorithms.supervised:Recipe")}
        listed |= {name: factory_options.Option(name, kind, None, "") for name, kind in (
            ("epochs", int), ("batch", int), ("seed", int), ("inherit", bool), ("splits", tuple[str, ...]))}
        options |= {name: configs.checked_value(architecture.where, option, architecture.config[name])
                    for name, option in listed.items() if name in architecture.config}
    return options


class _Origin(NamedTuple):
    """What a training takes from a supernet. space: whose networks run on its weights, None for another network."""

    space: SearchSpace | None = None
    config: Mapping[str, Any] = {}
    arguments: Mapping[str, Any] = {}
    lines: Sequence[str] = ()


def _recipe(options: Mapping[str, Any]) -> Recipe:
    for name, value in options.items():
        if name not in Recipe._fields:
            raise ValueError(f"training has no option {name}; its options are {', '.join(Recipe._fields)}")
        usual = Recipe._field_defaults[name]
        if isinstance(usual, float) and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return Recipe(**options).check()


def _check(epochs, batch, seed, splits, least: int) -> None:
    for name, value in (("epochs", epochs), ("batch", batch), ("seed", seed)):
        low, high = configs.BOUNDS[name]
        low = least if name == "epochs" else low
        if value is not None and not (type(value) is int and low <= value <= high):
            raise ValueError(f"{name} is {value!r}; it must be a whole number, {low} to {high:,}")
    if not splits or len(set(splits)) < len(splits) or set(splits) - {"train", "valid", "holdout"}:
        raise ValueError(f"splits are {', '.join(map(str, splits)) or 'none'}; they must be one or more of train, valid, "
                         "holdout, each once")


def _data(architecture: Architecture, data: str | Dataset | None, splits: Sequence[str]) -> Dataset:
    """The data set to train on: the one that was given, else that of the search."""
    if data is None and architecture.search:
        data = architecture.search.parts.get("data")
    if data is None and architecture.config:
        return configs.data_of(architecture.config, architecture.where, architecture.trust, splits)
    data = load_data(data or "digits") if not isinstance(data, Dataset) else data
    return data if data.class_weights is None else data._replace(class_weights=balanced(data, splits))


def _origin(architecture: Architecture, recipe: Recipe, inherit: bool, splits: Sequence[str], data: Dataset) -> _Origin:
    """Raises ValueError, in one line, if there is no supernet, or one for other data."""
    if not (inherit or recipe.distill):
        return _Origin()
    option = "inherit" if inherit else "distill"
    before = architecture.config.get("supernet") if architecture.training else None
    if architecture.search is None:
        if isinstance(before, Mapping) and isinstance(before.get("run"), str):
            here = shlex.quote(str(architecture.training))
            raise ValueError(f"{option} needs the supernet of {before['run']}, which is not there; if it was moved to RUN, "
                             f"`dnas train RUN --run {here}` with the options of this training goes on")
        raise ValueError(f"{option} needs the supernet of a search, and {architecture.name} has none; give the run "
                         "directory of a search, or a folder of its selections")
    supernet, choice = architecture.search.supernet, architecture.choice
    if before:
        refuse_other_state(supernet, before, f"the training in {architecture.training}")
    if choice and choice.folder:
        refuse_other_state(supernet, read_json(choice.folder / "config.json"), f"the choice in {choice.folder}")
    _refuse_leak(option, supernet, data, splits)
    which = f"the supernet of {supernet.folder or 'the run in memory'}, epoch {supernet.epoch}"
    folder = lambda path: path and str(path.absolute())
    config = {"run": folder(supernet.folder), **fingerprint(supernet)}
    config["choice"] = choice_fingerprint(choice.folder) if choice and choice.folder else None
    space, arguments, lines = None, {}, [f"note      {message}" for message in supernet.messages]
    if inherit:
        space = supernet.space.inherited
        if space is None:
            raise ValueError(f"inherit: space {supernet.space.name} does not say how its networks run on a supernet's "
                             "weights; one that flax_space, nnx_space or pure_space makes does")
        space = space._replace(source=supernet.space.source)
        tuned = choice.fine_tuned if choice else None
        state = supernet.context.state if tuned is None else tuned
        arguments["start"] = tuple(supernet.space.inherit(tree, architecture.genotype)
                                   for tree in (state.weights, state.stats))
        lines.append(f"weights   of {which}" + ("" if tuned is None else f", fine-tuned in {choice.folder}"))
    if recipe.distill:
        context = supernet.context
        arguments["teacher"] = supernet_teacher(supernet.space, context.state, context.gates(context.state))
        lines.append(f"teacher   {which}: {recipe.distill:g} of the loss, temperature {recipe.distill_temperature:g}")
    return _Origin(space, {"supernet": config}, arguments, lines)


def _refuse_leak(option: str, supernet: Supernet, data: Dataset, splits: Sequence[str]) -> None:
    """Raises ValueError where the supernet is for other data, or was trained on examples that are to judge the network."""
    before, where = supernet.data, supernet.folder or "the run in memory"
    if _shape(before) != _shape(data):
        raise ValueError(f"{option}: the supernet of {where} is for {_shape(before)}, and {data.name} has {_shape(data)}")
    same = lambda one: [configs.data_source(one).get(key) for key in ("data", "limit", "digest")]
    if before is data or same(before) == same(data):
        return
    seen = set(_digests(before, "train", "valid"))
    digests = _digests(data, *(name for name in ("holdout", "test") if name not in splits))
    both = sum(digest in seen for digest in digests)
    if both > STRAY * len(digests):
        raise ValueError(f"{option}: the supernet of {where} was trained on {both} of the {len(digests)} examples that "
                         "would judge the network; give the data and the limit of its search")


def _shape(data: Dataset) -> str:
    outputs = "classes" if data.targets.dtype.kind in "iu" else "targets"
    return f"{data.kind} of {'x'.join(map(str, data.image))} of {data.classes} {outputs}"


def _digests(data: Dataset, *splits: str) -> list[bytes]:
    return [blake2b(np.ascontiguousarray(each).tobytes(), digest_size=16).digest()
            for name in splits for each in data.inputs[data.splits[name]]]


def _refuse_other_size(architecture: Architecture, space, cells, channels, auxiliary) -> None:
    """Raises ValueError where a training that inherits was asked for another network than the supernet's own."""
    own = architecture.space
    asked = {"space": (registry.absolute(space) if isinstance(space, str) else None, own["name"]),
             "cells": (cells, own.get("cells")), "channels": (channels, own.get("channels"))}
    for name, (value, there) in asked.items():
        if value is not None and value != there:
            raise ValueError(f"{name} is {value}: inherit trains the supernet's own network, its {name}: {there}")
    if auxiliary:
        raise ValueError(f"auxiliary is {auxiliary}: inherit trains the supernet's own network, which has no such head")


def _trace(network: Network, data: Dataset, space: str, drop_path: float) -> None:
    """Traces the first weights, and the network where it drops paths, so that one that cannot be is refused before anything
    is written."""
    images, key = input_shape(data, 1), jax.random.key(0)
    try:
        first = jax.eval_shape(lambda key: network.init(key, images), key)
        if drop_path:
            jax.eval_shape(lambda *args: network.apply(*args, train=True, key=key, drop_path=drop_path), *first, images)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"space {space} has no network for this data: {type(error).__name__}: {error}") from error
