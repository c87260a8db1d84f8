"""Which network is meant: a run, a choice inside one, a genotype file, a published name; and the space that builds it."""

from __future__ import annotations

import hashlib
import os
import shlex
import types
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dnas import config as configs
from dnas import options as factory_options
from dnas import registry
from dnas.api.open import Run
from dnas.api.open import open as open_run
from dnas.api.published import published
from dnas.api.search_plan import stem
from dnas.api.select import Selected, selection_folder
from dnas.api.supernet import search_config
from dnas.data.pictures import LARGEST
from dnas.engine.progress import metric_text
from dnas.fronts.front import Evaluated, load_front, spelled
from dnas.fronts.problem import limits_of
from dnas.runs import checkpoint
from dnas.runs.directory import load_genotype
from dnas.runs.files import read_json
from dnas.runs.index import kind_of, short
from dnas.runs.model_file import MOST
from dnas.runs.trust import allowed, config_digest, trusted
from dnas.selection.select import load_cost
from dnas.shared_options import SharedOptions
from dnas.task import Task, task_of
from dnas.types import Genotype, SearchSpace

OF_DATA = ("graph", "vocabulary")
"""Options of a genotype that only say for which data it is."""
PARETO = "pareto"
"""The selection whose front is meant where only a run is named."""


@dataclass(frozen=True)
class Architecture:
    """A genotype, and where it is from.

    name: short, fit for a file's name. space: {"name": place or registered name, its options}, as the file `where` says it.
    config: of the search or training that it comes from, {} if it comes from none. trust: places that may be imported, True
    for all.
    training: the folder of the training, where it is one. search: the run whose supernet it was chosen from, choice: the
    selection that chose it, where there are such. picked: for a person, the front that it was picked of and what that says
    of it.
    """

    genotype: Genotype
    name: str
    space: Mapping[str, Any]
    config: Mapping[str, Any]
    where: str
    trust: bool | Collection[str]
    training: Path | None = None
    search: Run | None = None
    choice: Selected | None = None
    picked: str = ""


def architecture_of(what: str | Path | Run | Selected | Genotype, *, space: str | None = None,
                    trust: bool | Collection[str] = False) -> Architecture:
    """The architecture that `what` names. space: the place of its space, in the user's own words. trust: other places that
    may be imported, True for whatever its files name.

    Raises ValueError, in one line, for whatever cannot be read.
    """
    places = allowed(trust, space)
    if isinstance(what, Genotype):
        return _alone(what, "genotype", "the genotype", places)
    if isinstance(what, Selected):
        config = what.run.config
        return Architecture(what.genotype, stem(f"{_name(what.run)}-{what.selection['name']}"), config["space"], config,
                            f"{what.run.folder}/config.json", _trusted(what.run, places), search=what.run, choice=what)
    if isinstance(what, Run) and what.folder is None:
        return Architecture(what.genotype, _name(what), what.config["space"], what.config, "the run's config", True,
                            search=what)
    path = what.folder if isinstance(what, Run) else Path(what).expanduser()
    if not path.exists():
        return _alone(published(str(what)), str(what), str(what), places)
    if path.name == "genotype.json" and (path.parent / "config.json").exists():
        path = path.parent
    elif path.is_symlink() and path.is_file():
        path = path.resolve()  # a person may name a link
    config = read_json(path / "config.json") if (path / "config.json").exists() else {}
    genotype = load_genotype(path)
    if not config:
        name = path.resolve().parent.name if path.name == "genotype.json" else path.stem
        return _alone(genotype, stem(name), str(path), places)
    kind, where = kind_of(path, config), str(path / "config.json")
    if kind == "select":
        return _chosen(path, config, genotype, places)
    if not isinstance(config.get("space"), Mapping) or not isinstance(config["space"].get("name"), str):
        raise ValueError(f'{where}: space is {str(config.get("space"))[:80]}; it must be {{"name": ..., and its options}}')
    common = genotype, stem(path.resolve().name), config["space"], config, where
    if kind == "search":
        if "selection" in config and not (path / "results.json").exists():
            raise ValueError(f"{path} has not come to its end, where {short(config['selection'])} chooses its architecture; "
                             f"the command that began it goes on, or `dnas search --config {where} --run {path}`")
        run = what if isinstance(what, Run) else open_run(path, space=space, trust=places)
        return Architecture(*common, _trusted(run, places), search=run)
    mine = _trusted(what, places) if isinstance(what, Run) else trusted(path, config, places)
    return Architecture(*common, mine, path, *_origin(path, config, places))


