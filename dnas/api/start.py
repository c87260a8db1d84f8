"""What a search begins with, of another search or of a trained network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from dnas import config as configs
from dnas import registry
from dnas.algorithms.budget import Budget, budgeted
from dnas.algorithms.players import SearchState, of_network, started_from, weights_fit
from dnas.api.load import TrainedNetwork, load
from dnas.api.open import Run
from dnas.api.supernet import fingerprint, load_supernet
from dnas.data import Dataset
from dnas.engine.search import state_shape
from dnas.runs import checkpoint
from dnas.runs.directory import flatten
from dnas.runs.files import read_json
from dnas.runs.index import kind_of
from dnas.runs.trust import config_digest
from dnas.types import SearchSpace, Tree

if TYPE_CHECKING:
    from dnas.api.search_plan import Setting


def start_of(start: str | Path | Run | TrainedNetwork, groups: list[list[Setting]], data: Dataset, batch: int,
             budget: Budget) -> tuple[SearchState, list[str]]:
    """The state that all searches begin with, see `started_from`, and lines about it; their configs name it.

    start: a search, or a trained network, which must be the largest of the space and have the supernet's weights, as in
        entangled spaces.

    Raises ValueError, in one line, where it does not fit.
    """
    if isinstance(start, TrainedNetwork):
        return _of_network(start, start.run and start.run.folder, groups, data, batch)
    path = start.folder if isinstance(start, Run) else Path(start).expanduser()
    if path is None or not _is_network(path):
        return _of_search(start, groups, data, batch, budget)
    own = {"space": (groups[0][0].space.source or {}).get("name"), "task": data.source.get("task")}
    own = {kind: name for kind, name in own.items() if name and registry.is_place(name, kind)}
    return _of_network(load(path, **own), path, groups, data, batch)


def _is_network(path: Path) -> bool:
    """Whether there is the run of a training, or the one file of it that has the network."""
    config = path / "config.json"
    return path.is_file() or config.is_file() and kind_of(path, read_json(config)) == "train"


def _of_search(start, groups, data, batch, budget):
    other = start.supernet if isinstance(start, Run) else load_supernet(start, trust=_named(groups, data))
    where, lines = other.folder or "the run in memory", []
    for group in groups:
        space, method = group[0].space, budgeted(group[0].method, group[0].space, budget)
        if other.space.groups != space.groups:
            there, here = (configs.label(config["space"], "space") for config in (other.config, group[0].config))
            raise ValueError(f"start {where}: it searched space {there}, and this is {here}; both must have the same edges "
                             "and operations")
        there, here = (flatten({part: config[part] for part in ("space", "method", "data")}, ".")
                       for config in (other.config, group[0].config))
        differ = ", ".join(f"{key} is {there.get(key)} there, {here.get(key)} here" for key in {**there, **here}
                           if there.get(key) != here.get(key))
        first = state_shape(space, method, data, batch)
        try:
            started_from(first, other.state)
        except ValueError as error:
            raise ValueError(f"start {where}: {error} ({differ})") from None
        if not weights_fit(first, other.state):
            lines.append(f"start   its weights do not fit this network and begin anew ({differ})")
        for setting in group:
            setting.config["start"] = {"run": other.folder and str(other.folder.absolute()), **fingerprint(other)}
    return other.state, [f"start   {where}, epoch {other.epoch}", *lines, *other.messages]


def _of_network(network: TrainedNetwork, path: Path | None, groups, data, batch):
    where = path or "the network in memory"
    for group in groups:
        refuse_other_network(network, group[0].space, state_shape(group[0].space, group[0].method, data, batch), str(where))
        said = {"config": config_digest(json.loads(json.dumps(network.described.config))),
                "epoch": network.described.config.get("epochs"),
                "checkpoint": checkpoint.digest((network.weights, network.stats))}
        for setting in group:
            setting.config["start"] = {"run": path and str(path.absolute()), **said}
    config = network.run.config if network.run else network.described.config
    return of_network(network.weights, network.stats), [f"start   {where}, a trained network", *_judged(config, data)]


def refuse_other_network(network: TrainedNetwork, space: SearchSpace, first: SearchState, where: str) -> None:
    """Raises ValueError, that begins with `where`, for a network that is not the supernet of `space`, whose state is like
    `first`: not its largest network, or one with other arrays."""
    largest = space.largest()
    if network.genotype.choices != largest.choices:
        raise ValueError(f"start {where}: its network is {network.space.format(network.genotype)}, and a search of "
                         f"{space.name} can begin with the weights of its largest alone, {space.format(largest)}")
    there, here = (_shapes(*trees) for trees in ((network.weights, network.stats), (first.weights, first.stats)))
    for name in (*here, *there):
        if there.get(name) != here.get(name):
            raise ValueError(f"start {where}: {name} is {there.get(name, 'missing')} in its network, and "
                             f"{here.get(name, 'missing')} in the supernet of {space.name}; they must have the same arrays, "
                             "as the largest network of an entangled space and its supernet have")


def _shapes(weights: Tree, stats: Tree) -> dict[str, tuple[int, ...]]:
    """The shape of each array by its name in a model file."""
    trees = {"params": weights, "batch_stats": stats}
    return {checkpoint.PLAIN(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def _judged(config: Mapping[str, Any], data: Dataset) -> list[str]:
    """A line where a network was trained on splits of this data by which a search judges networks."""
    splits = [name for name in ("valid", "holdout") if name in config.get("splits", ())]
    if not splits or config.get("digest") != data.digest():
        return []
    return [f"start   it was trained on {' and '.join(splits)} too, by which networks are judged here: their accuracy there "
            "is too high; `dnas train --splits train` leaves these examples out"]


def _named(groups: list[list[Setting]], data: Dataset) -> set[str]:
    """The names of all that the user searches with: another run that says the same places may import them."""
    sources = [part.source["name"] for group in groups for part in (group[0].space, group[0].method) if part.source]
    given = [data.source.get(key) for key in ("task", "augment")]
    return {name for name in (*sources, *data.source.get("data", ()), *given) if name}
