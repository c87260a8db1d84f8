"""The result of a search for a front: the networks that no other one dominates, and what was evaluated on the way."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.fronts.dominance import hypervolume, non_dominated
from dnas.fronts.problem import limits_of
from dnas.runs.files import as_json, parse_json, read_bytes
from dnas.types import SCHEMA as GENOTYPE_SCHEMA
from dnas.types import Genotype

SCHEMA = 1
FILE = "front.json"
"""In the folder of a selection that finds a front."""


class Evaluated(NamedTuple):
    """A network and its numbers by name: the objectives, and all exact costs."""

    genotype: Genotype
    values: Mapping[str, float]


class Front(NamedTuple):
    """A Pareto front.

    objectives: {name: 1 where more is better, -1 where less is}. networks: of the front, the best by the first objective
    first. evaluated: the objectives' values `[N, M]` of all N networks that were evaluated truly, in their order.
    limits: {name: largest number}, which all of them keep.
    """

    objectives: Mapping[str, int]
    networks: tuple[Evaluated, ...]
    evaluated: np.ndarray
    limits: Mapping[str, float] = {}

    @property
    def reference(self) -> dict[str, float]:
        """The worst value of each objective among the networks that were evaluated."""
        return {name: float((self.evaluated[:, m].min if better > 0 else self.evaluated[:, m].max)())
                for m, (name, better) in enumerate(self.objectives.items())}

    def hypervolume(self, first: int | None = None) -> float:
        """The share of the box between the best and the worst value of each objective among all that was evaluated which the
        `first` evaluated networks dominate; default: all of them."""
        values = -self.evaluated * np.array(list(self.objectives.values()), np.float64)
        low, high = values.min(0), values.max(0)
        share = (values - low) / np.where(high > low, high - low, 1)
        return hypervolume(share[:first], np.ones(share.shape[1]))

    def pick(self, *limits: str) -> Genotype:
        """The genotype of `best`."""
        return self.best(*limits).genotype

    def best(self, *limits: str) -> Evaluated:
        """The network of the front that is best by the first objective within limits such as "macs<=20e6".

        Raises ValueError for a text that is no limit, a number that is not known of the networks, and where none fits.
        """
        named = limits_of(limits)
        known = self.networks[0].values
        for name in named:
            if name not in known:
                raise ValueError(f"the front says nothing of {name}; it has {', '.join(known)}")
        for network in self.networks:
            if all(network.values[name] <= limit for name, limit in named.items()):
                return network
        least = ", ".join(f"{min(network.values[name] for network in self.networks):,.10g} {name}" for name in named)
        raise ValueError(f"no network of the front has {' and '.join(limits)}; the least there is {least}")

    def rows(self, names: Sequence[str] = (), percent: Collection[str] = ()) -> list[list[str]]:
        """A table for a person: a row for each network below a header, its number and its values.

        names: of the networks, a last column. percent: the values that are shares and are shown in %.
        """
        values = [*self.objectives, *(name for name in self.networks[0].values if name not in self.objectives)]
        spell = lambda name, value: f"{100 * value:.2f} %" if name in percent else spelled(value)
        return [["", *values, *(["network"] if names else [])],
                *([f"{n}", *(spell(name, network.values[name]) for name in values), *names[n - 1:n]]
                  for n, network in enumerate(self.networks, 1))]

    def to_json(self) -> str:
        """Text of front.json; `from_json` reads it back."""
        first = self.networks[0].genotype
        described = {"schema": SCHEMA, "objectives": self.objectives, "limits": self.limits,
                     "space": first.space, "options": first.options, "hypervolume": self.hypervolume(),
                     "reference": self.reference,
                     "networks": [{"groups": json.loads(each.genotype.to_json())["groups"], "values": each.values}
                                  for each in self.networks], "evaluated": self.evaluated}
        return json.dumps(as_json(described)) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Front:
        """Reads `to_json`'s text. Raises ValueError on anything else."""
        try:
            said = parse_json(text)
            if said["schema"] != SCHEMA:
                raise TypeError
            shared = {"schema": GENOTYPE_SCHEMA, "space": said["space"], "options": said["options"]}
            objectives = {_name(name): {1: 1, -1: -1}[better] for name, better in said["objectives"].items()}
            networks = tuple(Evaluated(Genotype.from_json(json.dumps(shared | {"groups": each["groups"]})),
                                       _numbers(each["values"])) for each in said["networks"])
            evaluated = np.array(said["evaluated"], np.float64)
            if not networks or not objectives or evaluated.ndim != 2 or evaluated.shape[1] != len(objectives) or any(
                    each.values.keys() != networks[0].values.keys() or not objectives.keys() <= each.values.keys()
                    for each in networks):
                raise TypeError
            return cls(objectives, networks, evaluated, _numbers(said["limits"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a front of schema {SCHEMA} ({error})" if str(error) else
                             f"not a front of schema {SCHEMA}") from None


def front_of(objectives: Mapping[str, int], genotypes: Sequence[Genotype], values: Sequence[Mapping[str, float]],
             limits: Mapping[str, float] = {}) -> Front:
    """The front of networks that were evaluated truly, with these values by name, in the order in which they were."""
    evaluated = np.array([[each[name] for name in objectives] for each in values], np.float64)
    worse = -evaluated * np.array(list(objectives.values()), np.float64)
    best = np.flatnonzero(non_dominated(worse))
    best = best[np.lexsort(worse[best].T[::-1])]
    return Front(dict(objectives), tuple(Evaluated(genotypes[n], dict(values[n])) for n in best), evaluated, dict(limits))


def load_front(folder: Path) -> Front | None:
    """The front that a finished selection wrote in `folder`; None if it wrote none. Raises ValueError for a damaged file."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        return Front.from_json(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove {folder} to select again") from None


def spelled(value: float) -> str:
    """A number for a person: 12,345,678 or 0.9123."""
    return f"{value:,.0f}" if value == round(value) and abs(value) >= 100 else f"{value:.5g}"


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError
    return value


def _numbers(values: Any) -> dict[str, float]:
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values.values()):
        raise TypeError
    return {_name(name): float(value) for name, value in values.items()}
