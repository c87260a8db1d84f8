"""Runs a selection on a trained supernet step by step, and saves its progress and result."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dnas.algorithms.method import Method
from dnas.data import Dataset, epoch_indices, evaluation_indices, steps_per_epoch
from dnas.data.augmentation import normalise
from dnas.data.batches import train_indices
from dnas.engine.compile import compile_search, epoch_of, on_device, start_scores
from dnas.engine.host import initial
from dnas.engine.progress import SILENT
from dnas.engine.search import input_shape
from dnas.engine.trials import compile_trials
from dnas.fronts.front import FILE, Front, load_front
from dnas.platform import on_cpu
from dnas.runs import checkpoint
from dnas.runs.directory import load_genotype
from dnas.runs.files import read_arrays, read_json, write_arrays, write_atomic, write_json
from dnas.selection.types import PROXY, TRIED, Context, Progress, Selection, timed
from dnas.task import task_of
from dnas.types import REMOVED, Batch, Genotype, SearchSpace, Tree

FINE_TUNING = 0.1
"""Share of the first learning rate at which the weights are fine-tuned (DARTS-PT, arXiv 2108.04392)."""
COST = {"evaluations": (int,), "epochs": (int,), "seconds": (int, float)}
"""Numbers in cost.json and their types."""
WIDTH = 8
"""Least number of masks that the scoring program takes."""


class SelectionResult(NamedTuple):
    """The result of a selection. scores: {name: [E, K]}; cost: evaluations (examples forward through the supernet),
    epochs of fine-tuning, seconds of its steps, those before an interruption included. front: None for a selection of a
    single genotype."""

    genotype: Genotype
    scores: Mapping[str, np.ndarray]
    cost: Mapping[str, float]
    front: Front | None = None


def selection_context(space: SearchSpace, method: Method, data: Dataset, state: Tree, *, batch: int, epochs: int,
                      seed: int = 0, mesh: Mesh | None = None, key: Any = None,
                      compiling: Callable[[str], AbstractContextManager] = SILENT.compiling) -> Context:
    """The context of selections on the trained `state` of a search of `epochs` epochs. Compiles its two programs when they
    are first needed.

    Fine-tuning is the search step at FINE_TUNING of its first learning rate. The weights' optimiser starts afresh, the
    architecture's continues.

    mesh: the devices, see `dnas.engine.mesh.create_mesh`; to fine-tune on them `batch` must divide among them.
    key: see `dnas.engine.compile.program_key`; that of the search reuses its compiled step.
    compiling: shows that a program is being compiled, such as `dnas.engine.progress.compiling`.
    """
    examples, steps, task = on_device(data, mesh), steps_per_epoch(data, batch), task_of(data)
    algorithm = method.bind(space, task)
    hyper, tuning = (method.numbers_of(epochs=epochs, steps=steps, fine_tuning=share) for share in (0.0, FINE_TUNING))
    rows, total = evaluation_indices(data.splits["valid"], batch)[0].shape[1], len(data.splits["valid"])
    width = max(WIDTH, *(max(group.shape[1], _most_into(group)) for group in space.groups.values()))
    fresh = initial(algorithm.init, jax.random.key(0), input_shape(data, batch), hyper)
    state = jax.tree.map(jnp.asarray, state._replace(weights_opt=fresh.weights_opt))
    gates = lambda state: {name: rows for name, rows in algorithm.gates(state, hyper).items() if name in space.groups}

    @functools.cache
    def program(name):
        if name == "train":
            with compiling("the training of architectures"):
                return compile_trials(space, task, data, examples, batch)
        if name != "tune":
            with compiling("the evaluation of architectures"):
                return start_scores(space, task, data, examples, state, algorithm.gates(state, hyper), batch, width,
                                    one_hot=name == "score one-hot", key=key)()
        with compiling("the fine-tuning step"):
            return epoch_of(compile_search(algorithm, data, examples, state, tuning, steps, batch, key=key), examples,
                            steps)

    def score(state, masks, *args):
        alone = on_cpu() and all(np.count_nonzero(mask.get(name, [[1, 1]]), -1).max() <= 1
                                 for mask in masks for name in space.groups)
        return program("score one-hot" if alone else "score")(state, masks, *args)

    def tune(state, epoch, steps=steps):
        indices = epoch_indices(seed, 1_000_000 + epoch, data.splits["train"], data.splits["valid"], batch)
        copied = jax.tree.map(jnp.array, state)  # the step donates its state
        key = jax.random.fold_in(jax.random.key(seed), 2)
        return program("tune")(copied, tuning, key, *indices, on_metrics=lambda metrics, done: None, steps=steps)[0]

    def train(genotype, epochs, seed, steps=steps):
        network = program("train")
        return network(genotype.gates(space.groups), epochs, seed, steps)

    def seconds(plan):
        some = min(rows * (mesh.size if mesh else 1), total)  # a batch for each device
        chosen = space.genotype({name: np.asarray(rows) for name, rows in gates(state).items()})
        judged = chosen.gates(space.groups) if plan.get("discrete") else gates(state)
        score_some = timed(lambda: score(state, [judged], 0, some)) if plan["evaluations"] else 0
        tune_one = timed(lambda: jax.block_until_ready(tune(state, 0, 1))) if plan["epochs"] else 0
        train_one = timed(lambda: train(chosen, 1, 0, 1)) if plan.get("trained_epochs") else 0
        return (plan["evaluations"] * score_some / some + plan["epochs"] * steps * tune_one
                + plan.get("trained_epochs", 0) * steps * train_one)

    some = train_indices(seed, 0, data.splits["train"], batch)[0]
    inputs, targets = normalise(jnp.asarray(data.inputs[some]), data.mean, data.std), jnp.asarray(data.targets[some])
    return Context(space, task, gates, state, score, tune, total, width, rows, Batch(inputs, targets), seed, seconds,
                   train)


def select(selection: Selection, context: Context, *, folder: Path | None = None, key: jax.Array | None = None,
           say: Callable[[str], None] = lambda text: None) -> SelectionResult:
    """Runs all steps of `selection`. With `folder` it saves each, continues from the last, and writes genotype.json,
    scores.npz, cost.json, and of a front front.json there.

    Raises the errors of `dnas.runs.checkpoint` for damaged files.
    """
    key = jax.random.key(context.seed) if key is None else key
    progress, total = selection.begin(context), selection.steps(context)
    if folder is not None:
        latest = checkpoint.latest(folder / "checkpoints", progress)
        if latest:
            for message in latest.skipped:
                say(message)
            progress = latest.tree
            refuse_non_finite(progress.state, f"{folder}: the supernet's")
            say(f"continuing after step {int(progress.step)} of {total}")
    while int(progress.step) < total:
        started = time.monotonic()
        before = jax.tree.map(np.array, dict(getattr(progress.state, "decisions", {}))), int(progress.evaluations)
        after = selection.step(jax.random.fold_in(key, int(progress.step)), context, progress)
        progress = after._replace(seconds=np.float64(progress.seconds + time.monotonic() - started))
        if folder is not None:
            checkpoint.save(folder / "checkpoints" / f"{int(progress.step):05d}.safetensors", jax.device_get(progress))
            checkpoint.keep(folder / "checkpoints", 2)
        say(f"step {int(progress.step)} of {total}: {_step_text(context, *before, progress)}")
    cost = {**selection.plan(context), "evaluations": int(progress.evaluations), "seconds": float(progress.seconds)}
    chosen = SelectionResult(selection.genotype(context, progress), jax.tree.map(np.asarray, dict(progress.scores)), cost,
                             selection.front(context, progress) if selection.front else None)
    if folder is not None:
        _write(folder, chosen)
    return chosen


def _step_text(context: Context, decisions: Mapping[str, np.ndarray], evaluations: int, after: Progress) -> str:
    """A step as text: the edges that it decided since `decisions`, and their operations."""
    decided = []
    for name, before in decisions.items():
        now = np.asarray(after.state.decisions[name])
        for e in np.flatnonzero(now != before):
            source, target = context.space.groups[name].edges[e]
            op = "is removed" if now[e] == REMOVED else f"is {context.space.groups[name].edge_ops(e)[now[e]]}"
            decided.append(f"{name} {source}->{target} {op}")
    if PROXY in after.scores:
        return f"{(~np.isnan(after.scores[PROXY])).sum():,} tried"
    tried = np.asarray(after.scores.get(TRIED, np.nan))
    if not decided and tried.ndim and np.isnan(tried).all():
        return f"{len(tried)} drawn"
    if not decided and np.isfinite(tried).any():
        return f"{np.isfinite(tried).sum()} tried, the best scores {np.nanmax(tried):.4g}"
    return ", ".join(decided) or ("fine-tuning" if int(after.evaluations) == evaluations else "no edge is decided yet")


def _write(folder: Path, chosen: SelectionResult) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / "scores.npz", chosen.scores)
    write_json(folder / "cost.json", chosen.cost)
    if chosen.front:
        write_atomic(folder / FILE, chosen.front.to_json())
    write_atomic(folder / "genotype.json", chosen.genotype.to_json() + "\n")


def refuse_non_finite(state: Tree, what: str) -> None:
    """Raises ValueError, beginning with `what`, if the state of a supernet holds NaN or infinity."""
    for part in ("weights", "stats", "arch"):
        checkpoint.refuse_non_finite(getattr(state, part), f"{what} {part}")


def load_selected(folder: Path) -> SelectionResult | None:
    """The result that a finished selection wrote in `folder`; None if it has not finished.

    Raises ValueError for damaged files.
    """
    if not (folder / "genotype.json").exists():
        return None
    return SelectionResult(load_genotype(folder), read_arrays(folder / "scores.npz", f"remove {folder} to select again"),
                           load_cost(folder), load_front(folder))


def load_cost(folder: Path) -> dict[str, float]:
    """The cost of a finished selection: evaluations, epochs, seconds. Raises ValueError for a damaged file."""
    try:
        cost = read_json(folder / "cost.json")
    except ValueError as error:
        raise ValueError(f"{error}; remove {folder} to select again") from None
    if not all(type(cost.get(name)) in kinds and cost[name] >= 0 for name, kinds in COST.items()):
        raise ValueError(f"{folder / 'cost.json'} must have the numbers {', '.join(COST)}; remove {folder} to select again")
    return cost


def _most_into(group) -> int:
    targets = [target for _, target in group.edges]
    return max(map(targets.count, targets))

