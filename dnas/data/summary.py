"""What a person should know of a data set before it is used: sizes, classes, images that are in two splits."""

from __future__ import annotations

import hashlib
import itertools
from typing import NamedTuple

import numpy as np

from dnas.data.dataset import SPLITS, Dataset

LISTED = 10
"""Most classes whose numbers of images are spelled out."""
UNEVEN = 2
"""Times as many images as of the smallest class from which on weights are suggested."""


class Leak(NamedTuple):
    """Images of the split `of` that `also` holds too, pixel by pixel, and the first such pair (row, row)."""

    of: str
    also: str
    images: int
    pair: tuple[int, int]


def leaks(data: Dataset, same: np.ndarray | None = None) -> list[Leak]:
    """The identical images of each two splits, those of the test set first. same: as `identical` gives it, if known."""
    same = identical(data) if same is None else same
    found = []
    for of, also in itertools.combinations(reversed(SPLITS), 2):
        rows, others = data.splits[of], data.splits[also]
        shared = rows[np.isin(same[rows], same[others])]
        if len(shared):
            twin = others[np.argmax(same[others] == same[shared[0]])]
            found.append(Leak(of, also, len(shared), (int(shared[0]), int(twin))))
    return found


def contradictions(data: Dataset, same: np.ndarray) -> int:
    """How many images are identical to one of another class. same: as `identical` gives it."""
    kinds = np.unique(np.stack([same, data.targets]), axis=1)[0]
    return int((np.bincount(kinds)[same] > 1).sum())


def identical(data: Dataset) -> np.ndarray:
    """A number [N] for each image, equal for those whose pixels are."""
    rows = np.ascontiguousarray(data.inputs).reshape(len(data.inputs), -1).view(np.uint8)
    digests = [hashlib.blake2b(row, digest_size=16).digest() for row in rows]
    return np.unique(np.array(digests, "V16"), return_inverse=True)[1].reshape(-1)


def describe(data: Dataset) -> str:
    """A few lines for a person: shape, classes, pixels; the sizes of the splits and the augmentation; what pictures were
    made of; images of each class; identical images in two splits."""
    sizes = ", ".join(f"{name} {len(data.splits[name])}" for name in SPLITS)
    graph = data.graph
    if graph is not None:
        return (f"{data.name}: a graph of {graph.nodes} nodes and {graph.edges.shape[1]} edges, {graph.features} "
                f"features, {data.classes} classes\n{sizes} nodes")
    mean, std = (" ".join(f"{value:.3g}" for value in values) for values in (data.mean, data.std))
    empty = data.classes - len(np.unique(data.targets))
    absent = f" ({empty} of them without an image)" if empty else ""
    crops = f"random crops with pad {data.pad}, {'flips' if data.flip else 'no flips'}"
    own = getattr(data.augment, "__name__", "a function")
    lines = [f"{data.name}: {len(data.targets)} images {_times(data.image)} {data.inputs.dtype}, "
             f"{data.classes} classes{absent}, mean {mean}, std {std}",
             f"{sizes}; {crops if data.augment is None else f'augmented by {own}'}"]
    if data.pictures:
        lines.append(_pictures(data))
    return "\n".join([*lines, _classes(data), _leaks(data)])


def _pictures(data: Dataset) -> str:
    before, now = data.pictures, data.image[:2]
    sizes = " to ".join(dict.fromkeys(map(_times, (before.smallest, before.largest))))
    changed = "kept as they are" if before.smallest == before.largest == now else f"brought to {_times(now)} ({before.fit})"
    laid = f"; {before.transparent} with transparent parts, laid on white" if before.transparent else ""
    return f"pictures of {sizes} pixels, {changed}{laid}"


def _classes(data: Dataset) -> str:
    counts = np.bincount(data.targets, minlength=data.classes)
    name = lambda k: data.class_names[k] if data.class_names else str(k)
    if data.class_names and data.classes <= LISTED:
        line = "images of " + ", ".join(f"{name(k)} {count}" for k, count in enumerate(counts))
    elif counts.min() == counts.max():
        line = f"{counts.min()} images of each class"
    else:
        line = f"{counts.min()} ({name(counts.argmin())}) to {counts.max()} images ({name(counts.argmax())}) of a class"
    if data.class_weights is not None:
        return f"{line}; weights of their losses {min(data.class_weights):.3g} to {max(data.class_weights):.3g}"
    if counts.max() >= UNEVEN * counts.min():
        return f"{line}: uneven; --class-weights balanced makes each class count the same"
    return line


def _leaks(data: Dataset) -> str:
    same = identical(data)
    found, other = leaks(data, same), contradictions(data, same)
    torn = f"; {other} are identical to one of another class" if other else ""
    if not found:
        return f"no image is in two splits{torn}"
    where = lambda row: data.pictures.files[row] if data.pictures else f"image {row}"
    seen = lambda row: where(row) if where(row).isprintable() else ascii(where(row))
    parts = [f"{leak.images} of {leak.of} also in {leak.also}" for leak in found]
    first, second = found[0].pair
    return f"identical images: {', '.join(parts)}; such as {seen(first)} and {seen(second)}{torn}"


def _times(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
