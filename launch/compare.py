"""Compare selections on trained supernets: one table over runs of several methods and seeds, and a report to show."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from dnas import options, registry
from dnas.engine import cache
from dnas.selection import SELECTIONS
from launch.arguments import CONFIG, FOUND, parsed, part_of
from launch.comparison import comparison_text, presentation_of, write_report
from launch.prepare import named
from launch.train import Arguments as Recipe
from launch.trained import Supernet, choose, made, place, supernet


@dataclass(frozen=True)
class Arguments:
    """What the command line says; the options of each selection are added to it."""

    folders: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="RUN ...")]
    """Run directories of searches: several methods, several seeds. A folder stands for all searches in it."""
    selection: Annotated[tuple[str, ...], tyro.conf.arg(metavar="{" + ",".join(SELECTIONS) + "}|FACTORY ...")] = (
        "magnitude", "perturbation", "sampled", "random")
    """Which selections, the one that others are compared with first."""
    train_epochs: int = 0
    """Epochs of training each genotype from scratch, as `dnas train` does by default; 0 for none."""
    table: Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: none)")] = None
    """Table of NAS-Bench-201 (`dnas table`) in which each genotype is looked up, for the report only."""
    column: str = "cifar10_test_200"
    """Column of the table that counts as the truth."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR",
                                             help_behavior_hint="(default: comparison, beside the first run)")] = None
    """Where the report is written. Selections lie in RUN/selections, and are taken from there if they are done."""
    cache: Annotated[str | None, tyro.conf.arg(metavar="DIR|off", help_behavior_hint="(default: as for search)")] = None
    """Where compiled programs are kept for the next time."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas compare`. Raises ValueError, in one line, for what it cannot read or use."""
    names = _listed(argv, "--selection") or list(Arguments.selection)
    short = [name.rpartition(":")[2] for name in names]
    for name in short:
        if short.count(name) > 1:
            raise ValueError(f"two selections are called {name}; each needs a name of its own")
    parts = [part_of(name.replace("-", "_"), options.read(registry.locate(full, SELECTIONS, "selection")))
             for name, full in zip(short, names)]
    form = dataclasses.make_dataclass("Arguments", parts, bases=(Arguments,), frozen=True)
    arguments = parsed(form(folders=tyro.MISSING, selection=tuple(names)), "dnas compare", __doc__, list(argv))
    folders = _runs(Path(folder).expanduser() for folder in arguments.folders)
    if not folders:
        raise ValueError("name at least one run directory: dnas compare RUN ... --selection NAME ...")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice; give each once")
    if arguments.train_epochs < 0:
        raise ValueError(f"train-epochs is {arguments.train_epochs}, it must be 0 or more")
    chosen = {name: dataclasses.asdict(getattr(arguments, f"{key.replace('-', '_')}_options"))
              for key, name in zip(short, names)}
    selections = {name: made(name, chosen[name]) for name in names}
    truth = _truth(arguments.table, arguments.column)
    view = presentation_of(folders)
    supernets = [supernet(folder) for folder in folders]
    for trained in supernets:
        if truth and trained.ready.space.name != "nasbench201":
            raise ValueError(f"{trained.folder} is of {trained.ready.space.name}; --table is for runs of nasbench201 alone")

    from dnas import open_run
    from dnas.reports import comparison
    from dnas.runs.directory import write_atomic

    out = Path(arguments.out).expanduser() if arguments.out else folders[0].absolute().parent / "comparison"
    config = {"runs": [str(folder.absolute()) for folder in folders],
              "selections": [{"name": name, **chosen[name]} for name in names], "train_epochs": arguments.train_epochs,
              "table": arguments.table and str(Path(arguments.table).absolute()),
              "column": arguments.column if arguments.table else None}
    try:
        opened = open_run(out, config)
    except ValueError as error:
        message = str(error).partition(" or repeat it with --config")[0]
        raise ValueError(message.replace("--run", "--out")) from None
    with opened:
        cache.enable(arguments.cache)
        labels, entries = _labels(supernets), []
        notes = [f"{trained.folder} has come to epoch {trained.epoch} of {trained.searched.epochs} only"
                 for trained in supernets if trained.epoch < trained.searched.epochs]
        for trained, label in zip(supernets, labels):
            entries += _entries(trained, label, names, chosen, selections, truth, arguments.train_epochs, out, notes)
        if not entries:
            raise ValueError(f"no selection suits any of the runs: {'; '.join(notes)}")
        write_atomic(out / "comparison.csv", comparison.to_csv(entries))
        write_atomic(out / "comparison.json", json.dumps(comparison.to_json(entries, view.metrics), indent=1) + "\n")
        write_report(out, supernets, labels, entries, notes, argv, arguments, view)
    print("\n" + comparison_text(entries, notes, view))
    print(f"written    {out} (report.html, comparison.csv, comparison.json, comparison.svg)")
    return 0


def _runs(folders: Iterable[Path]) -> list[Path]:
    """The run directories among `folders`, and in place of any other folder all searches in it, such as those of a sweep."""
    from dnas.runs.index import find, read_json

    runs = []
    for folder in folders:
        inside = [] if (folder / "config.json").exists() else \
            [run for run in find(folder) if (run / "config.json").exists() and "method" in read_json(run / "config.json")]
        runs += inside or [folder]
    return runs


def _listed(argv: Sequence[str], flag: str) -> list[str]:
    """The values that follow the last `flag`, up to the next one."""
    values: list[str] = []
    for i, word in enumerate(argv):
        if word == flag or word.startswith(f"{flag}="):
            values = [word.partition("=")[2]] if "=" in word else []
            for following in argv[i + 1:]:
                if following.startswith("--"):
                    break
                values.append(following)
    return values


