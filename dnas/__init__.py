"""Differentiable architecture search in JAX: pure functions that compose. Importing this alone does not import jax."""

from __future__ import annotations

import time
from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dnas.algorithms.method import Algorithm, Method
    from dnas.algorithms.players import Player, SearchState, Term
    from dnas.engine.lanes import NonFiniteLoss
    from dnas.engine.search import Lane, Result, estimate, search, search_lanes
    from dnas.runs.checkpoint import CorruptCheckpoint
    from dnas.runs.directory import Run, RunWriteError, load_genotype, open_run
    from dnas.task import Task
    from dnas.types import Batch, Choice, Evaluator, Genotype, Group, Network, SearchSpace

    __version__: str

_IMPORTED = time.time()
_PLACES = {
    name: place for place, names in {
        "algorithms.method": ("Algorithm", "Method"),
        "algorithms.players": ("Player", "SearchState", "Term"),
        "runs.checkpoint": ("CorruptCheckpoint",),
        "engine.lanes": ("NonFiniteLoss",),
        "engine.search": ("Lane", "Result", "estimate", "search", "search_lanes"),
        "runs.directory": ("Run", "RunWriteError", "load_genotype", "open_run"),
        "task": ("Task",),
        "types": ("Batch", "Choice", "Evaluator", "Genotype", "Group", "Network", "SearchSpace"),
    }.items() for name in names
}
_BUILDS_SPACES = {"Trained": "search_spaces.trained", "load": "search_spaces.trained"}
"""Named as places, as the spaces themselves are: nothing in this package imports one."""

__all__ = [
    "Algorithm", "Batch", "Choice", "CorruptCheckpoint", "Evaluator", "Genotype", "Group", "Lane", "Method", "Network",
    "NonFiniteLoss", "Player", "Result", "Run", "RunWriteError", "SearchSpace", "SearchState", "Task", "Term", "Trained",
    "estimate", "load", "load_genotype", "open_run", "search", "search_lanes",
]


def __getattr__(name: str):
    if name in _PLACES:
        return getattr(import_module(f"dnas.{_PLACES[name]}"), name)
    if name in _BUILDS_SPACES:
        return getattr(import_module(_BUILDS_SPACES[name]), name)
    if name == "__version__":
        try:
            return metadata.version("dnas")
        except metadata.PackageNotFoundError:
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
