"""Readers of the file formats: npz, the idx files of MNIST, the binary batches of CIFAR-10."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnas.data.checks import NOUNS, checked_count, checked_file, checked_inputs, checked_labels, kind_of

IDX = {"x": "train-images", "y": "train-labels", "x_test": "t10k-images", "y_test": "t10k-labels"}
IDX_BYTES = 0x0800
CIFAR_RECORD = 1 + 3 * 32 * 32
BROKEN = (OSError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def expanded(path: str | Path) -> Path:
    """A path with ~ and ~user replaced by a home directory. Raises ValueError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        user = Path(path).parts[0]
        raise ValueError(f"{str(path)[:80]!r}: there is no home directory of {user[:40]!r}; write the path out") from None


class Arrays(NamedTuple):
    """The arrays of a source: inputs [N, ...], targets [N, ...], and those of its test set or None."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None


def npz(path: Path) -> Arrays:
    """Arrays `x` and `y`, and `x_test` and `y_test` if there, of a .npz file; pickled objects are refused.

    Raises ValueError, beginning with the path, if it is not such a file or x is not fit for a network.
    """
    with _opened(path) as file:
        arrays = {name: _member(path, file, name) for name in Arrays._fields if name in file.files}
        names = ", ".join(file.files) or "none"
    for x, y in (("x", "y"), ("x_test", "y_test")):
        missing = [name for name in (x, y) if name not in arrays]
        if x == "x" and missing:
            raise ValueError(f"{path}: no array {' or '.join(missing)}; its arrays are {names}, and it needs "
                             f"x (inputs) and y (targets)")
        if len(missing) == 1:
            raise ValueError(f"{path}: x_test and y_test need each other; {missing[0]} is missing")
        if not missing:
            where = str(path) if x == "x" else f"{path}, test set"
            arrays[x] = checked_inputs(where, arrays[x])
            arrays[y] = checked_count(where, arrays[y], arrays[x])
    return Arrays(**arrays)


def npz_inputs(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Arrays `x`, and `y` if there is one, of a .npz file, unchecked. Raises ValueError, beginning with the path."""
    with _opened(path) as file:
        if "x" not in file.files:
            raise ValueError(f"{path}: no array x; its arrays are {', '.join(file.files) or 'none'}")
        return _member(path, file, "x"), _member(path, file, "y") if "y" in file.files else None


