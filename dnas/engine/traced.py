"""Files of traced programs: private to the user, checked before they are used, and bounded in number and size.

A file that is missing, damaged, or not the user's own reads as None; one that cannot be written is skipped. Neither is an
error, because the content can be computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path

MAGIC = b"dnas-traced-1\n"
LARGEST = 64 * 2**20
"""Bytes of one file."""
MOST, TOTAL = 256, 512 * 2**20
"""Files, and their bytes, beyond which the least recently used are removed."""


def read(path: Path) -> bytes | None:
    """The data that `write` wrote to `path`; None if there is no such file, or another user could have changed it."""
    try:
        if not _private(os.lstat(path.parent)):
            return None
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _private(status) or status.st_size > LARGEST:
                return None
            content = file.read()
        with contextlib.suppress(OSError):
            os.utime(path)
    except OSError:
        return None
    head = len(MAGIC) + hashlib.sha256().digest_size
    data = content[head:]
    return data if content[:head] == _head(path, data) else None


def write(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically, and creates its folder if needed."""
    if len(data) > LARGEST - 2**10:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not _private(os.lstat(path.parent)):
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with open(handle, "wb") as file:
                file.write(_head(path, data) + data)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        _remove_oldest(path.parent)


def _head(path, data):
    """The head of a file: a digest of its name and content."""
    return MAGIC + hashlib.sha256(path.name.encode() + b"\0" + data).digest()


def _private(status):
    """Whether the file or folder is the user's, and nobody else can write to it."""
    link = stat.S_ISLNK(status.st_mode)
    return not link and status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _remove_oldest(folder):
    """Removes the oldest files beyond MOST and TOTAL."""
    files = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            status = path.lstat()
            files.append((status.st_mtime, status.st_size, path))
    count, total = len(files), sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if count <= MOST and total <= TOTAL:
            break
        path.unlink(missing_ok=True)
        count, total = count - 1, total - size
