"""`dnas.predict`: what a trained network predicts of pictures, the rows of a table, arrays or a text."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dnas.api.examples import PictureFiles, paths_of, read_examples
from dnas.api.load import TrainedNetwork, network_of
from dnas.engine.inference import in_batches, predictions, scores
from dnas.engine.progress import metric_text
from dnas.runs.directory import refuse_no_file, refuse_run_file
from dnas.runs.files import write_atomic

FORMS = (".csv", ".json")
"""Ends of the names of files that predictions are written to."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network predicts of N examples.

    names: [N], what each is called: the path of a picture, "line 2" of a table, "row 0" of an array, "window 0" of a text.
    outputs: [N, ...] as `TrainedNetwork.predict` gives them: of classification the probabilities [N, classes] float32, of
        other tasks what the task predicts, such as values [N, D] in their own units or the class of each pixel.
    targets: [N, ...] as the task stores them, None where they are not known.
    metrics: {name: mean over the examples} of the task's metrics, {} without targets.
    skipped: {path: why} of pictures that could not be read. others: files in folders that are not pictures.
    network: what predicted. top: most classes of each example that `rows` says.
    """

    network: TrainedNetwork
    names: Sequence[str]
    outputs: np.ndarray
    targets: np.ndarray | None
    metrics: Mapping[str, float]
    skipped: Mapping[str, str]
    others: Sequence[str]
    top: int

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        judged = f": {self.summary()}" if self.metrics else f" of {len(self):,} examples"
        return f"<predictions{judged}" + (f"; {len(self.skipped):,} pictures could not be read>" if self.skipped else ">")

    def summary(self) -> str:
        """The metrics on one line, and of how many examples they are means; "" without targets."""
        if self.targets is None:
            return ""
        task, text = self.network.task, bool(self.network.described.input.characters)
        first = metric_text(task, self.metrics[task.metric], 2) + (f" {task.metric}" if task.percent else "")
        first += " per character" if text and task.name == "next-token" else ""
        others = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items() if name != task.metric)
        return f"{first}{others}, of " + (f"{self.targets.size:,} characters" if text else f"{len(self):,} examples")

    def warnings(self) -> list[str]:
        """A line for each picture that could not be read, and one for all files that are not pictures."""
        many = len(self.others)
        what = f"{many:,} files that are not pictures, the first" if many > 1 else "a file that is not a picture,"
        return [f"skipped {path}: {why}" for path, why in self.skipped.items()] + \
            ([f"skipped {what} {self.others[0]}"] if many else [])

    def rows(self) -> list[list[str]]:
        """A row of texts for each example: its name, and what is predicted; of numbers with targets a header and those too.

        Of a network of texts there are none: its predictions are single characters.
        """
        task, flat = self.network.task, self.outputs.reshape(len(self), -1)
        if self.network.described.input.characters:
            return []
        if task.confusion:
            return [[name, *self._shares(one)] for name, one in zip(self.names, self.outputs)]
        if task.name == "dense":
            return [[name, *self._shares(one)] for name, one in zip(self.names, self._pixels())]
        rows = [[name, *(f"{value:.6g}" for value in one)] for name, one in zip(self.names, flat)]
        if task.name != "regression" or self.targets is None:
            return rows
        true = self.targets.reshape(len(self), -1)
        header = ["", *["predicted"] * flat.shape[1], *["target"] * true.shape[1]]
        return [header, *([*row, *(f"{value:.6g}" for value in values)] for row, values in zip(rows, true))]

    def to_csv(self) -> str:
        """A table with a line for each example, and columns example, predicted, target if there are targets, and `P(CLASS)`
        of each class; of images with a class for each pixel `share(CLASS)` in place of all these but the first."""
        header, columns = ["example"], [self.names]
        if self.network.task.name != "dense":
            for name, values in ("predicted", self._predicted()), ("target", self._named(self.targets)):
                parts = [] if values is None else list(values.reshape(len(self), -1).T)
                header += [name] if len(parts) == 1 else [f"{name} {k}" for k in range(len(parts))]
                columns += parts
        for what, shares in ("P", self.outputs if self.network.task.confusion else None), ("share", self._pixels()):
            if shares is not None:
                header += [f"{what}({name})" for name in self.network.classes]
                columns += list(shares.T)
        text, cells = io.StringIO(newline=""), ([str(value) for value in column] for column in columns)
        csv.writer(text, lineterminator="\n").writerows([header, *zip(*cells)])
        return text.getvalue()

    def to_json(self) -> str:
        """An object with task, classes, metrics, skipped, and examples: a list of {"name", "predicted", "target" if there
        are targets, and of classification "probabilities" by class}. Single classes have names, those of pixels numbers."""
        plain = lambda values: values if self.network.task.confusion or values is None else values.tolist()
        predicted, targets = (plain(each) for each in (self._predicted(), self._named(self.targets)))
        examples = [{"name": name, "predicted": one} for name, one in zip(self.names, predicted)]
        for example, target in zip(examples, targets if targets is not None else ()):
            example["target"] = target
        if self.network.task.confusion:
            for example, shares in zip(examples, self.outputs.tolist()):
                example["probabilities"] = dict(zip(self.network.classes, shares))
        return json.dumps({"task": self.network.task.name, "classes": self.network.classes, "metrics": dict(self.metrics),
                           "skipped": dict(self.skipped), "examples": examples}, indent=1) + "\n"

    def _predicted(self) -> np.ndarray:
        return self._named(self.outputs.argmax(-1)) if self.network.task.confusion else self.outputs

    def _named(self, values: np.ndarray | None) -> np.ndarray | None:
        """Single classes by their names; whatever else there is as it is."""
        single = values is not None and self.network.task.confusion
        return np.array(self.network.classes, object)[values] if single else values

    def _pixels(self) -> np.ndarray | None:
        """The share [N, classes] of pixels that each class has of an image; None of other predictions."""
        if self.network.task.name != "dense":
            return None
        flat, classes = self.outputs.reshape(len(self), -1), range(len(self.network.classes))
        return np.stack([(flat == k).mean(1) for k in classes], 1)

    def _shares(self, shares: np.ndarray) -> list[str]:
        """The first classes and their shares, as texts."""
        order = (-shares).argsort(kind="stable")[:self.top]
        return [text for k in order for text in (self.network.classes[k], f"{100 * shares[k]:.1f} %")]


def predict(network: str | Path | TrainedNetwork, inputs: Any, *, top: int = 3, out: str | Path | None = None,
            space: str | None = None, task: str | None = None, trust: bool = False, cache: str | None = None) -> Predictions:
    """What a trained network predicts, and how good that is where targets are known.

    network: what `dnas.load` or `dnas.train` returned, or the path of a training or of its weights.safetensors.
    inputs: an array [N, ...] as the data set held them; or the path of a .csv with the columns of the network's table, of an
        .npz with x, and y if there are targets, or of a .txt; or a path or list of paths of pictures and of folders of them,
        which are entered. Pictures are brought to the network's size, grey or colour as its data was. Those in FOLDER/CLASS,
        if all are and each CLASS is one of the network's, have that class as target.

    Args:
        top: Classes to show for each example, the most probable first.
        out: File to write the predictions to, .csv or .json.
        space: Where the network's space is, if it is your own: package.module:factory or file.py:factory.
        task: Where its task is, likewise.
        trust: Import whatever places the network's file or config names.
        cache: Folder in which compiled programs are kept for the next time, or off.

    A picture that cannot be read is left out, and `Predictions.skipped` says why. space, task and trust are for a path.
    Raises ValueError, in one line and before anything is computed, for whatever is missing or not for the network, and where
    no picture at all can be read.
    """
    if type(top) is not int or top < 1:
        raise ValueError(f"top is {top!r}; it must be a whole number, at least 1")
    paths = paths_of(inputs)
    file = None if out is None else _out(Path(out).expanduser(), paths or ())
    network = network_of(network, space=space, task=task, trust=trust, cache=cache)
    examples = read_examples(network, inputs, paths)
    logits = in_batches(network.logits, examples.inputs)
    broken = examples.inputs.broken if isinstance(examples.inputs, PictureFiles) else {}
    whole = np.array([row for row in range(len(logits)) if row not in broken], int)
    skipped = {examples.names[row]: broken[row] for row in sorted(broken)}
    if not len(whole):
        path, why = next(iter(skipped.items()))
        raise ValueError(f"{path}: {why}" + (f"; nor can {len(skipped) - 1} others be read" if len(skipped) > 1 else ""))
    logits, targets = logits[whole], None if examples.targets is None else examples.targets[whole]
    metrics = {} if targets is None else scores(network.task, logits.__getitem__, np.arange(len(logits)), targets)
    outputs = in_batches(jax.jit(predictions(network.task)), logits)
    result = Predictions(network, [examples.names[row] for row in whole], outputs, targets, metrics, skipped,
                         tuple(examples.others), top)
    if file:
        text = result.to_csv() if file.suffix.lower() == ".csv" else result.to_json()
        write_atomic(file, text.encode("utf-8", "surrogateescape"))  # names of files may be any bytes
    return result


def _out(file: Path, inputs: Sequence[Path]) -> Path:
    """`file`, if predictions can be written there. Raises ValueError, in one line, if not."""
    if file.suffix.lower() not in FORMS:
        raise ValueError(f"out is {file}; it must end in {' or '.join(FORMS)}")
    refuse_no_file(file, f"out is {file};")
    if os.path.realpath(file) in map(os.path.realpath, inputs):
        raise ValueError(f"out {file} would replace what is predicted; choose another file")
    refuse_run_file(file)
    return file
