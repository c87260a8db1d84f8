"""`dnas.export`: a trained network in forms that others read, each compared with the network before it gets its place."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnas import config as configs
from dnas import registry
from dnas.api.load import TrainedNetwork, network_of
from dnas.data import Dataset
from dnas.data import load as load_data
from dnas.data.checks import NOUNS
from dnas.engine.inference import in_batches, scores
from dnas.engine.progress import metric_text
from dnas.printing import print_flushed
from dnas.runs.files import temporary_folder
from dnas.runs.trust import trusted
from dnas.task import Task

TOLERANCE = 1e-5
"""By which outputs may differ, as they are and relative to their size."""
TESTED, DRAWN = 512, 64
"""Examples to compare on: of the test split, and drawn at random where it is not at hand."""


class Unfaithful(Exception):
    """What was written computes something else than the network."""


class Sample(NamedTuple):
    """Inputs [N, ...] to compare on, their targets or None, and in words what they are."""

    inputs: np.ndarray
    targets: np.ndarray | None
    text: str


def export(network: str | Path | TrainedNetwork, formats: str | Sequence[str], *, out: str | Path | None = None,
           data: str | Sequence[str] | Dataset | None = None, space: str | None = None, task: str | None = None,
           trust: bool = False, cache: str | None = None, progress: bool = True) -> list[Path]:
    """Writes a trained network in forms that others read, and returns the files.

    network: what `dnas.load` or `dnas.train` returned, or the path of a training or of its weights.safetensors.
    formats: one or more of stablehlo (one program with its weights, which JAX runs without this toolkit), safetensors (the
        weights, and in the metadata what they are of), flax (a Python file that defines the network, and its weights), or
        functions as package.module:function or file.py:function, see `dnas.formats`.
    data: a data set or what `dnas.data.load` takes, on whose test split outputs are compared: that of the run unless given,
        or inputs drawn at random where it is not at hand.

    Args:
        out: Folder to write into; export, beside the weights, unless given.
        space: Where the network's space is, if it is your own: package.module:factory or file.py:factory.
        task: Where its task is, likewise.
        trust: Import whatever places the network's file or config names.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show on what the forms are compared, and how far they are apart.

    Every form is written, read back and compared, and only when all compute what the network does are they put into `out`.
    Raises ValueError, in one line, for whatever is missing or does not fit, such as a network without one of the forms, and
    Unfaithful; then nothing is written.
    """
    say = print_flushed if progress else lambda text: None
    writers = {name: registry.resolve(name, "export") for name in _names(formats)}
    out = _out(out, network)
    network = network_of(network, space=space, task=task, trust=trust, cache=cache)
    sample = _sample(network, data, task, trust)
    with temporary_folder(next(up for up in out.absolute().parents if up.is_dir()), out.name) as stage:
        readers = {name: write(network, stage) for name, write in writers.items()}
        outputs = in_batches(network.logits, sample.inputs)
        say(f"compared    on {sample.text}")
        for name, read in readers.items():
            say(f"{name:<12}{_compared(name, network.task, sample.targets, outputs, in_batches(read, sample.inputs))}")
        out.mkdir(parents=True, exist_ok=True)
        return [_moved(file, out) for file in sorted(stage.iterdir()) if file.is_file()]


def _names(formats: str | Sequence[str]) -> list[str]:
    names = [formats] if isinstance(formats, str) else list(formats)
    if not names:
        raise ValueError(f"no format; it must be one or more of {', '.join(registry.names('export'))}")
    return list(dict.fromkeys(names))


def _out(out: str | Path | None, network: str | Path | TrainedNetwork) -> Path:
    """The folder to write into. Raises ValueError where that is a file, or must be said."""
    if out is None:
        path = Path(network).expanduser() if isinstance(network, (str, os.PathLike)) else network.run and network.run.folder
        if path is None:
            raise ValueError("out is missing: the network lies in no folder; it must be a folder to write into")
        out = (path if path.is_dir() else path.parent) / "export"
        if out.is_symlink():
            raise ValueError(f"{out} is a link, which is not followed; say where to write by out")
    out = Path(out).expanduser()
    if out.exists() and not out.is_dir():
        raise ValueError(f"out is {out}, a file; it must be a folder")
    return out


def _moved(file: Path, folder: Path) -> Path:
    os.replace(file, folder / file.name)
    return folder / file.name


def _compared(name: str, task: Task, targets: np.ndarray | None, before: np.ndarray, after: np.ndarray) -> str:
    """By how much outputs differ and what the metric is, in words. Raises Unfaithful where they are others."""
    apart, rows = float(np.abs(after - before).max()), np.arange(len(before))
    metric = lambda outputs: scores(task, outputs.__getitem__, rows, targets)[task.metric]
    values = [] if targets is None else [metric(before), metric(after)]
    spell = lambda value: metric_text(task, value, 2).removeprefix(f"{task.metric} ")
    same = not values or np.isclose(*values, TOLERANCE, 0 if task.confusion else TOLERANCE)
    if not np.allclose(after, before, TOLERANCE, TOLERANCE) or not same:
        counts = f", and {task.metric} is {spell(values[0])} before and {spell(values[1])} after" if values else ""
        raise Unfaithful(f"{name}: outputs differ by {apart:.1e}{counts}; nothing is written")
    counts = f"{task.metric} {spell(values[0])} before and after; " if values else ""
    return f"{counts}outputs differ by {apart:.0e} at most"


def _sample(network: TrainedNetwork, data: str | Sequence[str] | Dataset | None, task: str | None,
            trust: bool | Collection[str]) -> Sample:
    """Examples of the test split of `data`, else of the run's; where that is not at hand, random ones."""
    takes, gives = network.described.input, network.described.output
    if data is None:
        data = _own_data(network, task, trust)
    elif not isinstance(data, Dataset):
        data = load_data(data, **_reading(network, task))
    if data is None:
        return _drawn(network)
    same = (data.image, data.kind, data.classes) == (takes.shape, takes.kind, gives.size)
    if not same or data.columns != takes.columns or data.characters != takes.characters:
        what = "classes" if gives.classes else "outputs"
        other = "; its columns or characters are others" if same else ""
        raise ValueError(f"{data.name}: {data.classes} {what} of {data.kind} {data.image}; the network is for {gives.size} "
                         f"of {takes.kind} {takes.shape}{other}; give its own data (--data, in Python data=)")
    test = data.splits["test"]
    rows = test[np.unique(np.linspace(0, len(test) - 1, min(TESTED, len(test))).astype(int))]
    text = f"{len(rows)} of the {len(test)} test {NOUNS[data.kind]}s of {data.name}"
    return Sample(data.inputs[rows], data.targets[rows], text)


