"""Train the network that was found, or a published one, from scratch or from the supernet's weights; test it once."""

import dataclasses
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from dnas.data import DATASETS
from dnas.engine import cache
from launch.arguments import (
    DATA,
    Augment,
    Fitting,
    Resize,
    Target,
    TaskName,
    Weighing,
    Window,
    check_bounds,
    given,
    learnt_from,
    parsed,
    shown,
    words,
)
from launch.inherit import of_its_size, source_of
from launch.search import free_folder, stem

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "cifar": {"epochs": 600, "batch": 96, "lr": 0.025, "nesterov": False, "weight_decay": 3e-4, "clip": 5.0, "cutout": 16,
              "drop_path": 0.2, "auxiliary": 0.4, "cells": 20, "channels": 36, "splits": ("train", "valid", "holdout")},
    "nasbench201": {"epochs": 200, "batch": 256, "lr": 0.1, "nesterov": True, "weight_decay": 5e-4, "clip": 0.0,
                    "cells": 5, "channels": 16, "splits": ("train", "valid", "holdout")},
}
"""Values that differ from the defaults: cifar as DARTS trains its final networks (arXiv 1806.09055), nasbench201 as the
networks of that table were (arXiv 2001.00326)."""
Split = Literal["train", "valid", "holdout"]


@dataclass(frozen=True)
class Arguments:
    """What the command line says. Published values are those of DARTS on CIFAR-10 and of NAS-Bench-201."""

    subject: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|GENOTYPE")]
    """A run directory, a folder of its selections, a genotype.json, or a published name such as darts-v2. The folder of
    an earlier training repeats it, with its options."""
    preset: Literal["quick", "cifar", "nasbench201"] = "quick"
    """Defaults of the options below; quick is for small data, the others are as published."""
    data: Annotated[tuple[str, ...], shown("{" + ",".join(DATASETS) + "}|PATH ...", "that of the search, else digits")] = ()
    """A name or other source of data (`dnas datasets`), or the several files of one set."""
    limit: Annotated[int | None, shown("N", "as for the search, else all")] = None
    """Examples to keep outside the test set, evenly of each class."""
    task: TaskName = None
    """What is predicted. This and the next seven are as for the search, if its data is."""
    target: Target = None
    """Column of a .csv that is predicted."""
    window: Window = None
    """Characters of a text that the network is given at once."""
    standardise: bool = True
    """Bring images and features to mean 0 and standard deviation 1."""
    resize: Resize = ()
    """Size in pixels of pictures from folders and hf:."""
    fit: Fitting = None
    """How pictures get it: cut to fill, whole on black, or stretched."""
    augment: Augment = None
    """Yours: (key, images) -> images, as file.py:function or package.module:function."""
    class_weights: Weighing = "equal"
    """Losses of classes: as they come, or each class the same however few its examples."""
    splits: tuple[Split, ...] = ("train", "valid")
    """What is trained on. Published: everything but the test set, so that no hold-out accuracy is reported."""
    space: Annotated[str | None, shown("FACTORY", "that of the run or genotype")] = None
    """Where the genotype's space is: a name, package.module:factory or file.py:factory."""
    cells: Annotated[int | None, shown("INT", "as searched")] = None
    """Cells of the network (of a stage, in NAS-Bench-201). Published: 20, and 5."""
    channels: Annotated[int | None, shown("INT", "as searched")] = None
    """Channels of the first cells. Published: 36, and 16."""
    epochs: int = 30
    """Passes over the data. Published: 600, and 200."""
    batch: int = 64
    """Examples in a mini-batch. Published: 96, and 256."""
    seed: int = 0
    """Seed of everything random, 0 to 4294967295."""
    lr: float = 0.1
    """First learning rate, which falls to 0 along a cosine. Published: 0.025, and 0.1."""
    momentum: float = 0.9
    """Momentum of the weights."""
    nesterov: bool = True
    """Look ahead by the momentum. Published: no, and yes."""
    weight_decay: float = 5e-4
    """Times the weights is added to the gradient. Published: 0.0003, and 0.0005."""
    clip: float = 5.0
    """Largest norm of the gradient, 0 for no limit. Published: 5, and 0."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all classes. Published: 0; 0.1 on ImageNet."""
    cutout: int = 0
    """Side in pixels of a square that is left out of each image, 0 for none. Published: 16, and 0."""
    drop_path: float = 0.0
    """Probability with which an operation is left out, reached linearly over the epochs. Published: 0.2, and 0."""
    auxiliary: float = 0.0
    """Weight of an auxiliary head's loss, for the DARTS space and images of more than 28 pixels. Published: 0.4, and 0."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which a step computes; weights, statistics and whatever is reported are float32."""
    inherit: bool = False
    """Start from the weights of the run's supernet: its own network, of its size and without an auxiliary head, whose
    statistics are taken anew from the data. --epochs 0 leaves it at that."""
    distill: float = 0.0
    """Share of the loss, 0 to 1, that is the divergence from what the run's whole supernet says of the same examples."""
    distill_temperature: float = 2.0
    """That the logits of both are divided by."""
    ema: float = 0.0
    """Decay of a running average of the weights, by which the network is judged; 0 for none. Published: 0."""
    run: Annotated[str | None, shown("DIR", "runs/train-NAME-DATA-SEED")] = None
    """Where the training is written, and continued if it was interrupted."""
    cache: Annotated[str | None, shown("DIR|off", "as for search")] = None
    """Where compiled programs are kept for the next time."""
    progress: bool = True
    """Show how the training goes on."""


