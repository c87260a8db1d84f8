"""The run directory: configuration, metrics, logits' trajectory and genotype, each file whole at every moment."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from dnas.runs import lock as locks
from dnas.runs import trust
from dnas.runs.files import (
    TEMPORARY,
    Unreadable,
    append_record,
    as_json,
    clean,
    read_arrays,
    read_bytes,
    read_json,
    records,
    write_arrays,
    write_atomic,
    write_json,
    write_records,
)
from dnas.types import Genotype, Group

FAILED = "failed.json"
"""Says why a run cannot go on: {"error": text}."""
COMMAND: contextvars.ContextVar[str | None] = contextvars.ContextVar("command", default=None)
"""The command line that is running, which environment.json remembers; None in a program of somebody's own."""
CHILDREN = "children"
"""Folder in the run of a few-shot search with the runs of its sub-supernets."""
FOLDERS = "checkpoints", "selections", "trained", CHILDREN
"""Folders in a run's folder that it writes in."""
ENDS = "results.json", "weights.safetensors"
"""Files that a run writes when it has ended."""
OWN = (*ENDS, "config.json", "environment.json", "groups.json", "genotype.json", "cost.json", "failed.json",
       "comparison.json", "comparison.csv")
"""Files of runs beside arrays and records, which nothing else may replace."""
MOVABLE = "run", "folder"
"""Keys of a config that say where another run is, beside a digest of its checkpoint: a run may be moved."""
MOST_SHOWN = 8
"""Differences between two configs that a message names."""


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
        append_record(self.folder / "metrics.jsonl", record)

    def append_timing(self, record: Mapping[str, Any]) -> None:
        """The same for timing.jsonl: what differs between equal runs."""
        append_record(self.folder / "timing.jsonl", record)

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
                write_records(path, lines)

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


def open_run(path: str | Path, config: Mapping[str, Any], mesh: Mapping[str, int] | None = None) -> RunDirectory:
    """Creates the run directory `path`, or resumes the one there if its config.json equals `config`. Where another run is
    that it goes on from may differ, and is written anew.

    mesh: sizes of the mesh of devices, which environment.json has where there is one.

    Raises ValueError, before anything is written, where the directory holds a run of another config (each differing
    key is named), results without a checkpoint, or something else than a run, cannot be written to, or is in use by another
    process.
    """
    folder, config = Path(path), as_json(config)
    holds_run(folder, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locks.take(folder)
    except OSError as error:
        raise ValueError(f"cannot write in {folder}: {error.strerror}; choose another folder") from None
    try:
        resumed = holds_run(folder, config)
        for inside in folder, *(folder / name for name in FOLDERS):
            clean(inside)
        if not resumed or read_json(folder / "config.json") != config:
            write_json(folder / "config.json", config)
        if not (folder / "environment.json").exists():
            write_json(folder / "environment.json", environment() | ({"mesh": dict(mesh)} if mesh else {}))
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
        with contextlib.suppress(ValueError):
            if read_json(folder / "config.json") == config:
                return folder


def load_genotype(path: str | Path) -> Genotype:
    """Reads a genotype from its file or from a run directory. Raises ValueError, in one line, if it cannot."""
    path = Path(path)
    path = path / "genotype.json" if path.is_dir() else path
    try:
        return Genotype.from_json(read_bytes(path).decode())
    except Unreadable as error:
        raise ValueError(f"{error}; give a genotype.json or a finished run") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


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
    """Whether `folder` holds the run of `config` (True) or is free for it (False). Writes nothing.

    Raises ValueError, in one line, where it is neither, or the run has results but cannot go on.
    """
    config = as_json(config)
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ValueError(f"cannot write in {folder}: {there} is no folder that can be written to; "
                         "choose another folder")
    if there != folder:
        return False
    path = folder / "config.json"
    if not path.exists():
        for stranger in sorted(p.name for p in folder.iterdir()):
            if stranger != locks.NAME and not TEMPORARY.fullmatch(stranger):
                raise ValueError(f"{folder} is not empty (it has {stranger}) and holds no run; "
                                 "choose a new or empty folder")
        return False
    try:
        old = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}; choose another folder") from None
    _refuse_other(folder, old, config)
    _refuse_links(folder)
    _refuse_restart(folder)
    return True


