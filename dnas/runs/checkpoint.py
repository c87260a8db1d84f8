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

from dnas.runs.directory import clean, write_atomic
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


class CorruptCheckpoint(ValueError):
    """A checkpoint that is cut short, altered, or not one of ours. why: the reason alone."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path} is corrupt: {why}")
        self.why = why


class File(NamedTuple):
    """A whole checkpoint as it was read: its content, the header of that, and where the arrays begin."""

    path: Path
    content: bytes
    header: dict
    body: int

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


def read(path: str | Path) -> File:
    """Reads a checkpoint. Raises CorruptCheckpoint unless every byte is as written, ValueError where there is none."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise CorruptCheckpoint(path, error.strerror) from None
    body = 8 + int.from_bytes(content[:8], "little")
    if len(content) < max(8, body):
        raise CorruptCheckpoint(path, f"it ends after {len(content)} bytes")
    try:
        header = json.loads(content[8:body])
        stored = header["__metadata__"]["sha256"]
        head = content[:body].replace(stored.encode("ascii"), _NO_DIGEST.encode(), 1)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CorruptCheckpoint(path, NO_HEADER) from None
    if _digest(head, memoryview(content)[body:]) != stored:
        raise CorruptCheckpoint(path, "its content does not match its SHA-256")
    return File(path, content, header, body)


def restore(path: str | Path, template: Tree) -> tuple[Tree, dict[str, str]]:
    """Reads a checkpoint into the structure of `template` (arrays, or ShapeDtypeStructs): the tree and its metadata.

    Leaves are writable numpy arrays, so that no type is narrowed by JAX's 32-bit default.
    Raises CorruptCheckpoint, and ValueError naming the first leaf that is missing, new, or of another shape or type.
    """
    file = read(path)
    return arrays(file, template), file.metadata


def arrays(file: File, template: Tree, *, name: Callable = jax.tree_util.keystr) -> Tree:
    """The tree alone, of a file that was read already. name: as for `save`."""
    path, content, header, body = file
    names = {code: dtype for dtype, code in CODES.items()}
    here = _specs(template, name)
    try:
        there = {leaf: (tuple(map(int, spec["shape"])), names[spec["dtype"]]) for leaf, spec in header.items()
                 if leaf != "__metadata__"}
        starts = {leaf: body + int(header[leaf]["data_offsets"][0]) for leaf in there}
    except (LookupError, OverflowError, TypeError, ValueError):
        raise CorruptCheckpoint(path, NO_HEADER) from None
    for leaf in {**here, **there}:
        if here.get(leaf) != there.get(leaf):
            raise ValueError(f"{path} is of another state: leaf {leaf or '(the whole)'} is {_shown(there.get(leaf))} "
                             f"there, {_shown(here.get(leaf))} here")
    sizes = {leaf: math.prod(shape) for leaf, (shape, _) in here.items()}
    if any(not body <= starts[leaf] <= len(content) - sizes[leaf] * jnp.dtype(here[leaf][1]).itemsize for leaf in here):
        raise CorruptCheckpoint(path, "an array of its header lies outside of it")
    leaves = [np.frombuffer(content, jnp.dtype(dtype), count=sizes[leaf], offset=starts[leaf]).reshape(shape).copy()
              for leaf, (shape, dtype) in here.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


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
                                                f"{error.why}); remove it to start from the beginning") from None
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
    """Checkpoints of `folder`, newest first."""
    found = [p for p in folder.glob("*.safetensors") if re.fullmatch(r"\d{5,}", p.stem)]
    return sorted(found, key=lambda p: int(p.stem), reverse=True)


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
