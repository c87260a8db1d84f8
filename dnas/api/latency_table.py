"""`dnas.latency_table`: the latencies of many networks of a space, in a file that a selection can read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dnas.api.latency import fresh, random_inputs, refuse_counts
from dnas.api.parts import space as build_space
from dnas.api.search_plan import check_space, space_config
from dnas.config import label
from dnas.data import Dataset
from dnas.data import load as load_data
from dnas.engine import cache as caches
from dnas.engine.devices import device_name
from dnas.engine.latency import compiled_run, time_in_turn
from dnas.printing import print_flushed
from dnas.reports.text import duration
from dnas.runs.directory import refuse_no_file, refuse_run_file
from dnas.runs.files import read_bytes
from dnas.selection.sampling import check_draws
from dnas.tabular.latency import LatencyTable, read, write
from dnas.types import Genotype, SearchSpace

AT_ONCE = 25
"""Networks whose programs are held and measured in turn; then the table is written."""
TRIES = 1000
"""Draws in a row that bring no other network, after which the space is taken to have no more."""


def latency_table(space: str | SearchSpace, data: str | Dataset = "digits", *, save: str | Path, draws: int | None = None,
                  genotypes: str | Path | Sequence[Genotype] | None = None, batch: int = 1, repetitions: int = 100,
                  seed: int = 0, cache: str | None = None, progress: bool = True) -> LatencyTable:
    """Measures many networks of a space as `dnas.latency` does, and writes a table that `dnas.tabular.latency` reads.

    space: an object, or a name or place that `dnas.space` builds. data: a data set, or what `dnas.data.load` takes, for its
    inputs and classes.

    Args:
        save: File of the table, .npz. Networks that a table there has are not measured again, so that an interrupted
            call goes on.
        draws: How many different networks to draw, or all of a space that has fewer.
        genotypes: File with a line for each network in the notation of its space, as `dnas show` has it, or as JSON
            as a genotype.json has it.
        batch: Examples in a run.
        repetitions: Runs of each network that count.
        seed: Seed of the draws.
        cache: Folder in which compiled programs are kept for the next time, or off.
        progress: Show how it goes on.

    Networks are measured in turn in groups of AT_ONCE in random order, and the table is written after each group.
    Raises ValueError, in one line and before anything is measured, for what does not fit, and where `save` has latencies of
    another space, size, device, batch or number of repetitions.
    """
    refuse_counts(batch, repetitions)
    path = _checked(save)
    data = load_data(data) if isinstance(data, str) else data
    space = build_space(space, data) if isinstance(space, str) else space
    check_space(space, data)
    if (draws is None) == (genotypes is None):
        raise ValueError("give either draws, how many networks to draw, or genotypes, the networks themselves")
    named = drawn(space, draws, seed) if draws is not None else _named(space, genotypes)
    table = _begun(path, space, batch, repetitions)
    done = {row.tobytes() for row in table.decisions}
    open_ones = [genotype for genotype in named if table.row_of(genotype).tobytes() not in done]
    say = print_flushed if progress else lambda text: None
    say(f"space      {label(space_config(space), 'space')}, inputs {'x'.join(map(str, data.image))}")
    say(f"networks   {len(named):,}" + (f", {len(named) - len(open_ones):,} of them measured before"
                                        if len(named) > len(open_ones) else ""))
    caches.enable(cache)
    inputs = random_inputs(space, (batch, *data.image), data.vocabulary)
    started = time.monotonic()
    for first in range(0, len(open_ones), AT_ONCE):
        group = open_ones[first:first + AT_ONCE]
        networks = [fresh(space.network(genotype), data.image, space.input_dtype) for genotype in group]
        runs = [compiled_run(*network, inputs)[0] for network in networks]
        times = time_in_turn(runs, repetitions)
        low, median, high = np.percentile(times, (25, 50, 75), 1)
        table = table._replace(decisions=np.concatenate([table.decisions, [table.row_of(genotype) for genotype in group]]),
                               ms=np.concatenate([table.ms, median]), iqr_ms=np.concatenate([table.iqr_ms, high - low]))
        write(path, table)
        measured = first + len(group)
        left = (time.monotonic() - started) / measured * (len(open_ones) - measured)
        say(f"measured   {measured:,} of {len(open_ones):,}" + (f", about {duration(left)} left" if left else ""))
    return table


def drawn(space: SearchSpace, draws: int, seed: int) -> list[Genotype]:
    """Different networks, drawn uniformly. Raises ValueError for less than one."""
    check_draws(draws)
    rng, found, since = np.random.default_rng(seed), {}, 0
    while len(found) < draws and since < TRIES:
        before = len(found)
        found.setdefault(space.draw(rng))
        since = 0 if len(found) > before else since + 1
    return list(found)


def _named(space: SearchSpace, genotypes: str | Path | Sequence[Genotype]) -> list[Genotype]:
    """The genotypes, each once, or those in a file. Raises ValueError, in one line, for what is none of the space."""
    if isinstance(genotypes, (str, Path)):
        genotypes = list(_read(space, Path(genotypes).expanduser()))
    for genotype in genotypes:
        if not isinstance(genotype, Genotype) or genotype.space != space.name:
            raise ValueError(f"genotypes has {genotype!r}; each must be a genotype of the space {space.name}")
        genotype.decisions(space.groups)
    if not genotypes:
        raise ValueError("genotypes has no network")
    return list(dict.fromkeys(genotypes))


def _read(space: SearchSpace, path: Path) -> Iterator[Genotype]:
    text = read_bytes(path, follow=True).decode(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield Genotype.from_json(line) if line.lstrip().startswith("{") else space.parse(line.strip())
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def _begun(path: Path, space: SearchSpace, batch: int, repetitions: int) -> LatencyTable:
    """The table at `path`, or one without networks. Raises ValueError where the one that is there is of something else."""
    edges = sum(len(group.edges) for group in space.groups.values())
    table = LatencyTable(space.name, space.options, space.groups, device_name(), batch, repetitions,
                         np.zeros((0, edges), np.int32), np.zeros(0), np.zeros(0))
    if not path.exists():
        return table
    there = read(path)
    for key, value in table.description.items():
        if there.description[key] != value:
            values = "" if key == "groups" else f", {str(there.description[key])[:200]} there and {str(value)[:200]} here"
            raise ValueError(f"{path} has latencies of something else: its {key} differs{values}; choose another file")
    return there


def _checked(save: str | Path) -> Path:
    """The file to write. Raises ValueError where it cannot be."""
    path = Path(save).expanduser()
    if path.suffix != ".npz":
        raise ValueError(f"save is {path}; it must end in .npz")
    refuse_no_file(path, f"save is {path};")
    refuse_run_file(path)
    return path
