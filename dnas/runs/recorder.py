"""What a search or a training leaves in its run directory after each epoch and at its end."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from dnas.runs import checkpoint
from dnas.runs.directory import FAILED, RunDirectory
from dnas.runs.files import write_json
from dnas.runs.tensorboard import Events, events
from dnas.types import Array, Group, SearchSpace

KEPT = 3
"""Checkpoints kept, newest first."""


class Recorder(NamedTuple):
    """records: one mapping an epoch so far. last() says in words which checkpoint is the last.

    epoch(record, timing, state, logits={}): writes all of an epoch; the checkpoint last, so that whatever a killed
    process has written beyond its last checkpoint is written again, the same, when it goes on.
    board: the TensorBoard events, None without a run.
    """

    records: list[dict[str, Any]]
    last: Callable[[], str]
    epoch: Callable[..., None]
    board: Events | None


class SearchRecorder(NamedTuple):
    """records and last as in Recorder; trajectory: the logits `[epochs + 1, E, K]` so far, by name.

    epoch(record, timing, state, genotype): writes all of an epoch, the checkpoint last.
    fail(reason): records that the search cannot go on; starting it again takes that back.
    end(genotype): writes the genotype that is the result.
    """

    records: list[dict[str, Any]]
    trajectory: dict[str, np.ndarray]
    last: Callable[[], str]
    epoch: Callable[..., None]
    fail: Callable[[str], None]
    end: Callable[..., None]


@contextlib.contextmanager
def open_recorder(run: RunDirectory | None, first: int, groups: Mapping[str, Group] | None = None) -> Iterator[Recorder]:
    """Opens the metrics of `run` after epoch `first`; without a run they are kept in memory only.

    groups: of the logits that `epoch` is given.
    """
    records = []
    if run is None:
        yield Recorder(records, lambda: "there is no run directory and so no checkpoint",
                    lambda record, timing, state, logits=None: records.append(record), None)
        return
    run.truncate(first)
    records += run.metrics()
    board = events(run.folder, groups or {}, purge_step=first + 1 if run.resumed else None)
    board.config(json.loads((run.folder / "config.json").read_text()))

    def last():
        if not records:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {run.checkpoints}/{records[-1]['epoch']:05d}.safetensors"

    def epoch(record, timing, state, logits=None):
        run.append(record)
        run.append_timing(timing)
        records.append(record)
        checkpoint.save(run.checkpoints / f"{record['epoch']:05d}.safetensors", jax.device_get(state))
        checkpoint.keep(run.checkpoints, KEPT)
        board.epoch(record | timing, logits or {})

    try:
        yield Recorder(records, last, epoch, board)
        board.done()
    finally:
        board.close()


@contextlib.contextmanager
def open_search_recorder(run: RunDirectory | None, space: SearchSpace, first: int,
                         arch: Mapping[str, Array]) -> Iterator[SearchRecorder]:
    """Opens the recorder of a search after epoch `first`, whose logits are `arch`; without a run it keeps records only."""
    trajectory = {name: np.asarray(rows)[None] for name, rows in arch.items()}
    if run and first:
        trajectory |= {name: rows[:first + 1] for name, rows in run.load_arch().items()}
        if min(map(len, trajectory.values())) <= first:
            raise ValueError(f"{run.folder / 'arch.npz'} ends before epoch {first}, of which there is a checkpoint; "
                             "restore the file, or search again in another folder")
    if run:
        run.save_groups(space.groups)
        (run.folder / FAILED).unlink(missing_ok=True)
    with open_recorder(run, first, space.groups) as recorder:
        def epoch(record, timing, state, genotype):
            for name, rows in state.arch.items():
                trajectory[name] = np.concatenate([trajectory[name], np.asarray(rows)[None]])
            if run:
                run.save_arch(trajectory)
                run.save_genotype(genotype)
            recorder.epoch(record, timing, state, state.arch)

        def fail(reason):
            if run:
                write_json(run.folder / FAILED, {"error": reason})

        def end(genotype):
            if run:
                run.save_genotype(genotype)

        yield SearchRecorder(recorder.records, trajectory, recorder.last, epoch, fail, end)
