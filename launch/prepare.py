"""From the arguments to what the library takes: the data, the space, the method and the config that is recorded."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dnas import registry
from dnas.data import Dataset, balanced, load, steps_per_epoch
from dnas.methods import METHODS
from dnas.options import read
from dnas.task import TASKS
from launch.arguments import PARTS, SHARED, Arguments, resolved
from search_spaces import SPACES

if TYPE_CHECKING:
    from dnas import Genotype, Method, SearchSpace
    from dnas.algorithms.budget import Budget
    from dnas.types import Gates


MIXED = {option.name: option.default for option in read(SHARED)}


class Prepared(NamedTuple):
    """What a search is about to do. config: as config.json holds it; steps: an epoch."""

    data: Dataset
    space: SearchSpace
    method: Method
    config: dict[str, Any]
    steps: int

    @property
    def key(self) -> Any:
        """What its programs are called in the cache of traced ones; None where anything is the user's own code."""
        config = self.config
        known = config["space"]["name"] in SPACES and config["method"]["name"] in METHODS and self.data.task in TASKS
        if not known:
            return None
        method = {name: value for name, value in config["method"].items() if name not in self.method.hyper}
        return {"space": config["space"], "method": method, "budget": config.get("budget"),
                "data": [list(self.data.image), self.data.classes, self.data.vocabulary]}


def prepare(arguments: Arguments) -> Prepared:
    """Loads and builds everything, and computes and writes nothing. Raises ValueError on whatever does not fit."""
    config = resolved(arguments)
    data = loaded(config, arguments.batch)
    config |= shape_of(data)
    steps = steps_per_epoch(data, arguments.batch)
    from dnas import SearchSpace
    from search_spaces.layers.mixed import MixedOptions, mixed_options

    shared = {name: config["space"][name] for name in MixedOptions._fields}
    offered = {"image": data.image, "classes": data.classes, **shared}
    for name, value in (("graph", data.graph), ("vocabulary", data.vocabulary)):
        if name not in config["space"]:
            offered[name] = value
    with mixed_options(MixedOptions(**shared)):
        space = build_part("space", config, SearchSpace, **offered)
    if (data.kind == "tokens") != (space.input_dtype == "int32"):
        takes = "tokens, integers" if space.input_dtype == "int32" else "numbers"
        raise ValueError(f"space {config['space']['name']} takes {takes} and {data.name} has {data.kind}: choose another "
                         "--space or --data")
    for name, value in shared.items():
        if space.options.get(name, MixedOptions._field_defaults[name]) != value:
            raise ValueError(f"space {config['space']['name']} takes no {name}: it is not built by flax_space")
    method = method_of(config, space)
    _try(space, method, data, arguments, steps, named(config, "space"))
    return Prepared(data, space, method, config, steps)


def loaded(config: Mapping[str, Any], batch: int, splits: Sequence[str] = ("train",)) -> Dataset:
    """The data set of a config, with the weights of classes and the augmentation that it asks for.

    batch: images that the augmentation is tried on. splits: whose classes count for balanced weights.
    Raises ValueError, in one line, for whatever is wrong with one of them.
    """
    options = "limit", "resize", "fit", "task", "target", "window", "standardise"
    data = load(config["data"], **{name: config[name] for name in options if name in config})
    if "class_weights" in config:
        data = data._replace(class_weights=balanced(data, splits))
    if "augment" not in config:
        return data
    if data.graph is not None:
        raise ValueError(f"--augment {config['augment']} is for images, and {data.name} is a graph")
    data = data._replace(augment=registry.load(config["augment"]))
    import jax

    from dnas.data.augmentation import augment_by

    images = jax.ShapeDtypeStruct((batch, *data.image), data.inputs.dtype)
    jax.eval_shape(lambda key, images: augment_by(data.augment, key, images), jax.random.key(0), images)
    return data


