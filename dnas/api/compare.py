"""`dnas.compare`: several selections on several trained supernets, in one table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas import config as configs
from dnas.algorithms.supervised import Recipe
from dnas.api.comparison_plan import ComparisonPlan, PlannedRun, Truth, plan_comparison, refuse_other_space
from dnas.api.open import Run
from dnas.api.search_plan import BATCH
from dnas.api.select import Selected, choose, selection_folder
from dnas.api.supernet import Supernet, budget_of, fingerprint, program_key
from dnas.engine import cache as caches
from dnas.engine.compile import compile_evaluation, on_device
from dnas.engine.train import train as run_training
from dnas.printing import print_flushed
from dnas.reports import comparison
from dnas.reports.comparison import Entry
from dnas.reports.comparison_page import ComparedRun, Comparison
from dnas.runs.directory import RunDirectory, environment, open_run
from dnas.runs.files import read_json, write_json
from dnas.runs.index import number
from dnas.selection import COMPARED
from dnas.selection.types import Unsuitable
from dnas.tabular.table import index
from dnas.types import Genotype, SearchSpace

SPLITS = ("train", "valid")
"""On which genotypes are trained from scratch."""


def compare(runs: str | Path | Run | Sequence[str | Path | Run],
            selections: Sequence[str | tuple[str, Mapping[str, Any]]] = COMPARED, *, train_epochs: int = 0,
            table: str | None = None, column: str | None = None, out: str | Path | None = None, trust: bool = False,
            cache: str | None = None, progress: bool = True) -> Comparison:
    """Lets several selections choose from the supernets of several searches, and compares what they choose.

    runs: runs, or their directories; a folder stands for all searches in it.
    selections: registered names (`dnas.selection.SELECTIONS`), package.module:factory or file.py:factory, each alone or in a
        pair with its options, ("perturbation", {"interval": 5}).

    Args:
        train_epochs: Epochs of training each genotype from scratch, as `dnas train` does by default; 0 for none.
        table: Table of a benchmark (`dnas table`) in which each genotype is looked up, for the report only.
        column: Column of the table that counts as the truth; default: the benchmark's test accuracy, such as
            cifar10_test_200.
        out: Where the report is written, and continued if it was interrupted; None keeps it in memory.
        trust: Import whatever places the runs' configs name.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show how the comparison goes on.

    A selection is written in its run, RUN/selections/SELECTION, and is taken from there if it is done; without `out` nothing
    else is written, and of runs in memory nothing at all. One supernet at a time is loaded. All genotypes are trained alike:
    by `Recipe()`, in batches of 64 or all examples that there are, with the seed of their search.

    Raises ValueError, in one line: before anything is loaded or written for whatever does not fit, and where `out` or a run
    holds other results than these would be; later where no selection suits any run. NonFiniteLoss; RunWriteError.
    """
    plan = plan_comparison(runs, selections, train_epochs=train_epochs, table=table, column=column, trust=trust)
    return run_comparison(plan, out, cache=cache, say=print_flushed if progress else lambda text: None)


def run_comparison(plan: ComparisonPlan, out: str | Path | None, *, cache: str | None = None,
                   say: Callable[[str], None] = print_flushed) -> Comparison:
    """Carries out a plan, in the folder `out` unless that is None. say: what lines for a person go to."""
    if out is None:
        caches.enable(cache)
        return _compare(plan, None, say)
    folder = Path(out).expanduser()
    with _opened(plan, folder) as opened:
        caches.enable(cache)
        try:
            result = _compare(plan, folder, say)
        except NothingSuits:
            if not opened.resumed:  # the folder is free for other options
                for name in ("config.json", "environment.json"):
                    (folder / name).unlink()
            raise
        result.write(folder)
    return result


class NothingSuits(ValueError):
    """No selection can work on any of the runs."""


def _opened(plan: ComparisonPlan, folder: Path) -> RunDirectory:
    try:
        return open_run(folder, plan.config(folder))
    except ValueError as error:
        differs, other, _ = str(error).partition("; choose another folder, or repeat")
        if not other:
            raise
        if " runs." in differs and "runs" in read_json(folder / "config.json"):
            differs = f"{folder} holds a comparison of other runs: {differs.partition('config: ')[2]}"
        raise ValueError(f"{differs}; choose another folder") from None


def _compare(plan: ComparisonPlan, folder: Path | None, say: Callable[[str], None]) -> Comparison:
    """One run after another, so that one supernet at a time is in memory. Runs of equal configs share their data and space,
    of which JAX then traces less."""
    entries, runs, notes, shared = [], [], [], {}
    keys = [_shareable(each.run.config) for each in plan.runs]
    for position, (planned, of) in enumerate(zip(plan.runs, keys)):
        say(f"run        {position + 1} of {len(plan.runs)}: {planned.name}")
        run = planned.run.reopened(**{part: shared[key] for part, key in of.items() if key in shared})
        here = _on_run(plan, planned, run, folder, say)
        entries, notes = entries + here.entries, notes + here.notes
        runs.append(ComparedRun(planned.name, planned.label, run.config, dict(run.supernet.space.groups)))
        shared |= {key: getattr(run.supernet, part) for part, key in of.items()}
        needed = {key for later in keys[position + 1:] for key in later.values()}
        shared = {key: part for key, part in shared.items() if key in needed}
        del run, here
    if not entries:
        raise NothingSuits(f"no selection suits any of the runs: {'; '.join(notes)}")
    settings = {"selections": [each.source for each in plan.selections], "train_epochs": plan.train_epochs,
                "table": plan.truth and plan.truth.described}
    where = read_json(folder / "environment.json") if folder else environment()
    return Comparison(entries, runs, plan.metrics, plan.percent, notes, settings, where, folder)


def _shareable(config: Mapping[str, Any]) -> dict[str, str]:
    """What tells the data and the space of a run from those of other runs."""
    data = [config.get(key) for key in (*configs.DATA, "digest")]
    return {"data": json.dumps(data), "space": json.dumps([config["space"], data])}


class OnRun(NamedTuple):
    """What all selections chose on one run; notes: those that did not suit it, and what else a reader must know."""

    entries: list[Entry]
    notes: list[str]


def _on_run(plan: ComparisonPlan, planned: PlannedRun, run: Run, folder: Path | None, say: Callable[[str], None]) -> OnRun:
    supernet, name = run.supernet, planned.name
    if fingerprint(supernet) != planned.fingerprint:
        raise ValueError(f"{name} has changed since the comparison began; wait until its search has ended")
    space, context, groups = supernet.space, supernet.context, supernet.space.groups
    if plan.truth:
        refuse_other_space(space.name, name, [plan.truth.table.benchmark.space])
    for message in supernet.messages:
        say(message)
    early = supernet.epoch < supernet.config["epochs"]
    notes = [f"{name} has come to epoch {supernet.epoch} of {supernet.config['epochs']} only"] if early else []
    metric = _evaluation(supernet)
    mixture = metric(context.state, context.gates(context.state))
    trained: dict[Genotype, float] = {}
    rows: list[tuple[str, Selected, dict[str, float]]] = []
    for each in plan.selections:
        inside = run.folder and selection_folder(run.folder, each.source["name"])
        try:
            selected = choose(run, each.selection, each.source, inside, say)
        except Unsuitable as error:
            notes.append(f"left out on {name}: {error}")
            continue
        genotype = selected.genotype
        values = {"discrete": metric(context.state, genotype.gates(groups))}
        values["gap"] = context.task.better * (mixture - values["discrete"])
        if selected.fine_tuned is not None:
            values["tuned"] = metric(jax.tree.map(jnp.asarray, selected.fine_tuned), genotype.gates(groups))
        values |= {**space.cost(genotype), "seconds": selected.cost["seconds"]}
        if plan.truth:
            values["table"] = float(plan.truth.values[index(plan.truth.table, genotype)])
        if plan.train_epochs:
            if genotype not in trained:
                trained[genotype] = _trained(plan, planned, supernet, genotype, folder, say)
            values["trained"] = trained[genotype]
        rows.append((each.name, selected, values))
    for _, selected, values in rows:
        if plan.truth:
            values |= _ranked_by_table(selected, space, plan.truth)
        elif trained:
            values |= _ranked_by_training(selected, supernet, trained)
    return OnRun([Entry(name, planned.label, supernet.config["seed"], short, selected.genotype,
                        space.format(selected.genotype), values) for short, selected, values in rows], notes)


def _evaluation(supernet: Supernet) -> Callable:
    """(state, gates) -> the task's metric on the hold-out split, a share in %."""
    context, data = supernet.context, supernet.data
    key = program_key(supernet.space, supernet.method, data, budget_of(supernet.config))
    evaluate = compile_evaluation(supernet.space, context.task, data, on_device(data), context.state,
                                  context.gates(context.state), supernet.config["batch"], key=key)
    scale = 100 if context.task.percent else 1
    return lambda state, gates: scale * evaluate(state, gates)[context.task.metric]