def picked(architecture: Architecture, limits: str | Sequence[str]) -> Architecture:
    """The network of a front that is best by its first objective within limits such as "macs<=20e6". The front is that of
    the selection which chose the architecture, or of a search the one in its folder selections/pareto.

    Raises ValueError, in one line, where there is no front, and as `dnas.fronts.Front.pick`.
    """
    limits = [limits] if isinstance(limits, str) else limits
    limits_of(limits)
    choice, run = architecture.choice, architecture.search
    if architecture.training or run is None:
        raise ValueError(f"pick {' '.join(limits)} takes a network of a front, and {architecture.name} has none; give the "
                         "run of a search, or the folder of a selection")
    if choice is None and run.folder:
        folder = selection_folder(run.folder, PARETO)
        if (folder / "genotype.json").exists():
            architecture = architecture_of(folder, trust=architecture.trust)
            choice = architecture.choice
    front = None if choice is None else choice.front
    if front is None:
        what = f"the selection {choice.selection['name']}" if choice else run.folder or "the run"
        again = f"; make it by `dnas select {shlex.quote(str(run.folder))} --selection {PARETO}`" if run.folder else ""
        raise ValueError(f"pick {' '.join(limits)}: {what} has no front{again}")
    network = front.best(*limits)
    network.genotype.decisions(run.supernet.space.groups)
    said = _said(network, {*limits_of(limits), *front.objectives}, task_of(run.supernet.data))
    name = choice.folder.resolve().name if choice.folder else choice.selection["name"]
    return replace(architecture, genotype=network.genotype, picked=f"{name}: {said}")


def _said(network: Evaluated, names: Collection[str], task: Task) -> str:
    """What a front says of a network by these names: its costs, and the task's metric in the supernet."""
    costs = [f"{spelled(value)} {name}" for name, value in network.values.items() if name in names and name != task.metric]
    if task.metric not in network.values:
        return ", ".join(costs)
    value = metric_text(task, network.values[task.metric], 2)
    return ", ".join([*costs, f"{f'{task.metric} ' if task.percent else ''}{value} in the supernet"])


def network_space(architecture: Architecture, data: Any, place: str | SearchSpace | None = None,
                  **size: int | None) -> SearchSpace:
    """The space of the architecture's network for this data.

    place: of its factory, in the user's own words; size: options to change, None for those that stay. A space that was given
    as an object is taken as it is.
    Raises ValueError, in one line, where there is no such space or it cannot be built.
    """
    own = place if isinstance(place, SearchSpace) else architecture.search and architecture.search.parts.get("space")
    if isinstance(own, SearchSpace) and own.source is None and (place is None or own is place):
        if any(value is not None for value in size.values()):
            raise ValueError(f"the space {own.name} was given as an object, whose size cannot be changed; give another")
        return own
    if isinstance(place, SearchSpace):
        place = place.source["name"]
    name = registry.absolute(place) if place else architecture.space["name"]
    if not place:
        registry.refuse_untrusted(name, "space", architecture.where, architecture.trust)
    listed = [option.name for option in factory_options.read(registry.locate(name, "space"))]
    for option, value in size.items():
        if value is not None and option not in listed:
            raise ValueError(f"space {name} has no option {option}; its options are {', '.join(listed) or 'none'}")
    options = {option: value for option, value in architecture.space.items()
               if option not in ("name", "image", "classes") and (option in listed or option not in SharedOptions._fields)}
    options |= {option: value for option, value in size.items() if value is not None}
    options = {option: value for option, value in options.items() if option in listed or option not in OF_DATA}
    try:
        return configs.build_space(name, data, options)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"space {name} cannot be built: {type(error).__name__}: {error}") from error


def inputs_of(genotype: Genotype) -> Any:
    """What the genotype's options say of the inputs and outputs of its network, in place of a data set: image, classes,
    graph and vocabulary; 32x32x3 images and 10 classes where they say nothing.

    Raises ValueError for inputs that cannot be.
    """
    image = genotype.options.get("image", [32, 32, 3])
    most = MOST if isinstance(image, list) and len(image) < 3 else LARGEST
    if not isinstance(image, list) or not image or not all(type(n) is int and 0 < n <= most for n in image):
        raise ValueError(f"inputs of the genotype are {str(image)[:80]}; they must be a shape, such as height, width, "
                         f"channels, each 1 to {most}")
    return types.SimpleNamespace(image=tuple(image), classes=genotype.options.get("classes", 10), graph=None,
                                 vocabulary=genotype.options.get("vocabulary"))


def _alone(genotype: Genotype, name: str, where: str, trust: bool | Collection[str]) -> Architecture:
    """A genotype that says itself how its space is called. It may be from anywhere."""
    return Architecture(genotype, name, {**genotype.options, "name": genotype.space}, {}, where, trust)


