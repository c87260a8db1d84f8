"""`dnas.open`: a run, finished or not, as one object; what `dnas.search` returns too."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnas.api.supernet import Supernet, fingerprint, fingerprint_in, load_supernet
from dnas.data import Dataset
from dnas.engine.records import of_split
from dnas.engine.search import Result
from dnas.printing import printable
from dnas.runs.children import children_of
from dnas.runs.directory import load_genotype
from dnas.runs.files import read_arrays, read_json, records
from dnas.runs.index import kind_of, load_groups, number, quality_of, summary
from dnas.runs.trust import allowed, trusted
from dnas.types import Genotype, Group, SearchSpace


class Run:
    """A search or a training, in a run directory or in memory. It is read when a part of it is first asked for.

    folder: its run directory, None in memory. config: all that its result depends on. results: what it ended with, {} while
    it has not: of a search "holdout" and the cost of the network, of a training "test" as well.
    """

    def __init__(self, folder: Path | None, config: Mapping[str, Any], results: Mapping[str, Any],
                 result: Result | None = None, supernet: Supernet | None = None, parts: Mapping[str, Any] | None = None,
                 children: Sequence[Run] = ()):
        self.folder, self.config, self.results, self._children = folder, config, results, list(children)
        self._result, self._supernet, self._parts = result, supernet, dict(parts or {})

    @property
    def kind(self) -> str:
        """search, train, select or compare."""
        return kind_of(self.folder or Path("run"), self.config)

    @property
    def trust(self) -> bool | Collection[str]:
        """The places that may be imported for it: what the user named who opened it; True for all that its config names,
        where the user said so, began the run here, or built its parts in this process."""
        if self._supernet or self.folder is None:
            return True
        named = allowed(self._parts.get("trust", False), self._parts.get("space"), self._parts.get("method"))
        return trusted(self.folder, self.config, named)

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """A mapping for each epoch: the lines of metrics.jsonl."""
        return self._result.records if self._result else records(self.folder / "metrics.jsonl")

    @functools.cached_property
    def genotype(self) -> Genotype:
        """The architecture. Raises ValueError where there is none yet."""
        return self._result.genotype if self._result else load_genotype(self.folder)

    @functools.cached_property
    def logits(self) -> dict[str, np.ndarray]:
        """The architecture's logits `[epochs + 1, E, K]` of each group, the first before any step."""
        if self._result:
            return dict(self._result.trajectory)
        return read_arrays(self.folder / "arch.npz", "only a search has logits")

    @functools.cached_property
    def groups(self) -> dict[str, Group]:
        """The edges that are searched, by name."""
        return dict(self._supernet.space.groups) if self._supernet else load_groups(self.folder) or {}

    @property
    def parts(self) -> dict[str, Any]:
        """The objects of which the run is, as far as they are at hand without loading: space, method, data."""
        if self._supernet:
            return {name: getattr(self._supernet, name) for name in ("space", "method", "data")}
        return {name: part for name, part in self._parts.items() if part is not None and not isinstance(part, str | bool)}

    @functools.cached_property
    def supernet(self) -> Supernet:
        """The trained supernet of a search: its space, method, data and state. Raises ValueError where there is none."""
        if self._supernet:
            return self._supernet
        return load_supernet(self.folder, **self._parts)

    @functools.cached_property
    def children(self) -> list[Run]:
        """The searches of the sub-supernets of a few-shot search, of which `supernet` is the chosen one; [] of another, or
        where they are not finished. `dnas.fewshot.split.containing` says which one contains a network."""
        if self._children or self.folder is None:
            return self._children
        return [open(child, **{**self._parts, **self.parts}) for child in children_of(self.folder)]

    def fingerprint(self) -> dict[str, Any]:
        """What tells its supernet from another that took its place: {"config": digest, "epoch", "checkpoint": digest}. Loads
        and imports nothing; raises ValueError, in one line, for what `supernet` could not load."""
        return fingerprint(self._supernet) if self._supernet else fingerprint_in(self.folder, **self._parts)

    def reopened(self, **parts) -> Run:
        """This run as it lies in its directory, so that what is loaded of it is not held by this one; itself if it is in
        memory. parts: the space and the data of its config where they are at hand, which then are not built again."""
        if self._supernet:
            return self
        own = {name: part for name, part in self._parts.items() if part is not None}
        return Run(self.folder, self.config, self.results, parts={**parts, **own})

    @functools.cached_property
    def gates(self) -> Mapping[str, np.ndarray]:
        """The gates `[E, K]` of each group by which the supernet is judged, decided edges one-hot."""
        if self._result:
            return {name: rows for name, rows in self._result.gates.items() if name in self.groups}
        return self.supernet.context.gates(self.supernet.context.state)

    @property
    def seconds(self) -> float:
        """Seconds that the epochs took, without compiling; in memory, those of the search."""
        if self._result:
            return self._result.seconds
        return sum(number(record, "seconds") or 0 for record in records(self.folder / "timing.jsonl"))

    @property
    def holdout(self) -> Mapping[str, float]:
        """{"loss", and each metric of the task} of the hold-out split after the last epoch; {} without one."""
        return of_split(self.records[-1], "holdout") if self.records else {}

    @property
    def stopped(self) -> str | None:
        """Why a search ended before its last epoch; None if it did not."""
        return self.results.get("stopped")

    def __repr__(self) -> str:
        quality = quality_of(self.folder or Path("run"), self.config)
        value = self.holdout.get(quality.metric)
        epochs = f"{len([r for r in self.records if r.get('epoch')])} of {self.config.get('epochs')} epochs"
        lines = [f"<{self.kind} {'in ' + str(self.folder) if self.folder else 'in memory'}: {epochs}" +
                 ("" if value is None else f", hold-out {quality.text(value)}")]
        lines += [f" {self.results['cell']}"] if self.results.get("cell") else []
        return printable("\n".join(lines) + ">")

    def _repr_html_(self) -> str | None:
        """Of a search in a notebook, the picture of its cells below a line of text."""
        from html import escape

        from dnas.reports.cells import genotype_svg

        try:
            picture = genotype_svg(self.genotype, self.groups)
        except (ValueError, KeyError):
            picture = ""
        return f"<p>{escape(repr(self)[1:-1])}</p>{picture}"


def open(path: str | Path, *, space: str | SearchSpace | None = None, method: Any = None, data: Dataset | None = None,
         trust: bool | Collection[str] = False) -> Run:
    """The run in the directory `path`, finished or not.

    Args:
        space, method: what the run's config says by a place to import (file.py:factory), named again by the user; or the
            objects, for a run that was given objects of the user's own.
        data: the data set, for a run that was given arrays.
        trust: True to import whatever places the run's config names; or the places that may be imported.

    These are for its `supernet`; all else imports nothing. Raises ValueError, in one line, where there is no run.
    """
    folder = Path(path).expanduser()
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no config.json")
    status = summary(folder)
    if status.status == "broken":
        raise ValueError(status.note)
    results = read_json(folder / "results.json") if (folder / "results.json").exists() else {}
    parts = {"space": space, "method": method, "data": data, "trust": trust}
    return Run(folder, read_json(folder / "config.json"), results, parts=parts)
