"""Say what a trained network predicts: of pictures, of the rows of a table, of arrays, or of a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import tyro

from dnas.engine import cache
from launch.arguments import parsed, shown

if TYPE_CHECKING:
    import numpy as np

    from dnas import Trained

FILES = (".csv", ".npz", ".txt")
"""Ends of files that hold many examples."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory of a training, or a weights.safetensors."""
    files: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PICTURE|FILE ...",
                                                                           help_behavior_hint="(required)")] = ()
    """PNG, JPEG, WebP or BMP files, or folders of them, which are brought to the network's size, grey or colour as its
    data was; or one .csv with the columns of its table, one .npz with inputs x, or one .txt. If that holds targets too, the
    metrics are printed."""
    top: int = 3
    """Classes to show for each example, the most probable first."""
    space: Annotated[str | None, shown("FACTORY", "that of the run")] = None
    """Where the network's space is, if it is your own: package.module:factory or file.py:factory."""
    task: Annotated[str | None, shown("FACTORY", "that of the run")] = None
    """Where its task is, likewise."""
    cache: Annotated[str | None, shown("DIR|off", "as for search")] = None
    """Where compiled programs are kept for the next time."""


class Source(NamedTuple):
    """Inputs [N, ...] as the network takes them, what to call each, and targets [N, ...] or None."""

    inputs: np.ndarray
    names: Sequence[str]
    targets: np.ndarray | None = None


def main(argv: Sequence[str]) -> int:
    """Runs `dnas predict`. Raises ValueError, in one line, for what it cannot read or use."""
    arguments = parsed(Arguments(tyro.MISSING), "dnas predict", __doc__, list(argv))
    if not arguments.files:
        raise ValueError("dnas predict RUN PICTURE|FILE ...: no picture or file given")
    if arguments.top < 1:
        raise ValueError(f"--top {arguments.top}: it must be at least 1")
    files = [name for name in arguments.files if Path(name).suffix.lower() in FILES]
    if files and len(arguments.files) > 1:
        raise ValueError(f"{files[0]} holds many examples; give it alone")
    pictures = [] if files else [each for name in arguments.files for each in _pictures(name)]
    import dnas
    from dnas.reports.text import columns
    from search_spaces.trained import in_batches, scores

    trained = dnas.load(arguments.run, space=arguments.space, task=arguments.task)
    source = _of_file(trained, Path(files[0]).expanduser(), arguments.run) if files else \
        _of_pictures(trained, pictures, arguments.run)
    cache.enable(arguments.cache)
    text = bool(files) and Path(files[0]).suffix.lower() == ".txt"
    if not text:
        print(columns(_rows(trained, source, in_batches(trained.predict, source.inputs), arguments.top), left=1))
    if source.targets is not None:
        found = scores(trained.task, trained.logits, source.inputs, source.targets)
        print(("" if text else "\n") + judged(trained.task, found, source, text))
    return 0


def judged(task, found, source: Source, text: bool) -> str:
    """The metrics on one line, and of how many examples they are means."""
    from dnas.engine.progress import metric_text

    first = metric_text(task, found[task.metric], 2) + (f" {task.metric}" if task.percent else "")
    first += " per character" if text and task.name == "next-token" else ""
    others = "".join(f", {name} {found[name]:.4g}" for name in found if name != task.metric)
    many = f"{source.targets.size:,} characters" if text else f"{len(source.inputs):,} examples"
    return f"{first}{others}, of {many}"


def _of_pictures(trained: Trained, pictures: Sequence[str], run: str) -> Source:
    from dnas.data.decode import File, decode

    takes = trained.described.input
    if takes.kind != "images" or takes.dtype != "uint8" or takes.shape[2] not in (1, 3):
        what = f"images of {takes.shape[2]} channels" if takes.kind == "images" else takes.kind
        raise ValueError(f"{run}: its network takes {takes.dtype} {what}, and pictures are uint8 of 1 or 3 channels; give a "
                         f"{_suits(trained)}")
    height, width, channels = takes.shape
    return Source(decode([File(picture) for picture in pictures], (height, width), takes.fit, channels), pictures)