SHOWN = (*DATA, "subject", "preset", "space", "cells", "channels", "run", "cache", "progress")
"""Options that are not part of config.json as they stand."""
BELOW_ONE = ("momentum", "label_smoothing", "drop_path", "ema")
"""Options of the recipe that are shares."""
RECIPE = tuple(field.name for field in dataclasses.fields(Arguments) if field.name not in SHOWN)


def main(argv: Sequence[str]) -> int:
    """Runs `dnas train`. Raises what is wrong as ValueError, RunWriteError or NonFiniteLoss."""
    arguments, subject = _arguments(list(argv))
    from dnas import open_run
    from dnas.data import describe, steps_per_epoch
    from dnas.reports.figures import draw_genotype
    from launch.prepare import loaded, shape_of

    source = learnt_from(arguments)
    data = loaded(source, arguments.batch, arguments.splits)
    from launch.subject import build

    recipe = _recipe(arguments)
    origin, genotype = source_of(arguments, subject, data), subject.genotype
    if arguments.inherit:
        space, built = origin.space, origin.options
    else:
        space, built = build(subject, data, arguments.space, cells=arguments.cells, channels=arguments.channels)
    network = space.network(genotype, auxiliary=arguments.auxiliary > 0)
    steps = steps_per_epoch({"train": sum(len(data.splits[name]) for name in arguments.splits)}, arguments.batch)
    _try(network, data, built["name"], arguments.drop_path)
    config = {"genotype": {"name": space.format(genotype), **json.loads(genotype.to_json())}, "space": built,
              **source, **shape_of(data), **{name: getattr(arguments, name) for name in RECIPE}, **origin.config}
    folder = _folder(arguments, subject, config)
    with open_run(folder, config, shlex.join(["dnas", "train", *argv])) as run:
        cache.enable(arguments.cache)
        cost = space.cost(genotype)
        size = ", ".join(f"{built[name]} {name}" for name in ("cells", "channels") if name in built)
        print(describe(data))
        print(f"genotype  {space.format(genotype)}")
        print(f"network   {cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example{size and f'; {size}'}")
        for line in origin.lines:
            print(line)
        print(f"training  {arguments.epochs} epochs of {steps} steps of {arguments.batch} examples of "
              f"{', '.join(arguments.splits)}, seed {arguments.seed}")
        print(f"run       {folder}", flush=True)
        run.save_genotype(genotype)
        for suffix in ("svg", "png"):
            draw_genotype(genotype, space.groups, folder / f"cells.{suffix}")
        try:
            result = _trained(network, data, arguments, recipe, run, origin.given)
        except KeyboardInterrupt:
            where = shlex.quote(str(folder))
            raise KeyboardInterrupt(f"interrupted; `dnas train {where} --run {where}` goes on from its last "
                                    "checkpoint") from None
        _save(run, space, subject, config, data, result)
        print(_report(_written(run, data, arguments, cost, result), result, folder, data))
    return 0


