"""What a network is to predict, as it takes it: examples from arrays, tables, texts and files of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.api.load import TrainedNetwork
from dnas.data.decode import File, decode, is_picture
from dnas.data.files import npz_inputs
from dnas.data.folders import NOT_PICTURES
from dnas.data.tables import Table, features_of, targets_of
from dnas.data.text import windows_of
from dnas.engine.inference import checked
from dnas.runs.model_file import Input

FILES = (".csv", ".npz", ".txt")
"""Ends of the names of files that hold many examples."""
FORMS = "pictures, folders of them, or one .csv, .npz or .txt"


class PictureFiles:
    """Files of pictures as inputs [N, H, W, C] uint8, which are decoded where they are indexed by an array of rows.

    broken: {row: why} of those that could not be read when they were; they are black.
    """

    def __init__(self, paths: Sequence[str], takes: Input):
        self.paths, self.takes, self.broken = paths, takes, {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        def note(i: int, error: ValueError) -> None:
            self.broken[int(rows[i])] = str(error).removeprefix(f"{self.paths[rows[i]]}: ")

        height, width, channels = self.takes.shape
        return decode([File(self.paths[row]) for row in rows], (height, width), self.takes.fit, channels, note)


class Examples(NamedTuple):
    """inputs [N, ...] as the network takes them, names [N] of the examples, and targets [N, ...] or None.

    others: files of the folders that are not pictures.
    """

    inputs: np.ndarray | PictureFiles
    names: Sequence[str]
    targets: np.ndarray | None = None
    others: Sequence[str] = ()


def paths_of(inputs: Any) -> list[Path] | None:
    """The paths that `inputs`, one or a list, names; None of an array.

    Raises ValueError, in one line, where one of them does not exist, or a file of many examples is not alone.
    """
    several = [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs
    if not isinstance(several, (list, tuple)) or not all(isinstance(each, (str, os.PathLike)) for each in several):
        return None
    paths = [Path(each).expanduser() for each in several]
    if not paths:
        raise ValueError(f"no inputs; they must be {FORMS}")
    alone = next((path for path in paths if path.suffix.lower() in FILES), None)
    if alone and len(paths) > 1:
        raise ValueError(f"{alone} holds many examples; give it alone")
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist; inputs must be {FORMS}")
    return paths


def read_examples(network: TrainedNetwork, inputs: Any, paths: Sequence[Path] | None) -> Examples:
    """The examples of `inputs`, an array [N, ...], or those at `paths`. Pictures are decoded later.

    Raises ValueError, in one line, where they are not for the network.
    """
    if paths is None:
        return _of_array(network, "inputs", inputs)
    end = paths[0].suffix.lower()
    if end == ".npz":
        return _of_array(network, str(paths[0]), *npz_inputs(paths[0]))
    if end in FILES:
        return _of_text(network, paths[0]) if end == ".txt" else _of_table(network, paths[0])
    return _of_pictures(network, paths)


def _of_array(network: TrainedNetwork, where: str, inputs: Any, targets: np.ndarray | None = None) -> Examples:
    takes = network.described.input
    inputs = np.asarray(inputs)
    inputs = inputs[..., None] if takes.kind == "images" and inputs.ndim == 3 else inputs
    if takes.kind == "features":
        inputs = inputs.astype(np.float32) if inputs.dtype.kind in "biuf" else inputs
        inputs = inputs[:, None] if inputs.ndim == 1 else inputs
    try:
        checked(inputs, takes)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not len(inputs):
        raise ValueError(f"{where}: x has no examples")
    if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
        raise ValueError(f"{where}: x holds NaN or infinite numbers; they must be finite")
    if takes.kind == "tokens" and (inputs.min() < 0 or inputs.max() >= takes.vocabulary):
        raise ValueError(f"{where}: x holds tokens {inputs.min()} to {inputs.max()}; the network knows 0 to "
                         f"{takes.vocabulary - 1}")
    names = [f"row {row}" for row in range(len(inputs))]
    return Examples(inputs, names, _checked_targets(network, where, targets, len(inputs)))


def _of_table(network: TrainedNetwork, path: Path) -> Examples:
    columns = network.described.input.columns
    if columns is None:
        raise ValueError(f"{path}: the network was not trained on a table; give a {_suits(network)}")
    table = Table(path, least=1)
    inputs, names = features_of(table, columns), [f"line {line}" for line in table.lines]
    targets = targets_of(table, columns, network.classes)
    return Examples(inputs, names, _checked_targets(network, str(path), targets, len(inputs)))


def _of_text(network: TrainedNetwork, path: Path) -> Examples:
    takes = network.described.input
    if not takes.characters:
        raise ValueError(f"{path}: the network was not trained on a text; give a {_suits(network)}")
    inputs, targets = windows_of(path, takes.characters, takes.shape[0])
    names = [f"window {window}" for window in range(len(inputs))]
    return Examples(inputs, names, _checked_targets(network, str(path), targets, len(inputs)))


def _checked_targets(network: TrainedNetwork, where: str, targets: np.ndarray | None, examples: int) -> np.ndarray | None:
    if targets is None:
        return None
    if len(targets) != examples:
        raise ValueError(f"{where}: {len(targets)} targets for {examples} examples")
    return network.task.check(where, targets, network.described.output.size)


def _of_pictures(network: TrainedNetwork, paths: Sequence[Path]) -> Examples:
    takes = network.described.input
    if takes.kind != "images" or takes.dtype != "uint8" or takes.shape[2] not in (1, 3):
        what = f"images of {takes.shape[2]} channels" if takes.kind == "images" else takes.kind
        raise ValueError(f"the network takes {takes.dtype} {what}, and pictures are uint8 of 1 or 3 channels; give a "
                         f"{_suits(network)}")
    names: list[str] = []
    others: list[str] = []
    classes: list[str | None] = []
    for path in paths:
        inside = sorted(_files(path)) if path.is_dir() else [path]
        pictures = [file for file in inside if not path.is_dir() or is_picture(file)]
        if not pictures:
            raise ValueError(f"{path} holds no picture" + (f", only others such as {inside[0].name}" if inside else ""))
        names += map(str, pictures)
        others += map(str, sorted({*inside} - {*pictures}))
        classes += _class_folders(path, pictures)
    numbers = {name: k for k, name in enumerate(network.classes)} if network.task.confusion else {}
    labelled = all(name in numbers for name in classes)
    targets = np.array([numbers[name] for name in classes], np.int32) if labelled else None
    return Examples(PictureFiles(names, takes), names, targets, others)


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder and in those inside of it, but what begins with a dot or a system left there.

    Links to folders are not followed.
    """
    for place, inside, files in os.walk(folder):
        inside[:] = [name for name in inside if not name.startswith(".") and name != "__MACOSX"]
        yield from (Path(place, name) for name in files if not name.startswith(".") and name not in NOT_PICTURES)


def _class_folders(folder: Path, pictures: Sequence[Path]) -> list[str | None]:
    """Of each picture FOLDER/CLASS/PICTURE the name of the class, None of one that lies elsewhere."""
    return [picture.parent.name if picture.parent.parent == folder and picture != folder else None for picture in pictures]


def _suits(network: TrainedNetwork) -> str:
    """Files that the network can predict."""
    takes = network.described.input
    own = ".csv table, or a " if takes.columns else ".txt text, or a " if takes.characters else ""
    return f"{own}.npz with x [N, {', '.join(map(str, takes.shape))}] {takes.dtype}"
