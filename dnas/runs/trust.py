"""Which run directories this user began on this machine, so that the places which their configs name may be imported again.

A run directory that came from elsewhere must not decide what is imported. What is begun here is remembered outside of the
run, by its absolute path and a digest of its config: a copied or altered run is not trusted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from dnas import registry
from dnas.runs.files import write_atomic


def remember(folder: Path, config: Mapping[str, Any]) -> None:
    """Remembers that the run of `config` in `folder` was begun here; where that cannot be written, nothing is remembered."""
    with contextlib.suppress(OSError):
        state = _state()
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _private(state):
            write_atomic(state / _name(folder), config_digest(config) + "\n")


def begun_here(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether this user began the run of exactly this config in exactly this folder."""
    state = _state()
    with contextlib.suppress(OSError):
        return _private(state) and (state / _name(folder)).read_text(encoding="ascii").strip() == config_digest(config)
    return False


def trusted(folder: Path, config: Mapping[str, Any], trust: bool | Collection[str] = False) -> bool | Collection[str]:
    """`trust`, or True where the run was begun here."""
    return trust is True or begun_here(folder, config) or trust


def allowed(trust: bool | Collection[str], *named: Any) -> bool | Collection[str]:
    """`trust`, and those of the names that a user gave, which may be objects or None as well."""
    return trust is True or {*(trust or ()), *(registry.absolute(name) for name in named if isinstance(name, str))}


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _state() -> Path:
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.local/state")) / "dnas" / "runs"


def _name(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()


def _private(state: Path) -> bool:
    """Whether the folder belongs to this user, and nobody else can write to it."""
    status = state.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