def _of_file(trained: Trained, path: Path, run: str) -> Source:
    """The examples of a .csv, .npz or .txt file. Raises ValueError, in one line, where they are not for the network."""
    import numpy as np

    from dnas.data.files import npz_inputs
    from dnas.data.tables import Table, features_of, targets_of
    from dnas.data.text import windows_of
    from search_spaces.trained import checked

    takes, gives, end = trained.described.input, trained.described.output, path.suffix.lower()
    if end == ".csv" and takes.columns is None or end == ".txt" and not takes.characters:
        kind = "a table" if end == ".csv" else "a text"
        raise ValueError(f"{path}: the network of {run} was not trained on {kind}; give a {_suits(trained)}")
    if end == ".txt":
        inputs, targets = windows_of(path, takes.characters, takes.shape[0])
        return Source(inputs, [], trained.task.check(str(path), targets, gives.size))
    if end == ".csv":
        table = Table(path, least=1)
        inputs, names = features_of(table, takes.columns), [f"line {line}" for line in table.lines]
        targets = targets_of(table, takes.columns, gives.classes)
    else:
        inputs, targets = npz_inputs(path)
        inputs = inputs[..., None] if takes.kind == "images" and inputs.ndim == 3 else inputs
        if takes.kind == "features":
            inputs = inputs.astype(np.float32) if inputs.dtype.kind in "biuf" else inputs
            inputs = inputs[:, None] if inputs.ndim == 1 else inputs
        try:
            checked(inputs, takes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if not len(inputs):
            raise ValueError(f"{path}: x has no examples")
        if inputs.dtype.kind == "f" and not np.isfinite(inputs).all():
            raise ValueError(f"{path}: x holds NaN or infinite numbers; they must be finite")
        if takes.kind == "tokens" and (inputs.min() < 0 or inputs.max() >= takes.vocabulary):
            raise ValueError(f"{path}: x holds tokens {inputs.min()} to {inputs.max()}; the network knows 0 to "
                             f"{takes.vocabulary - 1}")
        names = [f"row {row}" for row in range(len(inputs))]
    if targets is None:
        return Source(inputs, names)
    if len(targets) != len(inputs):
        raise ValueError(f"{path}: {len(targets)} targets for {len(inputs)} examples")
    return Source(inputs, names, trained.task.check(str(path), targets, gives.size))


def _suits(trained: Trained) -> str:
    """Files that the network can predict."""
    takes = trained.described.input
    own = ".csv table, or a " if takes.columns else ".txt text, or a " if takes.characters else ""
    return f"{own}.npz with x [N, {', '.join(map(str, takes.shape))}] {takes.dtype}"


def _rows(trained: Trained, source: Source, said: np.ndarray, top: int) -> list[list[str]]:
    """A row for each example: its name, and what is predicted."""
    import numpy as np

    task, classes = trained.task, trained.classes
    rows = []
    for name, one in zip(source.names, said):
        if task.confusion:
            order = (-one).argsort(kind="stable")[:top]
            rows.append([name, *(text for k in order for text in (classes[k], f"{100 * one[k]:.1f} %"))])
        elif task.name == "dense":
            found, counts = np.unique(one, return_counts=True)
            order = (-counts).argsort(kind="stable")[:top]
            shares = [(classes[found[k]], f"{100 * counts[k] / one.size:.1f} %") for k in order]
            shares += [("", "")] * (min(top, len(classes)) - len(shares))
            rows.append([name, *(text for share in shares for text in share)])
        else:
            rows.append([name, *(f"{value:.6g}" for value in one.reshape(-1))])
    if task.name != "regression" or source.targets is None:
        return rows
    true = source.targets.reshape(len(said), -1)
    width = true.shape[1]
    header = ["", *["predicted"] * width, *["target"] * width]
    return [header, *([*row, *(f"{value:.6g}" for value in values)] for row, values in zip(rows, true))]


def _pictures(name: str) -> list[str]:
    """The picture of that name, or those in the folder of that name. Raises ValueError where it has none."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return [name]
    from dnas.data.decode import SUFFIXES

    pictures = [str(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise ValueError(f"{name} holds no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    return pictures
