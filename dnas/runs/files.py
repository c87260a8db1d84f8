"""Files of runs: written whole or not at all, and read without trust in what somebody else may have put there.

Only ordinary files are read, up to a size by their kind: a link is not followed, a pipe or a device is not waited for, and
no file is unpacked.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import io
import json
import math
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from dnas.runs import lock

LARGEST = {".json": 2**26, ".jsonl": 2**28, ".npz": 2**30, ".safetensors": 2**36, ".svg": 2**24, ".png": 2**24}
"""Bytes of a file that is read, by the end of its name."""
LARGEST_DIRECTORY = 2**20
"""Bytes of the list of the arrays in an .npz."""
LARGEST_EPOCH = 10**9
DEEPEST = 50
"""Lists and objects inside of each other in a JSON text."""


TEMPORARY = re.compile(r"\..+\.\d+\.tmp|\..+-\w{8}\.tmp")
"""Names of the temporary files and folders that are written here."""


class RunWriteError(OSError):
    """A file could not be written (full or read-only disk); what was there before is untouched. last: what else there is,
    such as a checkpoint."""

    def __init__(self, path: str | Path, cause: OSError, last: str = ""):
        super().__init__(f"could not write {path}: {cause.strerror or cause}; what was there before is untouched"
                         + (last and f", and {last}"))
        self.path, self.cause, self.errno = path, cause, cause.errno


class Unreadable(ValueError):
    """A file that is missing, or is not read because of what it is. why: the reason alone."""

    def __init__(self, path: str | Path, why: str):
        super().__init__(f"cannot read {path}: {why}")
        self.why = why


@contextlib.contextmanager
def opened(path: str | Path, *, follow: bool = False) -> Iterator[tuple[BinaryIO, int]]:
    """An ordinary file, open for reading, and how many bytes it has. Raises Unreadable at once where it is anything else.

    follow: a link as well, where a person named it rather than a run."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError as error:
        why = "it is a link, which is not followed" if error.errno == errno.ELOOP else error.strerror
        raise Unreadable(path, why) from None
    status, most, why = os.fstat(handle), LARGEST.get(Path(path).suffix, LARGEST[".json"]), None
    if not stat.S_ISREG(status.st_mode):
        why = "it is a folder" if stat.S_ISDIR(status.st_mode) else "it is not an ordinary file"
    elif status.st_size > most:
        why = f"it has {status.st_size:,} bytes; more than {most:,} are not read"
    if why:
        os.close(handle)
        raise Unreadable(path, why)
    with open(handle, "rb") as file:
        yield file, status.st_size


def read_bytes(path: str | Path, *, follow: bool = False) -> bytes:
    """The content of an ordinary file. Raises Unreadable. follow: see `opened`."""
    with opened(path, follow=follow) as (file, size):
        try:
            return file.read(size)
        except OSError as error:
            raise Unreadable(path, error.strerror) from None


def read_json(path: str | Path) -> dict[str, Any]:
    """The JSON object of a file. Raises ValueError, in one line, where there is none."""
    content = read_bytes(path)
    try:
        value = parse_json(content)
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: no JSON object")
    return value


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, [] if there is none. Raises ValueError on a bad line but the last.

    An epoch in them is a whole number."""
    lines, rows = read_bytes(path).split(b"\n") if os.path.lexists(path) else [], []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                record = dict(parse_json(line))
                epoch = record.get("epoch", 0)
                if type(epoch) is not int or not 0 <= epoch <= LARGEST_EPOCH:
                    raise ValueError
                rows.append(record)
        except (ValueError, TypeError):
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is no JSON record; restore or remove the file") from None
    return rows


def read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz that `write_arrays` wrote. Raises ValueError, ending in `remedy`, where there is none such."""
    try:
        with opened(path) as (file, size):
            return _arrays(file, size)
    except Unreadable as error:
        why = error.why
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error) as error:
        why = str(error)
    raise ValueError(f"{path} is missing or corrupt ({why}); {remedy}")


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError on anything else: on NaN and numbers too large as well, which Python's own
    reader takes."""
    try:
        value = _DECODER.decode(text.decode() if isinstance(text, bytes) else text)
    except UnicodeError:
        raise ValueError("it is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _is_deep(value):
        raise ValueError("it is nested too deeply")
    return value


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Puts `content` in `path`, which holds either the old content or the new at every moment. A link there is replaced.

    Raises RunWriteError, with the old file as it was and no temporary file left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise RunWriteError(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, as `write_atomic` does; NaN and infinity become null."""
    write_atomic(path, json.dumps(as_json(value), indent=1) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz as `write_atomic` does."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def write_records(path: Path, rows: list[Mapping[str, Any]]) -> None:
    """Writes a file of JSON lines as `write_atomic` does; NaN and infinity become null."""
    write_atomic(path, "".join(map(_line, rows)))


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a JSON line to `path` in one write, on the disk when this returns; where it fails, the file is cut back to what
    it was. NaN and infinity become null."""
    data = _line(record).encode()
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunWriteError(path, error) from error
    try:
        size = os.fstat(file).st_size
        try:
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)
            raise RunWriteError(path, error) from error
    finally:
        os.close(file)


def clean(folder: Path, pattern: str = ".*.tmp") -> None:
    """Removes the temporary files that a killed `write_atomic` left, and each `temporary_folder` whose process has ended.
    Only for the process that writes the run."""
    for leftover in folder.glob(pattern):
        if not TEMPORARY.fullmatch(leftover.name):
            continue  # somebody else's
        if not leftover.is_dir() or leftover.is_symlink():
            leftover.unlink(missing_ok=True)
        elif lock.holder(leftover) is None:
            shutil.rmtree(leftover, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new folder below `parent`, there until the block ends. What killed processes left of this name is removed."""
    clean(parent, f".{glob.escape(name)}-*.tmp")
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", suffix=".tmp", dir=parent))
    try:
        with lock.take(folder):
            (folder / "files").mkdir()
            yield folder / "files"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_json(value: Any) -> Any:
    """`value` as JSON knows it: arrays as lists, NaN and infinity as None. Raises ValueError on anything else."""
    if isinstance(value, Mapping):
        return {str(name): as_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if hasattr(value, "tolist"):
        return as_json(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, int)):
        return value
    raise ValueError(f"{value!r} cannot be written as JSON; give numbers, texts, lists or mappings")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(as_json(record), allow_nan=False) + "\n"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested deeper than DEEPEST."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        level = [item for each in level for item in (each.values() if isinstance(each, dict) else each)
                 if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_finite)


def _arrays(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    """The arrays of an .npz of `size` bytes, each as large as its header says and all together no larger than the file."""
    file.seek(max(size - 42, 0))
    end = file.read(42)
    if end[-22:-18] != b"PK\5\6" or end[:4] == b"PK\6\7" or int.from_bytes(end[-10:-6], "little") > LARGEST_DIRECTORY:
        raise ValueError("it is not a whole archive of arrays")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it is compressed, and is not unpacked")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its arrays are larger than the file")
        return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"array {member.filename[:80]!r} is of an unknown format")
        shape, by_columns, dtype = _HEADERS[version](file)
        data = bytearray(file.read(member.file_size))
    if dtype.hasobject or len(data) != math.prod(shape) * dtype.itemsize or not dtype.itemsize:
        raise ValueError(f"array {member.filename[:80]!r} is not as its header says")
    values = np.frombuffer(data, dtype)
    return values.reshape(shape[::-1]).T if by_columns else values.reshape(shape)


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
