"""Search a space on data, and write the architecture, the supernet and the metrics into a run directory."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.arguments import flag_value, has_option, load_data
from launch.interrupts import working
from launch.search_options import SPLIT, read_search, settings_of
from launch.text import budget_lines, front_of_search, size_text

if TYPE_CHECKING:
    from dnas import Run
    from dnas.api.search_plan import SearchPlan


def main(argv: Sequence[str]) -> int:
    """Runs `dnas search`. Raises ValueError, RunWriteError or NonFiniteLoss."""
    values = read_search("search", __doc__, argv)
    from dnas import Budget
    from dnas.api.search import default_folder, run_searches
    from dnas.api.search_plan import plan_search

    data = load_data(values)
    spaces, methods = settings_of(values, argv, data)
    several = {} if len(spaces) * len(methods) == 1 else {"space": spaces, "method": methods}
    same = "epochs", "batch", "seed", "diagnose", "stop_on_collapse", "start", "seconds", "devices", "preset", *SPLIT
    own = {name: values[name] for name in same}
    if values["selection"] is not None:
        own["selection"] = (values["selection"], values.get("selection_options", {}))
    plan = plan_search(**{"space": spaces[0], "method": methods[0], "data": data, **several}, **own,
                       seeds=values["seeds"] if values["seeds"] != 1 else None, budget=Budget(**values["budget_options"]))
    if values["config"] and values["start"] and not has_option(argv, "start"):
        _refuse_other_start(values["config"], plan)
    out = Path(values["run"]).expanduser() if values["run"] else default_folder(plan)
    with working(f"`{_again(argv, plan, out)}` continues from its last checkpoint"):
        runs = run_searches(plan, out, progress=values["progress"], cache=values["cache"])
    print(report_runs(plan, runs, out) if plan.several else report(runs[0]))
    return 0


def _refuse_other_start(path: str, plan: SearchPlan) -> None:
    """Raises ValueError if the run in a config's start has changed since, or was replaced by another."""
    from dnas.api.supernet import FINGERPRINT
    from dnas.config import read_config

    there, here = read_config(path)["start"], plan.settings[0].config["start"]
    if any(there.get(key) != here[key] for key in FINGERPRINT):
        raise ValueError(f"{path} began with epoch {there.get('epoch')} of the run in {there['run']}, and other weights "
                         f"are there now, of epoch {here['epoch']}; to begin with them say --start {there['run']}")


def report(run: Run) -> str:
    """The result of a search as text: the cell, its size, its metric, its files, next commands."""
    from dnas.config import chosen_by
    from dnas.engine.margin import margin_of, undecided
    from dnas.engine.progress import metric_text
    from dnas.reports.cells import terminal_cell
    from dnas.runs.index import selection_of
    from dnas.task import task_of

    supernet, genotype = run.supernet, run.genotype
    space, task, holdout = supernet.space, task_of(supernet.data), run.holdout
    gates, folder = run.gates, shlex.quote(str(run.folder))
    margin = margin_of(space.groups, gates)
    chosen, elastic = selection_of(run.folder, run.config, run.results), supernet.method.selection
    even = undecided(margin.largest, margin.uniform)
    pictures = sorted(path.name for path in run.folder.iterdir() if path.suffix in (".svg", ".png"))
    board = "" if find_spec("tensorboard") else "   (after pip install tensorboard)"
    snippet = f"import dnas; print(dnas.open({str(run.folder)!r}))"
    lines = [
        "", terminal_cell(genotype, space.groups), space.format(genotype), "",
        *([] if elastic else ["margin    median lead of the best operation over the second: "
                              f"{100 * margin.lead:.1f} points (uniform gates: 0)"]),
        *([f"gates     {even}" + (", by the gates alone" if chosen else "")] if even else []),
        *([f"chosen    by {chosen_by(chosen)}"] if chosen else
          [f"chosen    by the method's own rule, since {run.config['selection']['name']} does not suit"]
          if "selection" in run.config else
          ["largest   this is the largest network: no architecture is learned here, and one is chosen afterwards"] if elastic
          else []),
        *_front_lines(run, chosen),
        *children_lines(run, task),
        f"size      {size_text(space.cost(genotype))} as a network of its own",
        *(f"budget    {line}" for line in budget_lines(run.config, space, genotype, gates)),
        f"hold-out  {metric_text(task, holdout[task.metric], 2)}{f' {task.metric}' if task.percent else ''} of the "
        f"{'largest network' if elastic else 'supernet'}, loss {holdout['loss']:.3f}",
        *([f"stopped   {run.stopped}"] if run.stopped else []),
        f"time      {run.seconds:.1f} s"
        + (f", and {run.results['selection_seconds']:.1f} s to choose" if "selection_seconds" in run.results else ""),
        f"run       {run.folder}" + (f" (pictures: {', '.join(pictures)})" if pictures else ""),
        *(_to_decide(run.config, folder) if even and not chosen else _of_elastic(run.config, folder) if elastic else
          ["next", f"  dnas train {folder}",
           f"  dnas select {folder} --selection {'magnitude' if chosen else 'perturbation'}"]),
        f"  dnas report {folder}",
        f"  tensorboard --logdir {folder}{board}",
        f"  dnas search --config {folder}/config.json --seed {run.config['seed'] + 1}",
        f"  python -c \"{snippet}\"" if folder == str(run.folder) else f"  python -c {shlex.quote(snippet)}",
    ]
    return "\n".join(lines)