def _ranked_by_table(selected: Selected, space: SearchSpace, truth: Truth) -> dict[str, float]:
    """How what a selection scored orders all architectures of the table, or those that it tried as wholes."""
    whole = comparison.tried(selected.scores, space.groups)
    if not whole:
        architectures = {truth.table.benchmark.group: truth.table.ops}
        return comparison.correlation(comparison.scored(selected.scores, architectures), truth.values)
    decisions, scores = whole
    genotypes = [Genotype.from_decisions(space, {name: rows[n] for name, rows in decisions.items()})
                 for n in range(len(scores))]
    return comparison.correlation(scores, truth.values[[index(truth.table, each) for each in genotypes]])


def _ranked_by_training(selected: Selected, supernet: Supernet, trained: Mapping[Genotype, float]) -> dict[str, float]:
    """How what a selection scored orders the genotypes that were trained."""
    groups = supernet.space.groups
    decisions = {name: np.stack([genotype.decisions(groups)[name] for genotype in trained]) for name in groups}
    quality = supernet.context.task.better * np.array(list(trained.values()))
    return comparison.correlation(comparison.scored(selected.scores, decisions), quality)


def _trained(plan: ComparisonPlan, planned: PlannedRun, supernet: Supernet, genotype: Genotype, folder: Path | None,
             say: Callable[[str], None]) -> float:
    """The hold-out metric, a share in %, after a training from scratch; read from the file of an earlier one if there is
    one."""
    recipe, data, task = Recipe(), supernet.data, supernet.context.task
    batch = min(BATCH, sum(len(data.splits[name]) for name in SPLITS))
    depends = [planned.fingerprint, genotype.to_json(), plan.train_epochs, batch, recipe._asdict()]
    name = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    file = folder and folder / "trained" / f"{name}.json"
    if file and file.exists():
        value = number(read_json(file), "value")
        if value is None:
            raise ValueError(f"{file} has no number called value; remove it to train again")
        return value
    say(f"training   {supernet.space.format(genotype)} for {plan.train_epochs} epochs")
    done = run_training(supernet.space.network(genotype), data, epochs=plan.train_epochs, batch=batch,
                        seed=supernet.config["seed"], splits=SPLITS, recipe=recipe, progress=False)
    value = (100 if task.percent else 1) * done.report[task.metric]
    if file:
        file.parent.mkdir(exist_ok=True)
        write_json(file, {"value": value, "seconds": done.seconds})
    return value
