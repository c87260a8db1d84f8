"""Train the network of an architecture, or a published one, from scratch or from the supernet's weights; test it once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dnas.options import REQUIRED, Option
from launch.arguments import LOAD, data_options, flag_value, has_option, load_data, options_of, read_command
from launch.interrupts import working
from launch.parser import Positional, Shown

if TYPE_CHECKING:
    from dnas import TrainedNetwork
    from dnas.api.training_plan import TrainingPlan

WHAT = Option("what", str, REQUIRED,
              "A run directory, a folder of its selections, a genotype.json, or a published name such as darts-v2. The "
              "folder of an earlier training repeats it, with its options.")
SELECTION = Option("selection", str | None, None, "Train the genotype in RUN/selections/SELECTION of that run.")
SPLITS = Option("splits", tuple[Literal["train", "valid", "holdout"], ...], (),
                "Splits to train on. Published: all but the test set, so that no hold-out metric is reported.")
RUN = Option("run", str | None, None, "Directory of the training; an interrupted one in it continues.")
NOT_OF_PLAN = ("splits", "out", "cache", "progress")
"""Options that are not part of a plan."""
TRAIN, RECIPE = "dnas.api.train:train", "dnas.algorithms.supervised:Recipe"


def main(argv: Sequence[str]) -> int:
    """Runs `dnas train`. Raises ValueError, RunWriteError or NonFiniteLoss."""
    values = _read(argv)
    what = str(_selection(values["what"], values["selection"])) if values["selection"] else values["what"]
    from dnas import registry
    from dnas.api.architectures import architecture_of
    from dnas.api.train import default_folder, run_training_plan
    from dnas.api.training_plan import plan_training

    if not values["trust"] and values["selection"]:  # whose place may be imported, since the user names it
        values["trust"] = {registry.absolute(values["selection"])}
    architecture = architecture_of(what, space=values["space"], trust=values["trust"])
    listed = ("splits", *(option.name for option in (*options_of(TRAIN, without=NOT_OF_PLAN), *options_of(RECIPE))))
    options = {name: values[name] for name in listed if name == "trust" or has_option(argv, name)}
    plan = plan_training(what, _data(values, argv, architecture), **options)
    folder = Path(values["run"]).expanduser() if values["run"] else default_folder(plan)
    where = shlex.quote(str(folder))
    devices = f" --devices {values['devices']}" if values["devices"] else ""
    with working(f"`dnas train {where} --run {where}{devices}` continues from its last checkpoint"):
        network = run_training_plan(plan, folder, cache=values["cache"], progress=values["progress"])
    print(report(plan, network, folder))
    return 0


def _read(argv: Sequence[str]) -> dict[str, Any]:
    """The values of the options; a preset changes the defaults that --help shows."""
    own = options_of(TRAIN, without=("out", "splits"))
    shown = {"what": Positional("RUN|GENOTYPE"),
             "cells": Shown("INT", "as searched"), "channels": Shown("INT", "as searched"),
             "splits": Shown("SPLIT ...", "train valid"), "run": Shown("DIR", "runs/train-NAME-DATA-SEED"),
             "data": Shown("SOURCE ...", "that of the search, else digits"), "selection": Shown("NAME", "none"),
             "limit": Shown("N", "as for the search, else all"), "preset": Shown("{quick,cifar,nasbench201}", "quick"),
             "epochs": Shown("INT", "30"), "batch": Shown("INT", "64"), "seed": Shown("INT", "0")}
    defaults = {}
    if flag_value(argv, "--preset") and {"-h", "--help"} & set(argv):
        from dnas.api.training_plan import PRESETS

        defaults = PRESETS.get(flag_value(argv, "--preset"), {})
    inherit = next(option for option in own if option.name == "inherit")
    own = [inherit._replace(annotation=bool, default=False) if option is inherit else option for option in own]
    options = [WHAT, SELECTION, *data_options(), SPLITS, *own, *options_of(RECIPE), RUN]
    return read_command("train", __doc__, argv, options, shown=shown, defaults=defaults)


def _selection(run: str, name: str) -> Path:
    """The folder of a run's selection. Raises ValueError that lists the existing ones."""
    folder = Path(run).expanduser() / "selections"
    there = sorted(path.parent.name for path in folder.glob("*/genotype.json"))
    if not (folder.parent / "config.json").is_file():
        raise ValueError(f"--selection {name}: {run} must be the run directory of a search")
    if name.rpartition(":")[2] not in there:
        raise ValueError(f"--selection {name}: {run} has {', '.join(there) or 'no selection'}; make it by "
                         f"`dnas select {shlex.quote(run)} --selection {name}`")
    return folder / name.rpartition(":")[2]


def _data(values: Mapping[str, Any], argv: Sequence[str], architecture):
    """The data set if an option names or changes it, else None: that of the search."""
    from dnas import config as configs

    said = [name for name in (option.name for option in options_of(LOAD)) if has_option(argv, name)]
    if flag_value(argv, "--data") is not None or not architecture.config:
        return load_data(values | {"data": values["data"] or ("digits",)})
    if not said:
        return None
    config = {key: value for key, value in architecture.config.items() if key != "digest"}  # of other examples
    config |= {name: list(values[name]) if isinstance(values[name], tuple) else values[name] for name in said}
    named = {values[name] for name in ("task", "augment") if name in said}
    trust = architecture.trust if architecture.trust is True else {*architecture.trust, *named}
    return configs.data_of(config, architecture.where, trust, values["splits"] or ("train", "valid"))


def report(plan: TrainingPlan, network: TrainedNetwork, folder: Path) -> str:
    """The result of a training as text: every class, the metrics, its files."""
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
    files = ["results.json", *(["confusion.svg"] if confused else []), "curves.svg", "weights.safetensors",
             "last.safetensors", *(["best.safetensors"] if holdout else [])]
    where = shlex.quote(str(folder))
    return "\n".join([*lines, f"time      {network.run.seconds:.1f} s", f"run       {folder} ({', '.join(files)})", "next",
                      f"  dnas predict {where} {'PICTURE' if data.kind == 'images' else 'FILE'} ...",
                      f"  dnas export {where} --format stablehlo", f"  dnas report {where}"])
