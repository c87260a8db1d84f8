"""What a search or a training leaves in its run directory after each epoch and at its end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from dnas.runs import checkpoint
from dnas.runs.directory import FAILED, RunDirectory
from dnas.runs.files import RunWriteError, read_json, write_json, write_records
from dnas.runs.tensorboard import Events, events
from dnas.types import Group, SearchSpace

KEPT = 3
"""Checkpoints kept, newest first."""


class Recorder(NamedTuple):
    """records: one mapping an epoch so far. last() says in words which checkpoint is the last.

    epoch(record, timing, state, logits={}): writes all of an epoch; the checkpoint last, so that whatever a killed
    process has written beyond its last checkpoint is written again, the same, when it goes on.
    fail(reason): records that the run cannot go on; starting it again takes that back.
    board: the TensorBoard events, None without a run.
    """

    records: list[dict[str, Any]]
    last: Callable[[], str]
    epoch: Callable[..., None]
    fail: Callable[[str], None]
    board: Events | None


class SearchRecorder(NamedTuple):
    """records, last and fail as in Recorder; trajectory: the logits `[epochs + 1, E, K]` so far, by name.

    epoch(record, timing, state, genotype): writes all of an epoch, the checkpoint last.
    end(genotype): writes the genotype that is the result.
    """

    records: list[dict[str, Any]]
    trajectory: dict[str, np.ndarray]
    last: Callable[[], str]
    epoch: Callable[..., None]
    fail: Callable[[str], None]
    end: Callable[..., None]


class Begun(NamedTuple):
    """Where a search begins that goes on from another: after an epoch of it, with its records and trajectory so far.

    state: before the next step.
    """

    epoch: int
    state: Any
    records: Sequence[Mapping[str, Any]]
    trajectory: Mapping[str, np.ndarray]


@contextlib.contextmanager
def open_recorder(run: RunDirectory | None, first: int, groups: Mapping[str, Group] | None = None,
                  before: Sequence[Mapping[str, Any]] = ()) -> Iterator[Recorder]:
    """Opens the metrics of `run` after epoch `first`; without a run they are kept in memory only.

    groups: of the logits that `epoch` is given. before: records of the first epochs, of a search without a run.
    """
    records = list(before)
    if run is None:
        yield Recorder(records, lambda: "there is no run directory and so no checkpoint",
                       lambda record, timing, state, logits=None: records.append(record), lambda reason: None, None)
        return
    run.truncate(first)
    (run.folder / FAILED).unlink(missing_ok=True)
    records = run.metrics()
    board = events(run.folder, groups or {}, purge_step=first + 1 if run.resumed else None)
    board.config(read_json(run.folder / "config.json"))

    def last():
        if not records:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {run.checkpoints}/{records[-1]['epoch']:05d}.safetensors"

    def epoch(record, timing, state, logits=None):
        run.append(record)
        run.append_timing(timing)
        checkpoint.save(run.checkpoints / f"{record['epoch']:05d}.safetensors", jax.device_get(state))
        records.append(record)
        checkpoint.keep(run.checkpoints, KEPT)
        board.epoch(record | timing, logits or {})

    def fail(reason):
        write_json(run.folder / FAILED, {"error": reason})

    try:
        yield Recorder(records, last, epoch, fail, board)
        board.done()
    except BaseException as error:
        with contextlib.suppress(OSError):  # a full disk refuses once more, and the first error says it better
            board.close()
        if isinstance(error, RunWriteError):
            raise RunWriteError(error.path, error.cause, last()) from error
        raise
    board.close()


@contextlib.contextmanager
def open_search_recorder(run: RunDirectory | None, space: SearchSpace, first: int, state: Any,
                         begun: Begun | None = None) -> Iterator[SearchRecorder]:
    """Opens the recorder of a search in `state` after epoch `first`; without a run it keeps records only.

    begun: where the search begins. If it is there still, what was before is written into its run.
    """
    trajectory = dict(begun.trajectory) if begun else {name: np.asarray(rows)[None] for name, rows in state.arch.items()}
    if run and begun and first == begun.epoch:
        _write_begun(run, begun)
    if run and first:
        trajectory |= {name: rows[:first + 1] for name, rows in run.load_arch().items()}
        if min(map(len, trajectory.values())) <= first:
            raise ValueError(f"{run.folder / 'arch.npz'} ends before epoch {first}, of which there is a checkpoint; "
                             "restore the file, or search again in another folder")
    if run:
        run.save_groups(space.groups)
    with open_recorder(run, first, space.groups, begun.records if begun else ()) as recorder:
        def epoch(record, timing, state, genotype):
            for name, rows in state.arch.items():
                trajectory[name] = np.concatenate([trajectory[name], np.asarray(rows)[None]])
            if run:
                run.save_arch(trajectory)
                run.save_genotype(genotype)
            recorder.epoch(record, timing, state, state.arch)

        def end(genotype):
            if run:
                run.save_genotype(genotype)

        yield SearchRecorder(recorder.records, trajectory, recorder.last, epoch, recorder.fail, end)


def _write_begun(run: RunDirectory, begun: Begun) -> None:
    """Writes the first files of a search that goes on from another. The checkpoint is the first of them: a run with it and
    without the others is at its beginning, where they are written again."""
    checkpoint.save(run.checkpoints / f"{begun.epoch:05d}.safetensors", jax.device_get(begun.state))
    write_records(run.folder / "metrics.jsonl", list(begun.records))
    run.save_arch(begun.trajectory)
