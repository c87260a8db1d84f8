"""Differentiable architecture search in JAX: pure functions that compose. Importing this alone does not import jax."""

from __future__ import annotations

import time
from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dnas.algorithms.budget import Budget
    from dnas.algorithms.method import Algorithm, Method
    from dnas.algorithms.players import Player, SearchState, Term
    from dnas.algorithms.supervised import Recipe
    from dnas.api.compare import Comparison, compare
    from dnas.api.estimate import estimate
    from dnas.api.evaluate import Evaluation, evaluate
    from dnas.api.export import export
    from dnas.api.front import front
    from dnas.api.latency import Latencies, latency
    from dnas.api.latency_table import latency_table
    from dnas.api.load import TrainedNetwork, load
    from dnas.api.open import Run, open
    from dnas.api.parts import method, space
    from dnas.api.predict import Predictions, predict
    from dnas.api.rank import Ranking, rank
    from dnas.api.report import report
    from dnas.api.search import search
    from dnas.api.select import Selected, select
    from dnas.api.show import show
    from dnas.api.supernet import Supernet
    from dnas.api.train import train
    from dnas.data import Dataset
    from dnas.engine.lanes import NonFiniteLoss
    from dnas.runs.checkpoint import CorruptCheckpoint
    from dnas.runs.directory import load_genotype
    from dnas.runs.files import RunWriteError
    from dnas.studies.report import Study
    from dnas.studies.study import study, study_report
    from dnas.task import Task
    from dnas.types import Batch, Choice, Evaluator, Genotype, Group, Network, SearchSpace

    __version__: str

_IMPORTED = time.time()
_PLACES = {
    name: place for place, names in {
        "algorithms.budget": ("Budget",),
        "algorithms.method": ("Algorithm", "Method"),
        "algorithms.players": ("Player", "SearchState", "Term"),
        "algorithms.supervised": ("Recipe",),
        "api.compare": ("Comparison", "compare"),
        "api.estimate": ("estimate",),
        "api.evaluate": ("Evaluation", "evaluate"),
        "api.export": ("export",),
        "api.front": ("front",),
        "api.latency": ("Latencies", "latency"),
        "api.latency_table": ("latency_table",),
        "api.load": ("TrainedNetwork", "load"),
        "api.open": ("Run", "open"),
        "api.parts": ("method", "space"),
        "api.predict": ("Predictions", "predict"),
        "api.rank": ("Ranking", "rank"),
        "api.report": ("report",),
        "api.search": ("search",),
        "api.select": ("Selected", "select"),
        "api.show": ("show",),
        "api.supernet": ("Supernet",),
        "api.train": ("train",),
        "data": ("Dataset",),
        "engine.lanes": ("NonFiniteLoss",),
        "runs.checkpoint": ("CorruptCheckpoint",),
        "runs.directory": ("load_genotype",),
        "runs.files": ("RunWriteError",),
        "studies.report": ("Study",),
        "studies.study": ("study", "study_report"),
        "task": ("Task",),
        "types": ("Batch", "Choice", "Evaluator", "Genotype", "Group", "Network", "SearchSpace"),
    }.items() for name in names
}
__all__ = [
    "Algorithm", "Batch", "Budget", "Choice", "Comparison", "CorruptCheckpoint", "Dataset", "Evaluation",
    "Evaluator", "Genotype", "Group", "Latencies", "Method", "Network", "NonFiniteLoss", "Player", "Predictions", "Ranking",
    "Recipe", "Run", "RunWriteError", "SearchSpace", "SearchState", "Selected", "Study", "Supernet", "Task", "Term",
    "TrainedNetwork", "compare", "estimate", "evaluate", "export", "front", "latency", "latency_table", "load",
    "load_genotype", "method", "open", "predict", "rank", "report", "search", "select", "show", "space", "study",
    "study_report", "train",
]


def __getattr__(name: str):
    if name in _PLACES:
        return getattr(import_module(f"dnas.{_PLACES[name]}"), name)
    if name == "data":
        return import_module("dnas.data")
    if name == "__version__":
        try:
            return metadata.version("dnas")
        except metadata.PackageNotFoundError:
            return "unknown"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__", "data"]
