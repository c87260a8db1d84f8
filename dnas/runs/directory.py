"""The run directory: configuration, metrics, logits' trajectory and genotype, each file whole at every moment."""

from __future__ import annotations

import contextlib
import contextvars
import errno
import io
import itertools
import json
import math
import os
import platform
import subprocess
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dnas.runs import lock as locks
from dnas.runs import trust
from dnas.types import LONGEST, Genotype, Group

FAILED = "failed.json"
"""Says why a search cannot go on: {"error": text}."""
COMMAND: contextvars.ContextVar[str | None] = contextvars.ContextVar("command", default=None)
"""The command line that is running, which environment.json remembers; None in a program of somebody's own."""
MOST_SHOWN = 8
"""Differences between two configs that a message names."""


class RunWriteError(OSError):
    """A file of a run could not be written (full or read-only disk); what was there before is untouched."""

    def __init__(self, path: Path, error: OSError):
        super().__init__(f"could not write {path}: {error.strerror or error}; "
                         "what was there before is untouched, and the last checkpoint, if there is one, is whole")
        self.errno = error.errno


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Puts `content` in `path`, which holds either the old content or the new at every moment.

    Raises RunWriteError, with the old file as it was and no temporary file left.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
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
    write_atomic(path, json.dumps(_plain(value), indent=1) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an .npz as `write_atomic` does."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomic(path, buffer.getvalue())


def read_arrays(path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz. Raises ValueError, ending in `remedy`, where it is missing or corrupt."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is missing or corrupt ({error}); {remedy}") from None


def clean(folder: Path) -> None:
    """Removes the temporary files that a killed `write_atomic` left. Only for the process that writes the run."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def flatten(tree: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """{"a": {"b": 1}} to {"a.b": 1}, with `separator` between the names. An empty mapping stays a leaf."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{name}{separator}{rest}": leaf for rest, leaf in flatten(value, separator).items()}
        else:
            flat[name] = value
    return flat


