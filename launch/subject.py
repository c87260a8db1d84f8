"""What a person may name to say which network: a run, a choice inside one, a genotype file, a published name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from launch.search import stem

if TYPE_CHECKING:
    from dnas import Genotype, SearchSpace
    from dnas.data import Dataset

FORMS = "it is a run directory, a folder of its selections, a genotype.json, or a published name"


class Subject(NamedTuple):
    """A genotype, and what is known of it.

    name: short, fit for a file's name. space: {"name": place or registered name, its options}.
    config: of the search or training that it comes from, {} if it comes from none.
    folder: of the training, where it is one. search: the run directory of the search whose supernet it was chosen from,
    choice: the folder of the selection that chose it, where these are known.
    """

    genotype: Genotype
    name: str
    space: dict[str, Any]
    config: dict[str, Any]
    folder: Path | None = None
    search: Path | None = None
    choice: Path | None = None


def find(text: str) -> Subject:
    """The subject that `text` names. Raises ValueError, in one line, for whatever cannot be read."""
    from dnas import load_genotype

    path = Path(text).expanduser()
    if not path.exists():
        from search_spaces.genotypes import GENOTYPES, genotype

        if path.suffix or len(path.parts) > 1:
            raise ValueError(f"{text} does not exist; {FORMS} ({', '.join(GENOTYPES)})")
        return _alone(genotype(text), text)
    if path.name == "genotype.json" and (path.parent / "config.json").exists():
        path = path.parent
    config = run_config(path / "config.json") if (path / "config.json").exists() else {}
    if "run" in config:
        return _selected(path, config)
    found = load_genotype(path)
    if "space" not in config:
        return _alone(found, stem(path.resolve().parent.name if path.name == "genotype.json" else path.stem))
    known = found, stem(path.resolve().name), _space(path, config), config
    if "genotype" not in config:
        return Subject(*known, search=path)
    origin = config["supernet"] if isinstance(config.get("supernet"), dict) else {}
    return Subject(*known, path, *(Path(str(origin[name])) if origin.get(name) else None for name in ("run", "choice")))


def build(subject: Subject, data: Dataset, place: str | None, **size: int | None) -> tuple[SearchSpace, dict[str, Any]]:
    """The space of the subject's network for this data, and how it was built: {"name": ..., options}.

    place: of its factory, where that is not the one known; size: options to change, None for those that stay.
    Raises ValueError, in one line, where there is no such space or it cannot be built.
    """
    from dnas import SearchSpace, options, registry
    from launch.arguments import absolute
    from launch.prepare import MIXED, build_part
    from search_spaces import SPACES

    name = absolute(place) if place else subject.space["name"]
    known = [option.name for option in options.read(registry.locate(name, SPACES, "space"))]
    for option, value in size.items():
        if value is not None and option not in known:
            raise ValueError(f"space {name} has no option {option}; its options are {', '.join(known) or 'none'}")
    kept = {option: value for option, value in subject.space.items()
            if option not in ("name", "image", "classes") and (option in known or option not in MIXED)}
    space = {"name": name, **kept, **{option: value for option, value in size.items() if value is not None}}
    try:
        offered = {option: getattr(data, option) for option in ("graph", "vocabulary") if option not in space}
        made = build_part("space", {"space": space}, SearchSpace, image=data.image, classes=data.classes, **offered)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"space {name} cannot be built: {type(error).__name__}: {error}") from error
    return made, space


def _alone(genotype: Genotype, name: str) -> Subject:
    """A genotype that says itself how its space is called. It may be from anywhere, so a place to import is refused."""
    if ":" in genotype.space:
        raise ValueError(f"the genotype names the space {genotype.space!r}; if you trust that, say where it is: "
                         "--space package.module:factory or file.py:factory")
    return Subject(genotype, name, {**genotype.options, "name": genotype.space}, {})


def _selected(path: Path, config: Mapping[str, Any]) -> Subject:
    """A choice that `dnas select` made; its run may have been moved, with the choice inside it."""
    from dnas import load_genotype

    runs = [Path(str(config["run"])), path.resolve().parent.parent]
    run = next((folder for folder in runs if (folder / "config.json").exists()), None)
    if run is None:
        raise ValueError(f"{path} is a selection of {runs[0]}, which does not exist; --run of the search has moved")
    searched = run_config(run / "config.json")
    return Subject(load_genotype(path), stem(f"{run.name}-{path.resolve().name}"), _space(run, searched), searched,
                   search=run, choice=path)


def run_config(file: Path) -> dict[str, Any]:
    """A run's config.json. Raises ValueError, in one line, where it is none."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: no valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{file}: no JSON object; it is a run's config.json")
    return config


def _space(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    space = config.get("space")
    if not isinstance(space, dict) or not isinstance(space.get("name"), str):
        raise ValueError(f'{folder / "config.json"}: space is {json.dumps(space)}; it is {{"name": ..., and its options}}')
    return space
