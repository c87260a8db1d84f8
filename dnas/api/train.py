"""`dnas.train`: trains the network of an architecture, from scratch or from the supernet's weights, and tests it once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from dnas.api.devices import device_lines
from dnas.api.load import TrainedNetwork, trained_network
from dnas.api.open import Run
from dnas.api.search_plan import space_config, stem
from dnas.api.select import Selected
from dnas.api.training_plan import TrainingPlan, plan_training
from dnas.data import Dataset, describe
from dnas.engine import cache as caches
from dnas.engine.mesh import create_mesh, sizes_of
from dnas.engine.search import input_shape
from dnas.engine.train import Trained, best
from dnas.engine.train import train as run_training
from dnas.printing import print_flushed
from dnas.reports.cells import draw_genotype
from dnas.reports.confusion import draw_confusion, shares
from dnas.reports.figures import draw_curves
from dnas.runs import model_file
from dnas.runs.directory import RunDirectory, free_folder, open_run
from dnas.runs.files import write_json
from dnas.runs.tensorboard import events
from dnas.task import task_of
from dnas.types import Genotype


def train(what: str | Path | Run | Selected | Genotype, data: str | Dataset | None = None, *,
          preset: Literal["quick", "cifar", "nasbench201"] | None = None, splits: Sequence[str] | None = None,
          space: str | None = None, cells: int | None = None, channels: int | None = None, epochs: int | None = None,
          batch: int | None = None, seed: int | None = None, inherit: bool | None = None, pick: tuple[str, ...] = (),
          out: str | Path | None = None, trust: bool = False, devices: int | Literal["all"] | None = None,
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
        pick: Limits such as 'macs<=20e6': the network of a front that is best by its first objective within them. The front
            is that of a selection, or the one in the run's folder selections/pareto.
        out: The run directory, in which a training that was interrupted goes on; None keeps the network in memory.
        trust: Import whatever places the run's config names.
        devices: Devices among which each batch is divided, a number or all.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show how the training goes on.

    The same arguments give the same bits on the same number of devices; unless `devices` is given, those are all of an
    accelerator, and one on a CPU. Raises ValueError, in one line and before anything is written, for whatever does not fit,
    such as a supernet that was trained on examples which are to judge the network; NonFiniteLoss; RunWriteError.
    """
    plan = plan_training(what, data, preset=preset, splits=splits, space=space, cells=cells, channels=channels,
                         epochs=epochs, batch=batch, seed=seed, inherit=inherit, pick=pick, trust=trust, devices=devices,
                         **recipe)
    say = print_flushed if progress else lambda text: None
    return run_training_plan(plan, out, cache=cache, progress=progress, say=say)


def run_training_plan(plan: TrainingPlan, out: str | Path | None, *, cache: str | None = None, progress: bool = True,
                      say: Callable[[str], None] = print_flushed) -> TrainedNetwork:
    """Carries out a plan, in the run directory `out` unless that is None. say: what lines for a person go to."""
    caches.enable(cache)
    mesh = create_mesh(plan.devices)
    if out is None:
        _announce(plan, None, mesh, say)
        result = _train(plan, None, mesh, progress)
        return _network(plan, result, Run(None, plan.config, results_of(plan, result)))
    folder = Path(out).expanduser()
    with open_run(folder, plan.config, mesh and sizes_of(mesh)) as run:
        _announce(plan, run, mesh, say)
        run.save_genotype(plan.architecture.genotype)
        for suffix in ("svg", "png"):
            draw_genotype(plan.architecture.genotype, plan.space.groups, folder / f"cells.{suffix}")
        result = _train(plan, run, mesh, progress)
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


def _announce(plan: TrainingPlan, run: RunDirectory | None, mesh: Mesh | None, say: Callable[[str], None]) -> None:
    cost, built = plan.space.cost(plan.architecture.genotype), space_config(plan.space)
    size = ", ".join(f"{built[name]} {name if built[name] > 1 else name[:-1]}" for name in ("cells", "channels")
                     if name in built)
    say(describe(plan.data))
    say(f"genotype  {plan.space.format(plan.architecture.genotype)}")
    say(f"network   {cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example{size and f'; {size}'}")
    for line in plan.lines:
        say(line)
    say(f"training  {plan.epochs} epochs of {plan.steps} steps of {plan.batch} examples of {', '.join(plan.splits)}, "
        f"seed {plan.seed}")
    for line in device_lines(mesh, [run]):
        say(f"devices   {line}")
    if run:
        say(f"run       {run.folder}")


def _train(plan: TrainingPlan, run: RunDirectory | None, mesh: Mesh | None, progress: bool) -> Trained:
    return run_training(plan.network, plan.data, epochs=plan.epochs, batch=plan.batch, seed=plan.seed, recipe=plan.recipe,
                        splits=plan.splits, **plan.arguments, final="test", run=run, mesh=mesh,
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