def _own_data(network: TrainedNetwork, task: str | None, trust: bool | Collection[str]) -> Dataset | None:
    """The data set of the network's training; None where it is not at hand, or where it would be imported from a place that
    only the run's config names."""
    run = network.run
    if run is None:
        return None
    config = {key: value for key, value in run.config.items() if key not in ("augment", "class_weights")}  # of no use here
    if task and "task" in config:
        config["task"] = registry.absolute(task)
    places = trust or ({config["task"]} if task and "task" in config else ())
    try:
        return configs.data_of(config, f"{run.folder or 'the run'}/config.json",
                               True if run.folder is None else trusted(run.folder, run.config, places))
    except (ValueError, OSError):
        return None


def _reading(network: TrainedNetwork, task: str | None) -> dict[str, str | tuple[int, ...]]:
    """Options of `dnas.data.load` by which other data is read as the network's was, but no task whose place only the file
    of the network names."""
    config, said = network.described.config, task or network.described.output.task
    options = {name: config[name] for name in ("resize", "fit", "target") if config.get(name) is not None}
    return options | ({"task": said} if task or not registry.is_place(said, "task") else {})


def _drawn(network: TrainedNetwork) -> Sample:
    takes, draw = network.described.input, np.random.default_rng(0)
    shape = DRAWN, *takes.shape
    if takes.kind == "tokens":
        inputs = draw.integers(0, takes.vocabulary, shape, np.int32)
    elif takes.dtype == "uint8":
        inputs = draw.integers(0, 256, shape, np.uint8)
    else:
        inputs = (np.array(takes.mean) + np.array(takes.std) * draw.standard_normal(shape)).astype(np.float32)
    return Sample(inputs, None, f"{DRAWN} {takes.kind} drawn at random, for the run's data is not at hand: --data names it")
