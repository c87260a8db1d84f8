"""Any pytree of arrays to one safetensors file and back, bit for bit, with a SHA-256 that covers every byte of it.

The file is written here rather than by the safetensors package because that one orders the metadata at random, so that
equal states would give different files. Any reader of the format opens it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.run import clean, write_atomic
from dnas.types import Tree

CODES = {
    "bool": "BOOL", "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "complex64": "C64",
    "int8": "I8", "int16": "I16", "int32": "I32", "int64": "I64",
    "uint8": "U8", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}
"""The format's name of each type that can be saved."""
_NO_DIGEST = "0" * 64


class CorruptCheckpoint(ValueError):
    """A checkpoint that is cut short, altered, or not one of ours. why: the reason alone."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path} is corrupt: {why}")
        self.why = why


class Latest(NamedTuple):
    """What `latest` found: the newest whole checkpoint, and a line for each newer one that was not."""

    epoch: int
    tree: Tree
    skipped: list[str]


def save(path: str | Path, tree: Tree, metadata: Mapping[str, str] | None = None) -> None:
    """Writes the arrays of `tree`, named by their paths in it, atomically; creates the folder.

    Raises RunWriteError where the disk refuses, ValueError for a leaf that is no plain array (a typed PRNG key needs
    `jax.random.key_data`).
    """
    path = Path(path)
    specs = _specs(tree)
    arrays = dict(zip(specs, (np.asarray(leaf, order="C") for leaf in jax.tree.leaves(jax.device_get(tree)))))
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    header = {"__metadata__": {"sha256": _NO_DIGEST, **(metadata or {})}}
    end = 0
    for name in order:
        start, end = end, end + arrays[name].nbytes
        shape, dtype = specs[name]
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = struct.pack("<Q", len(text)) + text
    body = b"".join(arrays[name].tobytes() for name in order)
    head = head.replace(_NO_DIGEST.encode(), _digest(head, body).encode(), 1)
    with contextlib.suppress(OSError):  # write_atomic says what is wrong
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, head + body)


def restore(path: str | Path, template: Tree) -> tuple[Tree, dict[str, str]]:
    """Reads a checkpoint into the structure of `template` (arrays, or ShapeDtypeStructs): the tree and its metadata.

    Leaves are writable numpy arrays, so that no type is narrowed by JAX's 32-bit default.
    Raises CorruptCheckpoint, and ValueError naming the first leaf that is missing, new, or of another shape or type.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist") from None
    except OSError as error:
        raise CorruptCheckpoint(path, error.strerror) from None
    header, body = _verified(path, content)
    metadata = header.pop("__metadata__")
    del metadata["sha256"]
    names = {code: dtype for dtype, code in CODES.items()}
    here = _specs(template)
    there = {name: (tuple(spec["shape"]), names[spec["dtype"]]) for name, spec in header.items()}
    for name in {**here, **there}:
        if here.get(name) != there.get(name):
            raise ValueError(f"{path} is of another state: leaf {name or '(the whole)'} is {_shown(there.get(name))} "
                             f"there, {_shown(here.get(name))} here")
    leaves = [np.frombuffer(content, jnp.dtype(dtype), count=int(np.prod(shape)),
                            offset=body + header[name]["data_offsets"][0]).reshape(shape).copy()
              for name, (shape, dtype) in here.items()]
    return jax.tree.unflatten(jax.tree.structure(template), leaves), metadata


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
            tree, _ = restore(path, template)
        except CorruptCheckpoint as error:
            if older is None:
                raise CorruptCheckpoint(folder, f"none of its {len(files)} checkpoints is whole (the oldest: "
                                                f"{error.why}); remove it to start from the beginning") from None
            skipped.append((path, f"checkpoint {path} is corrupt ({error.why}); falling back to {older.name}"))
            continue
        for corrupt, _ in skipped if set_aside else ():
            os.replace(corrupt, corrupt.with_suffix(".corrupt"))
        return Latest(int(path.stem), tree, [message for _, message in skipped])
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


def _specs(tree: Tree) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type's name of every leaf, by its path. Raises ValueError for a leaf that cannot be saved."""
    specs = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path)
        leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        if str(leaf.dtype) not in CODES:
            raise ValueError(f"leaf {name} is of type {leaf.dtype}; a checkpoint holds {', '.join(CODES)}")
        if name in specs or name == "__metadata__":
            raise ValueError(f"two leaves of the tree are called {name}; their keys need different names")
        specs[name] = tuple(leaf.shape), str(leaf.dtype)
    return specs


def _shown(spec: tuple[tuple[int, ...], str] | None) -> str:
    return f"{spec[1]}{list(spec[0])}" if spec else "absent"


def _digest(head: bytes, body: bytes | memoryview) -> str:
    """SHA-256 of a whole file, head with zeros in the digest's place."""
    digest = hashlib.sha256(head)
    digest.update(body)
    return digest.hexdigest()


def _verified(path: Path, content: bytes) -> tuple[dict, int]:
    """The header of a checkpoint and where its arrays begin; CorruptCheckpoint unless every byte is as written."""
    body = 8 + int.from_bytes(content[:8], "little")
    if len(content) < max(8, body):
        raise CorruptCheckpoint(path, f"it ends after {len(content)} bytes")
    try:
        header = json.loads(content[8:body])
        stored = header["__metadata__"]["sha256"]
        head = content[:body].replace(stored.encode("ascii"), _NO_DIGEST.encode(), 1)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise CorruptCheckpoint(path, "its header is not that of a checkpoint") from None
    if _digest(head, memoryview(content)[body:]) != stored:
        raise CorruptCheckpoint(path, "its content does not match its SHA-256")
    return header, body
