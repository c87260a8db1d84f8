"""A trained supernet: what a search leaves behind, from memory or from its run directory."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from dnas import config as configs
from dnas import registry
from dnas.algorithms.budget import Budget, budgeted, within
from dnas.algorithms.method import Method
from dnas.algorithms.players import SearchState
from dnas.data import Dataset
from dnas.engine.search import state_shape
from dnas.fewshot.split import checked_split, containing, contains, schedule_epochs
from dnas.runs import checkpoint
from dnas.runs.children import children_of
from dnas.runs.files import read_json
from dnas.runs.index import kind_of
from dnas.runs.trust import allowed, config_digest, trusted
from dnas.selection.select import refuse_non_finite, selection_context
from dnas.selection.types import Context
from dnas.task import TASKS
from dnas.types import Genotype, SearchSpace


@dataclass(frozen=True, eq=False)
class Supernet:
    """The state of a search after `epoch` epochs, and what it is of.

    folder: its run directory, None in memory. method: without the budget, which the config has. digest: SHA-256 of the
    checkpoint that it was read from, "" where it was not. messages: a line for each newer checkpoint that was not whole.
    children: the states of the last children of a few-shot search, where they are at hand.
    """

    folder: Path | None
    config: Mapping[str, Any]
    space: SearchSpace
    method: Method
    data: Dataset
    state: SearchState
    epoch: int
    digest: str = ""
    messages: tuple[str, ...] = ()
    children: tuple[SearchState, ...] = ()

    @functools.cached_property
    def context(self) -> Context:
        """What selections work with: the supernet, and programs that score it and train it further, on one device."""
        return self._context(None)

    def context_on(self, mesh: Mesh | None) -> Context:
        """The same on a mesh of devices, see `dnas.engine.mesh.create_mesh`."""
        return self._context(mesh) if mesh else self.context

    def state_of(self, genotype: Genotype) -> SearchState:
        """The state by which `context` scores a network: that of the supernet which contains it, one of the children after a
        few-shot search. Raises ValueError where this is such a child itself, and does not contain the network."""
        states = self._children
        if not states:
            if "within" in self.config and not contains(self.state.mask, self.space.groups, genotype):
                raise ValueError(f"{self.folder} is a child of a few-shot search, and does not have the network "
                                 f"{self.space.format(genotype)}; use the run of the search itself")
            return self.context.state
        return states[containing([state.mask for state in states], self.space.groups, genotype)]

    @functools.cached_property
    def _children(self) -> list[SearchState]:
        """The states of the last children of a few-shot search, which together have all networks."""
        if self.children or self.folder is None:
            return list(self.children)
        parts = {"space": self.space, "method": self.method, "data": self.data}
        return [load_supernet(child, **parts).state for child in children_of(self.folder)]

    def _context(self, mesh: Mesh | None) -> Context:
        budget = budget_of(self.config)
        return selection_context(within_budget(self.space, budget), budgeted(self.method, self.space, budget), self.data,
                                 self.state, batch=self.config["batch"],
                                 epochs=schedule_epochs(self.config, self.epoch),
                                 seed=self.config["seed"], mesh=mesh,
                                 key=program_key(self.space, self.method, self.data, budget))

    def __repr__(self) -> str:
        where = f" of {self.folder}" if self.folder else ""
        return f"<supernet{where} after epoch {self.epoch}: {self.space!r}, {self.method!r}>"


def load_supernet(folder: str | Path, *, space: str | SearchSpace | None = None, method: str | Method | None = None,
                  data: Dataset | None = None, trust: bool | Collection[str] = False) -> Supernet:
    """The last whole checkpoint of the search in `folder`; writes nothing.

    Args:
        space, method: what the run's config says by a place to import, named again by the user; or the objects, where the
            run was given objects that have no name.
        data: the data set, where the run was given arrays.
        trust: places that may be imported too; True for whatever the config names.

    Raises ValueError, in one line, where there is no checkpoint, and as `dnas.registry.refuse_untrusted`.
    """
    folder = Path(folder).expanduser()
    config, places = _checked(folder, space, method, data, trust)
    where = str(folder / "config.json")
    data = configs.data_of(config, where, places) if data is None else data
    if not isinstance(space, SearchSpace):
        space = configs.space_of(_renamed(config, "space", space), data, where, places)
    if not isinstance(method, Method):
        method = configs.method_of(_renamed(config, "method", method), where, places)
    template = state_shape(space, budgeted(method, space, budget_of(config)), data, config["batch"])
    latest = checkpoint.latest(folder / "checkpoints", template, set_aside=False)
    if latest is None:
        raise _no_checkpoint(folder)
    refuse_non_finite(latest.tree, f"{folder}, epoch {latest.epoch}: the supernet's")
    return Supernet(folder, config, space, method, data, latest.tree, latest.epoch, latest.digest, tuple(latest.skipped))


def selection_of_method(folder: str | Path, *, method: str | None = None, trust: bool = False) -> str | None:
    """The selection with which the method of the search in `folder` ends, see `Method.selection`; None where it has none,
    and where the run cannot be read, or its method may not be imported. method, trust: as for `load_supernet`."""
    folder = Path(folder).expanduser()
    try:
        config, where = search_config(folder), str(folder / "config.json")
        places = trusted(folder, config, allowed(trust, method))
        return configs.method_of(_renamed(config, "method", method), where, places).selection
    except ValueError:
        return None


def _checked(folder: Path, space=None, method=None, data=None, trust=False) -> tuple[dict[str, Any], bool | Collection[str]]:
    """The config of the search in `folder`, and what may be imported for it. Raises ValueError where something must be
    imported that may not, has no name by which it could be built again, or is other data."""
    config, where = search_config(folder), str(folder / "config.json")
    places = trusted(folder, config, allowed(trust, space, method))
    if data is None:
        configs.refuse_untrusted_data(config, where, places)
    elif "digest" in config and config["digest"] != data.digest():
        raise ValueError(f"{where}: the run was given other arrays than those of {data.name!r}; its data was "
                         f"{' '.join(map(str, config.get('data', [])))}")
    for kind, part in (("space", space), ("method", method)):
        if part is None or isinstance(part, str):
            configs.named_part(_renamed(config, kind, part), kind, where, places)
    return config, places


def _no_checkpoint(folder: Path) -> ValueError:
    here = shlex.quote(str(folder))
    return ValueError(f"{folder} has no checkpoint; `dnas search --config {here}/config.json --run {here}` searches there")


def search_config(folder: Path) -> dict[str, Any]:
    """The config of the search in `folder`. Raises ValueError that says what would help for a folder of anything else."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a run directory: it has no config.json; give the folder of a search")
    config = read_json(folder / "config.json")
    kind = kind_of(folder, config)
    if kind == "train":
        origin = config.get("supernet")
        other = f"its supernet is in {origin['run']}" if isinstance(origin, Mapping) and origin.get("run") else \
            "name the run of the search that its genotype is from"
        raise ValueError(f"{folder} is a training, which has no supernet; {other}")
    if kind != "search":
        what, run = ("selection", f", {folder.resolve().parent.parent}") if kind == "select" else ("comparison", "")
        raise ValueError(f"{folder} is a {what}, which has no supernet of its own; give the run of its search{run}")
    config, where = configs.read_config(folder), f"{folder / 'config.json'}: "
    configs.refuse_out_of_range({name: config.get(name) for name in ("epochs", "batch", "seed")}, where)
    try:
        budget_of(config).check()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}budget is {str(config['budget'])[:80]} ({error})") from None
    try:
        checked_split(config.get("split", {}), config["epochs"])
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}split is {str(config['split'])[:80]} ({error})") from None
    return config


