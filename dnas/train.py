"""Trains a network from scratch: SGD whose rate follows a cosine, by epochs, with everything of note in a run directory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas import checkpoint
from dnas.data import SPLITS, Dataset, steps_per_epoch, train_indices
from dnas.journal import notes
from dnas.loop import refuse_non_finite, tagged
from dnas.optimizers import cosine_by_epoch, sgd
from dnas.programs import Images, predictor, training_of
from dnas.progress import SILENT, display
from dnas.run import Run
from dnas.trainer import trainer
from dnas.types import Network, Stats, Weights


class Trained(NamedTuple):
    """What a training ends with.

    weights, stats: of the last epoch. records: a mapping for each epoch, the lines of metrics.jsonl.
    accuracy: in [0, 1], of the reported split after the last epoch; seconds: spent by this process.
    """

    weights: Weights
    stats: Stats
    records: list[dict[str, Any]]
    accuracy: float
    seconds: float


def train(network: Network, data: Dataset, *, epochs: int, batch: int, seed: int = 0,
          splits: Sequence[str] = ("train", "valid"), report: str = "holdout", lr: float = 0.025,
          momentum: float = 0.9, weight_decay: float = 3e-4, clip: float | None = 5.0, lr_min: float = 0.0,
          run: Run | None = None, progress: bool = True, say: Callable[[str], None] | None = None) -> Trained:
    """Trains `network` on `splits`, augmented as in a search, and looks at `report` after each epoch.

    The defaults are those of DARTS's final networks (arXiv 1806.09055, appendix A.1.2, without its 600 epochs of 96
    images). The same arguments give the same bits. With `run` everything of note is written into its directory, and a
    training that was interrupted there goes on from its last whole checkpoint.

    Args:
        splits, report: of the data set. batch: images in a mini-batch, with which `report` is evaluated too.
        lr, lr_min: first and last learning rate. clip: of the gradient's norm; None for no clipping.
        progress: show how it goes on. say: what lines go to, where not to the terminal.

    Raises ValueError for settings out of range, NonFiniteLoss, and what `dnas.checkpoint` and `dnas.run` raise.
    """
    started = time.monotonic()
    _check(splits, report, epochs)
    rows = np.sort(np.concatenate([data.splits[name] for name in splits]))
    steps = steps_per_epoch({"train": len(rows)}, batch)
    schedule = cosine_by_epoch(lr, lr_min, epochs, steps)
    how = trainer(network, sgd(schedule, momentum=momentum, decay=weight_decay, clip=clip))
    key = jax.random.key(seed)
    state = how.init(jax.random.fold_in(key, 0), jax.ShapeDtypeStruct((batch, *data.image), jnp.float32))
    found = checkpoint.latest(run.checkpoints, state) if run else None
    first = found.epoch if found else 0
    state = jax.tree.map(jnp.asarray, found.tree) if found else state

    with contextlib.ExitStack() as stack:
        shown = stack.enter_context(display(epochs, steps, first)) if progress else SILENT
        say = say or shown.say
        noted = stack.enter_context(notes(run, first))
        for message in found.skipped if found else ():
            say(message)
        if found:
            say(f"continuing after epoch {first} of {epochs}" if first < epochs else f"all {epochs} epochs are done")
        if first < epochs:
            begun = time.monotonic()
            say("compiling the training step and the evaluation ...")
            images = Images(jnp.asarray(data.images), jnp.asarray(data.labels))
            advance = training_of(how, data, images, state, steps, batch)
            predict = predictor(network, data, images, state.weights, state.stats, batch)
            say(f"compiled in {time.monotonic() - begun:.1f} s")

        for epoch in range(first + 1, epochs + 1):
            begun = time.monotonic()

            def look(infos, done, epoch=epoch, begun=begun):
                refuse_non_finite(infos, (epoch - 1) * steps, noted.last())
                means = {name: float(np.mean(values, dtype=np.float64)) for name, values in infos.items()}
                rate = batch * done / (time.monotonic() - begun)
                shown.step((epoch - 1) * steps + done, tagged(means), rate)
                return means, rate

            state, (means, rate) = advance(state, jax.random.fold_in(key, 1), train_indices(seed, epoch - 1, rows, batch),
                                           look)
            losses, classes = predict(state.weights, state.stats, data.splits[report])
            means |= {f"{report}_loss": float(losses.mean(dtype=np.float64)),
                      f"{report}_accuracy": float((classes == data.labels[data.splits[report]]).mean())}
            record = {"epoch": epoch, "step": epoch * steps, **tagged(means), "lr": float(schedule((epoch - 1) * steps))}
            noted.epoch(record, {"epoch": epoch, "images_per_second": rate, "seconds": time.monotonic() - begun}, state)
            shown.epoch(record, rate)
        records = noted.records
    return Trained(state.weights, state.stats, records, records[-1]["accuracy"][report], time.monotonic() - started)


def _check(splits: Sequence[str], report: str, epochs: int) -> None:
    for name in (*splits, report):
        if name not in SPLITS:
            raise ValueError(f"no split {name!r}; they are {', '.join(SPLITS)}")
    if not splits or len(set(splits)) != len(splits):
        raise ValueError(f"splits to train on are {', '.join(splits) or 'none'}; they need to be one or more, each once")
    if report in splits:
        raise ValueError(f"the {report} split is trained on and cannot be what is reported")
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}, it must be at least 1")
