"""The options of `dnas search` and `dnas estimate`: common ones, those of the space, the method and the data, and sweeps."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dnas.fewshot import SPLIT
from dnas.options import Option
from dnas.selection import OWN
from launch.arguments import LOAD, data_options, flag_value, has_option, options_of, part_options, read_command
from launch.parser import Shown

SPACE = Option("space", str, "nasbench201",
               "Search space: a name (`dnas spaces`), package.module:factory or file.py:factory.")
METHOD = Option("method", str, "darts",
                "Search method: a name (`dnas methods`), package.module:factory or file.py:factory.")
SELECTION = Option("selection", str | None, None, "What chooses the architecture in the end: own, the method's own rule, or "
                   "a name (`dnas selections`), package.module:factory or file.py:factory.")
SEEDS = Option("seeds", int, 1,
               "Number of seeds to search, starting at --seed, in one program. Several write into DIR/SEED.")
SWEEP = Option("sweep", tuple[str, ...], (), "Values of a method's or space's option to search with, such as "
               "method.arch-lr=1e-4,3e-4; several multiply. Written into DIR/SETTING/SEED. Numbers of the method share one "
               "program.")
RUN = Option("run", str | None, None, "Directory of the run; an interrupted run in it continues.")
CONFIG = Option("config", str | None, None, "config.json of a run to repeat; other options override it.")
TRUST = Option("trust", bool, False, "Import any places that the config names.")
PLATFORM = Option("platform", str | None, None, "Compile for cpu, cuda or tpu, in a process of its own, and say what a step "
                  "does there, computed and not measured. The device need not be there, but its compiler: the package "
                  "jax[cuda13] or jax[tpu].")
CHIP = Option("chip", str | None, None, "Chip to compile for: h100 (cuda), v5e (tpu).")
SEARCH = "dnas.api.search:search"
BUDGET = "dnas.algorithms.budget:Budget"
SAME = ("epochs", "seconds", "batch", "seed", "diagnose", "stop_on_collapse")
"""Keys of a config that are options of the same name."""


def read_search(command: str, description: str, argv: Sequence[str]) -> dict[str, Any]:
    """The values of `dnas search`'s options: from the command line, else from --config.

    Prints the help and raises SystemExit(0) for --help. Raises ValueError for an unknown option or name, a value that an
    option cannot have, and a place that only the config names.
    """
    argv = [re.sub(r"^--distill(?==|$)", "--method.distill", word) for word in argv]
    path = flag_value(argv, "--config")
    names = {kind: flag_value(argv, f"--{kind}") for kind in ("space", "method", "selection")}
    defaults = {} if path is None else _of_config(path, names, argv)
    names = {option.name: names[option.name] or defaults.get(option.name) or option.default
             for option in (SPACE, METHOD, SELECTION)}
    groups = {"budget": options_of(BUDGET), "space": _space_options(names),
              "method": part_options("method", names["method"])}
    if names["selection"] is None and any(word.startswith("--selection.") for word in argv):
        raise ValueError("--selection.* are options of a selection; name it with --selection, such as --selection halving")
    if names["selection"] not in (None, OWN):
        groups["selection"] = part_options("selection", names["selection"])
    options = [SPACE, METHOD, *data_options(("digits",)),
               *options_of(SEARCH, without=("seeds", "out", "budget", "selection")),
               SELECTION, SEEDS, SWEEP, RUN, CONFIG, TRUST, *([PLATFORM, CHIP] if command == "estimate" else [])]
    shown = {"space": Shown(_names("space")), "method": Shown(_names("method")), "data": Shown(f"{_datasets()}|PATH ..."),
             "batch": Shown("N", "64, or the size of the smaller split"), "preset": Shown("{quick,paper}", "quick"),
             "selection": Shown(_names("selection").replace("{", f"{{{OWN},"), "the preset's"),
             "start": Shown("RUN", "new weights"),
             "seconds": Shown("S", "no limit"), "split": Shown("{gm,exhaustive,random}", "no split"),
             "splits": Shown("N", "1"), "split_epochs": Shown("N ...", "equal stages"), "split_batches": Shown("N", "16"),
             "split_weights": Shown("{inherit,fresh}", "inherit"), "split_train_epochs": Shown("N", "8"),
             "sweep": Shown("OPTION=V1,V2 ...", "none"), "run": Shown("DIR", "runs/SPACE-METHOD-DATA-SEED"),
             "config": Shown("FILE", "none"), "platform": Shown("{cpu,cuda,tpu}", "this machine's, which is what runs"),
             "chip": Shown("{h100,v5e}", "the platform's first")}
    titles = {"budget": "limits on the selected network (95 to 100 % is used up)",
              **{part: f"options of the {part} {name}" for part, name in names.items()}}
    values = read_command(command, description, argv, options, shown=shown, groups=groups, titles=titles, defaults=defaults)
    if not 1 <= values["seeds"] <= 1000:
        raise ValueError(f"--seeds {values['seeds']}: it must be 1 to 1000")
    if not values["data"]:
        raise ValueError("--data needs a name or a path (`dnas datasets` lists what there is)")
    return values


def settings_of(values: Mapping[str, Any], argv: Sequence[str], data) -> tuple[list, list]:
    """The spaces and the methods to search with: those of the options, and of --sweep every combination of its values.

    Raises ValueError for an unknown option, a value that it cannot have, and one that is named twice.
    """
    import dnas
    from dnas.api.search_plan import fitting_method

    swept = dict(_parsed(text) for text in values["sweep"])
    if len(swept) < len(values["sweep"]):
        raise ValueError("--sweep names an option twice; list all its values after one =")
    options = {f"{part}.{name.replace('_', '-')}": (part, name) for part in ("space", "method")
               for name in values[f"{part}_options"]}
    typed = {}
    for option, texts in swept.items():
        if option not in options:
            near = difflib.get_close_matches(option, options, 1) or [name for name in options if name.endswith(f".{option}")]
            hint = f"did you mean {near[0]}?" if near else "use options of the method or the space, such as method.lr"
            raise ValueError(f"--sweep {option}: there is no such option; {hint}")
        part, name = options[option]
        typed.setdefault(part, {})[name] = [_typed(argv, part, name, text) for text in texts]
        if len({repr(value) for value in typed[part][name]}) < len(texts):
            raise ValueError(f"--sweep {option}={','.join(texts)}: a value is repeated")
    of_space, of_method = ([dict(zip(typed.get(part, {}), row)) for row in itertools.product(*typed.get(part, {}).values())]
                           for part in ("space", "method"))
    options = dict(values["method_options"])
    if not has_option(argv, "method.arch-lr") and values["config"] is None:
        options.pop("arch_lr", None)  # the preset may choose another than the method's default
    return ([dnas.space(values["space"], data, **values["space_options"] | changed) for changed in of_space],
            [fitting_method(values["method"], {**options, **changed}, data, epochs=values["epochs"], batch=values["batch"],
                            preset=values["preset"]) for changed in of_method])


def _parsed(text: str) -> tuple[str, list[str]]:
    option, equals, texts = text.partition("=")
    listed = texts.split(",")
    if not equals or not option or not all(listed):
        raise ValueError(f"--sweep {text}: it must be OPTION=VALUE,VALUE, such as method.arch-lr=1e-4,3e-4")
    return option.removeprefix("--").replace("_", "-"), listed


def _typed(argv: Sequence[str], part: str, name: str, text: str) -> Any:
    """The value that `--PART.NAME TEXT` stands for."""
    flag = name.replace("_", "-")
    word = {"true": f"--{part}.{flag}", "false": f"--{part}.no-{flag}"}.get(text.lower(), f"--{part}.{flag}={text}")
    return read_search("search", "", [*argv, word])[f"{part}_options"][name]


def _of_config(path: str, names: Mapping[str, str | None], argv: Sequence[str]) -> dict[str, Any]:
    """The defaults from a config. A part with another name on the command line has its own defaults.

    Raises ValueError if it is not the config of a search or a value is of another type, and for a place that is neither
    named on the command line nor in the config of a run that was begun here.
    """
    from dnas import config as configs
    from dnas import registry
    from dnas.data.sources import is_place
    from dnas.runs.trust import trusted

    config = configs.read_config(path)
    file = Path(path).expanduser()
    file = file / "config.json" if file.is_dir() else file
    where, defaults = str(file), {}
    trust = trusted(file.parent, config, "--trust" in argv) or {registry.absolute(name) for name in names.values() if name}
    defaults["selection"] = OWN  # of a config without one
    for part, name in names.items():
        there = config.get(part, {}).get("name")
        if there is None or name is not None and registry.absolute(name) != there:
            continue
        if there == "":
            raise ValueError(f"{where}: its {part} was an object without a name, which only Python can repeat; name "
                             f"another with --{part}")
        registry.refuse_untrusted(there, part, where, trust)
        defaults[part] = there
        said = {option: value for option, value in config[part].items() if option != "name"}
        defaults[f"{part}_options"] = configs.checked_options(f"{where}: {part} {there}", part_options(part, there), said)
    said = {key: config[key] for key in configs.DATA if key in config and key != "data"}
    defaults |= configs.checked_options(where, options_of(LOAD), said) | {"standardise": config.get("standardise", True)}
    if flag_value(argv, "--data") is None and "data" in config:
        defaults["data"] = tuple(configs.source_names(config, where))
    if "data" in config:
        places = [("data", name) for name in defaults.get("data", ()) if is_place(name)]
        places += [(kind, config[kind]) for kind in ("task", "augment") if isinstance(config.get(kind), str)]
        for kind, name in places:
            if flag_value(argv, f"--{kind}") is None:
                registry.refuse_untrusted(name, kind, where, trust)
    own = [option for option in options_of(SEARCH) if option.name in SAME]
    defaults |= configs.checked_options(where, own, {key: config[key] for key in SAME if key in config})
    if isinstance(config.get("budget"), Mapping):
        defaults["budget_options"] = configs.checked_options(f"{where}: budget", options_of(BUDGET), config["budget"])
    if "within" in config:
        raise ValueError(f"{where} is of a sub-supernet of a few-shot search, which goes on from another; repeat the whole "
                         "search, with the config.json of its run")
    if isinstance(config.get("split"), Mapping) and flag_value(argv, "--split") is None:
        own = [option for option in options_of(SEARCH) if option.name in SPLIT]
        defaults |= configs.checked_options(f"{where}: split", own, config["split"])
    start = config.get("start")
    return defaults | ({"start": start["run"]} if isinstance(start, Mapping) and isinstance(start.get("run"), str) else {})


def _space_options(names: Mapping[str, str]) -> list[Option]:
    """The options of the space, with the defaults in the method's SPACE."""
    from dnas import options as factory_options
    from dnas import registry

    suits = factory_options.constant(registry.locate(names["method"], "method"), "SPACE") or {}
    own = [option.name for option in factory_options.read(registry.locate(names["space"], "space"))]
    return [option._replace(default=suits.get(option.name, option.default)) if option.name not in own else option
            for option in part_options("space", names["space"])]


def _names(kind: str) -> str:
    from dnas import registry

    return "{" + ",".join(registry.registered(kind)) + "}|FACTORY"


def _datasets() -> str:
    from dnas.data import DATASETS

    return "{" + ",".join(DATASETS) + "}"
