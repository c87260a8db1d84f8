"""A summary of a data set: sizes, targets, examples that are in two splits."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dnas.data.checks import NOUNS, TURNED, channels_first
from dnas.data.dataset import Dataset, Pictures
from dnas.data.splits import SPLITS

LISTED = 10
"""Most classes whose numbers of examples are listed."""
PAIRS = 6
"""Pairs of identical inputs that are named for each two splits."""
UNEVEN = 2
"""Ratio of the largest class to the smallest from which weights are suggested."""


class Leak(NamedTuple):
    """Number of examples of the split `of` that are also in `also`, and the first PAIRS (row, row) of them."""

    of: str
    also: str
    images: int
    pairs: list[tuple[int, int]]


def leaks(data: Dataset, same: np.ndarray | None = None) -> list[Leak]:
    """The identical inputs of each two splits, those of the test set first. same: of `identical`."""
    same = identical(data) if same is None else same
    pairs = []
    for of, also in itertools.combinations(reversed(SPLITS), 2):
        rows, others = data.splits[of], data.splits[also]
        shared = rows[np.isin(same[rows], same[others])]
        if len(shared):
            twin = lambda row, others=others: others[np.argmax(same[others] == same[row])]
            pairs.append(Leak(of, also, len(shared), [(int(row), int(twin(row))) for row in shared[:PAIRS]]))
    return pairs


def contradictions(data: Dataset, same: np.ndarray) -> int:
    """How many inputs are identical to one with another target. same: of `identical`."""
    kinds = np.unique(np.stack([same, equal_rows(data.targets)]), axis=1)[0]
    return int((np.bincount(kinds)[same] > 1).sum())


def identical(data: Dataset) -> np.ndarray:
    """A number [N] for each input, equal for identical inputs."""
    return equal_rows(data.inputs)


def equal_rows(array: np.ndarray) -> np.ndarray:
    """A number [N] for each row of `array` [N, ...], equal for identical bytes."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    digests = [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
    return np.unique(np.array(digests, "V16"), return_inverse=True)[1].reshape(-1)


def describe(data: Dataset) -> str:
    """A few lines: shape and targets, sizes of the splits, augmentation, original pictures, distribution of the targets,
    identical inputs in two splits."""
    sizes = ", ".join(f"{name} {len(data.splits[name])}" for name in SPLITS)
    graph = data.graph
    if graph is not None:
        return (f"{data.name}: a graph of {graph.nodes} nodes and {graph.edges.shape[1]} edges, {graph.features} "
                f"features, {data.classes} classes\n{sizes} nodes")
    lines = [f"{data.name}: {_inputs(data)}, {_outputs(data)}{_scale(data)}", f"{sizes}{_augmented(data)}"]
    if data.kind == "images" and channels_first(data.image):
        height, _, channels = data.image
        lines.append(f"images are {height} high with {channels} channels: if x is channels-first, {TURNED} turns it")
    if data.pictures:
        lines += _pictures(data.pictures, data.image[:2])
    return "\n".join([*lines, *_targets(data), _leaks(data)])


def _inputs(data: Dataset) -> str:
    many, shape = len(data.inputs), data.image
    if data.kind == "images":
        return f"{many} images {_times(shape)} {data.inputs.dtype}"
    if data.kind == "tokens":
        return f"{many * shape[0]:,} tokens in {many:,} windows of {shape[0]}, vocabulary {data.vocabulary}"
    return f"{many:,} rows of {_times(shape)} number{'s' if shape != (1,) else ''}"


def _outputs(data: Dataset) -> str:
    shown = {"regression": f"{data.classes} target{'s' if data.classes > 1 else ''}", "multilabel": f"{data.classes} labels",
             "next-token": "the next token of each", "dense": f"{data.classes} classes of pixels"}
    if data.task in shown:
        return shown[data.task]
    if data.targets.dtype.kind == "f":
        return f"{shown['regression']}, task {data.task}"
    empty = data.classes - len(np.unique(data.targets))
    absent = f" ({empty} of them without an {'image' if data.kind == 'images' else 'example'})" if empty else ""
    return f"{data.classes} classes{absent}" + (f", task {data.task}" if data.task != "classification" else "")


def _scale(data: Dataset) -> str:
    if data.kind == "images":
        mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (data.mean, data.std))
        return f", mean {mean}, std {std}"
    if data.kind == "tokens":
        return ""
    return ", as they are" if (data.mean == 0).all() and (data.std == 1).all() else ", standardised"