@dataclass(frozen=True)
class RunDirectory:
    """An open run directory, locked against other processes until `close` or the end of this process.

    resumed: whether the directory already held this run.
    """

    folder: Path
    resumed: bool
    lock: TextIO

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one line to metrics.jsonl, on the disk when this returns; NaN and infinity become null."""
        _append(self.folder / "metrics.jsonl", record)

    def append_timing(self, record: Mapping[str, Any]) -> None:
        """The same for timing.jsonl: what differs between equal runs."""
        _append(self.folder / "timing.jsonl", record)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl; a last line cut short by a kill is left out."""
        return records(self.folder / "metrics.jsonl")

    def timings(self) -> list[dict[str, Any]]:
        """The records of timing.jsonl."""
        return records(self.folder / "timing.jsonl")

    def truncate(self, epoch: int) -> None:
        """Keeps the metrics and timings with record["epoch"] <= epoch: those of the checkpoint that is resumed.

        Raises ValueError, before anything is written, where a file is damaged or metrics up to `epoch` are missing.
        """
        paths = [self.folder / "metrics.jsonl", self.folder / "timing.jsonl"]
        kept = [[record for record in records(path) if record.get("epoch", 0) <= epoch] for path in paths]
        missing = set(range(1, epoch + 1)) - {record.get("epoch") for record in kept[0]}
        if missing:
            raise ValueError(f"{paths[0]} lacks epoch {min(missing)}, though there is a checkpoint of epoch {epoch}; "
                             "restore the file, or search again in another folder")
        for path, lines in zip(paths, kept):
            if path.exists():
                write_atomic(path, "".join(map(_line, lines)))

    def refuse_restart(self) -> None:
        """Raises ValueError where the run has results but no checkpoint: it cannot go on, and must not start over.

        A run that was killed in its first epoch may have one record before its first checkpoint.
        """
        if any(self.checkpoints.glob("*.safetensors")):
            return
        done = len(self.metrics())
        if done > 1 or (self.folder / "results.json").exists():
            raise ValueError(f"{self.folder} has the results of {done} epochs but no checkpoint, so it cannot go on, and to "
                             "begin again would overwrite them: restore its folder checkpoints, or choose another folder")

    def save_arch(self, trajectory: Mapping[str, np.ndarray]) -> None:
        """Writes arch.npz: the logits `[epochs + 1, E, K]` of each group, the first before any step."""
        write_arrays(self.folder / "arch.npz", trajectory)

    def load_arch(self) -> dict[str, np.ndarray]:
        """Reads arch.npz. Raises ValueError where it is missing or corrupt."""
        return read_arrays(self.folder / "arch.npz", "restore the file, or search again in another folder")

    def save_groups(self, groups: Mapping[str, Group]) -> None:
        """Writes groups.json: what is needed to draw the logits and the cells without the space."""
        write_json(self.folder / "groups.json", {name: {"edges": group.edges, "ops": group.ops}
                                                 for name, group in groups.items()})

    def save_genotype(self, genotype: Genotype) -> None:
        """Writes genotype.json."""
        write_atomic(self.folder / "genotype.json", genotype.to_json() + "\n")

    def close(self) -> None:
        """Gives up the lock."""
        self.lock.close()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def open_run(path: str | Path, config: Mapping[str, Any]) -> RunDirectory:
    """Creates the run directory `path`, or resumes the one there if its config.json equals `config`.

    Raises ValueError, before anything is written, where the directory holds a run of another config (each differing
    key is named), something else than a run, cannot be written to, or is in use by another process.
    """
    folder, config = Path(path), _plain(config)
    holds_run(folder, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locks.take(folder)
    except OSError as error:
        raise ValueError(f"cannot write in {folder}: {error.strerror}; choose another folder") from None
    try:
        resumed = holds_run(folder, config)
        clean(folder)
        clean(folder / "checkpoints")
        if not resumed:
            write_json(folder / "config.json", config)
        if not (folder / "environment.json").exists():
            write_json(folder / "environment.json", environment())
        trust.remember(folder, config)
    except BaseException:
        lock.close()
        raise
    return RunDirectory(folder, resumed, lock)


def free_folder(name: str, config: Mapping[str, Any]) -> Path:
    """The first of runs/`name`, runs/`name`-2, ... that does not exist, is empty, or holds a run of this very config."""
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or folder.is_dir() and not any(folder.iterdir()):
            return folder
        try:
            if json.loads((folder / "config.json").read_text(encoding="utf-8")) == config:
                return folder
        except (OSError, ValueError, RecursionError):
            continue


def load_genotype(path: str | Path) -> Genotype:
    """Reads a genotype from its file or from a run directory. Raises ValueError, in one line, if it cannot."""
    path = Path(path)
    path = path / "genotype.json" if path.is_dir() else path
    try:
        with open(path, encoding="utf-8") as file:
            return Genotype.from_json(file.read(LONGEST + 1))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; give a genotype.json or a finished run") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, [] if there is none. Raises ValueError on a bad line but the last.

    An epoch in them is a whole number."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                record = dict(json.loads(line))
                if type(record.get("epoch", 0)) is not int:
                    raise ValueError
                found.append(record)
        except (ValueError, TypeError, RecursionError):
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is no JSON record; restore or remove the file") from None
    return found


def environment() -> dict[str, Any]:
    """What a run depends on besides its config: versions, device, cores, commit (null outside a checkout), date."""
    import jax

    device = jax.devices()[0]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy", "dnas")},
        "commit": _commit(),
        "platform": platform.platform(),
        "backend": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpu_count": os.cpu_count(),
        **({"command": COMMAND.get()} if COMMAND.get() else {}),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this file is tracked in, with -dirty if it was changed."""
    here = Path(__file__)
    try:
        for command in (["ls-files", "--error-unmatch", here.name],
                        ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]):
            done = subprocess.run(["git", "--no-optional-locks", "-C", str(here.parent), *command],
                                  capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def holds_run(folder: Path, config: Mapping[str, Any]) -> bool:
    """Whether `folder` holds the run of `config` (True) or is free for it (False); ValueError otherwise. Writes nothing."""
    config = _plain(config)
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"cannot write in {folder}: {there} is no folder that can be written to; "
                         "choose another folder")
    if there != folder:
        return False
    path = folder / "config.json"
    if not path.exists():
        for stranger in sorted(p.name for p in folder.iterdir()):
            if stranger != locks.NAME and not (stranger.startswith(".") and stranger.endswith(".tmp")):
                raise ValueError(f"{folder} is not empty (it has {stranger}) and holds no run; "
                                 "choose a new or empty folder")
        return False
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(old, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}); choose another folder") from None
    for part in old.keys() & config.keys():
        names = [side[part].get("name") if isinstance(side[part], dict) else None for side in (old, config)]
        if names[0] != names[1]:  # of another space or method the options would only be noise
            old, config = old | {part: {"name": names[0]}}, {**config, part: {"name": names[1]}}
    old, new = flatten(old, "."), flatten(config, ".")
    differing = [f"{key} is {_shown(old, key)} there, {_shown(new, key)} here"
                 for key in {**old, **new} if _shown(old, key) != _shown(new, key)]
    if len(differing) > MOST_SHOWN:
        differing = [*differing[:MOST_SHOWN - 1], f"and {len(differing) - MOST_SHOWN + 1} more"]
    if differing:
        raise ValueError(f"{folder} holds a run of another config: {'; '.join(differing)}; "
                         f"choose another folder, or repeat that run with its own config, {path}")
    return True


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"


def _plain(value: Any) -> Any:
    """`value` as JSON knows it: arrays as lists, NaN and infinity as None. Raises ValueError on anything else."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, int)):
        return value
    raise ValueError(f"{value!r} cannot be written as JSON; give numbers, texts, lists or mappings")


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(_plain(record), allow_nan=False) + "\n"


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """Adds a line to `path` in one write; where it fails, the file is cut back to what it was."""
    data = _line(record).encode()
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
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