def _refuse_other(folder: Path, old: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises ValueError, naming each key that differs, where the run in `folder` has the config `old`."""
    differing = differences(old, config)
    if differing:
        raise ValueError(f"{folder} holds a run of another config: {differing}; choose another folder, or repeat that run "
                         f"with its own config, {folder / 'config.json'}")


def differences(old: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Where two configs differ, "" where they do not: each key, as it is there, in `old`, and here. Where another run is
    that they go on from may differ."""
    for part in old.keys() & config.keys():
        names = [side[part].get("name") if isinstance(side[part], dict) else None for side in (old, config)]
        if names[0] != names[1]:  # of another space or method the options would only be noise
            old, config = old | {part: {"name": names[0]}}, {**config, part: {"name": names[1]}}
    old, new = flatten(old, "."), flatten(config, ".")
    for key in {**old, **new}:
        within, _, name = key.rpartition(".")
        if name in MOVABLE and f"{within}.checkpoint".removeprefix(".") in new:
            old[key] = new[key] = None
    differing = [f"{key} is {_shown(old, key)} there, {_shown(new, key)} here"
                 for key in {**old, **new} if _shown(old, key) != _shown(new, key)]
    if len(differing) > MOST_SHOWN:
        differing = [*differing[:MOST_SHOWN - 1], f"and {len(differing) - MOST_SHOWN + 1} more"]
    return "; ".join(differing)


def _refuse_links(folder: Path) -> None:
    """Raises ValueError where a folder of the run is a link: what is written and removed there would be somewhere else."""
    parents = [folder.parent] if folder.parent.name == "selections" else []
    for path in (*parents, *(folder / name for name in FOLDERS), *sorted((folder / CHILDREN).glob("*"))):
        refuse_link(path)


def choice_folder(run: Path, selection: str) -> Path:
    """Where the choice by a selection of this name, or place, lies in a run."""
    return run / "selections" / selection.rpartition(":")[2]


def refuse_link(path: Path) -> None:
    """Raises ValueError where a folder of a run is a link."""
    if path.is_symlink():
        raise ValueError(f"{path} is a link, and a run is in its own folder only; put the folder itself there")


def _refuse_restart(folder: Path) -> None:
    """Raises ValueError where the run has results that its checkpoints do not reach: it cannot go on to them, and must not
    compute them again over those that are there.

    A run that was killed may have one record more than checkpoints. A corrupt checkpoint that was set aside counts as one.
    """
    files = [path.stem for path in (folder / "checkpoints").glob("*.*") if path.suffix in (".safetensors", ".corrupt")]
    saved = max((int(stem) for stem in files if re.fullmatch(r"\d{5,9}", stem)), default=None)
    last = max((record.get("epoch", 0) for record in records(folder / "metrics.jsonl")), default=0)
    if saved is None and last <= 1 and not any((folder / name).exists() for name in ENDS):
        return
    if saved is None or last > saved + 1:
        there = "no checkpoint" if saved is None else f"checkpoints up to epoch {saved} only"
        what = f"the results of {last} epochs" if last else next(name for name in ENDS if (folder / name).exists())
        raise ValueError(f"{folder} has {what} but {there}, so it cannot continue, and to begin again "
                         "would overwrite them: restore its folder checkpoints, or choose another folder")


def refuse_no_file(path: Path, said: str) -> None:
    """Raises ValueError, which begins with `said`, where `path` cannot be a file that is written."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"{said} it must be a file in a folder that exists")


def refuse_run_file(path: Path) -> None:
    """Raises ValueError where `path` is a file that a run is made of, which nothing else may replace."""
    own = path.name in OWN or path.suffix in (".npz", ".jsonl", ".safetensors")
    if own and any((folder / "config.json").exists() for folder in (path.absolute().parent, path.absolute().parent.parent)):
        raise ValueError(f"{path} is a file of a run itself, and would be replaced; choose another file")


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"
