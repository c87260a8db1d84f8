"""Search a space on data, and write the architecture, the supernet and the metrics into a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dnas.engine import cache
from launch.arguments import parse
from launch.prepare import Prepared, budget_lines, named, prepare
from launch.sweep import Setting, settings_of

if TYPE_CHECKING:
    from dnas import Lane, NonFiniteLoss, Result, Run, SearchState
    from launch.arguments import Arguments


def main(argv: Sequence[str]) -> int:
    """Runs `dnas search`. Raises what is wrong as ValueError, RunWriteError or NonFiniteLoss."""
    arguments = parse("search", __doc__, argv)
    command = shlex.join(["dnas", "search", *argv])
    if arguments.seeds > 1 or arguments.sweep:
        return _several(arguments, argv, command)
    prepared = prepare(arguments)
    [start] = _starts([prepared])
    from dnas import open_run, search
    from dnas.runs.directory import write_json

    folder = Path(arguments.run).expanduser() if arguments.run else default_folder(prepared.config)
    with open_run(folder, prepared.config, command) as run:
        cache.enable(arguments.cache)
        print(_announced(prepared, f"seed {arguments.seed}"))
        complete = len(run.metrics()) >= arguments.epochs
        begun = any(run.checkpoints.glob("*.safetensors"))
        state = ", complete: this is its result" if complete else ", continued" if begun else ""
        print(f"run     {folder}{state}", flush=True)
        try:
            result = search(prepared.space, prepared.method, prepared.data, epochs=arguments.epochs,
                            batch=arguments.batch, seed=arguments.seed, run=run, progress=arguments.progress,
                            diagnose=arguments.diagnose, stop_on_collapse=arguments.stop_on_collapse, start=start,
                            key=prepared.key)
        except KeyboardInterrupt:
            config = shlex.quote(str(folder / "config.json"))
            raise KeyboardInterrupt(f"interrupted; `dnas search --config {config} --run {shlex.quote(str(folder))}` "
                                    "goes on from its last checkpoint") from None
        write_json(run.folder / "results.json", results(prepared, result))
        print(report(prepared, result, run))
    return 0


class Several(NamedTuple):
    """Searches by one program: what they have in common, and of each its setting's name, its lane, folder and config."""

    prepared: Prepared
    settings: list[str]
    lanes: list[Lane]
    folders: list[Path]
    configs: list[dict[str, Any]]

    @property
    def common(self) -> Prepared:
        """What is prepared, without those of the method's options in its config that the searches do not share."""
        shared = {name: value for name, value in self.prepared.config["method"].items()
                  if all(config["method"][name] == value for config in self.configs)}
        return self.prepared._replace(config={**self.prepared.config, "method": shared})


def _several(arguments: Arguments, argv: Sequence[str], command: str) -> int:
    """The searches of several seeds and settings, each in a run directory of its own."""
    from dnas import NonFiniteLoss, open_run, search_lanes
    from dnas.runs.directory import holds_run, write_json

    whole = arguments.run and Path(arguments.run).expanduser()
    if whole and (whole / "config.json").exists():
        raise ValueError(f"{whole} is a run itself; --seeds and --sweep write runs into folders of --run, choose another")
    groups = [_group(arguments, settings, whole) for settings in settings_of(arguments, argv)]
    for group in groups:
        for folder, config in zip(group.folders, group.configs):
            holds_run(folder, config)
    starts = _starts([group.prepared for group in groups])
    cache.enable(arguments.cache)
    outcomes, folders = {}, [folder for group in groups for folder in group.folders]
    for group, start in zip(groups, starts):
        prepared = group.prepared
        with contextlib.ExitStack() as stack:
            lanes = [lane._replace(run=stack.enter_context(open_run(folder, config, command)))
                     for lane, folder, config in zip(group.lanes, group.folders, group.configs)]
            print(_announced(group.common, f"{len(lanes)} searches: {lanes[0].name} to {lanes[-1].name}"))
            print(f"runs    {group.folders[0]} to {group.folders[-1]}", flush=True)
            try:
                found = search_lanes(prepared.space, lanes, prepared.data, epochs=prepared.config["epochs"],
                                     batch=prepared.config["batch"], progress=arguments.progress,
                                     diagnose=arguments.diagnose, stop_on_collapse=arguments.stop_on_collapse, start=start,
                                     key=prepared.key)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"interrupted; `{_again(argv, arguments, folders)}` goes on from the last "
                                        "checkpoints") from None
            for lane, result in zip(lanes, found):
                outcomes[lane.name] = result
                if not isinstance(result, NonFiniteLoss):
                    write_json(lane.run.folder / "results.json", results(prepared, result))
    print(report_lanes(groups, outcomes, folders, arguments.run))
    failed = [name for name, result in outcomes.items() if isinstance(result, NonFiniteLoss)]
    if failed:
        raise NonFiniteLoss(f"of {len(outcomes)} searches {len(failed)} came to a loss that is not finite, "
                            f"{', '.join(failed)}; a smaller learning rate may help")
    return 0


