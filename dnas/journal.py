"""What a search leaves in its run directory after each epoch and at its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dnas import checkpoint, pictures
from dnas.run import Run
from dnas.tensorboard import events
from dnas.types import Array, SearchSpace

KEPT = 3
"""Checkpoints kept, newest first."""


class Journal(NamedTuple):
    """records: one mapping an epoch so far; trajectory: the logits `[epochs + 1, E, K]` so far, by name.
    last() says in words which checkpoint is the last.

    epoch(record, timing, state, genotype): writes all of an epoch; the checkpoint last, so that whatever a killed
    process has written beyond its last checkpoint is written again, the same, when it goes on.
    end(genotype): writes the genotype that is the result, and draws the pictures.
    """

    records: list[dict[str, Any]]
    trajectory: dict[str, np.ndarray]
    last: Callable[[], str]
    epoch: Callable[..., None]
    end: Callable[..., None]


@contextlib.contextmanager
def journal(run: Run | None, space: SearchSpace, first: int, arch: Mapping[str, Array]) -> Iterator[Journal]:
    """Opens the journal of `run` after epoch `first`, whose logits are `arch`; without a run it keeps records only."""
    records, trajectory = [], {name: np.asarray(rows)[None] for name, rows in arch.items()}

    def keep(record, state):
        records.append(record)
        for name, rows in state.arch.items():
            trajectory[name] = np.concatenate([trajectory[name], np.asarray(rows)[None]])

    if run is None:
        yield Journal(records, trajectory, lambda: "there is no run directory and so no checkpoint",
                      lambda record, timing, state, genotype: keep(record, state), lambda genotype: None)
        return
    if first:
        trajectory |= {name: rows[:first + 1] for name, rows in run.load_arch().items()}
        if min(map(len, trajectory.values())) <= first:
            raise ValueError(f"{run.folder / 'arch.npz'} ends before epoch {first}, of which there is a checkpoint; "
                             "restore the file, or search again in another --run")
    run.truncate(first)
    records += run.metrics()
    board = events(run.folder, space.groups, purge_step=first + 1 if run.resumed else None)
    board.config(json.loads((run.folder / "config.json").read_text()))

    def last():
        newest = len(records)
        return f"the last good checkpoint is {run.checkpoints}/{newest:05d}.safetensors" if newest \
            else "there is no checkpoint yet"

    def epoch(record, timing, state, genotype):
        run.append(record)
        run.append_timing(timing)
        keep(record, state)
        run.save_arch(trajectory)
        run.save_genotype(genotype)
        checkpoint.save(run.checkpoints / f"{record['epoch']:05d}.safetensors", jax.device_get(state))
        checkpoint.keep(run.checkpoints, KEPT)
        board.epoch(record | timing, state.arch)

    def end(genotype):
        run.save_genotype(genotype)
        for suffix in ("svg", "png"):
            pictures.draw_genotype(genotype, space.groups, run.folder / f"cells.{suffix}")
        pictures.draw_logits(trajectory, space.groups, run.folder / "logits.svg")
        pictures.draw_curves(records, run.folder / "curves.svg")
        board.picture(run.folder / "cells.png", len(records))

    try:
        yield Journal(records, trajectory, last, epoch, end)
    finally:
        board.close()
