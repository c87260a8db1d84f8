"""Any pytree of arrays to one safetensors file and back, bit for bit, with a SHA-256 that covers every byte of it.

The file is written here rather than by the safetensors package because that one orders the metadata at random, so that
equal states would give different files. Any reader of the format opens it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.runs.files import Unreadable, clean, opened, read_bytes, write_atomic
from dnas.types import Tree

CODES = {
    "bool": "BOOL", "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}
"""The format's name of each type that can be saved."""
PLAIN = partial(jax.tree_util.keystr, simple=True, separator="/")
"""The name of a leaf as `params/stem_conv/kernel`, for nested dicts that others shall read."""
NO_HEADER = "its header is not that of a checkpoint"
_NO_DIGEST = "0" * 64
AT_ONCE = 2**28
"""Bytes of a file that is read whole before anything is known of it."""
LARGEST_HEADER = 2**28


class CorruptCheckpoint(ValueError):
    """A checkpoint that is cut short, altered, or not one of ours. why: the reason alone."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path} is corrupt: {why}")
        self.why = why


class File(NamedTuple):
    """A checkpoint as it was read. header: what it says of its arrays and itself; body: where the arrays begin; size: bytes
    of the whole; content: all of them, None where the file is larger than AT_ONCE; follow: see `read`."""

    path: Path
    header: dict
    body: int
    size: int
    content: bytes | None
    follow: bool

    @property
    def digest(self) -> str:
        """SHA-256 of the whole file."""
        return self.header["__metadata__"]["sha256"]

    @property
    def metadata(self) -> dict[str, str]:
        """What the checkpoint says of itself."""
        return {key: value for key, value in self.header["__metadata__"].items() if key != "sha256"}


class Latest(NamedTuple):
    """The newest whole checkpoint of a folder. skipped: a line for each newer one that was not whole; digest: SHA-256 of the
    file."""

    epoch: int
    tree: Tree
    skipped: list[str]
    digest: str = ""


def save(path: str | Path, tree: Tree, metadata: Mapping[str, str] | None = None, *,
         name: Callable = jax.tree_util.keystr) -> None:
    """Writes the arrays of `tree`, named by their paths in it, atomically; creates the folder.

    name: from a path to the name in the file; `arrays` needs the same.
    Raises RunWriteError where the disk refuses, ValueError for a leaf that is no plain array (a typed PRNG key needs
    `jax.random.key_data`).
    """
    path = Path(path)
    head, body, _ = _encoded(tree, metadata or {}, name)
    with contextlib.suppress(OSError):  # write_atomic says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, head + body)


def digest(tree: Tree) -> str:
    """SHA-256 of the file that `save` would write of the tree, without metadata."""
    return _encoded(tree, {}, jax.tree_util.keystr)[2]


def _encoded(tree: Tree, metadata: Mapping[str, str], name: Callable) -> tuple[bytes, bytes, str]:
    """The two parts of a checkpoint's file, and the SHA-256 of both, which is in the first."""
    specs = _specs(tree, name)
    arrays = dict(zip(specs, (np.asarray(leaf, order="C") for leaf in jax.tree.leaves(jax.device_get(tree)))))
    order = sorted(arrays, key=lambda leaf: (-arrays[leaf].dtype.itemsize, leaf))
    header = {"__metadata__": {"sha256": _NO_DIGEST, **metadata}}
    end = 0
    for leaf in order:
        start, end = end, end + arrays[leaf].nbytes
        shape, dtype = specs[leaf]
        header[leaf] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    body = b"".join(arrays[leaf].tobytes() for leaf in order)
    sha256 = _digest(head, body)
    return head.replace(_NO_DIGEST.encode(), sha256.encode(), 1), body, sha256


