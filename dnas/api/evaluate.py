"""`dnas.evaluate`: the size of an architecture, and what a benchmark's table knows of it. Trains nothing."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from dnas import registry
from dnas.api.open import Run
from dnas.api.select import Selected
from dnas.runs.directory import load_genotype
from dnas.tabular.benchmarks import BENCHMARKS, load
from dnas.tabular.latency import latencies
from dnas.tabular.table import Benchmark, Standing, index, standing, standings
from dnas.types import Genotype, SearchSpace

TEXTS = "a NAS-Bench-201 cell '|op~0|+|...|' in quotes, or the eight digits of a network of NAS-Bench-Macro"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is known of an architecture; None where nothing is.

    source: what was evaluated, in words. space: name of its space. cell: the architecture in published notation.
    options: with which the space was searched. searched: {"params", "macs"} of the network of these options.
        Both None of an architecture that was given as a text.
    published: of a benchmark's space {its options for the published networks, "size": {data: {"params", "macs"}}}.
    table: {"path", "row", "cells": how many there are, "columns": {name: Standing}}: value, rank, and of accuracies in % the
        regret, see `dnas.tabular.table.Standing`. latency_ms: {device: Standing} in milliseconds.
    """

    source: str
    space: str
    cell: str
    options: Mapping[str, Any] | None = None
    searched: Mapping[str, int] | None = None
    published: Mapping[str, Any] | None = None
    table: Mapping[str, Any] | None = None
    latency_ms: Mapping[str, Standing] | None = None

    def __repr__(self) -> str:
        size = lambda cost: f"{cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example"
        lines = [f"<{self.space} {self.cell}"]
        lines += [f" as searched: {size(self.searched)}"] if self.searched else []
        sizes = self.published["size"] if self.published else {}
        lines += [f" as published on {data}: {size(cost)}" for data, cost in sizes.items()]
        lines += [f" row {self.table['row']} of the {self.table['cells']:,} of {self.table['path']}"] if self.table else []
        return "\n".join(lines) + ">"

    def to_json(self) -> str:
        """What is known, as a JSON object."""
        plain = lambda tree: tree._asdict() if isinstance(tree, Standing) else \
            {key: plain(value) for key, value in tree.items()} if isinstance(tree, Mapping) else tree
        values = {field.name: plain(getattr(self, field.name)) for field in fields(self)}
        return json.dumps({name: value for name, value in values.items() if value is not None}, indent=1) + "\n"


def evaluate(what: str | Path | Run | Selected | Genotype, *, table: str | None = None,
             latency: str | None = None) -> Evaluation:
    """Says what an architecture is worth: its size, and what a benchmark's table knows of it.

    what: a run, what `dnas.select` returns, a genotype, a path to one of them, a published name such as "darts-v2", a cell
    of NAS-Bench-201 such as "|none~0|+|...|", or the eight digits of a network of NAS-Bench-Macro.

    Args:
        table: Table of a benchmark, a .npz (`dnas table import`): accuracies with their rank among all its networks and the
            regret to the best.
        latency: Measured latencies, a .npz: of the network's space (`dnas latency --save`), or of HELP's for NAS-Bench-201,
            which needs its table.

    A table is of the published networks, trained from scratch. Its test accuracies are for reports: no search or selection
    reads it.
    Raises ValueError, in one line, for what cannot be read, a space that is not registered by a name (a file never says what
    to import), or a network that the table lacks.
    """
    source, genotype, space = _genotype(what)
    parts = {"cell": space.format(genotype)} if _benchmark_of(what) else _searched(genotype, space)
    if table:
        parts["table"] = _tabulated(genotype, Path(table).expanduser())
    if latency:
        measured = latencies(Path(latency).expanduser(), table=table and Path(table).expanduser())
        row = measured.row(genotype)
        parts["latency_ms"] = {device: standing(ms, row, higher=False) for device, ms in zip(measured.devices, measured.ms)}
    if genotype.space in BENCHMARKS:
        parts["published"] = _published(BENCHMARKS[genotype.space], genotype, parts["table"]["columns"] if table else {})
    return Evaluation(source, genotype.space, **parts)


def _benchmark_of(what: Any) -> Benchmark | None:
    """The benchmark in whose notation the text `what` is; None for anything else, such as what is there as a file."""
    if not isinstance(what, str) or os.path.exists(os.path.expanduser(what)):
        return None
    return next((each for each in BENCHMARKS.values() if re.fullmatch(each.notation, what, re.DOTALL)), None)


def _genotype(what: str | Path | Run | Selected | Genotype) -> tuple[str, Genotype, SearchSpace | None]:
    """What is evaluated, in words; the genotype; and its space, where that is at hand."""
    if isinstance(what, Genotype):
        return "a genotype", what, None
    if isinstance(what, (Run, Selected)):
        run = what.run if isinstance(what, Selected) else what
        return str(what.folder or "in memory"), what.genotype, None if run.folder else run.supernet.space
    if not isinstance(what, (str, os.PathLike)):
        raise ValueError(f"{type(what).__name__} is not an architecture; it must be a run, a choice, a genotype or a path")
    path, text = Path(what).expanduser(), str(what)
    if benchmark := _benchmark_of(what):
        space = _published_space(benchmark)
        return text, space.parse(text), space
    if text in registry.registered("genotype") and not path.exists():
        return text, registry.load("search_spaces.genotypes:genotype")(text), None
    try:
        return text, load_genotype(path), None
    except ValueError as error:
        names = ", ".join(registry.registered("genotype"))
        hint = "" if path.exists() else f"; it must be a run, a genotype.json, a published name ({names}), {TEXTS}"
        raise ValueError(f"{error}{hint}") from None


def _searched(genotype: Genotype, space: SearchSpace | None) -> dict[str, Any]:
    """Notation and size of the network of a genotype, in its space with the options with which it was searched.

    space: where it is at hand; else the one that the genotype names.
    """
    spaces = registry.names("space")
    if space is None and genotype.space not in spaces:  # a name in a file is never a place to import from
        raise ValueError(f"the genotype is of space {genotype.space[:60]!r}, which is not one of {', '.join(spaces)}")
    try:
        if space is None:
            factory = registry.resolve(genotype.space, "space")
            parameters = inspect.signature(factory).parameters
            space = factory(**{name: value for name, value in genotype.options.items() if name in parameters})
        return {"cell": space.format(genotype), "options": dict(genotype.options), "searched": space.cost(genotype)}
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"the genotype's options build no {genotype.space}: {type(error).__name__}: {error}") from error


def _published_space(benchmark: Benchmark, **options) -> SearchSpace:
    """A benchmark's space, of the size of the published networks."""
    return registry.resolve(benchmark.space, "space")(**benchmark.skeleton, **options)


def _published(benchmark: Benchmark, genotype: Genotype, columns: Mapping[str, Standing]) -> dict[str, Any]:
    """Parameters and multiply-adds of the published networks of a genotype: the table's, or else counted."""
    sizes = {}
    for data, (image, classes) in benchmark.data.items():
        if {f"params_{data}", f"flops_{data}"} <= columns.keys():
            sizes[data] = {"params": round(columns[f"params_{data}"].value), "macs": round(columns[f"flops_{data}"].value)}
        else:
            sizes[data] = _published_space(benchmark, image=image, classes=classes).cost(genotype)
    return {**benchmark.skeleton, "size": sizes}


def _tabulated(genotype: Genotype, path: Path) -> dict[str, Any]:
    """What the table knows of the genotype's network."""
    table = load(path)
    row = index(table, genotype)
    return {"path": table.path, "row": row, "cells": len(table.ops), "columns": standings(table, row)}
