"""`dnas.train`: trains the network of an architecture, from scratch or from the supernet's weights, and tests it once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from dnas import config as configs
from dnas import options as factory_options
from dnas import registry
from dnas.algorithms.distillation import supernet_teacher
from dnas.algorithms.supervised import Recipe
from dnas.api.architectures import Architecture, architecture_of, network_space
from dnas.api.load import TrainedNetwork, trained_network
from dnas.api.open import Run
from dnas.api.search import BATCH, SEEDS, check_space, space_config, stem
from dnas.api.select import Selected, print_flushed
from dnas.api.supernet import Supernet, fingerprint
from dnas.data import Dataset, balanced, check_augment, describe, steps_per_epoch
from dnas.data import load as load_data
from dnas.engine import cache as caches
from dnas.engine.search import input_shape
from dnas.engine.train import Trained, best
from dnas.engine.train import train as run_training
from dnas.reports.cells import draw_genotype
from dnas.reports.confusion import draw_confusion, shares
from dnas.reports.figures import draw_curves
from dnas.runs import model_file
from dnas.runs.directory import free_folder, open_run
from dnas.runs.files import write_json
from dnas.runs.tensorboard import events
from dnas.task import task_of
from dnas.types import Genotype, Network, SearchSpace

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
    """A training that was checked and can begin. steps: an epoch; arguments: of `dnas.engine.train.train`, beside the recipe;
    lines: what it takes from a supernet, for a person."""

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


def train(what: str | Path | Run | Selected | Genotype, data: str | Dataset | None = None, *,
          preset: Literal["quick", "cifar", "nasbench201"] | None = None, splits: Sequence[str] | None = None,
          space: str | None = None, cells: int | None = None, channels: int | None = None, epochs: int | None = None,
          batch: int | None = None, seed: int | None = None, inherit: bool | None = None, out: str | Path | None = None, trust: bool = False,
          cache: str | None = None, progress: bool = True, **recipe) -> TrainedNetwork:
    """Trains the network of an architecture on a data set and looks at the test split once, when all is done.

    what: a run, what `dnas.select` returns, a genotype, a path to one of them, or a published name such as "darts-v2".
    data: a data set, or what `dnas.data.load` takes; that of the search unless given, else digits.
    recipe: numbers of `dnas.algorithms.supervised.Recipe`, such as lr=0.1.

    Args:
        preset: Defaults of the other options: quick is for small data, the others are as published. The folder of an earlier
            training repeats it, with its options, unless a preset is given.
        splits: What is trained on: train and valid unless given. Published: all but test, so that no hold-out metric is
            reported.
        space: Where the genotype's space is: a name, package.module:factory or file.py:factory.
        cells: Cells of the network (of a stage, in NAS-Bench-201), as searched unless given. Published: 20, and 5.
        channels: Channels of the first cells, as searched unless given. Published: 36, and 16.
        epochs: Passes over the data, 30 unless given. Published: 600, and 200.
        batch: Examples in a mini-batch, 64 unless given. Published: 96, and 256.
        seed: Seed of everything random, 0 to 4294967295; 0 unless given.
        inherit: Start from the weights of the run's supernet: its own network, of its size and without an auxiliary head,
            whose statistics are computed anew from the data. With 0 epochs it stays at that.
        out: The run directory, in which a training that was interrupted goes on; None keeps the network in memory.
        trust: Import whatever places the run's config names.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show how the training goes on.

    The same arguments give the same bits. Raises ValueError, in one line and before anything is written, for whatever does
    not fit, such as a supernet that was trained on examples which are to judge the network; NonFiniteLoss; RunWriteError.
    """
    plan = plan_training(what, data, preset=preset, splits=splits, space=space, cells=cells, channels=channels, epochs=epochs,
                         batch=batch, seed=seed, inherit=inherit, trust=trust, **recipe)
    return run_training_plan(plan, out, cache=cache, progress=progress, say=print_flushed if progress else lambda text: None)


def plan_training(what, data=None, *, preset=None, splits=None, space=None, cells=None, channels=None, epochs=None,
                  batch=None, seed=None, inherit=None, trust=False, **recipe) -> TrainingPlan:
    """Loads, builds and checks all that a training needs, and computes and writes nothing. Arguments: as for `train`.

    Raises ValueError, in one line, for whatever does not fit.
    """
    architecture = architecture_of(what, space=space, trust=trust)
    options = default_options(architecture, preset) | _given(cells=cells, channels=channels, epochs=epochs, batch=batch, seed=seed,
                                                             splits=splits, inherit=inherit, **recipe)
    inherit, seed = options["inherit"], options["seed"]
    if inherit:
        _refuse_other_size(architecture, space, cells, channels, recipe.get("auxiliary", 0.0))
        options |= {"cells": None, "channels": None, "auxiliary": 0.0}
    how = _recipe({name: value for name, value in options.items() if name not in OPTIONS})
    epochs, batch, splits = options["epochs"], options["batch"], tuple(options["splits"])
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
    check_augment(data, batch)
    _trace(network, data, space_config(built)["name"], how.drop_path)
    config = {"genotype": {"name": built.format(architecture.genotype), **json.loads(architecture.genotype.to_json())},
              "space": space_config(built), **configs.described(data), "splits": list(splits), "epochs": epochs, "batch": batch,
              "seed": seed, **how._asdict(), "inherit": inherit, **origin.config}
    return TrainingPlan(architecture, data, built, network, how, epochs, batch, seed, splits, steps, config, origin.arguments,
                        [*origin.lines, *([f"batch     {batch} examples, all that there are"] if shrunk else [])])


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


def run_training_plan(plan: TrainingPlan, out: str | Path | None, *, cache: str | None = None, progress: bool = True,
                      say: Callable[[str], None] = print) -> TrainedNetwork:
    """Carries out a plan, in the run directory `out` unless that is None. say: what lines for a person go to."""
    caches.enable(cache)
    if out is None:
        _announce(plan, None, say)
        result = _train(plan, None, progress)
        return _network(plan, result, Run(None, plan.config, results_of(plan, result)))
    folder = Path(out).expanduser()
    with open_run(folder, plan.config) as run:
        _announce(plan, folder, say)
        run.save_genotype(plan.architecture.genotype)
        for suffix in ("svg", "png"):
            draw_genotype(plan.architecture.genotype, plan.space.groups, folder / f"cells.{suffix}")
        result = _train(plan, run, progress)
        results = results_of(plan, result)
        network = _network(plan, result, Run(folder, plan.config, results))
        model_file.save(folder / model_file.FILE, network.described, network.weights, network.stats)
        write_json(folder / "results.json", results)
        _draw(plan, folder, result)
    return network


def default_folder(plan: TrainingPlan) -> Path:
    """Where a training is written below the folder runs, unless a person says: the first that is free or holds this one."""
    architecture, same = plan.architecture, json.loads(json.dumps(plan.config))
    if architecture.training and dict(architecture.config) == same:
        return architecture.training
    name = architecture.name.removeprefix("train-") if architecture.training else architecture.name
    return free_folder("-".join(["train", stem(name), stem(plan.config["data"][0]), str(plan.seed)]), same)


def results_of(plan: TrainingPlan, result: Trained) -> dict[str, Any]:
    """What results.json holds of a training that has ended."""
    task, data = task_of(plan.data), plan.data
    results = {"test": {**result.final, "examples": len(data.splits["test"]), "standard_error": result.errors[task.metric]}}
    if result.report is not None:
        by_epoch = {record["epoch"]: record[task.metric]["holdout"] for record in result.records}
        epoch = best(result.records, "holdout", task)
        results["holdout"] = {**result.report, "best": {"epoch": epoch, task.metric: by_epoch[epoch]}}
        if 0 in by_epoch:
            results["holdout"]["inherited"] = by_epoch[0]
    results |= {"train_examples": sum(len(data.splits[name]) for name in plan.splits),
                **plan.space.cost(plan.architecture.genotype)}
    if result.confusion is not None:
        recall, precision = ([float(x) if math.isfinite(x) else None for x in values] for values in shares(result.confusion))
        results |= {"recall": recall, "precision": precision, "confusion": result.confusion.tolist()}
    return results | ({"class_names": list(data.class_names)} if data.class_names else {})


def _announce(plan: TrainingPlan, folder: Path | None, say: Callable[[str], None]) -> None:
    cost, built = plan.space.cost(plan.architecture.genotype), space_config(plan.space)
    size = ", ".join(f"{built[name]} {name}" for name in ("cells", "channels") if name in built)
    say(describe(plan.data))
    say(f"genotype  {plan.space.format(plan.architecture.genotype)}")
    say(f"network   {cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example{size and f'; {size}'}")
    for line in plan.lines:
        say(line)
    say(f"training  {plan.epochs} epochs of {plan.steps} steps of {plan.batch} examples of {', '.join(plan.splits)}, "
        f"seed {plan.seed}")
    if folder:
        say(f"run       {folder}")


def _train(plan: TrainingPlan, run, progress: bool) -> Trained:
    return run_training(plan.network, plan.data, epochs=plan.epochs, batch=plan.batch, seed=plan.seed, recipe=plan.recipe,
                        splits=plan.splits, **plan.arguments, final="test", run=run,
                        report=None if "holdout" in plan.splits else "holdout", progress=progress)


def _network(plan: TrainingPlan, result: Trained, run: Run) -> TrainedNetwork:
    """The network that was tested, without its auxiliary head."""
    network, image = plan.space.network(plan.architecture.genotype), input_shape(plan.data, 1)
    shapes = jax.eval_shape(lambda key: network.init(key, image), jax.random.key(0))
    weights, stats = (without_auxiliary(tree, used) for tree, used in zip((result.weights, result.stats), shapes))
    described = model_file.ModelDescription(plan.architecture.genotype, plan.config["space"],
                                            model_file.input_of(plan.data, plan.config), model_file.output_of(plan.data),
                                            plan.config)
    return trained_network(described, plan.space, task_of(plan.data), weights, stats, network, run)


def without_auxiliary(tree, used):
    """Of the weights or statistics of a training, nested dicts, those that are in `used` too: of the network alone."""
    return {name: without_auxiliary(tree[name], part) for name, part in used.items()} if isinstance(used, Mapping) else tree


def _draw(plan: TrainingPlan, folder: Path, result: Trained) -> None:
    """The pictures and the last events of a training that has ended."""
    board = events(folder, {})
    board.epoch({"epoch": plan.epochs, **{name: {"test": value} for name, value in result.final.items()}}, {})
    board.picture(folder / "cells.png", plan.epochs)
    if result.confusion is not None:
        for suffix in ("svg", "png"):
            draw_confusion(result.confusion, folder / f"confusion.{suffix}", plan.data.class_names)
        board.picture(folder / "confusion.png", plan.epochs, "confusion")
    if plan.epochs or result.report is not None:
        draw_curves(result.records, folder / "curves.svg")
    board.close()


def _given(**options) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _recipe(options: Mapping[str, Any]) -> Recipe:
    for name, value in options.items():
        if name not in Recipe._fields:
            raise ValueError(f"training has no option {name}; its options are {', '.join(Recipe._fields)}")
        usual = Recipe._field_defaults[name]
        if isinstance(usual, float) and not (isinstance(value, (int, float)) and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}; it must be a finite number")
    return Recipe(**options).check()


def _check(epochs, batch, seed, splits, least: int) -> None:
    for name, value, low, high in (("epochs", epochs, least, 10**6), ("batch", batch, 1, 10**9), ("seed", seed, 0, SEEDS)):
        if value is not None and not (type(value) is int and low <= value <= high):
            raise ValueError(f"{name} is {value!r}; it must be a whole number, {low} to {high:,}")
    if not splits or len(set(splits)) < len(splits) or set(splits) - {"train", "valid", "holdout"}:
        raise ValueError(f"splits are {', '.join(map(str, splits)) or 'none'}; they must be one or more of train, valid, "
                         "holdout, each once")


def _data(architecture: Architecture, data: str | Dataset | None, splits: Sequence[str]) -> Dataset:
    """The data set to train on: the one that was given, else that of the search."""
    if data is None and architecture.search and architecture.search.folder is None:
        data = architecture.search.supernet.data
    if data is None and architecture.config:
        return configs.data_of(architecture.config, architecture.where, architecture.trust, splits)
    data = load_data(data or "digits") if not isinstance(data, Dataset) else data
    return data if data.class_weights is None else data._replace(class_weights=balanced(data, splits))


class _Origin(NamedTuple):
    """What a training takes from a supernet. space: whose networks run on its weights, None for another network."""

    space: SearchSpace | None = None
    config: Mapping[str, Any] = {}
    arguments: Mapping[str, Any] = {}
    lines: Sequence[str] = ()


def _origin(architecture: Architecture, recipe: Recipe, inherit: bool, splits: Sequence[str], data: Dataset) -> _Origin:
    """Raises ValueError, in one line, if there is no supernet, or one for other data."""
    if not (inherit or recipe.distill):
        return _Origin()
    option = "inherit" if inherit else "distill"
    if architecture.search is None:
        raise ValueError(f"{option} needs the supernet of a search, and {architecture.name} has none; give the run directory of "
                         "a search, or a folder of its selections")
    supernet, choice = architecture.search.supernet, architecture.choice
    _refuse_leak(option, supernet, data, splits)
    which = f"the supernet of {supernet.folder or 'the run in memory'}, epoch {supernet.epoch}"
    folder = lambda path: path and str(path.absolute())
    config = {"run": folder(supernet.folder), **fingerprint(supernet), "choice": choice and folder(choice.folder)}
    space, arguments, lines = None, {}, [f"note      {message}" for message in supernet.messages]
    if inherit:
        space = supernet.space.inherited
        if space is None:
            raise ValueError(f"inherit: space {supernet.space.name} does not say how its networks run on a supernet's weights; "
                             "one that flax_space, nnx_space or pure_space makes does")
        space = space._replace(source=supernet.space.source)
        tuned = choice.fine_tuned if choice else None
        state = supernet.context.state if tuned is None else tuned
        arguments["start"] = tuple(supernet.space.inherit(tree, architecture.genotype) for tree in (state.weights, state.stats))
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
        raise ValueError(f"{option}: the supernet of {where} was trained on {both} of the {len(digests)} examples that would "
                         "judge the network; give the data and the limit of its search")


def _shape(data: Dataset) -> str:
    outputs = "classes" if data.targets.dtype.kind in "iu" else "targets"
    return f"{data.kind} of {'x'.join(map(str, data.image))} of {data.classes} {outputs}"


def _digests(data: Dataset, *splits: str) -> list[bytes]:
    return [blake2b(np.ascontiguousarray(each).tobytes(), digest_size=16).digest()
            for name in splits for each in data.inputs[data.splits[name]]]


def _refuse_other_size(architecture: Architecture, space, cells, channels, auxiliary) -> None:
    """Raises ValueError where a training that inherits was asked for another network than the supernet's own."""
    own = architecture.space
    asked = {"space": (space and registry.absolute(space), own["name"]), "cells": (cells, own.get("cells")),
             "channels": (channels, own.get("channels"))}
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