def _front_lines(run: Run, chosen: Mapping[str, Any] | None) -> list[str]:
    """The front that the selection found with which the search ended, as `dnas select` prints it."""
    from dnas.fronts.front import load_front
    from dnas.runs.directory import choice_folder

    front = load_front(choice_folder(run.folder, chosen["name"])) if chosen else None
    return ["", front_of_search(front, run.supernet), ""] if front else []


def children_lines(run: Run, task) -> list[str]:
    """The sub-supernets of a few-shot search, the network of each and how it did when it was trained."""
    from dnas.engine.progress import metric_text

    children = run.results.get("children", [])
    trained = lambda child: ", ".join(metric_text(task, value) for value in child["trained"]) or "not trained"
    return [f"child     {child['name']}{' (chosen)' if number == run.results['chosen'] else ''}: {child['within']}; "
            f"{child['cell']}; valid {trained(child)}" for number, child in enumerate(children)]


def _to_decide(config: Mapping[str, Any], folder: str) -> list[str]:
    """Next commands if the gates have decided nothing."""
    from dnas.engine.margin import DECIDES, moves_logits, what_decides

    options, again = config["method"], []
    if moves_logits(options):
        again = [f"  dnas search --config {folder}/config.json --epochs {3 * config['epochs']} "
                 f"--method.arch-lr {10 * options['arch_lr']:g}"]
    return [f"next      {what_decides(options)}", f"  dnas select {folder} --selection {DECIDES}",
            f"  dnas train {folder}/selections/{DECIDES}", *again]


def _of_elastic(config: Mapping[str, Any], folder: str) -> list[str]:
    """Next commands after an elastic search: how a network is taken from it."""
    chosen = config.get("selection", {}).get("name")
    front = [] if chosen == "pareto" else [f"  dnas select {folder} --selection pareto"]
    return ["next", *([f"  dnas train {folder}"] if chosen else []), *front, f"  dnas train {folder} --pick 'macs<=NUMBER'"]


def report_runs(plan: SearchPlan, runs: Sequence[Run], out: Path) -> str:
    """The results of several searches as text: a line each, what they share, next commands."""
    import numpy as np

    from dnas.config import chosen_by
    from dnas.engine.margin import margin_of, undecided, what_decides
    from dnas.engine.progress import metric_text
    from dnas.reports.comparison import agreement
    from dnas.runs.index import selection_of
    from dnas.task import task_of

    task = task_of(plan.data)
    by_folder = {run.folder: run for run in runs}
    rows = [(setting, by_folder.get(folder)) for setting, folder in zip(plan.settings, plan.folders(out))]
    width = max(len(setting.title) for setting, _ in rows)
    lines = ["", f"{'search':<{width}}  {'hold-out':>12}     parameters  genotype"]
    for setting, run in rows:
        if run is None:
            lines.append(f"{setting.title:<{width}}  the loss became NaN or infinite")
            continue
        value = metric_text(task, run.holdout[task.metric], 2)
        lines.append(f"{setting.title:<{width}}  {value:>12}  {run.results['params']:13,}  {run.results['cell']}")
    lines.append("")
    metric = {run.folder: run.holdout[task.metric] for run in runs}
    if runs:
        spell = lambda values: metric_text(task, np.array(values), 2)
        lines.append(f"hold-out  {spell(list(metric.values()))} of the supernets, {len(runs)} searches")
        by_name = {}
        for setting, run in rows:
            if run:
                by_name.setdefault(setting.name, []).append(metric[run.folder])
        lines += [f"          {spell(values)} with {name}" for name, values in by_name.items() if len(by_name) > 1]
    if len(runs) > 1:
        pairs = itertools.combinations([run.genotype for run in runs], 2)
        lines.append(f"agreement {100 * np.mean([agreement(*pair) for pair in pairs]):.0f} % of the edges carry the same "
                     "operation, mean over pairs of searches")
    margins = [margin_of(run.supernet.space.groups, run.gates) for run in runs]
    even = 0 if plan.selection else sum(undecided(margin.largest, margin.uniform) is not None for margin in margins)
    if even:
        lines.append(f"gates     {even} of {len(runs)} searches decided nothing: their gates are nearly uniform; "
                     f"{what_decides(plan.settings[0].config['method'])}")
    if plan.selection:
        other = sum(selection_of(run.folder, run.config, run.results) is None for run in runs)
        lines.append(f"chosen    by {chosen_by(plan.settings[0].config['selection'])}" + (
            f"; in {other} of {len(runs)} searches it does not suit, and the method's own rule chose" if other else ""))
    lines += [f"budget    {setting.title}: {line}" for setting, run in rows if run
              for line in budget_lines(run.config, run.supernet.space, run.genotype, run.gates)]
    if runs:
        folders = [str(out)] if len(runs) == len(rows) else [str(run.folder) for run in runs]
        lines += [f"time      {max(run.seconds for run in runs):.1f} s", "next", f"  dnas compare {shlex.join(folders)}"]
    return "\n".join(lines)


def _again(argv: Sequence[str], plan: SearchPlan, out: Path) -> str:
    """The command that continues an interrupted search."""
    if plan.several:
        return shlex.join(["dnas", "search", *argv, *([] if "--run" in " ".join(argv) else ["--run", str(out)])])
    devices = flag_value(argv, "--devices")
    return shlex.join(["dnas", "search", "--config", str(out / "config.json"), "--run", str(out),
                       *(["--devices", devices] if devices else [])])
