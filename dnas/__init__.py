"""Differentiable architecture search in JAX: pure functions that compose. Importing this alone does not import jax."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dnas.algorithms.players import BilevelOptimizer, Method, SearchInfo, SearchState
    from dnas.checkpoint import CorruptCheckpoint
    from dnas.engine.search import NonFiniteLoss, Result, estimate, search, search_seeds
    from dnas.run import Run, RunWriteError, load_genotype, open_run
    from dnas.types import Batch, Choice, Evaluator, Genotype, Group, Network, SearchSpace

    __version__: str

_PLACES = {
    name: place for place, names in {
        "algorithms.players": ("BilevelOptimizer", "Method", "SearchInfo", "SearchState"),
        "checkpoint": ("CorruptCheckpoint",),
        "engine.search": ("NonFiniteLoss", "Result", "estimate", "search", "search_seeds"),
        "run": ("Run", "RunWriteError", "load_genotype", "open_run"),
        "types": ("Batch", "Choice", "Evaluator", "Genotype", "Group", "Network", "SearchSpace"),
    }.items() for name in names
}
_BUILDS_SPACES = {"Trained": "search_spaces.trained", "load": "search_spaces.trained"}
"""Named as places, as the spaces themselves are: nothing in this package imports one."""

__all__ = [
    "Batch", "BilevelOptimizer", "Choice", "CorruptCheckpoint", "Evaluator", "Genotype", "Group", "Method",
    "Network", "NonFiniteLoss", "Result", "Run", "RunWriteError", "SearchInfo", "SearchSpace", "SearchState", "Trained",
    "estimate", "load", "load_genotype", "open_run", "search", "search_seeds",
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