def _group(arguments: Arguments, settings: Sequence[Setting], whole: Path | None) -> Several:
    """The searches of settings that differ in numbers of the method only, so that one program serves them."""
    from dnas import Lane

    prepared = prepare(dataclasses.replace(settings[0].arguments, sweep=()))
    names, lanes, folders, configs = [], [], [], []
    for setting in settings:
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            config = prepared.config | {"seed": seed}
            config["method"] = config["method"] | setting.numbers
            name = ", ".join([*([setting.name] if setting.name else []), f"seed {seed}"])
            lanes.append(Lane(prepared.method.replace(**setting.numbers), seed, None, name))
            lanes[-1].method.numbers_of(epochs=prepared.config["epochs"], steps=prepared.steps)  # refuses what cannot be
            names.append(setting.name)
            configs.append(config)
            inside = Path(setting.folder) / str(seed) if setting.folder else Path(str(seed))
            folders.append(whole / inside if whole else default_folder(config, setting.folder))
    return Several(prepared, names, lanes, folders, configs)


def _starts(preparations: Sequence[Prepared]) -> list[SearchState | None]:
    """The state of the run that each of these searches, which name the same one, is to begin with; None for new weights.

    Raises ValueError, in one line, where it is of another space, or of another size of it."""
    if "start" not in preparations[0].config:
        return [None] * len(preparations)
    from dnas.engine.search import started_from, state_shape
    from dnas.runs.directory import flatten
    from launch.trained import trained_state

    other = trained_state(Path(preparations[0].config["start"]))
    for prepared in preparations:
        if other.ready.space.groups != prepared.space.groups:
            raise ValueError(f"--start {other.folder}: it searched space {named(other.ready.config, 'space')}, and this is "
                             f"{named(prepared.config, 'space')}; both must have the same edges and operations")
        try:
            started_from(state_shape(prepared.space, prepared.method, prepared.data, prepared.config["batch"]), other.state)
        except ValueError as error:
            there, here = (flatten({part: config[part] for part in ("space", "method", "data")}, ".")
                           for config in (other.ready.config, prepared.config))
            differ = ", ".join(f"{key} is {there.get(key)} there, {here.get(key)} here" for key in {**there, **here}
                               if there.get(key) != here.get(key))
            raise ValueError(f"--start {other.folder}: {error} ({differ})") from None
    print("\n".join([f"start   {other.folder}, epoch {other.epoch}", *other.notes]))
    return [other.state] * len(preparations)


def _again(argv: Sequence[str], arguments: Arguments, folders: Sequence[Path]) -> str:
    """The command that goes on with several searches."""
    if arguments.sweep:
        return shlex.join(["dnas", "search", *argv])
    return shlex.join(["dnas", "search", "--config", str(folders[0] / "config.json"), "--seeds", str(arguments.seeds),
                       *(["--run", arguments.run] if arguments.run else [])])


def _announced(prepared: Prepared, seeds: str) -> str:
    from dnas.data import describe

    config = prepared.config
    return "\n".join([describe(prepared.data), f"space   {named(config, 'space')}",
                      f"method  {named(config, 'method')}, {config['epochs']} epochs of {prepared.steps} steps "
                      f"of {config['batch']} examples, {seeds}"])


def default_folder(config: Mapping[str, Any], setting: str = "") -> Path:
    """The folder under runs of a search without --run. setting: of a sweep."""
    names = [config["space"]["name"], config["method"]["name"], config["data"][0]]
    return free_folder("-".join([*map(stem, names), *([setting] if setting else []), str(config["seed"])]), config)


def free_folder(name: str, config: Mapping[str, Any]) -> Path:
    """The first of runs/`name`, runs/`name`-2, ... that does not exist, is empty, or holds a run of this very config."""
    number, config = 1, json.loads(json.dumps(config))
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or folder.is_dir() and (not any(folder.iterdir()) or _config(folder) == config):
            return folder
        number += 1


def results(prepared: Prepared, result: Result) -> dict[str, Any]:
    """What results.json holds of a search that has ended."""
    return {"holdout": dict(result.holdout), "cell": prepared.space.format(result.genotype),
            **prepared.space.cost(result.genotype), "margin": margin(prepared, result)}


