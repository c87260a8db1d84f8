"""Trains a stand-alone network by epochs, and writes its metrics and checkpoints into a run directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from dnas.algorithms.distillation import Teacher
from dnas.algorithms.schedules import cosine_by_epoch, time_of
from dnas.algorithms.supervised import Recipe, TrainState, trainer
from dnas.data import SPLITS, Dataset, steps_per_epoch, train_indices
from dnas.engine.compile import Examples, compile_judgement, compile_training, epoch_of, on_device, recalibrate_batch_norm
from dnas.engine.host import initial
from dnas.engine.lanes import NonFiniteLoss
from dnas.engine.mesh import on_one
from dnas.engine.progress import SILENT, display, metric_text
from dnas.engine.records import confusion, of_split, refuse_non_finite, tagged
from dnas.engine.search import input_shape
from dnas.runs import checkpoint
from dnas.runs.directory import RunDirectory
from dnas.runs.recorder import open_recorder
from dnas.task import Task, task_of
from dnas.types import Network, Stats, Weights

RECALIBRATED = 100
"""Most mini-batches from which the statistics of inherited weights are computed."""
PUBLISHED = Recipe()


class Trained(NamedTuple):
    """The result of a training.

    weights, stats: of the last epoch. records: a mapping for each epoch, the lines of metrics.jsonl; the first is of
    epoch 0 if the network started from other weights.
    report: {"loss", and each metric of the task}, of the reported split after the last epoch, None if none is reported;
    seconds: spent by this process. final: the same of the final split, None without one; errors: the standard error of
    each of its metrics. confusion: of the final split, examples `[true class, predicted class]`, None unless the task has
    single classes.
    """

    weights: Weights
    stats: Stats
    records: list[dict[str, Any]]
    report: Mapping[str, float] | None
    seconds: float
    final: Mapping[str, float] | None = None
    errors: Mapping[str, float] | None = None
    confusion: np.ndarray | None = None


def train(network: Network, data: Dataset, *, epochs: int, batch: int, recipe: Recipe = PUBLISHED, seed: int = 0,
          splits: Sequence[str] = ("train", "valid"), report: str | None = "holdout", final: str | None = None,
          start: tuple[Weights, Stats] | None = None, teacher: Teacher | None = None, run: RunDirectory | None = None,
          mesh: Mesh | None = None, progress: bool = True, say: Callable[[str], None] | None = None) -> Trained:
    """Trains `network` on `splits`, augmented as in a search, and evaluates it on `report` after each epoch.

    The same arguments give the same bits, on the same number of devices. With `run` the results are written into its
    directory, and an interrupted training continues from its last whole checkpoint; best.safetensors has the weights and
    stats of the epoch with the best reported metric, last.safetensors those of the last epoch.

    Args:
        splits, report: of the data set. final: a split that is evaluated once, at the end.
        batch: examples in a mini-batch, for evaluations as well.
        start: weights and stats to start from, such as those of `SearchSpace.inherit`. Before the first epoch the stats
            are computed from examples of `splits` and `report` is evaluated; epochs may be 0.
        teacher: see `dnas.algorithms.distillation.supernet_teacher`; its share of the loss is recipe.distill.
        mesh: the devices, see `dnas.engine.mesh.create_mesh`, among which `batch` must divide; None: the default device.
        progress: show the progress. say: prints the lines; default: on the terminal.

    Raises ValueError for settings out of range, NonFiniteLoss, and the errors of `dnas.runs.checkpoint` and
    `dnas.runs.directory`.
    """
    began, task = time.monotonic(), task_of(data)
    _check(splits, report, final, epochs, least=0 if start else 1)
    recipe.check()
    rows = np.sort(np.concatenate([data.splits[name] for name in splits]))
    steps = steps_per_epoch({"train": len(rows)}, batch)
    hyper = recipe.numbers(epochs=max(epochs, 1), steps=steps)
    how = trainer(network, task, recipe, teacher=teacher)
    key = jax.random.key(seed)
    state = how.start(*start) if start else initial(how.init, jax.random.fold_in(key, 0), input_shape(data, batch))
    state, first, messages = _resumed(run, state, epochs, fresh=-1 if start else 0)

    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(display(task, epochs, steps, max(first, 0) * steps)) if progress else SILENT
        shown, recorder = shown.saying(say) if say else shown, stack.enter_context(open_recorder(run, first))
        for message in messages:
            shown.say(message)
        going = first < epochs
        what = "the training step and the evaluation" if epochs else "the evaluation"
        with shown.compiling(what) if going else contextlib.nullcontext():
            examples = on_device(data, mesh)
            if first < 0:
                batches = train_indices(seed, 0, rows, batch)[:RECALIBRATED]
                state = how.start(start[0], recalibrate_batch_norm(network, data, examples, *start, batches))
            if going and epochs:
                program = compile_training(how, recipe, data, examples, state, hyper, steps, batch)
                advance = epoch_of(program, examples, steps)
            judge = _judge(network, task, data, examples, how.result(state), batch) if going and report or final else None

        for epoch in range(first + 1, epochs + 1):
            started = time.monotonic()

            def on_metrics(metrics, done, epoch=epoch, started=started):
                refuse_non_finite(metrics, (epoch - 1) * steps, recorder.last())
                means = {name: float(np.mean(values, dtype=np.float64)) for name, values in metrics.items()}
                rate = batch * done / (time.monotonic() - started)
                shown.step((epoch - 1) * steps + done, tagged(means), rate)
                return means, rate

            means, lr, speed = {}, {}, {}
            if epoch:
                lr = {"lr": float(cosine_by_epoch("lr", "lr_min")(hyper, time_of(hyper, (epoch - 1) * steps)))}
                batches = train_indices(seed, epoch - 1, rows, batch)
                try:
                    state, (means, rate) = advance(state, hyper, jax.random.fold_in(key, 1), batches, on_metrics=on_metrics)
                except NonFiniteLoss as error:
                    recorder.fail(str(error))
                    raise
                speed = {"examples_per_second": rate}
            if report:
                means |= {f"{report}_{name}": value for name, value in judge(*how.result(state), report)[0].items()}
            record = {"epoch": epoch, "step": epoch * steps, **tagged(means), **lr}
            if run and report and best([*recorder.records, record], report, task) == epoch:
                _save(run, "best", *how.result(state))
            recorder.epoch(record, {"epoch": epoch, **speed, "seconds": time.monotonic() - started}, state)
            if epoch:
                shown.epoch(record, rate)
            elif report:
                shown.say(f"before the first epoch: {report} {metric_text(task, record[task.metric][report])}")

        if run:
            _save(run, "last", *how.result(state))
        ended = judge(*how.result(state), final) if final else (None, None, None)
    reported = of_split(recorder.records[-1], report) if report else None
    return Trained(*on_one(how.result(state)), recorder.records, reported, time.monotonic() - began, *ended)


def best(records: Sequence[Mapping[str, Any]], split: str, task: Task) -> int:
    """The epoch with the best first metric of `split`, the first of several."""
    return max(records, key=lambda record: task.better * record[task.metric][split])["epoch"]


def _resumed(run: RunDirectory | None, state: TrainState, epochs: int, fresh: int) -> tuple[TrainState, int, list[str]]:
    """The state to continue from, its epochs (`fresh` without a checkpoint), and messages."""
    latest = checkpoint.latest(run.checkpoints, state) if run else None
    if not latest:
        return state, fresh, []
    checkpoint.refuse_non_finite(latest.tree, f"{run.checkpoints}, epoch {latest.epoch}: the state")
    going = latest.epoch < epochs
    where = f"continuing after epoch {latest.epoch} of {epochs}" if going else f"all {epochs} epochs are done"
    return jax.tree.map(jnp.asarray, latest.tree), latest.epoch, [*latest.skipped, where]


def _judge(network: Network, task: Task, data: Dataset, examples: Examples, result: tuple[Weights, Stats],
           batch: int) -> Callable:
    """Compiles `(weights, stats, split) -> {"loss" and metrics: mean}, {metrics: standard error}, confusion or None`."""
    judgement_of = compile_judgement(network, task, data, examples, *result, batch)

    def judge(weights, stats, split):
        rows = data.splits[split]
        judgement = judgement_of(weights, stats, rows)
        values = {"loss": judgement.losses, **judgement.metrics}
        means = {name: float(value.mean(dtype=np.float64)) for name, value in values.items()}
        errors = {name: float(np.std(value, dtype=np.float64) / np.sqrt(len(rows))) for name, value in
                  judgement.metrics.items()}
        counts = confusion(data.targets[rows], judgement.predictions, data.classes) if task.confusion else None
        return means, errors, counts

    return judge


def _save(run: RunDirectory, name: str, weights: Weights, stats: Stats) -> None:
    checkpoint.save(run.folder / f"{name}.safetensors", {"weights": weights, "stats": stats})


def _check(splits: Sequence[str], report: str | None, final: str | None, epochs: int, least: int) -> None:
    judged = [name for name in (report, final) if name]
    for name in (*splits, *judged):
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; they are {', '.join(SPLITS)}")
    if not splits or len(set(splits)) != len(splits):
        raise ValueError(f"splits to train on are {', '.join(splits) or 'none'}; they must be one or more, each once")
    for name in judged:
        if name in splits:
            raise ValueError(f"the {name} split is trained on, so it cannot say how good the network is")
    if epochs < least:
        raise ValueError(f"epochs is {epochs}, it must be at least {least}")
