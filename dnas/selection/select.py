"""Runs a selection on a trained supernet, a step at a time, and keeps what it finds."""

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

from dnas.algorithms.method import Method
from dnas.data import Dataset, epoch_indices, evaluation_indices, steps_per_epoch
from dnas.engine.compile import compile_search, epoch_of, on_device, start_scores
from dnas.engine.host import initial
from dnas.engine.progress import SILENT, metric_text
from dnas.engine.search import input_shape
from dnas.runs import checkpoint
from dnas.runs.directory import load_genotype
from dnas.runs.files import read_arrays, read_json, write_arrays, write_atomic, write_json
from dnas.selection.types import TRIED, Context, Progress, Selection
from dnas.task import task_of
from dnas.types import REMOVED, Genotype, SearchSpace, Tree

FINE_TUNING = 0.1
"""Share of the first learning rate at which the weights are fine-tuned (DARTS-PT, arXiv 2108.04392)."""
COST = {"evaluations": (int,), "epochs": (int,), "seconds": (int, float)}
"""What cost.json holds."""
WIDTH = 8
"""Least number of masks that the scoring program takes."""


class SelectionResult(NamedTuple):
    """What a selection ends with. scores: {name: [E, K]}; cost: evaluations (examples forward through the supernet),
    epochs of fine-tuning, seconds of its steps, those before an interruption included."""

    genotype: Genotype
    scores: Mapping[str, np.ndarray]
    cost: Mapping[str, float]


def selection_context(space: SearchSpace, method: Method, data: Dataset, state: Tree, *, batch: int, epochs: int,
                      seed: int = 0, key: Any = None,
                      compiling: Callable[[str], AbstractContextManager] = SILENT.compiling) -> Context:
    """What selections work with, of the trained `state` of a search of `epochs` epochs. Compiles its two programs when they
    are first needed.

    Fine-tuning is the search step at FINE_TUNING of its first learning rate. The weights' optimiser starts afresh, the
    architecture's goes on.

    key: see `dnas.engine.compile.program_key`; that of the search, so that its compiled step is found.
    compiling: shows that a program is being compiled, such as `dnas.engine.progress.compiling`; nothing unless given.
    """
    examples, steps, task = on_device(data), steps_per_epoch(data, batch), task_of(data)
    algorithm = method.bind(space, task)
    hyper, tuning = (method.numbers_of(epochs=epochs, steps=steps, fine_tuning=share) for share in (0.0, FINE_TUNING))
    rows = evaluation_indices(data.splits["valid"], batch)[0].shape[1]
    width = max(WIDTH, *(max(group.shape[1], _most_into(group)) for group in space.groups.values()))
    fresh = initial(algorithm.init, jax.random.key(0), input_shape(data, batch), hyper)
    state = jax.tree.map(jnp.asarray, state._replace(weights_opt=fresh.weights_opt))
    gates = lambda state: {name: rows for name, rows in algorithm.gates(state, hyper).items() if name in space.groups}

    @functools.cache
    def program(name):
        if name == "score":
            with compiling("the evaluation of architectures"):
                return start_scores(space, task, data, examples, state, algorithm.gates(state, hyper), batch, width,
                                    key=key)()
        with compiling("the fine-tuning step"):
            return epoch_of(compile_search(algorithm, data, examples, state, tuning, steps, batch, key=key), examples,
                            steps)

    def score(state, *args):
        return program("score")(state, *args)

    def tune(state, epoch, steps=steps):
        indices = epoch_indices(seed, 1_000_000 + epoch, data.splits["train"], data.splits["valid"], batch)
        copied = jax.tree.map(jnp.array, state)  # the step takes what it is given
        key = jax.random.fold_in(jax.random.key(seed), 2)
        return program("tune")(copied, tuning, key, *indices, on_metrics=lambda metrics, done: None, steps=steps)[0]

    def seconds(plan):
        score_one = _timed(lambda: score(state, [gates(state)], 0, rows)) if plan["evaluations"] else 0
        tune_one = _timed(lambda: jax.block_until_ready(tune(state, 0, 1))) if plan["epochs"] else 0
        return plan["evaluations"] * score_one / rows + plan["epochs"] * steps * tune_one

    return Context(space, task, gates, state, score, tune, len(data.splits["valid"]), width, rows, seed, seconds)


def _timed(function: Callable) -> float:
    """Seconds of the second call; the first compiles."""
    function()
    started = time.monotonic()
    function()
    return time.monotonic() - started


def select(selection: Selection, context: Context, *, folder: Path | None = None, key: jax.Array | None = None,
           say: Callable[[str], None] = lambda text: None) -> SelectionResult:
    """Takes all steps of `selection`. With `folder` it saves each, goes on from the last, and writes the result there:
    genotype.json, scores.npz and cost.json.

    Raises what `dnas.runs.checkpoint` raises for damaged files.
    """
    key = jax.random.key(context.seed) if key is None else key
    progress, total = selection.begin(context), selection.steps(context)
    if folder is not None:
        found = checkpoint.latest(folder / "checkpoints", progress)
        if found:
            for message in found.skipped:
                say(message)
            progress = found.tree
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
    chosen = SelectionResult(selection.genotype(context, progress), jax.tree.map(np.asarray, dict(progress.scores)), cost)
    if folder is not None:
        _write(folder, chosen)
    return chosen


def _step_text(context: Context, decisions: Mapping[str, np.ndarray], evaluations: int, after: Progress) -> str:
    """What a step has done, in words: which edges it decided, and for what, since `decisions`."""
    found = []
    for name, before in decisions.items():
        now = np.asarray(after.state.decisions[name])
        for e in np.flatnonzero(now != before):
            source, target = context.space.groups[name].edges[e]
            op = "is removed" if now[e] == REMOVED else f"is {context.space.groups[name].edge_ops(e)[now[e]]}"
            found.append(f"{name} {source}->{target} {op}")
    tried = np.asarray(after.scores.get(TRIED, np.nan))
    if not found and np.isfinite(tried).any():
        best = context.task.better * np.nanmax(context.task.better * tried)
        return f"{np.isfinite(tried).sum()} tried, the best has {metric_text(context.task, best)}"
    return ", ".join(found) or ("fine-tuning" if int(after.evaluations) == evaluations else "no edge is decided yet")


def _write(folder: Path, chosen: SelectionResult) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / "scores.npz", chosen.scores)
    write_json(folder / "cost.json", chosen.cost)
    write_atomic(folder / "genotype.json", chosen.genotype.to_json() + "\n")


def refuse_non_finite(state: Tree, what: str) -> None:
    """Raises ValueError, in one line that begins with `what`, where the state of a supernet holds NaN or infinity."""
    for part in ("weights", "stats", "arch"):
        checkpoint.refuse_non_finite(getattr(state, part), f"{what} {part}")


def load_selected(folder: Path) -> SelectionResult | None:
    """What a finished selection wrote in `folder`; None if it has not finished.

    Raises ValueError, in one line, for damaged files.
    """
    if not (folder / "genotype.json").exists():
        return None
    return SelectionResult(load_genotype(folder), read_arrays(folder / "scores.npz", f"remove {folder} to select again"),
                           load_cost(folder))


def load_cost(folder: Path) -> dict[str, float]:
    """What a finished selection cost: evaluations, epochs, seconds. Raises ValueError, in one line, for a damaged file."""
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

