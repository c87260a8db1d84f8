"""A data set: inputs and targets with fixed splits, and its construction from arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dnas.data.checks import NOUNS, Kind, checked_count, checked_inputs, kind_of, moments
from dnas.data.splits import arranged, whole_number
from dnas.task import Task, infer, named

if TYPE_CHECKING:
    from dnas.data.graphs import Graph

SMALLEST_CROPPED = 16
"""Fewest pixels of an axis that is padded by default: along shorter ones a crop loses too much of an image."""


class Pictures(NamedTuple):
    """The pictures from which the images of a Dataset were read.

    files: the path of each. fit: how they were brought to one size, see `dnas.data.decode.FITS`.
    smallest, largest: (H, W) before that, by area. transparent: how many had transparent parts, laid on white.
    skipped: files in their folders that are not pictures.
    """

    files: Sequence[str]
    fit: str
    smallest: tuple[int, int]
    largest: tuple[int, int]
    transparent: int
    skipped: Sequence[str] = ()


class Columns(NamedTuple):
    """The columns of the table from which the features of a Dataset were read.

    features: (name, texts) of each column but the target: a column of numbers has no texts and is one feature; in others
        each text is a feature that is 0 or 1. target: name of the column to predict.
    """

    features: tuple[tuple[str, tuple[str, ...]], ...]
    target: str

    @property
    def width(self) -> int:
        """How many features there are."""
        return sum(len(texts) or 1 for _, texts in self.features)


class Dataset(NamedTuple):
    """Inputs with targets, divided into four disjoint splits.

    inputs: those of all splits: images [N, H, W, C] uint8 or float32, features [N, F] or [N, T, F] float32, or tokens
        [N, T] int32.
    targets: [N, ...] int32 if they are classes, 0..classes-1, else float32 in the user's units.
    splits: sorted int32 indices into them. train: weights; valid: architecture; holdout: reported while
        searching; test: for the network trained after the search, and nothing before.
    classes: size of the last axis of a network's outputs: classes, values, labels, or the vocabulary.
    mean, std: [C] float32 of the last axis, over the train split, uint8 pixels divided by 255 first. 0 and 1 if inputs are
        not standardised; tokens never are.
    pad: (rows, columns) of zeros on each side of an image before a random crop, which loses up to as many of its pixels.
        flip: whether mirroring keeps the class.
    graph: the graph whose node numbers the inputs are, for spaces with a parameter `graph`; None for other data.
    class_names: of all classes, () if they are numbers only. pictures: the original pictures, None for other data.
    class_weights: [classes] float32, factors of the losses of training and search; None for equal ones.
    augment: (key, inputs [B, ...] float) -> inputs, instead of crops and flips; uint8 pixels are divided by 255 first.
    task: name of the task, one of `dnas.task.TASKS` or a factory's place; `dnas.task.task_of` resolves it.
    target_mean, target_std: [D] float32 of float targets over the train split, None for classes. The targets keep their own
        units; the task standardises, so that metrics are in those units.
    columns: of the table with the features, None for other data. characters: of a text, numbered by its tokens; "" for
        other data.
    source: the arguments of `dnas.data.load`, as JSON: {"data": names, paths absolute, "limit": number or None} and options
        other than their defaults. `load(source["data"], **others)` reads the same again. {} for data from elsewhere; to
        change another field, `_replace(source={})` too.
    """

    name: str
    inputs: np.ndarray
    targets: np.ndarray
    splits: Mapping[str, np.ndarray]
    classes: int
    mean: np.ndarray
    std: np.ndarray
    pad: tuple[int, int]
    flip: bool
    graph: Graph | None = None
    class_names: tuple[str, ...] = ()
    pictures: Pictures | None = None
    class_weights: np.ndarray | None = None
    augment: Callable | None = None
    task: str = "classification"
    target_mean: np.ndarray | None = None
    target_std: np.ndarray | None = None
    columns: Columns | None = None
    characters: str = ""
    source: Mapping[str, Any] = {}

    def __repr__(self) -> str:
        shape = "" if self.graph else f" of {'x'.join(map(str, self.image))} {self.inputs.dtype}"
        targets = "classes" if self.targets.dtype.kind in "iu" else "labels" if self.task == "multilabel" else "values"
        splits = ", ".join(f"{name} {len(rows)}" for name, rows in self.splits.items())
        return (f"Dataset {self.name!r}\n"
                f"  {self.kind}: {len(self.inputs)}{shape}\n"
                f"  {targets}: {self.classes}, task {self.task}\n"
                f"  splits: {splits}")

    def digest(self) -> str:
        """SHA-256 of the inputs, the targets and the splits."""
        digest = hashlib.sha256()
        for array in (self.inputs, self.targets, *(self.splits[name] for name in sorted(self.splits))):
            digest.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @property
    def image(self) -> tuple[int, ...]:
        """Shape of one input: (H, W, C), (F,) or (T,)."""
        return self.inputs.shape[1:]

    @property
    def outputs(self) -> tuple[int, ...]:
        """Shape of a network's outputs for one input: (classes,), (H, W, classes), (T, vocabulary)."""
        return (*self.targets.shape[1:], self.classes) if self.targets.dtype.kind in "iu" else \
            (*self.targets.shape[1:-1], self.classes)

    @property
    def kind(self) -> Kind:
        """The kind of the inputs. Only images are cropped, mirrored and divided by 255."""
        return "nodes" if self.graph is not None else kind_of(self.inputs)

    @property
    def vocabulary(self) -> int | None:
        """How many tokens there are; None unless the inputs are tokens."""
        if self.kind != "tokens":
            return None
        return max(int(self.inputs.max()) + 1, self.classes if self.targets.shape == self.inputs.shape else 0)