def shape_of(data: Dataset) -> dict[str, Any]:
    """What a config holds of data once it is read: what is predicted, unless single classes, and by which metric it is
    judged; and of pictures all that another picture needs to be classified alike."""
    from dnas.task import task_of

    shape = {"resize": list(data.image[:2]), "fit": data.pictures.fit} if data.pictures else {}
    if data.task != "classification":
        task = task_of(data)
        shape |= {"task": data.task, "metric": {"name": task.metric, "better": task.better, "percent": task.percent}}
    return shape | ({"class_names": list(data.class_names)} if data.class_names else {})


def _try(space: SearchSpace, method: Method, data: Dataset, arguments: Arguments, steps: int, named: str) -> None:
    """Traces the first state, so that options which no network can have are refused before anything is written."""
    import jax

    from dnas.engine.search import input_shape
    from dnas.task import task_of

    algorithm, hyper = method.bind(space, task_of(data)), method.numbers_of(epochs=arguments.epochs, steps=steps)
    inputs = input_shape(data, arguments.batch)
    try:
        jax.jit(algorithm.init).trace(jax.random.key(0), inputs, hyper)  # which the search finds traced
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"space {named} cannot be built for this data: {type(error).__name__}: {error}") from error


def method_of(config: Mapping[str, Any], space: SearchSpace) -> Method:
    """The method of a config, which keeps to its budget.

    Raises ValueError where the space cannot."""
    from dnas import Method
    from dnas.algorithms.budget import budgeted

    return budgeted(build_part("method", config, Method), space, budget_of(config))


def within_budget(space: SearchSpace, config: Mapping[str, Any]) -> SearchSpace:
    """`space`, whose rule chooses within the budget of a config, if it has one."""
    from dnas.algorithms.budget import within

    budget = budget_of(config)
    if not budget.given:
        return space
    return space._replace(genotype=lambda scores: within(space, budget, scores, space.genotype(scores)))


def budget_of(config: Mapping[str, Any]) -> Budget:
    """The budget of a config, without limits if it names none."""
    from dnas.algorithms.budget import Budget

    return Budget(**config.get("budget", {}))


def budget_lines(config: Mapping[str, Any], space: SearchSpace, genotype: Genotype, gates: Gates | None = None) -> list[str]:
    """For each limit of a config a line that says whether `genotype` meets it, and what `gates` make one expect."""
    from dnas.algorithms.budget import BAND, NAMES, likelihood, met

    budget = budget_of(config)
    if not budget.given:
        return []
    found = met(space, budget, genotype)
    verdict = "met" if found["ok"] else f"NOT MET, which takes 0 to {100 * BAND:.0f} % less" + (
        " of one and no more of the other" if len(budget.given) > 1 else "")
    mixture = space.expected(likelihood(space)(gates)) if gates else {}
    return [f"{limit:,.0f} {NAMES[name]}: {verdict}; this network has {100 * abs(found[name] - 1):.1f} % "
            f"{'more' if found[name] > 1 else 'less'}" + (f", one drawn by the gates {mixture[name]:,.0f}" if gates else "")
            for name, limit in budget.given.items()]


def named(config: Mapping[str, Any], part: str, also: Collection[str] = ()) -> str:
    """The space or method of a config on one line, with those options that differ from their defaults, and `also` these."""
    usual = {option.name: option.default for option in read(registry.locate(config[part]["name"], PARTS[part], part))}
    options = ", ".join(f"{name} {value}" for name, value in config[part].items()
                        if name != "name" and (name in also or usual.get(name, MIXED.get(name)) != value))
    return f"{config[part]['name']} ({options})" if options else config[part]["name"]


def build_part(part: str, config: Mapping[str, Any], kind: type, *given, **offered):
    """What the factory makes of its options, what it is given, and those parameters offered that it has."""
    options = dict(config[part])
    return registry.made(options.pop("name"), PARTS[part], part, kind, *given, options=options, **offered)
