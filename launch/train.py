"""Train the network of an architecture, or a published one, from scratch or from the supernet's weights; test it once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from launch.arguments import (
    LOAD,
    REQUIRED,
    Option,
    Positional,
    Shown,
    data_options,
    flag_value,
    is_given,
    load_data,
    options_of,
    read_command,
)

if TYPE_CHECKING:
    from dnas import TrainedNetwork
    from dnas.api.train import TrainingPlan

WHAT = Option("what", str, REQUIRED, "A run directory, a folder of its selections, a genotype.json, or a published name such as "
              "darts-v2. The folder of an earlier training repeats it, with its options.")
SELECTION = Option("selection", str | None, None, "Train the choice RUN/selections/SELECTION of that run.")
SPLITS = Option("splits", tuple[Literal["train", "valid", "holdout"], ...], (), "What is trained on. Published: all but the test "
                "set, so that no hold-out metric is reported.")
RUN = Option("run", str | None, None, "Where the training is written, and continued if it was interrupted.")
TRAIN, RECIPE = "dnas.api.train:train", "dnas.algorithms.supervised:Recipe"


def main(argv: Sequence[str]) -> int:
    """Runs `dnas train`. Raises what is wrong as ValueError, RunWriteError or NonFiniteLoss."""
    first = _read(argv, {})
    what = str(_selection(first["what"], first["selection"])) if first["selection"] else first["what"]
    from dnas.api.architectures import architecture_of
    from dnas.api.train import default_folder, default_options, plan_training, run_training_plan

    architecture = architecture_of(what, space=first["space"], trust=first["trust"])
    values = _read(argv, default_options(architecture, first["preset"]))
    options = {name: value for name, value in values.items() if name not in (
        "what", "selection", "run", "cache", "progress", "data", *(option.name for option in options_of(LOAD)))}
    plan = plan_training(what, _data(values, argv, architecture), **options)
    folder = Path(values["run"]).expanduser() if values["run"] else default_folder(plan)
    try:
        network = run_training_plan(plan, folder, cache=values["cache"], progress=values["progress"])
    except KeyboardInterrupt:
        where = shlex.quote(str(folder))
        raise KeyboardInterrupt(f"interrupted; `dnas train {where} --run {where}` goes on from its last checkpoint") from None
    print(report(plan, network, folder))
    return 0


def _read(argv: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What the command line says. defaults: of options that depend on what is trained."""
    own = options_of(TRAIN, without=("out", "splits"))
    taken = [option.name for option in own]
    recipe = [option for option in options_of(RECIPE) if option.name not in taken]
    shown = {"what": Positional("RUN|GENOTYPE"), "cells": Shown("INT", "as searched"), "channels": Shown("INT", "as searched"),
             "splits": Shown("SPLIT ...", "train valid"), "run": Shown("DIR", "runs/train-NAME-DATA-SEED"),
             "data": Shown("SOURCE ...", "that of the search, else digits"), "selection": Shown("NAME", "none"),
             "limit": Shown("N", "as for the search, else all"), "preset": Shown("{quick,cifar,nasbench201}", "quick"),
             "epochs": Shown("INT", "30"), "batch": Shown("INT", "64"), "seed": Shown("INT", "0")}
    inherit = next(option for option in own if option.name == "inherit")
    own = [inherit._replace(annotation=bool, default=False) if option is inherit else option for option in own]
    return read_command("train", __doc__, argv, [WHAT, SELECTION, *data_options(), SPLITS, *own, *recipe, RUN], shown=shown,
                        defaults=defaults)


def _selection(run: str, name: str) -> Path:
    """The folder of a run's selection. Raises ValueError that lists those that are there."""
    folder = Path(run).expanduser() / "selections"
    there = sorted(path.parent.name for path in folder.glob("*/genotype.json"))
    if name.rpartition(":")[2] not in there:
        hint = f"it has {', '.join(there)}" if there else f"choose first: dnas select {shlex.quote(run)} --selection {name}"
        raise ValueError(f"--selection {name}: {run} has no such finished selection; {hint}")
    return folder / name.rpartition(":")[2]


def _data(values: Mapping[str, Any], argv: Sequence[str], architecture):
    """The data set, if the command line says anything of it, else None: that of the search."""
    from dnas import config as configs

    said = [name for name in (option.name for option in options_of(LOAD)) if is_given(argv, name)]
    if flag_value(argv, "--data") is not None or not architecture.config:
        return load_data(values | {"data": values["data"] or ("digits",)})
    if not said:
        return None
    config = dict(architecture.config) | {name: list(values[name]) if isinstance(values[name], tuple) else values[name]
                                          for name in said}
    named = {values[name] for name in ("task", "augment") if name in said}
    trust = architecture.trust if architecture.trust is True else {*architecture.trust, *named}
    return configs.data_of(config, architecture.where, trust, values["splits"] or ("train", "valid"))


def report(plan: TrainingPlan, network: TrainedNetwork, folder: Path) -> str:
    """What a training ends with, for a person: every class, the metrics, where everything lies."""
    import numpy as np

    from dnas.engine.progress import metric_text
    from dnas.reports.confusion import table

    task, results, data = network.task, network.results, plan.data
    test, holdout = results["test"], results.get("holdout")
    spell = lambda value: metric_text(task, value, 2)
    error = f"{100 * test['standard_error']:.2f}" if task.percent else f"{test['standard_error']:.3g}"
    others = "".join(f", {name} {test[name]:.4g}" for name in task.metrics if name != task.metric)
    confused = "confusion" in results
    lines = ["", *([table(np.array(results["confusion"]), data.class_names), ""] if confused else []),
             f"test      {spell(test[task.metric])}{f' {task.metric}' if task.percent else ''}, ± {error} by the number of "
             f"its examples ({test['examples']:,}){others}; loss {test['loss']:.3f}"]
    if holdout:
        lines.append(f"hold-out  {spell(holdout[task.metric])}; the best was {spell(holdout['best'][task.metric])} after "
                     f"epoch {holdout['best']['epoch']}" +
                     (f", as inherited {spell(holdout['inherited'])}" if "inherited" in holdout else ""))
    files = ["results.json", *(["confusion.svg"] if confused else []), "curves.svg", "weights.safetensors", "last.safetensors",
             *(["best.safetensors"] if holdout else [])]
    where = shlex.quote(str(folder))
    return "\n".join([*lines, f"time      {network.run.seconds:.1f} s", f"run       {folder} ({', '.join(files)})", "next",
                      f"  dnas predict {where} {'PICTURE' if data.kind == 'images' else 'FILE'} ...",
                      f"  dnas export {where} --format stablehlo", f"  dnas report {where}"])