def balanced(data: Dataset, splits: Sequence[str] = ("train",)) -> np.ndarray:
    """Weights [classes] float32 inverse to the number of each class's examples in `splits`, of mean 1 over those examples.

    examples / (classes with examples * examples of the class), as scikit-learn's; 1 for a class without examples.
    Raises ValueError unless the targets are one class per example.
    """
    if data.targets.ndim != 1 or data.targets.dtype.kind not in "iu":
        raise ValueError(f"{data.name}: weights of classes are for one class per example; its task is {data.task}")
    counts = np.bincount(np.concatenate([data.targets[data.splits[name]] for name in splits]), minlength=data.classes)
    return np.where(counts, counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), 1).astype(np.float32)


def from_arrays(name: str, x, y, x_test=None, y_test=None, *, pad: int | Sequence[int] | None = None,
                flip: bool | None = None, limit: int | None = None, task: str | None = None,
                standardise: bool | None = None, kind: Kind | None = None, class_names: Sequence[str] = ()) -> Dataset:
    """A Dataset of arrays.

    x: images [N, H, W, C] or [N, H, W], float, or integers 0..255; features [N, F] float; tokens [N, T] integers.
    y: [N, ...], by the task: one integer per example, pixel or token, numbers, or 0 or 1 for each label.
    x_test, y_test: the test set; default: 20 % of the examples.
    pad: pixels for both axes of images, or (rows, columns); default: an eighth of each axis, 0 for axes below
        SMALLEST_CROPPED. flip: default False. Neither is possible with a class for each pixel.
    limit: how many examples outside the test set to use, evenly of each class; always the same ones.
    task: a name or place, see `dnas.task`; default: by the type and shape of the targets.
    standardise: whether images and features are brought to mean 0 and standard deviation 1; default True.
    kind: what x is, such as "features" for a float array [N, T, F], or "images" for images [N, 3, W, C] that would be
        refused as channels-first; default: by its type and shape.
    class_names: of all classes, if they have names or `y` lacks some of them.
    Splits are stratified if an example has one class, else those of a fixed random permutation.
    Raises ValueError that begins with `name` for anything that does not fit.
    """
    inputs = checked_inputs(name, x, kind)
    y = checked_count(name, y, inputs)
    task = task or infer(name, inputs, y)
    how, noun = named(task), NOUNS[kind_of(inputs)]
    targets = how.check(name, y, len(class_names) or None)
    classes = len(class_names) or outputs_of(targets)
    test = None
    if x_test is not None or y_test is not None:
        x_test, y_test = _checked_test(name, inputs, how, classes, x_test, y_test, kind)
        test = np.arange(len(inputs), len(inputs) + len(x_test))
        inputs, targets = np.concatenate([inputs, x_test]), np.concatenate([targets, y_test])
    rows, splits = arranged(name, strata(how, targets), test, limit=limit, noun=noun)
    if limit is not None:
        inputs, targets = inputs[rows], targets[rows]
    return assembled(name, inputs, targets, splits, classes, task, pad, flip, standardise)._replace(
        class_names=tuple(class_names))


