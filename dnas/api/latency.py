"""`dnas.latency`: how long networks take on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from dnas import config as configs
from dnas.api.architectures import architecture_of, inputs_of, network_space
from dnas.api.load import TrainedNetwork, load
from dnas.api.open import Run
from dnas.api.select import Selected
from dnas.engine import cache as caches
from dnas.engine.devices import device_name
from dnas.engine.latency import compiled_run, time_in_turn
from dnas.runs.model_file import FILE
from dnas.types import Genotype, Network, SearchSpace, Stats, Weights

MOST = 10**6
"""Runs of a network in one call."""


@dataclass(frozen=True, eq=False)
class NetworkLatency:
    """The latency of a network. name: for a person. genotype: its architecture.

    milliseconds: `[repetitions]` of each run. compile_seconds: tracing and compiling, before the first of them.
    """

    name: str
    genotype: Genotype
    milliseconds: np.ndarray
    compile_seconds: float

    @property
    def median(self) -> float:
        """The median of `milliseconds`."""
        return float(np.median(self.milliseconds))

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile of `milliseconds`."""
        low, high = np.percentile(self.milliseconds, (25, 75))
        return float(low), float(high)

    def __repr__(self) -> str:
        low, high = self.quartiles
        return f"<{self.name}: {self.median:.4g} ms, quartiles {low:.4g} to {high:.4g} ms>"


@dataclass(frozen=True, eq=False)
class Latencies:
    """The latencies of several networks, measured in turn. device: what they ran on. batch: examples in a run."""

    networks: Sequence[NetworkLatency]
    device: str
    batch: int
    repetitions: int

    def __len__(self) -> int:
        return len(self.networks)

    def __getitem__(self, number: int) -> NetworkLatency:
        return self.networks[number]

    def __repr__(self) -> str:
        return "\n ".join([f"<latencies on {self.device}, batch {self.batch}, {self.repetitions:,} runs of each network",
                           *map(repr, self.networks)]) + ">"

    def rows(self) -> list[list[str]]:
        """A row of texts for each network, below a header."""
        rows = [["network", "median ms", "quartiles ms", "range ms", "compile s"]]
        for one in self.networks:
            pairs = one.quartiles, (one.milliseconds.min(), one.milliseconds.max())
            rows.append([one.name, f"{one.median:.4g}", *(f"{low:.4g} to {high:.4g}" for low, high in pairs),
                         f"{one.compile_seconds:.1f}"])
        return rows

    def to_json(self) -> str:
        """An object with device, batch, repetitions, and networks: a list of {"name", "genotype" as in a genotype.json,
        "median_ms", "quartiles_ms", "compile_seconds", "milliseconds" of each run}."""
        networks = [{"name": one.name, "genotype": json.loads(one.genotype.to_json()), "median_ms": one.median,
                     "quartiles_ms": one.quartiles, "compile_seconds": one.compile_seconds,
                     "milliseconds": one.milliseconds.tolist()} for one in self.networks]
        return json.dumps({"device": self.device, "batch": self.batch, "repetitions": self.repetitions,
                           "networks": networks}, indent=1) + "\n"


Measurable = str | Path | Run | Selected | Genotype | TrainedNetwork


def latency(what: Measurable | Sequence[Measurable], *, batch: int = 1, repetitions: int = 100,
            space: str | None = None, cells: int | None = None, channels: int | None = None, trust: bool = False,
            cache: str | None = None) -> Latencies:
    """Measures how long one run of compiled networks takes on the first device of this machine, from normalised inputs that
    lie on the device to outputs there, without training anything.

    what: a run, what `dnas.select` returns, a genotype, a path to one of them, a published name such as "darts-v2", or what
        `dnas.load` and `dnas.train` return, or a path to that; or a list of these, which are measured in turn, so that what
        drifts in the meantime meets all alike. A genotype is measured as a network of its own, with fresh weights.

    Args:
        batch: Examples in a run.
        repetitions: Runs of each network that count.
        space: Where the networks' space is: a name, package.module:factory or file.py:factory.
        cells: Cells of the networks, as searched unless given; not for trained ones.
        channels: Channels of their first cells, as searched unless given; not for trained ones.
        trust: Import whatever places the files name.
        cache: Folder in which compiled programs are kept for the next time, or off.

    Raises ValueError, in one line and before anything is measured, for whatever cannot be read, and as
    `dnas.registry.refuse_untrusted`.
    """
    refuse_counts(batch, repetitions)
    several = list(what) if isinstance(what, (list, tuple)) else [what]
    if not several:
        raise ValueError("no network is named; name a run, a trained network, a genotype.json or a published name")
    caches.enable(cache)
    networks = [_parts(each, space, cells, channels, trust) for each in several]
    runs, seconds = zip(*(compiled_run(*network, random_inputs(built, (batch, *image), vocabulary))
                          for _, _, network, built, image, vocabulary in networks))
    times = time_in_turn(runs, repetitions)
    return Latencies([NetworkLatency(name, genotype, row, compiled) for (name, genotype, *_), row, compiled
                      in zip(networks, times, seconds)], device_name(), batch, repetitions)


def refuse_counts(batch: int, repetitions: int) -> None:
    """Raises ValueError where one of them is not a whole number in its bounds."""
    configs.refuse_out_of_range({"batch": batch})
    if type(repetitions) is not int or not 1 <= repetitions <= MOST:
        raise ValueError(f"repetitions is {repetitions!r}; it must be a whole number, 1 to {MOST:,}")


def fresh(network: Network, image: Sequence[int], dtype: str) -> tuple[Network, Weights, Stats]:
    """The network with its first weights. image: shape of one input, of this dtype."""
    return network, *network.init(jax.random.key(0), jax.ShapeDtypeStruct((1, *image), dtype))


def random_inputs(space: SearchSpace, shape: Sequence[int], vocabulary: int | None) -> np.ndarray:
    """Inputs of a network of the space: normal numbers, or tokens of the vocabulary."""
    rng = np.random.default_rng(0)
    if space.input_dtype == "int32":
        return rng.integers(0, vocabulary or 1, shape, np.int32)
    return rng.standard_normal(shape, np.float32)


def _parts(what: Measurable, space: str | None, cells: int | None, channels: int | None, trust: bool):
    """What is measured: name, genotype, (network, weights, stats), space, shape of one input, size of the vocabulary."""
    named = isinstance(what, (str, os.PathLike))
    path = what.folder if isinstance(what, Run) else Path(what).expanduser() if named else None
    if path and (path.suffix == ".safetensors" or (path / FILE).is_file()):
        what = load(path, space=space, trust=trust)
    if isinstance(what, TrainedNetwork):
        for option, value in (("cells", cells), ("channels", channels)):
            if value is not None:
                raise ValueError(f"{option} is {value}; {path or what!r} is a trained network, whose size "
                                 "cannot be changed")
        takes, network = what.described.input, (what.network, what.weights, what.stats)
        return str(path or what.space.name), what.genotype, network, what.space, takes.shape, takes.vocabulary
    if not named and not isinstance(what, (Run, Selected, Genotype)):
        raise ValueError(f"{type(what).__name__} is not a network; it must be a run, a choice, a trained network, a "
                         "genotype or a path")
    architecture = architecture_of(what, space=space, trust=trust)
    genotype, data = architecture.genotype, inputs_of(architecture.genotype)
    built = network_space(architecture, data, space, cells=cells, channels=channels)
    genotype.decisions(built.groups)  # refuses one that is not of this space
    name = str(what) if named else architecture.name
    return name, genotype, fresh(built.network(genotype), data.image, built.input_dtype), built, data.image, data.vocabulary