def _arguments(argv: list[str]):
    """The arguments, and the subject that they name. What the subject's own config says are their defaults."""
    program = "dnas train"
    preset = given(argv, "--preset")
    default = Arguments(subject=tyro.MISSING, **PRESETS.get(preset, {}))
    arguments = parsed(default, program, __doc__, argv)
    from launch.subject import find

    subject = find(arguments.subject)
    same = given(argv, "--data") is None
    names = tuple(name for name in DATA if same and given(argv, f"--{name.replace('_', '-')}") is None)
    if subject.folder and preset is None:
        names += RECIPE
    known = {name: subject.config[name] for name in names if name in subject.config}
    if known:
        try:
            default = parsed(default, program, __doc__, [arguments.subject, *words(known)])
        except ValueError as error:
            raise ValueError(f"config.json of {arguments.subject}: {error}") from None
        arguments = parsed(default, program, __doc__, argv)
    arguments = dataclasses.replace(arguments, data=arguments.data or ("digits",))
    if arguments.inherit:
        arguments = of_its_size(arguments, subject, argv)
    check_bounds(dataclasses.replace(arguments, epochs=arguments.epochs or 1) if arguments.inherit else arguments)
    for name in RECIPE:
        value = getattr(arguments, name)
        if isinstance(value, float) and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be a finite number, at least 0")
        if name in BELOW_ONE and value >= 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least 0 and below 1")
    if len(set(arguments.splits)) < max(1, len(arguments.splits)):
        raise ValueError(f"--splits {' '.join(arguments.splits)}: it takes one or more, each once")
    return arguments, subject


def _folder(arguments: Arguments, subject, config: dict[str, Any]) -> Path:
    if arguments.run:
        return Path(arguments.run).expanduser()
    if subject.folder and subject.config == json.loads(json.dumps(config)):
        return subject.folder
    name = subject.name.removeprefix("train-") if subject.folder else subject.name
    return free_folder("-".join(["train", stem(name), stem(config["data"][0]), str(config["seed"])]), config)


def _try(network, data, space: str, drop_path: float) -> None:
    """Traces the first weights, and the network where it drops paths, so that one that cannot be is refused before
    anything is written."""
    import jax

    from dnas.engine.search import input_shape

    images, key = input_shape(data, 1), jax.random.key(0)
    try:
        made = jax.eval_shape(lambda key: network.init(key, images), key)
        if drop_path:
            jax.eval_shape(lambda *args: network.apply(*args, train=True, key=key, drop_path=drop_path), *made, images)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"space {space} has no network for this data: {type(error).__name__}: {error}") from error


def _recipe(arguments: Arguments):
    """The Recipe of the training. Raises ValueError, in one line, where one is out of range."""
    from dnas.algorithms.supervised import Recipe

    return Recipe(**{name: getattr(arguments, name) for name in Recipe._fields if hasattr(arguments, name)}).check()


def _trained(network, data, arguments: Arguments, recipe, run, extras: Mapping[str, Any]):
    from dnas.engine.train import train

    return train(network, data, epochs=arguments.epochs, batch=arguments.batch, seed=arguments.seed, recipe=recipe,
                 splits=arguments.splits, **extras, final="test", run=run,
                 report=None if "holdout" in arguments.splits else "holdout", progress=arguments.progress)


def _save(run, space, subject, config: dict[str, Any], data, result) -> None:
    """Writes the network that was tested, without its auxiliary head, into the one file that `dnas.load` reads."""
    import jax

    from dnas.engine.search import input_shape
    from dnas.runs import model_file
    from search_spaces.adapter import flat, nested

    image = input_shape(data, 1)
    used = jax.eval_shape(lambda key: space.network(subject.genotype).init(key, image), jax.random.key(0))
    weights, stats = (nested({path: leaf for path, leaf in flat(tree).items() if path in known})
                      for tree, known in zip((result.weights, result.stats), map(flat, used)))
    described = model_file.Portable(subject.genotype, config["space"], model_file.input_of(data, config),
                                  model_file.output_of(data), config)
    model_file.save(run.folder / model_file.FILE, described, weights, stats)