def _labels(supernets: Sequence[Supernet]) -> list[str]:
    """A name for each run that those share which differ in nothing but their seed."""
    configs = [trained.ready.config for trained in supernets]
    varying = [key for key in CONFIG if key not in ("seed", "method", "diagnose", "stop_on_collapse", *FOUND)
               and any(config.get(key) != configs[0].get(key) for config in configs)]

    def named_by(config, part):
        alike = [other[part] for other in configs if other[part]["name"] == config[part]["name"]]
        return named(config, part, [name for name in config[part] if len({str(other.get(name)) for other in alike}) > 1])

    def spell(config, key):
        value = config[key]
        if key == "space":
            return named_by(config, key)
        if isinstance(value, Mapping):
            value = [f"{name} {number}" for name, number in value.items()]
        return " ".join([key, *map(str, value if isinstance(value, list) else ["none" if value is None else value])])

    return [", ".join([named_by(config, "method"), *(spell(config, key) for key in varying if key in config)])
            for config in configs]


def _truth(path: str | None, column: str):
    """(table, column's values), None without a table."""
    if path is None:
        return None
    from dnas.tabular import nasbench201

    table = nasbench201.load(path)
    if column not in table.columns:
        raise ValueError(f"{path} has no column {column!r}; its columns are {', '.join(table.columns)}")
    return table, table.columns[column]


def _entries(trained: Supernet, label: str, names, chosen, selections, truth, train_epochs: int, out: Path,
             notes: list[str]):
    """All selections on one run; what does not suit it goes to `notes`."""
    import jax
    import numpy as np

    from dnas.engine.compile import compile_evaluation, on_device
    from dnas.reports import comparison
    from dnas.runs import checkpoint
    from dnas.selection.types import Unsuitable
    from dnas.tabular import nasbench201

    space, data, context = trained.ready.space, trained.ready.data, trained.context
    task, gates = context.task, context.gates(context.state)
    evaluate = compile_evaluation(space, task, data, on_device(data), context.state, gates, trained.searched.batch)
    scale = 100 if task.percent else 1
    metric = lambda state, gates: scale * evaluate(state, gates)[task.metric]
    mixture = metric(context.state, gates)
    found = []
    for name in names:
        folder = place(trained.folder, name)
        try:
            selected = choose(trained, name, chosen[name], selections[name], folder)
        except Unsuitable as error:
            notes.append(f"left out on {trained.folder}: {error}")
            continue
        genotype = selected.genotype
        values = {"discrete": metric(context.state, genotype.gates(space.groups))}
        values["gap"] = task.better * (mixture - values["discrete"])
        if selected.cost["epochs"]:
            last = checkpoint.latest(folder / "checkpoints", selections[name].begin(context), set_aside=False)
            if last:
                values["tuned"] = metric(jax.tree.map(jax.numpy.asarray, last.tree.state), genotype.gates(space.groups))
        values |= {**space.cost(genotype), "seconds": selected.cost["seconds"]}
        if truth:
            table, column = truth
            values["table"] = float(column[nasbench201.index(table, genotype)])
        if train_epochs:
            values["trained"] = _trained(trained, genotype, train_epochs, out)
        found.append((name, selected, values))
    for _, selected, values in found:
        whole = comparison.tried(selected.scores, space.groups)
        if truth and whole:
            decisions, scores = whole
            rows = [nasbench201.index(table, _genotype(space, decisions, n)) for n in range(len(scores))]
            values |= comparison.correlation(scores, column[rows])
        elif truth:
            values |= comparison.correlation(comparison.scored(selected.scores, {"cell": table.ops}), column)
        elif train_epochs:
            distinct = {s.genotype: v["trained"] for _, s, v in found}
            decisions = {g: np.stack([one.decisions(space.groups)[g] for one in distinct]) for g in space.groups}
            quality = task.better * np.array(list(distinct.values()))
            values |= comparison.correlation(comparison.scored(selected.scores, decisions), quality)
    return [comparison.Entry(str(trained.folder), label, trained.searched.seed, name.rpartition(":")[2], selected.genotype,
                          space.format(selected.genotype), values) for name, selected, values in found]


def _genotype(space, decisions: Mapping[str, Any], n: int):
    from dnas import Genotype

    return Genotype.from_decisions(space, {name: rows[n] for name, rows in decisions.items()})


def _trained(trained: Supernet, genotype, epochs: int, out: Path) -> float:
    """The hold-out metric (a share in %) after a short training, from the file of an earlier one if there is one."""
    from dnas.algorithms.supervised import Recipe as Numbers
    from dnas.engine.train import train
    from dnas.runs.directory import write_atomic

    what = f"{trained.folder.resolve()} {trained.epoch} {epochs} {genotype.to_json()}"
    file = out / "trained" / f"{hashlib.sha256(what.encode()).hexdigest()[:16]}.json"
    if file.exists():
        return float(json.loads(file.read_text())["value"])
    print(f"training   {trained.ready.space.format(genotype)} for {epochs} epochs", flush=True)
    recipe = Numbers(**{name: getattr(Recipe, name) for name in ("lr", "momentum", "nesterov", "weight_decay", "clip")})
    done = train(trained.ready.space.network(genotype), trained.ready.data, epochs=epochs, batch=trained.searched.batch,
                 seed=trained.searched.seed, progress=False, recipe=recipe)
    task = trained.context.task
    value = (100 if task.percent else 1) * done.report[task.metric]
    file.parent.mkdir(exist_ok=True)
    write_atomic(file, json.dumps({"value": value, "seconds": done.seconds}) + "\n")
    return value
