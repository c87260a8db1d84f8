"""A job of a study: the searches of one method, and what the selections choose from them. It repeats nothing that is done.

A job has no table: what a benchmark knows of architectures cannot reach a search or a selection here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dnas import config as configs
from dnas.algorithms.method import Method
from dnas.api.compare import NothingSuits, compare
from dnas.api.open import Run
from dnas.api.open import open as open_search
from dnas.api.search import search
from dnas.api.supernet import Supernet, fingerprint
from dnas.data import Dataset, steps_per_epoch
from dnas.data import load as load_data
from dnas.engine.diagnose import skips
from dnas.engine.lanes import NonFiniteLoss
from dnas.engine.passes import count_passes
from dnas.engine.search import input_shape
from dnas.runs.children import read_choice
from dnas.runs.files import as_json, read_json, records, write_json
from dnas.runs.study_folder import entry_file, failure_file, is_done, is_ranked, run_folder
from dnas.selection.scoring import score_networks, whole_batches
from dnas.task import task_of
from dnas.types import OPEN, Batch, Genotype, SearchSpace


class Job(NamedTuple):
    """The searches of a method with some seeds. All of it is JSON; folder: of the study; the rest as in `StudyPlan`."""

    folder: str
    label: str
    method: dict[str, Any]
    space: dict[str, Any]
    data: dict[str, Any]
    seeds: list[int]
    selections: dict[str, dict[str, Any]]
    epochs: int
    batch: int
    train_epochs: int
    cache: str | None = None
    seconds: float | None = None
    split: dict[str, Any] = {}
    ranked: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """A short name for messages and logs."""
        return f"{self.label}, seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"


@dataclass(frozen=True)
class Parts:
    """What the searches of a job have in common."""

    space: SearchSpace
    method: Method
    data: Dataset
    epochs: int
    batch: int

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return steps_per_epoch(self.data, self.batch)

    @property
    def hyper(self) -> Mapping[str, Any]:
        """The numbers of the method."""
        return self.method.numbers_of(epochs=self.epochs, steps=self.steps)

    @functools.cached_property
    def gradients(self) -> int | None:
        """Evaluations of a gradient of the supernet in an epoch, at most; None for a graph, which has no batches."""
        if self.data.graph is not None:
            return None
        inputs, targets = input_shape(self.data, self.batch), self.data.targets
        batch = Batch(inputs, jax.ShapeDtypeStruct((self.batch, *targets.shape[1:]), targets.dtype))
        passes = count_passes(self.space, self.method, task_of(self.data), inputs, batch, self.hyper)
        return passes.backward * self.steps


def carry_out(job: Job, say: Callable[[str], None] = lambda text: None, progress: bool = False) -> dict[int, str]:
    """Searches and selects what is not done yet, and writes an entry for each seed.

    Returns why seeds failed, {} if none did; each is written into the study's folder too, and the others go on.
    """
    errors: dict[int, str] = {}
    try:
        parts = _parts(job)
        errors = _searched(job, parts, progress)
    except Exception as error:
        errors = dict.fromkeys(job.seeds, _line(error))
    for seed in job.seeds:
        if seed not in errors:
            try:
                _entry(job, parts, seed, say)
            except Exception as error:
                errors[seed] = _line(error)
        file = failure_file(Path(job.folder), job.label, seed)
        if seed in errors:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_json(file, {"error": errors[seed]})
        else:
            file.unlink(missing_ok=True)
    return errors


def _parts(job: Job) -> Parts:
    data = load_data(job.data["data"], **{key: value for key, value in job.data.items() if key != "data"})
    options = lambda part: {name: value for name, value in part.items() if name != "name"}
    return Parts(configs.build_space(job.space["name"], data, options(job.space)),
                 configs.build_method(job.method["name"], options(job.method)), data, job.epochs, job.batch)


def _searched(job: Job, parts: Parts, progress: bool) -> dict[int, str]:
    """Carries out the searches that have no result; returns why some have none."""
    folder = {seed: run_folder(Path(job.folder), job.label, seed) for seed in job.seeds}
    waiting = [seed for seed in job.seeds if not (folder[seed] / "results.json").exists()]
    if not waiting:
        return {}
    why: Exception | None = None
    try:
        search(parts.space, [parts.method], parts.data, epochs=job.epochs, batch=job.batch, seeds=waiting, selection="own",
               out=folder[waiting[0]].parent, seconds=job.seconds, progress=progress, cache=job.cache, **job.split)
    except Exception as error:
        why = error
    errors = {}
    for seed in waiting:
        if not (folder[seed] / "results.json").exists():
            failed = folder[seed] / "failed.json"  # of this seed alone, where its loss is not finite
            own = read_json(failed).get("error") if failed.exists() else None
            errors[seed] = str(own or (_line(why) if why else "the search has not ended"))
    return errors


def _entry(job: Job, parts: Parts, seed: int, say: Callable[[str], None]) -> None:
    """Writes the entry of a seed: what is known of its search, and what each selection chose."""
    folder, file = run_folder(Path(job.folder), job.label, seed), entry_file(Path(job.folder), job.label, seed)
    entry = read_json(file) if file.exists() else {}
    missing = {name: source for name, source in job.selections.items() if name not in entry.get("selections", {})}
    ranked = job.ranked.get("digest")
    if is_done(file, entry, job.selections, ranked):
        return
    run = open_search(folder, space=parts.space, method=parts.method, data=parts.data, trust=True)
    if not entry:
        gradients = None if parts.gradients is None else _gradients(run, parts.gradients)
        entry = {"label": job.label, "seed": seed, "seconds": run.seconds, "gradients": gradients,
                 "stopped": run.stopped, "epochs": _epochs(run, parts), "selections": {}}
    if not is_ranked(file, entry, ranked):
        _rank(job, run.supernet, file.with_suffix(".npz"), say)
        entry["ranked"] = ranked
    if missing:
        entry["selections"] |= _chosen(job, run, seed, missing, say)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, as_json(entry))


def _rank(job: Job, supernet: Supernet, file: Path, say: Callable[[str], None]) -> None:
    """Scores the networks of a job in a supernet, into a file."""
    (group,) = supernet.space.groups
    genotypes = [Genotype.from_decisions(supernet.space, {group: row}) for row in job.ranked["networks"]]
    examples = whole_batches(supernet.context, job.ranked["examples"])
    scores = score_networks(supernet.context, genotypes, examples, state_of=supernet.state_of, file=file,
                            of=fingerprint(supernet))
    say(f"scored     {job.label}, seed {supernet.config['seed']}: {len(genotypes):,} networks, {scores.seconds:.1f} s")


def _chosen(job: Job, run: Run, seed: int, missing: Mapping[str, Mapping[str, Any]],
            say: Callable[[str], None]) -> dict[str, Any]:
    """What the selections `missing` choose from a run, for its entry."""
    chosen = dict.fromkeys(missing)
    try:
        result = compare([run], [(source["name"], _options(source)) for source in missing.values()],
                         train_epochs=job.train_epochs, out=None, cache=job.cache, progress=False)
        remarks = "; ".join(result.notes)
        chosen |= {each.selection: {"genotype": each.genotype.to_json(), "notation": each.notation,
                                    "values": dict(each.values)} for each in result.entries}
    except NothingSuits as error:
        remarks = str(error)
    for name, choice in chosen.items():
        say(f"chosen     {job.label}, seed {seed}, {name}: {choice['notation'] if choice else 'it does not suit this run'}")
    return {name: {"source": missing[name], **(choice or {"unsuitable": remarks})} for name, choice in chosen.items()}


def _gradients(run: Run, of_epoch: int) -> int:
    """Evaluations of a gradient of the supernet in a search, those of all supernets of a few-shot search and of matching
    their operations included. of_epoch: in an epoch."""
    if "split" not in run.config:
        return of_epoch * run.supernet.epoch
    choice = read_choice(run.folder)
    return of_epoch * choice["supernet_epochs"] + choice["gradients"]


def _epochs(run: Run, parts: Parts) -> list[dict[str, Any]]:
    """For each epoch, the first before any step: its genotype by the method's own rule, skips, entropy, and seconds so
    far. Where edges were decided on the way, only the last genotype is known."""
    state, algorithm = run.supernet.state, parts.method.bind(parts.space, task_of(parts.data))
    undecided = all((np.asarray(rows) == OPEN).all() for rows in state.decisions.values())
    seconds, rows = np.cumsum([0.0, *(float(each.get("seconds") or 0) for each in records(run.folder / "timing.jsonl"))]), []
    count = len(next(iter(run.logits.values())))
    for epoch in range(count):
        arch = {name: np.asarray(values[epoch]) for name, values in run.logits.items()}
        genotype = algorithm.select(state._replace(arch=arch), parts.hyper) if undecided else \
            run.genotype if epoch == count - 1 else None
        record = next((each for each in run.records if each.get("epoch") == epoch), {})
        entropy = record.get("entropy")
        rows.append({"epoch": epoch, "seconds": float(seconds[min(epoch, len(seconds) - 1)]),
                     "entropy": float(np.mean(list(entropy.values()))) if entropy else None,
                     "genotype": genotype and genotype.to_json(), "skips": None if genotype is None else skips(genotype),
                     "edges": None if genotype is None else sum(map(len, genotype.choices.values()))})
    return rows


def _options(source: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in source.items() if name != "name"}


def _line(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, (ValueError, OSError, NonFiniteLoss)) else f"{type(error).__name__}: {text}"