def read(path: str | Path, *, follow: bool = False) -> File:
    """Reads a checkpoint. Raises CorruptCheckpoint unless every byte is as written, ValueError where there is none.

    Of a file larger than AT_ONCE only the header is read, and `arrays` checks the rest once it is known to be wanted.
    follow: a link as well, where a person named it rather than a run.
    """
    path = Path(path)
    if not os.path.lexists(path):
        raise ValueError(f"{path} does not exist")
    try:
        with opened(path, follow=follow) as (file, size):
            start = file.read(8)
            body = 8 + int.from_bytes(start, "little")
            if len(start) < 8 or size < body:
                raise CorruptCheckpoint(path, f"it ends after {size} bytes")
            if body > LARGEST_HEADER:
                raise CorruptCheckpoint(path, NO_HEADER)
            head = start + file.read(body - 8)
            header = _header(path, head)
            content = head + file.read(size - body) if size <= AT_ONCE else None
    except Unreadable as error:
        raise CorruptCheckpoint(path, error.why) from None
    except OSError as error:
        raise CorruptCheckpoint(path, error.strerror) from None
    if content is not None:
        _check_digest(path, header, content, body)
    _check_layout(path, header, size - body)
    return File(path, header, body, size, content, follow)


def restore(path: str | Path, template: Tree) -> tuple[Tree, dict[str, str]]:
    """Reads a checkpoint into the structure of `template` (arrays, or ShapeDtypeStructs): the tree and its metadata.

    Leaves are writable numpy arrays, so that no type is narrowed by JAX's 32-bit default.
    Raises CorruptCheckpoint, and ValueError naming the first leaf that is missing, new, or of another shape or type.
    """
    file = read(path)
    return arrays(file, template), file.metadata