def _chosen(path: Path, config: Mapping[str, Any], genotype: Genotype, trust: bool | Collection[str]) -> Architecture:
    """A choice that a selection wrote; where its run was moved, the choice inside it was moved too."""
    if not isinstance(config.get("run"), str):
        raise ValueError(f"{path / 'config.json'} is of a choice from a run in memory; give the genotype.json alone")
    folder = Path(os.path.normpath(path.resolve() / config["run"]))
    if not (folder / "config.json").is_file():
        raise ValueError(f"{path} is a choice from the run {folder}, which is not there; put it back, or give the "
                         "genotype.json alone")
    searched = search_config(folder)
    refuse_other_run(folder, config, f"the choice in {path}")
    run = open_run(folder, trust=trust)
    choice = _selected(path, config, genotype, run, trust)
    return Architecture(genotype, stem(f"{folder.name}-{path.resolve().name}"), searched["space"], searched,
                        str(folder / "config.json"), _trusted(run, trust), search=run, choice=choice)


def _selected(path: Path, config: Mapping[str, Any], genotype: Genotype, run: Run,
              trust: bool | Collection[str]) -> Selected:
    """The choice in `path`, as its config says it was chosen from `run`."""
    selection = config.get("selection")
    if not isinstance(selection, Mapping) or not isinstance(selection.get("name"), str):
        raise ValueError(f'{path / "config.json"}: selection is {str(selection)[:80]}; it must be {{"name": ..., and its '
                         "options}")
    cost = load_cost(path) if (path / "cost.json").exists() else {}
    return Selected(genotype, {}, cost, selection, run, path, trusted(path, config, trust), load_front(path))


def refuse_other_run(folder: Path, said: Mapping[str, Any], what: str) -> None:
    """Raises ValueError where the run in `folder` is not the one of which a config says something: another may have taken
    its place. said: {"config": digest of the run's config, "epoch", "checkpoint": digest of the state at that epoch}."""
    epoch, other = said.get("epoch"), said.get("config") != config_digest(read_json(folder / "config.json"))
    file = folder / "checkpoints" / f"{epoch:05d}.safetensors" if type(epoch) is int else None
    if not other and file and file.is_file():
        other = checkpoint.read(file).digest != said.get("checkpoint")
    if other:
        raise ValueError(f"{what} is from another search than the one that is now in {folder}; another run may have taken "
                         "its place")


def choice_fingerprint(folder: Path) -> dict[str, Any]:
    """What tells a choice from another that took its place: its folder, and digests of its config, its genotype and the
    supernet that it fine-tuned."""
    tuned = checkpoint.newest(folder / "checkpoints")
    config = {key: value for key, value in read_json(folder / "config.json").items() if key != "run"}  # which may move
    return {"folder": str(folder.absolute()), "config": config_digest(config),
            "genotype": hashlib.sha256(load_genotype(folder).to_json().encode()).hexdigest(),
            "checkpoint": tuned[1] if tuned else ""}


def _origin(path: Path, config: Mapping[str, Any], trust: bool | Collection[str]) -> tuple[Run | None, Selected | None]:
    """The search, and the choice from it, that a training inherits from or is taught by; None where it does not say so, or
    the search is not there. trust: the user's own word; that a training was begun here says nothing of what it names."""
    origin = config.get("supernet")
    if not isinstance(origin, Mapping) or not isinstance(origin.get("run"), str):
        return None, None
    folder = Path(origin["run"])
    if not (folder / "config.json").is_file():
        return None, None
    what = f"the training in {path}"
    refuse_other_run(folder, origin, what)
    run = open_run(folder, trust=trust)
    pinned = origin.get("choice")
    if not isinstance(pinned, Mapping) or not isinstance(pinned.get("folder"), str):
        return run, None
    choice = Path(pinned["folder"])
    if not (choice / "config.json").is_file():
        raise ValueError(f"{what} goes on from the choice in {choice}, which is not there; put it back, or begin another "
                         "training")
    chosen = read_json(choice / "config.json")
    if choice_fingerprint(choice) != pinned:
        raise ValueError(f"{what} is from another choice than the one that is now in {choice}; another may have taken its "
                         "place")
    return run, _selected(choice, chosen, load_genotype(choice), run, trust)


def _trusted(run: Run, trust: bool | Collection[str]) -> bool | Collection[str]:
    return True if run.trust is True or trust is True else {*run.trust, *trust}


def _name(run: Run) -> str:
    return stem(run.folder.resolve().name) if run.folder else stem(str(run.config["space"]["name"]))