FINGERPRINT = "config", "epoch", "checkpoint"
"""Keys of what tells a supernet from another that took its place."""


def fingerprint(supernet: Supernet) -> dict[str, Any]:
    """What tells a supernet from another that took its place: {"config": digest, "epoch", "checkpoint": digest}."""
    return {"config": config_digest(json.loads(json.dumps(supernet.config))), "epoch": supernet.epoch,
            "checkpoint": supernet.digest or checkpoint.digest(supernet.state)}


def fingerprint_in(folder: Path, **parts) -> dict[str, Any]:
    """The fingerprint of the supernet in a run directory, which `load_supernet` would load with the same parts.

    Loads and imports nothing. Raises ValueError, in one line, where there is no checkpoint, and as
    `dnas.registry.refuse_untrusted`.
    """
    config, _ = _checked(folder, **parts)
    newest = checkpoint.newest(folder / "checkpoints")
    if newest is None:
        raise _no_checkpoint(folder)
    return {"config": config_digest(config), "epoch": newest[0], "checkpoint": newest[1]}


def refuse_other_state(supernet: Supernet, said: Mapping[str, Any], what: str) -> None:
    """Raises ValueError where a supernet is not the one of which a config says something. said: with its fingerprint."""
    here = fingerprint(supernet)
    if {key: said.get(key) for key in FINGERPRINT} != here:
        raise ValueError(f"{what} is from epoch {said.get('epoch')} of a search, and {supernet.folder or 'the run'} has "
                         f"another supernet now, of epoch {here['epoch']}: its search went on, or another took its place")


def budget_of(config: Mapping[str, Any]) -> Budget:
    """The budget of a config, without limits if it names none."""
    return Budget(**config.get("budget", {}))


def within_budget(space: SearchSpace, budget: Budget) -> SearchSpace:
    """`space`, whose rule chooses within the budget, if it has limits."""
    if not budget.limits:
        return space
    return space._replace(genotype=lambda scores: within(space, budget, scores, space.genotype(scores)))


def program_key(space: SearchSpace, method: Method, data: Dataset, budget: Budget) -> Any:
    """What the programs of a search are called in the cache of traced ones; None where anything is the user's own code."""
    named = [part.source and part.source["name"] in registry.registered(kind)
             for part, kind in ((space, "space"), (method, "method"))]
    if not all(named) or data.task not in TASKS:
        return None
    structure = {name: value for name, value in method.source.items() if name not in method.hyper}
    return {"space": dict(space.source), "method": structure, "budget": budget._asdict() if budget.limits else None,
            "data": [list(data.image), data.classes, data.vocabulary]}


def _renamed(config: Mapping[str, Any], part: str, name: str | None) -> Mapping[str, Any]:
    """The config with the part called as the user calls it."""
    return config if name is None else {**config, part: {**config[part], "name": registry.absolute(name)}}