def arrays(file: File, template: Tree, *, name: Callable = jax.tree_util.keystr) -> Tree:
    """The tree alone, of a file that was read already. name: as for `save`."""
    path, header, body = file.path, file.header, file.body
    here = _specs(template, name)
    there = {leaf: (shape, dtype) for leaf, (shape, dtype, _, _) in _entries(path, header).items()}
    for leaf in {**here, **there}:
        if here.get(leaf) != there.get(leaf):
            raise ValueError(f"{path} is of another state: leaf {leaf or '(the whole)'} is {_shown(there.get(leaf))} "
                             f"there, {_shown(here.get(leaf))} here")
    content = file.content
    if content is None:
        content = read_bytes(path, follow=file.follow)
        if len(content) != file.size:
            raise CorruptCheckpoint(path, "it has changed while it was read")
        _check_digest(path, header, content, body)
    starts = {leaf: body + start for leaf, (_, _, start, _) in _entries(path, header).items()}
    leaves = [np.frombuffer(content, jnp.dtype(dtype), count=math.prod(shape), offset=starts[leaf]).reshape(shape).copy()
              for leaf, (shape, dtype) in here.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def refuse_non_finite(tree: Tree, what: str) -> None:
    """Raises ValueError, in one line that begins with `what`, where an array of numbers holds NaN or infinity."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        leaf = np.asarray(leaf)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not np.isfinite(leaf).all():
            raise ValueError(f"{what} cannot be used: {PLAIN(path) or 'it'} has values that are not finite")


def latest(folder: str | Path, template: Tree, *, set_aside: bool = True) -> Latest | None:
    """The newest whole checkpoint NNNNN.safetensors of `folder`, None if there is none at all.

    Corrupt ones are skipped, and with `set_aside` renamed so that `keep` does not count them.
    Raises CorruptCheckpoint if none is whole,
    and ValueError as `restore` does.
    """
    files = _files(Path(folder))
    skipped = []
    for path, older in zip(files, [*files[1:], None]):
        try:
            file = read(path)
            tree = arrays(file, template)
        except CorruptCheckpoint as error:
            if older is None:
                raise CorruptCheckpoint(folder, f"none of its {len(files)} checkpoints is whole (the oldest: "
                                                f"{error.why}); restore one, or choose another folder") from None
            skipped.append((path, f"checkpoint {path} is corrupt ({error.why}); falling back to {older.name}"))
            continue
        for corrupt, _ in skipped if set_aside else ():
            os.replace(corrupt, corrupt.with_suffix(".corrupt"))
        return Latest(int(path.stem), tree, [message for _, message in skipped], file.digest)
    return None


def newest(folder: str | Path) -> tuple[int, str] | None:
    """Epoch and SHA-256 of the newest checkpoint of `folder` that is as it was written, None if there is none."""
    for path in _files(Path(folder)):
        with contextlib.suppress(CorruptCheckpoint):
            return int(path.stem), read(path).digest
    return None


def keep(folder: str | Path, n: int) -> None:
    """Deletes all checkpoints of `folder` but the newest `n`, and what a killed `save` left."""
    if n < 1:
        raise ValueError(f"keep needs at least one checkpoint, got {n}")
    clean(Path(folder))
    for path in _files(Path(folder))[n:]:
        path.unlink()


def _files(folder: Path) -> list[Path]:
    """Checkpoints of `folder`, newest first. Raises ValueError where it is a link."""
    if folder.is_symlink():
        raise ValueError(f"{folder} is a link, which is not followed; put the folder itself there")
    found = [p for p in folder.glob("*.safetensors") if re.fullmatch(r"\d{5,}", p.stem)]
    return sorted(found, key=lambda p: int(p.stem), reverse=True)


def _header(path: Path, head: bytes) -> dict:
    try:
        header = json.loads(head[8:])
        if not re.fullmatch("[0-9a-f]{64}", header["__metadata__"]["sha256"]):
            raise ValueError
    except (ValueError, LookupError, TypeError, RecursionError):
        raise CorruptCheckpoint(path, NO_HEADER) from None
    return header


def _check_digest(path: Path, header: dict, content: bytes, body: int) -> None:
    stored = header["__metadata__"]["sha256"]
    head = content[:body].replace(stored.encode(), _NO_DIGEST.encode(), 1)
    if _digest(head, memoryview(content)[body:]) != stored:
        raise CorruptCheckpoint(path, "its content does not match its SHA-256")


def _check_layout(path: Path, header: dict, size: int) -> None:
    """Raises CorruptCheckpoint unless the arrays lie one behind the other and fill `size` bytes: none shares bytes."""
    end = 0
    for shape, dtype, start, stop in sorted(_entries(path, header).values(), key=lambda entry: entry[2:]):
        if start != end or stop - start != math.prod(shape) * jnp.dtype(dtype).itemsize:
            raise CorruptCheckpoint(path, "its arrays share bytes, or leave some out")
        end = stop
    if end != size:
        raise CorruptCheckpoint(path, f"its arrays have {end} bytes, and {size} are there")


def _entries(path: Path, header: dict) -> dict[str, tuple[tuple[int, ...], str, int, int]]:
    """Of each array its shape, the name of its type, and where it begins and ends. Raises CorruptCheckpoint."""
    names = {code: dtype for dtype, code in CODES.items()}
    try:
        entries = {leaf: (tuple(spec["shape"]), names[spec["dtype"]], *spec["data_offsets"]) for leaf, spec in header.items()
                   if leaf != "__metadata__"}
        sound = all(len(entry) == 4 and all(type(n) is int and n >= 0 for n in (*entry[0], *entry[2:]))
                    for entry in entries.values())
    except (LookupError, TypeError):
        sound = False
    if not sound:
        raise CorruptCheckpoint(path, NO_HEADER)
    return entries


def _specs(tree: Tree, name: Callable) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type's name of every leaf, by its name. Raises ValueError for a leaf that cannot be saved."""
    specs = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        called = name(path)
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if str(leaf.dtype) not in CODES:
            raise ValueError(f"leaf {called} is of type {leaf.dtype}; a checkpoint holds {', '.join(CODES)}")
        if called in specs or called == "__metadata__":
            raise ValueError(f"two leaves of the tree are called {called}; their keys need different names")
        specs[called] = tuple(leaf.shape), str(leaf.dtype)
    return specs


def _shown(spec: tuple[tuple[int, ...], str] | None) -> str:
    return f"{spec[1]}{list(spec[0])}" if spec else "absent"


def _digest(head: bytes, body: bytes | memoryview) -> str:
    """SHA-256 of a whole file, head with zeros in the digest's place."""
    digest = hashlib.sha256(head)
    digest.update(body)
    return digest.hexdigest()