def _written(run, data, arguments: Arguments, cost, result) -> dict[str, Any]:
    """Writes results.json and the pictures; returns what results.json holds."""
    from dnas.engine.train import best
    from dnas.reports.confusion import draw_confusion, shares
    from dnas.reports.figures import draw_curves
    from dnas.runs.directory import write_json
    from dnas.runs.tensorboard import events
    from dnas.task import task_of

    task = task_of(data)
    results = {"test": {**result.final, "examples": len(data.splits["test"]),
                        "standard_error": result.errors[task.metric]}}
    if result.report is not None:
        of = {record["epoch"]: record[task.metric]["holdout"] for record in result.records}
        epoch = best(result.records, "holdout", task)
        results["holdout"] = {**result.report, "best": {"epoch": epoch, task.metric: of[epoch]}}
        if 0 in of:
            results["holdout"]["inherited"] = of[0]
    results |= {"train_examples": sum(len(data.splits[name]) for name in arguments.splits), **cost}
    if result.confusion is not None:
        recall, precision = ([float(x) if math.isfinite(x) else None for x in values] for values in shares(result.confusion))
        results |= {"recall": recall, "precision": precision, "confusion": result.confusion.tolist()}
    results |= {"class_names": list(data.class_names)} if data.class_names else {}
    write_json(run.folder / "results.json", results)
    board = events(run.folder, {})
    board.epoch({"epoch": arguments.epochs, **{name: {"test": value} for name, value in result.final.items()}}, {})
    board.picture(run.folder / "cells.png", arguments.epochs)
    if result.confusion is not None:
        for suffix in ("svg", "png"):
            draw_confusion(result.confusion, run.folder / f"confusion.{suffix}", data.class_names)
        board.picture(run.folder / "confusion.png", arguments.epochs, "confusion")
    if arguments.epochs or result.report is not None:
        draw_curves(result.records, run.folder / "curves.svg")
    board.close()
    return results


def _report(results: dict[str, Any], result, folder: Path, data) -> str:
    """What a training ends with, for a person: every class, the metrics, where everything lies."""
    from dnas.engine.progress import metric_text
    from dnas.reports.confusion import table
    from dnas.task import task_of

    task, test, holdout = task_of(data), results["test"], results.get("holdout")
    spell = lambda value: metric_text(task, value, 2)
    error = f"{100 * test['standard_error']:.2f}" if task.percent else f"{test['standard_error']:.3g}"
    others = "".join(f", {name} {test[name]:.4g}" for name in task.metrics if name != task.metric)
    lines = ["", *([table(result.confusion, data.class_names), ""] if result.confusion is not None else []),
             f"test      {spell(test[task.metric])}{f' {task.metric}' if task.percent else ''}, ± {error} by the number of "
             f"its examples ({test['examples']:,}){others}; loss {test['loss']:.3f}"]
    if holdout:
        lines.append(f"hold-out  {spell(holdout[task.metric])}; the best was {spell(holdout['best'][task.metric])} after "
                     f"epoch {holdout['best']['epoch']}" +
                     (f", as inherited {spell(holdout['inherited'])}" if "inherited" in holdout else ""))
    files = ["results.json", *(["confusion.svg"] if result.confusion is not None else []), "curves.svg",
             "weights.safetensors", "last.safetensors", *(["best.safetensors"] if holdout else [])]
    lines += [f"time      {result.seconds:.1f} s", f"run       {folder} ({', '.join(files)})"]
    where = shlex.quote(str(folder))
    lines += ["next", f"  dnas predict {where} {'PICTURE' if data.kind == 'images' else 'FILE'} ...",
              f"  dnas export {where} --format stablehlo", f"  dnas report {where}"]
    return "\n".join(lines)
