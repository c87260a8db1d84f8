"""Trains a network from scratch: SGD whose rate follows a cosine, by epochs, with everything of note in a run directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas import checkpoint
from dnas.algorithms.distillation import Teacher
from dnas.algorithms.optimizers import cosine_by_epoch, refuse_negative, sgd
from dnas.algorithms.supervised import TrainState, linear_ramp, trained_in, trainer
from dnas.confusion import accuracy, confusion
from dnas.data import SPLITS, Dataset, steps_per_epoch, train_indices
from dnas.engine.compile import Examples, predictor, settler, training_of
from dnas.engine.host import initial
from dnas.engine.progress import SILENT, display
from dnas.engine.search import refuse_non_finite, tagged
from dnas.journal import notes
from dnas.run import Run
from dnas.types import Network, Stats, Weights

SETTLING = 100
"""Mini-batches at most from which the statistics of inherited weights are taken."""


class Trained(NamedTuple):
    """What a training ends with.

    weights, stats: of the last epoch. records: a mapping for each epoch, the lines of metrics.jsonl; the first is of
    epoch 0 where the network started from given weights.
    accuracy: in [0, 1], of the reported split after the last epoch, None if none is reported; seconds: spent by this
    process. loss, confusion: of the final split, nats and images `[true class, given class]`; None without one.
    """

    weights: Weights
    stats: Stats
    records: list[dict[str, Any]]
    accuracy: float | None
    seconds: float
    loss: float | None = None
    confusion: np.ndarray | None = None


def train(network: Network, data: Dataset, *, epochs: int, batch: int, seed: int = 0,
          splits: Sequence[str] = ("train", "valid"), report: str | None = "holdout", final: str | None = None,
          lr: float = 0.025, momentum: float = 0.9, nesterov: bool = False, weight_decay: float = 3e-4,
          clip: float | None = 5.0, lr_min: float = 0.0, label_smoothing: float = 0.0, cutout: int = 0,
          drop_path: float = 0.0, ema: float = 0.0, auxiliary: float = 0.0, dtype: str = "float32",
          start: tuple[Weights, Stats] | None = None, teacher: Teacher | None = None, run: Run | None = None,
          progress: bool = True, say: Callable[[str], None] | None = None) -> Trained:
    """Trains `network` on `splits`, augmented as in a search, and looks at `report` after each epoch.

    The defaults are those of DARTS's final networks (arXiv 1806.09055; quark0/darts, cnn/train.py), not regularised.
    The same arguments give the same bits. With `run` everything of note is written into its directory, and a training
    that was interrupted there goes on from its last whole checkpoint; best.safetensors has the weights and stats of
    the epoch with the highest reported accuracy, last.safetensors those of the last epoch.

    Args:
        splits, report: of the data set. final: a split that is looked at once, when all is done.
        batch: images in a mini-batch, with which splits are evaluated too.
        lr, lr_min: first and last learning rate. clip: of the gradient's norm; None for no clipping.
        label_smoothing, ema, auxiliary: see `dnas.algorithms.supervised.trainer`. cutout: side in pixels, 0 for none.
        drop_path: its probability after the last epoch, reached linearly from 0.
        dtype: in which a training step computes; weights and statistics are float32, and so is what judges them.
        start: weights and stats to start from, such as `SearchSpace.inherit` gives. The stats are taken anew from images
            of `splits`, and `report` is looked at, before the first epoch; there may be 0 epochs then.
        teacher: see `dnas.algorithms.distillation.supernet_teacher`.
        progress: show how it goes on. say: what lines go to, where not to the terminal.

    Raises ValueError for settings out of range, NonFiniteLoss, and what `dnas.checkpoint` and `dnas.run` raise.
    """
    started = time.monotonic()
    _check(splits, report, final, epochs, cutout, least=0 if start else 1)
    rows = np.sort(np.concatenate([data.splits[name] for name in splits]))
    steps = steps_per_epoch({"train": len(rows)}, batch)
    schedule, ramp = cosine_by_epoch(lr, lr_min, epochs, steps), linear_ramp(drop_path, epochs, steps)
    descent = sgd(schedule, momentum=momentum, decay=weight_decay, clip=clip, nesterov=nesterov)
    how = trainer(trained_in(network, dtype), descent, label_smoothing=label_smoothing, drop_path=ramp, ema=ema,
                  auxiliary=auxiliary, teacher=teacher)
    key = jax.random.key(seed)
    shape = jax.ShapeDtypeStruct((batch, *data.image), jnp.float32)
    state = how.start(*start) if start else initial(how.init, jax.random.fold_in(key, 0), shape)
    state, first, messages = _resumed(run, state, epochs, fresh=-1 if start else 0)

    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(display(epochs, steps, max(first, 0) * steps)) if progress else SILENT
        noted, say = stack.enter_context(notes(run, first)), say or shown.say
        for message in messages:
            say(message)
        begun, images = time.monotonic(), Examples(jnp.asarray(data.inputs), jnp.asarray(data.targets))
        if first < 0:
            settle = settler(network, data, images, *start, batch)
            state = how.start(start[0], settle(*start, train_indices(seed, 0, rows, batch)[:SETTLING]))
        if first < epochs:
            say("compiling the training step and the evaluation ...")
            advance = training_of(how, data, images, state, steps, batch, cutout=cutout) if epochs else None
        judge = _judge(network, data, images, how.result(state), batch) if first < epochs and report or final else None
        if first < epochs:
            say(f"compiled in {time.monotonic() - begun:.1f} s")

        for epoch in range(first + 1, epochs + 1):
            begun = time.monotonic()

            def look(infos, done, epoch=epoch, begun=begun):
                refuse_non_finite(infos, (epoch - 1) * steps, noted.last())
                means = {name: float(np.mean(values, dtype=np.float64)) for name, values in infos.items()}
                rate = batch * done / (time.monotonic() - begun)
                shown.step((epoch - 1) * steps + done, tagged(means), rate)
                return means, rate

            means, lr, speed = {}, {}, {}
            if epoch:
                batches = train_indices(seed, epoch - 1, rows, batch)
                state, (means, rate) = advance(state, jax.random.fold_in(key, 1), batches, look=look)
                lr, speed = {"lr": float(schedule((epoch - 1) * steps))}, {"images_per_second": rate}
            if report:
                loss, counts = judge(*how.result(state), report)
                means |= {f"{report}_loss": loss, f"{report}_accuracy": accuracy(counts)}
            record = {"epoch": epoch, "step": epoch * steps, **tagged(means), **lr}
            if run and report and best([*noted.records, record], report) == epoch:
                _save(run, "best", *how.result(state))
            noted.epoch(record, {"epoch": epoch, **speed, "seconds": time.monotonic() - begun}, state)
            if epoch:
                shown.epoch(record, rate)
            elif report:
                say(f"before the first epoch: {report} {100 * record['accuracy'][report]:.1f}%")

        if run:
            _save(run, "last", *how.result(state))
        loss, counts = judge(*how.result(state), final) if final else (None, None)
    reported = noted.records[-1]["accuracy"][report] if report else None
    return Trained(*how.result(state), noted.records, reported, time.monotonic() - started, loss, counts)


def best(records: Sequence[Mapping[str, Any]], split: str) -> int:
    """The epoch with the highest accuracy of `split`, the first of several."""
    return max(records, key=lambda record: record["accuracy"][split])["epoch"]


def _resumed(run: Run | None, state: TrainState, epochs: int, fresh: int) -> tuple[TrainState, int, list[str]]:
    """The state to go on from, the epochs behind it (`fresh` without a checkpoint), and what a person should know."""
    found = checkpoint.latest(run.checkpoints, state) if run else None
    if not found:
        return state, fresh, []
    said = f"continuing after epoch {found.epoch} of {epochs}" if found.epoch < epochs else f"all {epochs} epochs are done"
    return jax.tree.map(jnp.asarray, found.tree), found.epoch, [*found.skipped, said]


def _judge(network: Network, data: Dataset, images: Examples, result: tuple[Weights, Stats], batch: int) -> Callable:
    """Compiles `(weights, stats, split) -> loss, confusion`."""
    predict = predictor(network, data, images, *result, batch)

    def judge(weights, stats, split):
        rows = data.splits[split]
        losses, classes = predict(weights, stats, rows)
        return float(losses.mean(dtype=np.float64)), confusion(data.targets[rows], classes, data.classes)

    return judge


def _save(run: Run, name: str, weights: Weights, stats: Stats) -> None:
    checkpoint.save(run.folder / f"{name}.safetensors", {"weights": weights, "stats": stats})


def _check(splits: Sequence[str], report: str | None, final: str | None, epochs: int, cutout: int,
           least: int) -> None:
    judged = [name for name in (report, final) if name]
    for name in (*splits, *judged):
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; they are {', '.join(SPLITS)}")
    if not splits or len(set(splits)) != len(splits):
        raise ValueError(f"splits to train on are {', '.join(splits) or 'none'}; it takes one or more, each once")
    for name in judged:
        if name in splits:
            raise ValueError(f"the {name} split is trained on, so it cannot say how good the network is")
    refuse_negative(cutout=cutout)
    if epochs < least:
        raise ValueError(f"epochs is {epochs}, it must be at least {least}")