def npz_graph(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays `names` of a .npz file with a graph, which has `edge_index`; None for another file.

    Raises ValueError, beginning with the path, if it is not a whole .npz file or lacks one of the arrays.
    """
    with _opened(path) as file:
        if "edge_index" not in file.files:
            return None
        for name in names:
            if name not in file.files:
                raise ValueError(f"{path}: no array {name}; a graph has {', '.join(names)}")
        return {name: _member(path, file, name) for name in names}


def npz_pieces(paths: list[Path]) -> Arrays:
    """The .npz pieces of one set, joined in their order. One with `test` in its file name is test data.

    Raises ValueError if pieces differ in the shape or type of their inputs, or all of them are test data.
    """
    train, test, first = [], [], None
    for path in paths:
        piece = npz(path)
        kind = (piece.x.shape[1:], piece.x.dtype)
        first, things = first or kind, NOUNS[kind_of(piece.x)] + "s"
        if kind != first:
            raise ValueError(f"{path}: {things} of {kind[0]} {kind[1]}; "
                             f"those of {paths[0]} are {first[0]} {first[1]}")
        (test if "test" in path.name.lower() else train).append((piece.x, piece.y))
        if piece.x_test is not None:
            test.append((piece.x_test, piece.y_test))
    if not train:
        raise ValueError(f"{paths[0]}: every piece has 'test' in its name; at least one must be for training")
    return Arrays(*_joined(train), *_joined(test))


def idx_folder(folder: Path) -> Arrays:
    """The four files of MNIST or Fashion-MNIST, plain or .gz. Raises ValueError naming the file at fault."""
    arrays = {}
    for field, stem in IDX.items():
        path = idx_file(folder, stem)
        if path is None:
            raise ValueError(f"{folder}: no {stem}-idx{_rank(stem)}-ubyte, plain or .gz; "
                             f"the folder needs all four idx files")
        arrays[field] = _idx(path, _rank(stem))
        if _rank(stem) == 1:
            arrays[field] = checked_labels(str(path), arrays[field], len(arrays[field.replace("y", "x")]))
    return Arrays(**arrays)


def idx_file(folder: Path, stem: str) -> Path | None:
    """The file `stem`-idx3-ubyte (or `.idx3`; idx1 for labels), plain before .gz; None if there is none."""
    names = [f"{stem}{dot}idx{_rank(stem)}-ubyte{end}" for end in ("", ".gz") for dot in "-."]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def cifar_folder(folder: Path) -> Arrays:
    """CIFAR-10's binary version: data_batch_*.bin and test_batch.bin. Raises ValueError naming the file."""
    test = folder / "test_batch.bin"
    if not test.is_file():
        raise ValueError(f"{folder}: no test_batch.bin; the folder needs it beside the data_batch_*.bin")
    return Arrays(*_joined([_cifar(path) for path in sorted(folder.glob("data_batch_*.bin"))]), *_cifar(test))


def _rank(stem: str) -> int:
    return 3 if stem.endswith("images") else 1


def _idx(path: Path, rank: int) -> np.ndarray:
    """uint8 [N] or [N, H, W], after a header of big-endian 32-bit numbers: the magic number and the sizes."""
    data = _content(path)
    start = 4 + 4 * rank
    if len(data) < start:
        raise ValueError(f"{path}: {len(data)} bytes; the header of an idx{rank} file alone has {start}")
    magic, *shape = np.frombuffer(data, ">u4", rank + 1).tolist()
    if magic != IDX_BYTES + rank:
        raise ValueError(f"{path}: magic number {magic}; an idx{rank} file of bytes has {IDX_BYTES + rank}")
    if len(data) != start + math.prod(shape):
        raise ValueError(f"{path}: {len(data)} bytes; its header announces {shape}, which takes "
                         f"{start + math.prod(shape)}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images [N, 32, 32, 3] and labels [N], from records of a label and the red, green and blue planes."""
    data = _content(path)
    if not data or len(data) % CIFAR_RECORD:
        raise ValueError(f"{path}: {len(data)} bytes; CIFAR-10 batches are whole records of {CIFAR_RECORD}")
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    labels = records[:, 0]
    if labels.max() > 9:
        raise ValueError(f"{path}: label {labels.max()} of record {np.argmax(labels)}; CIFAR-10 has 0..9")
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), labels


def _content(path: Path) -> bytes:
    checked_file(path)
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: truncated or corrupt gz ({error}); fetch it again") from None
    except OSError as error:
        raise ValueError(f"{path}: {_reason(error)}; it should be a file that can be read") from None


def _opened(path: Path):
    checked_file(path)
    try:
        file = np.load(path, allow_pickle=False)
    except (*BROKEN, ValueError) as error:
        # numpy takes other files for pickles, and its message then recommends to allow those
        why = "it is not an archive" if isinstance(error, ValueError) else _reason(error)
        raise ValueError(f"{path}: not a whole .npz file ({why}); "
                         f"numpy.savez(path, x=inputs, y=targets) writes one") from None
    if isinstance(file, np.ndarray):
        raise ValueError(f"{path}: a single array; numpy.savez(path, x=inputs, y=targets) writes a .npz")
    return file


def _member(path: Path, file, name: str) -> np.ndarray:
    try:
        return file[name]
    except (*BROKEN, ValueError) as error:
        if "pickle" in str(error):
            raise ValueError(f"{path}: array {name} holds pickled objects, which are never loaded; "
                             f"store numbers") from None
        raise ValueError(f"{path}: array {name} is truncated or corrupt ({_reason(error)})") from None


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray | None, np.ndarray | None]:
    if not parts:
        return None, None
    images, labels = zip(*parts)
    return np.concatenate(images), np.concatenate(labels)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