def padding(where: str, pad: int | Sequence[int]) -> tuple[int, int]:
    """`pad`, pixels for both axes or a pair, as (rows, columns). Raises ValueError if it is neither."""
    pair = (pad, pad) if np.ndim(pad) == 0 else tuple(pad)
    if len(pair) != 2:
        raise ValueError(f"{where}: pad {pad!r}; it must be a number of pixels, or a pair of them for rows and columns")
    rows, columns = (whole_number(f"{where}: pad", pixels, 0) for pixels in pair)
    return rows, columns


def default_padding(image: Sequence[int]) -> tuple[int, int]:
    """The default (rows, columns) of padding for images (H, W, C)."""
    height, width = (size // 8 if size >= SMALLEST_CROPPED else 0 for size in image[:2])
    return height, width


def assembled(name: str, inputs: np.ndarray, targets: np.ndarray, splits: Mapping[str, np.ndarray], classes: int, task: str,
              pad: int | Sequence[int] | None = None, flip: bool | None = None, standardise: bool | None = None) -> Dataset:
    """The Dataset of checked inputs and targets. Raises ValueError if an option is not for such data."""
    what, moving = kind_of(inputs), targets.ndim > 1 and targets.dtype.kind in "iu"
    rows, columns = padding(name, 0 if pad is None else pad)
    if (rows or columns or flip) and (what != "images" or moving):
        why = "classes of pixels, which crops would not move along" if what == "images" else f"{what}, not images"
        raise ValueError(f"{name}: pad {pad or 0} and flip {bool(flip)} are for images with one target each; this is {why}")
    if what == "images" and (rows >= inputs.shape[1] or columns >= inputs.shape[2]):
        raise ValueError(f"{name}: pad {pad} of images of {inputs.shape[1]}x{inputs.shape[2]} pixels: a crop could lose all "
                         "of one; it must be below the height and the width, such as pad=(4, 0)")
    if what == "tokens" and standardise:
        raise ValueError(f"{name}: standardise is for images and features; this is tokens")
    if pad is None and what == "images" and not moving:
        rows, columns = default_padding(inputs.shape[1:])
    plain = np.zeros(inputs.shape[-1] if what != "tokens" else 1, np.float32)
    mean, std = (plain, plain + 1) if what == "tokens" or standardise is False else moments(inputs, splits["train"])
    data = Dataset(name, inputs, targets, splits, classes, mean, std, (rows, columns), bool(flip), task=task)
    if targets.dtype.kind != "f":
        return data
    values = targets if targets.ndim > 1 else targets[:, None]
    target_mean, target_std = moments(values.reshape(len(values), -1, values.shape[-1]), splits["train"])
    return data._replace(target_mean=target_mean, target_std=target_std)


def with_task(data: Dataset, task: str | None) -> Dataset:
    """`data` for another task. Raises ValueError if its targets do not fit that task unchanged."""
    if task is None or task == data.task:
        return data
    how = named(task)
    targets = how.check(data.name, data.targets)
    if targets.dtype != data.targets.dtype:
        raise ValueError(f"{data.name}: task {task} does not fit its targets, which are {data.targets.dtype} "
                         f"{data.targets.shape} for task {data.task}")
    how.check(data.name, targets, data.classes)
    return data._replace(task=task)


def strata(task: Task, targets: np.ndarray) -> np.ndarray:
    """[N], by which splits are stratified: the classes if an example has one, else 0."""
    return targets if task.confusion else np.zeros(len(targets), np.int32)


def outputs_of(targets: np.ndarray) -> int:
    """Size of the outputs' last axis for checked targets: classes of integers, values or labels of floats."""
    if targets.dtype.kind == "f":
        return targets.shape[-1] if targets.ndim > 1 else 1
    return int(targets.max()) + 1


def _checked_test(name, inputs, task, classes, x_test, y_test, kind) -> tuple[np.ndarray, np.ndarray]:
    if x_test is None or y_test is None:
        missing = "x_test" if x_test is None else "y_test"
        raise ValueError(f"{name}: x_test and y_test need each other; {missing} is missing")
    where, things = f"{name}, test set", NOUNS[kind_of(inputs)] + "s"
    x_test = checked_inputs(where, x_test, kind)
    y_test = checked_count(where, y_test, x_test)
    if (x_test.shape[1:], x_test.dtype) != (inputs.shape[1:], inputs.dtype):
        raise ValueError(f"{where}: {things} of {x_test.shape[1:]} {x_test.dtype}; "
                         f"the others are {inputs.shape[1:]} {inputs.dtype}")
    return x_test, task.check(where, y_test, classes)
