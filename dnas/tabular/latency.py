"""Tables of latencies: from a genotype to milliseconds, measured before and read from a `.npz`.

Two forms: those that `dnas.latency_table` writes, of one device and any space; and those of HELP (Lee et al., NeurIPS 2021,
arXiv 2106.08630) for NAS-Bench-201 on 27 device settings, with `help_devices` `[D]` and `help_latency_ms` `[D, N]` in the
order of the rows of a table of accuracies.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.runs.files import as_json, parse_json, write_arrays
from dnas.tabular import benchmarks, nasbench201
from dnas.tabular.table import index, read_arrays
from dnas.types import REMOVED, Genotype, Group

ARRAYS = ("description", "decisions", "ms", "iqr_ms")


class LatencyTable(NamedTuple):
    """Measured milliseconds of N networks of one space.

    space, options: name and options of the space whose networks were measured. groups: its searched edges.
    device: what they ran on. batch: examples in a run. repetitions: runs of each network.
    decisions: `[N, E]` int32, the operation of every edge of all groups one after another, REMOVED where there is none.
    ms: `[N]`, medians over the runs. iqr_ms: `[N]`, third minus first quartile.
    """

    space: str
    options: Mapping[str, Any]
    groups: Mapping[str, Group]
    device: str
    batch: int
    repetitions: int
    decisions: np.ndarray
    ms: np.ndarray
    iqr_ms: np.ndarray

    @property
    def description(self) -> dict[str, Any]:
        """What was measured and how, as JSON; rows can be added to a table of equal description only."""
        groups = {name: {"edges": [list(edge) for edge in group.edges],
                         "ops": [list(group.edge_ops(e)) for e in range(len(group.edges))]}
                  for name, group in self.groups.items()}
        return {"space": self.space, "options": as_json(self.options), "groups": groups, "device": self.device,
                "batch": self.batch, "repetitions": self.repetitions}

    def row_of(self, genotype: Genotype) -> np.ndarray:
        """A genotype as a row of `decisions`. Raises ValueError where it is of another space."""
        if genotype.space != self.space:
            raise ValueError(f"the genotype is of space {genotype.space!r}, and the latencies are of {self.space}")
        decisions = genotype.decisions(self.groups)
        return np.concatenate([decisions[name] for name in self.groups])

    def __repr__(self) -> str:
        return (f"<latencies of {len(self.ms):,} networks of {self.space} on {self.device}, batch {self.batch}" +
                (f": {self.ms.min():.4g} to {self.ms.max():.4g} ms>" if len(self.ms) else ">"))


def write(path: str | Path, table: LatencyTable) -> None:
    """Writes a table, in one step: a file that was there stays whole until then."""
    write_arrays(Path(path), {"description": np.array(json.dumps(table.description)), "decisions": table.decisions,
                              "ms": table.ms, "iqr_ms": table.iqr_ms})


def read(path: str | Path) -> LatencyTable:
    """Reads what `write` wrote. Raises ValueError, in one line, for anything else."""
    arrays = read_arrays(path)
    if set(arrays) != set(ARRAYS):
        raise ValueError(f"{path}: its arrays are {', '.join(arrays)[:200] or 'none'}; a table of `dnas latency --save` has "
                         f"{', '.join(ARRAYS)}")
    try:
        said = parse_json(str(arrays["description"]))
        groups = {name: Group(tuple((int(s), int(t)) for s, t in part["edges"]), tuple(map(tuple, part["ops"])))
                  for name, part in said["groups"].items()}
        texts, counts = (said["space"], said["device"]), (said["batch"], said["repetitions"])
        if not isinstance(said["options"], dict) or not groups or not all(isinstance(text, str) for text in texts) \
                or not all(type(count) is int and count > 0 for count in counts):
            raise TypeError
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: description is not that of a table of `dnas latency --save`: JSON with space, options, "
                         "groups, device, batch and repetitions") from None
    widths = np.array([len(group.edge_ops(e)) for group in groups.values() for e in range(len(group.edges))])
    decisions, ms, spread = (arrays[name] for name in ARRAYS[1:])
    if decisions.dtype.kind not in "iu" or decisions.ndim != 2 or decisions.shape[1] != len(widths):
        raise ValueError(f"{path}: decisions is {decisions.dtype} {list(decisions.shape)}; it must be integers "
                         f"[N, {len(widths)}]")
    if not ((decisions == REMOVED) | (decisions >= 0) & (decisions < widths)).all():
        raise ValueError(f"{path}: decisions has operations that an edge does not have; each must be {REMOVED}, or 0 to "
                         "one less than the operations of its edge")
    if len(np.unique(decisions, axis=0)) < len(decisions):
        raise ValueError(f"{path}: decisions names a network more than once")
    for name, values in ("ms", ms), ("iqr_ms", spread):
        numbers = values.dtype.kind == "f" and values.shape == decisions.shape[:1]
        if not numbers or not (np.isfinite(values) & (values >= 0)).all():
            raise ValueError(f"{path}: {name} is {values.dtype} {list(values.shape)}; it must be milliseconds "
                             f"[{len(decisions)}], finite and not negative")
    return LatencyTable(said["space"], said["options"], groups, said["device"], *counts, decisions.astype(np.int32), ms,
                        spread)


class Measured(NamedTuple):
    """Milliseconds `[D, N]` of N networks on D devices. row: from a genotype to its network's number, raising ValueError for
    one of another space, or one that was not measured."""

    devices: tuple[str, ...]
    ms: np.ndarray
    row: Callable[[Genotype], int]


def latencies(path: str | Path, *, table: str | Path | None = None) -> Measured:
    """What a `.npz` of latencies holds, in either form.

    table: for latencies of HELP's form, the table of NAS-Bench-201 in whose rows' order they are (`dnas evaluate --table`).
        An edge that a genotype leaves out counts as `none` there, and a cell without a path from its input to its output
        takes nearly no time on some devices.

    Raises ValueError, in one line, for a file that is neither form.
    """
    if "help_devices" in read_arrays(path):
        return _of_nasbench201(path, table)
    measured = read(path)
    rows = {row.tobytes(): n for n, row in enumerate(measured.decisions)}

    def row(genotype: Genotype) -> int:
        try:
            number = rows.get(measured.row_of(genotype).astype(np.int32).tobytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if number is None:
            raise ValueError(f"{path} has {len(rows):,} networks of {measured.space}, and not {genotype!r}; measure it: "
                             "`dnas latency --space ... --genotypes FILE --save` adds to a table")
        return number

    return Measured((measured.device,), measured.ms[None], row)


def latency_by(path: str | Path, device: str | None = None, *,
               table: str | Path | None = None) -> Callable[[Genotype], float]:
    """The function from a genotype to milliseconds on one device, of what `latencies` reads.

    device: one of the file's; may be left out where there is one only. table: as for `latencies`.

    Raises ValueError, in one line, as `latencies`, and for a device that the file lacks. So does the function for a genotype
    of another space, or one that was not measured.
    """
    measured = latencies(path, table=table)
    ms = measured.ms[_check_device(path, measured.devices, device)].tolist()
    return lambda genotype: ms[measured.row(genotype)]


def _of_nasbench201(path: str | Path, table: str | Path | None) -> Measured:
    devices, ms = nasbench201.latencies(path)
    if table is None:
        raise ValueError(f"{path} has latencies in the order of a table of NAS-Bench-201; name that table too")
    cells = benchmarks.load(table)
    if ms.shape[1] != len(cells.ops):
        raise ValueError(f"{path} has {ms.shape[1]} cells, {cells.path} has {len(cells.ops)}; they must be of one table, "
                         "row by row")
    return Measured(devices, ms, lambda genotype: index(cells, genotype))


def _check_device(path: str | Path, devices: Collection[str], device: str | None) -> int:
    """The number of the device among those of the file."""
    devices = list(devices)
    if device is None and len(devices) == 1:
        return 0
    if device in devices:
        return devices.index(device)
    near = difflib.get_close_matches(str(device), devices, 1)
    wrong = f"has no device {device!r}" if device is not None else "is of several devices, and one must be named"
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{path} {wrong}; {hint}there are {', '.join(devices)}")