def _augmented(data: Dataset) -> str:
    if data.augment is not None:
        return f"; augmented by {getattr(data.augment, '__name__', 'a function')}"
    if data.kind != "images":
        return ""
    lost = [f"{pad} of {size} {axis}" for pad, size, axis in zip(data.pad, data.image, ("rows", "columns")) if pad]
    crops = f"random crops that lose up to {' and '.join(lost)}" if lost else "no crops"
    return f"; {crops}, {'flips' if data.flip else 'no flips'}"


def _pictures(before: Pictures, size: tuple[int, ...]) -> list[str]:
    sizes = " to ".join(dict.fromkeys(map(_times, (before.smallest, before.largest))))
    same = before.smallest == before.largest == size
    changed = "kept as they are" if same else f"brought to {_times(size)} ({before.fit})"
    laid = f"; {before.transparent} with transparent parts, laid on white" if before.transparent else ""
    lines = [f"pictures of {sizes} pixels, {changed}{laid}"]
    if before.skipped:
        many = len(before.skipped)
        what = f"{many} files that are not pictures, the first" if many > 1 else "a file that is not a picture,"
        lines.append(f"skipped {what} {printable(before.skipped[0])}")
    return lines


def _targets(data: Dataset) -> list[str]:
    """The distribution of the targets: at most one line."""
    if data.task == "multilabel":
        shares = 100 * data.targets.mean(0)
        return [f"a label is set in {shares.min():.1f} % to {shares.max():.1f} % of the {NOUNS[data.kind]}s"]
    if data.targets.dtype.kind == "f":
        rows = zip(data.target_mean, data.target_std) if data.target_mean is not None else []
        shown = [f"mean {mean:.4g}, std {std:.4g}" for mean, std in rows][:LISTED]
        return [f"targets of the train split: {'; '.join(shown)}{'; ...' if data.classes > LISTED else ''}"]
    if data.task == "dense":
        shares = 100 * np.bincount(data.targets.reshape(-1), minlength=data.classes) / data.targets.size
        return [f"a class has {shares.min():.1f} % to {shares.max():.1f} % of the pixels"]
    return [_classes(data)] if data.targets.ndim == 1 else []


def _classes(data: Dataset) -> str:
    counts, things = np.bincount(data.targets, minlength=data.classes), NOUNS[data.kind] + "s"
    name = lambda k: data.class_names[k] if data.class_names else str(k)
    if data.class_names and data.classes <= LISTED:
        line = f"{things} of " + ", ".join(f"{name(k)} {count}" for k, count in enumerate(counts))
    elif counts.min() == counts.max():
        line = f"{counts.min()} {things} of each class"
    else:
        line = f"{counts.min()} ({name(counts.argmin())}) to {counts.max()} {things} ({name(counts.argmax())}) of a class"
    if data.class_weights is not None:
        return f"{line}; weights of their losses {min(data.class_weights):.3g} to {max(data.class_weights):.3g}"
    if counts.max() >= UNEVEN * counts.min():
        return f"{line}: uneven; --class-weights balanced makes each class count the same"
    return line


def _leaks(data: Dataset) -> str:
    same, noun = identical(data), NOUNS[data.kind]
    pairs, other = leaks(data, same), contradictions(data, same)
    target = "class" if data.targets.ndim == 1 and data.targets.dtype.kind in "iu" else "target"
    torn = f"; {other} are identical to one {'of' if target == 'class' else 'with'} another {target}" if other else ""
    if not pairs:
        return f"no {noun} is in two splits{torn}"
    first, second = pairs[0].pairs[0]
    return f"identical {noun}s: {counted(pairs)}; such as {place(data, first)} and {place(data, second)}{torn}"


def counted(pairs: Sequence[Leak]) -> str:
    """How many inputs each two splits have in common, as text."""
    return ", ".join(f"{leak.images} of {leak.of} also in {leak.also}" for leak in pairs)


def place(data: Dataset, row: int) -> str:
    """An input by its file, or its number."""
    name = data.pictures.files[row] if data.pictures else f"{NOUNS[data.kind]} {row}"
    return printable(name)


def printable(name: str) -> str:
    """The name of a file as a terminal may show it."""
    return name if name.isprintable() else ascii(name)


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