def report(prepared: Prepared, result: Result, run: Run) -> str:
    """What a search ends with, for a person: the cell, its size, accuracy, where everything lies, what to do next."""
    from dnas.engine.progress import metric_text
    from dnas.reports.figures import terminal_cell
    from dnas.task import task_of

    genotype, space, task = result.genotype, prepared.space, task_of(prepared.data)
    cost = space.cost(genotype)
    folder = shlex.quote(str(run.folder))
    pictures = sorted(path.name for path in run.folder.iterdir() if path.suffix in (".svg", ".png"))
    board = "" if find_spec("tensorboard") else "   (after pip install tensorboard)"
    snippet = f"import dnas; print(dnas.load_genotype({str(run.folder)!r}))"
    lines = [
        "", terminal_cell(genotype, space.groups), space.format(genotype), "",
        f"margin    the gate of an edge's first operation leads its second by {100 * margin(prepared, result):.1f} points "
        "(median)",
        f"size      {cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example as a network of its own",
        *(f"budget    {line}" for line in budget_lines(prepared.config, space, genotype, result.gates)),
        f"hold-out  {metric_text(task, result.holdout[task.metric], 2)}{f' {task.metric}' if task.percent else ''} of the "
        f"supernet, loss {result.holdout['loss']:.3f}",
        *([f"stopped   {result.stopped.reason}"] if result.stopped else []),
        f"time      {result.seconds:.1f} s",
        f"run       {run.folder}" + (f" (pictures: {', '.join(pictures)})" if pictures else ""),
        "next",
        f"  dnas train {folder}",
        f"  dnas select {folder} --selection perturbation",
        f"  dnas report {folder}",
        f"  tensorboard --logdir {folder}{board}",
        f"  dnas search --config {folder}/config.json --seed {prepared.config['seed'] + 1}",
        f"  python -c \"{snippet}\"" if folder == str(run.folder) else f"  python -c {shlex.quote(snippet)}",
    ]
    return "\n".join(lines)


def report_lanes(groups: Sequence[Several], results: Mapping[str, Result | NonFiniteLoss], folders: Sequence[Path],
                 whole: str | None = None) -> str:
    """What several searches end with: each on a line, what they have in common, and what to do next."""
    import numpy as np

    from dnas.engine.progress import metric_text
    from dnas.reports.comparison import agreement
    from dnas.task import task_of

    task, width = task_of(groups[0].prepared.data), max(map(len, results))
    preparations = {lane.name: group.prepared for group in groups for lane in group.lanes}
    setting_of = {lane.name: setting for group in groups for lane, setting in zip(group.lanes, group.settings)}
    lines = ["", f"{'search':<{width}}  {'hold-out':>12}     parameters  genotype"]
    for name, result in results.items():
        if isinstance(result, Exception):
            lines.append(f"{name:<{width}}  {result}")
            continue
        space, value = preparations[name].space, metric_text(task, result.holdout[task.metric], 2)
        lines.append(f"{name:<{width}}  {value:>12}  {space.cost(result.genotype)['params']:13,}  "
                     f"{space.format(result.genotype)}")
    ended = {name: result for name, result in results.items() if not isinstance(result, Exception)}
    lines.append("")
    if ended:
        values = np.array([result.holdout[task.metric] for result in ended.values()])
        lines.append(f"hold-out  {metric_text(task, values, 2)} of the supernets, {len(ended)} searches")
        settings = {}
        for name, value in zip(ended, values):
            settings.setdefault(setting_of[name], []).append(value)
        lines += [f"          {metric_text(task, np.array(each), 2)} with {setting}" for setting, each in settings.items()
                  if len(settings) > 1]
    if len(ended) > 1:
        pairs = itertools.combinations([result.genotype for result in ended.values()], 2)
        lines.append(f"agreement {100 * np.mean([agreement(*pair) for pair in pairs]):.0f} % of the edges carry the same "
                     "operation, mean over pairs of searches")
    lines += [f"budget    {name}: {line}" for name, result in ended.items()
              for line in budget_lines(preparations[name].config, preparations[name].space, result.genotype, result.gates)]
    if ended:
        runs = [str(folder) for name, folder in zip(results, folders) if name in ended]
        runs = [whole] if whole and len(ended) == len(results) else runs
        lines += [f"time      {max(result.seconds for result in ended.values()):.1f} s", "next",
                  f"  dnas compare {shlex.join(runs)}"]
    return "\n".join(lines)


def margin(prepared: Prepared, result: Result) -> float:
    """Median over all edges of the difference between the largest gate and the next, as shares of their edge's sum."""
    import numpy as np

    leads = []
    for name in prepared.space.groups:
        rows = result.gates[name]
        ranked = np.sort(np.asarray(rows, np.float64), -1)[:, ::-1]
        leads += list((ranked[:, 0] - ranked[:, 1]) / np.maximum(ranked.sum(-1), 1e-12) if ranked.shape[1] > 1
                      else np.ones(len(ranked)))
    return float(np.median(leads))


def stem(name: str) -> str:
    """A short form of a name or path that can be part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", Path(name.rpartition(":")[2]).name.removesuffix(".npz")) or "data"


def _config(folder: Path) -> Any:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
