"""Search a space on real images, and write what is found into a run directory."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import cache
from launch.arguments import parse
from launch.prepare import Prepared, budget_lines, named, prepare

if TYPE_CHECKING:
    from dnas import NonFiniteLoss, Result, Run
    from launch.arguments import Arguments


def main(argv: Sequence[str]) -> int:
    """Runs `dnas search`. Raises what is wrong as ValueError, RunWriteError or NonFiniteLoss."""
    arguments = parse("search", __doc__, argv)
    prepared, command = prepare(arguments), shlex.join(["dnas", "search", *argv])
    if arguments.seeds > 1:
        return _several(arguments, prepared, command)
    from dnas import open_run, search
    from dnas.run import write_json

    folder = Path(arguments.run).expanduser() if arguments.run else default_folder(prepared.config)
    with open_run(folder, prepared.config, command) as run:
        cache.enable(arguments.cache)
        print(_announced(prepared, f"seed {arguments.seed}"))
        complete = len(run.metrics()) >= arguments.epochs
        begun = any(run.checkpoints.glob("*.safetensors"))
        state = ", complete: this is its result" if complete else ", continued" if begun else ""
        print(f"run     {folder}{state}", flush=True)
        try:
            result = search(prepared.space, prepared.method, prepared.data, epochs=arguments.epochs,
                            batch=arguments.batch, seed=arguments.seed, run=run, progress=arguments.progress,
                            diagnose=arguments.diagnose, stop_on_collapse=arguments.stop_on_collapse)
        except KeyboardInterrupt:
            config = shlex.quote(str(folder / "config.json"))
            raise KeyboardInterrupt(f"interrupted; `dnas search --config {config} --run {shlex.quote(str(folder))}` "
                                    "goes on from its last checkpoint") from None
        write_json(run.folder / "results.json", results(prepared, result))
        print(report(prepared, result, run))
    return 0


def _several(arguments: Arguments, prepared: Prepared, command: str) -> int:
    """The same of several seeds, each in a run directory of its own."""
    from dnas import NonFiniteLoss, open_run, search_seeds
    from dnas.run import holds_run, write_json

    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    configs = [prepared.config | {"seed": seed} for seed in seeds]
    whole = arguments.run and Path(arguments.run).expanduser()
    if whole and (whole / "config.json").exists():
        raise ValueError(f"{whole} is a run itself; --seeds writes runs into folders of --run, choose another")
    folders = [whole / str(config["seed"]) if whole else default_folder(config) for config in configs]
    for folder, config in zip(folders, configs):
        holds_run(folder, config)
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(open_run(folder, config, command)) for folder, config in zip(folders, configs)]
        cache.enable(arguments.cache)
        print(_announced(prepared, f"seeds {seeds[0]} to {seeds[-1]}"))
        print(f"runs    {folders[0]} to {folders[-1]}", flush=True)
        try:
            found = search_seeds(prepared.space, prepared.method, prepared.data, epochs=arguments.epochs,
                                 batch=arguments.batch, seeds=seeds, runs=runs, progress=arguments.progress,
                                 diagnose=arguments.diagnose, stop_on_collapse=arguments.stop_on_collapse)
        except KeyboardInterrupt:
            words = ["dnas", "search", "--config", str(folders[0] / "config.json"), "--seeds", str(len(seeds)),
                     *(["--run", str(whole)] if whole else [])]
            raise KeyboardInterrupt(f"interrupted; `{shlex.join(words)}` goes on from the last checkpoints") from None
        for run, result in zip(runs, found):
            if not isinstance(result, NonFiniteLoss):
                write_json(run.folder / "results.json", results(prepared, result))
    print(report_seeds(prepared, dict(zip(seeds, found)), folders))
    failed = [seed for seed, result in zip(seeds, found) if isinstance(result, NonFiniteLoss)]
    if failed:
        raise NonFiniteLoss(f"of {len(seeds)} searches {len(failed)} came to a loss that is not finite, seed "
                            f"{', '.join(map(str, failed))}; a smaller learning rate may help")
    return 0


def _announced(prepared: Prepared, seeds: str) -> str:
    from dnas.data import describe

    config = prepared.config
    return "\n".join([describe(prepared.data), f"space   {named(config, 'space')}",
                      f"method  {named(config, 'method')}, {config['epochs']} epochs of {prepared.steps} steps "
                      f"of {config['batch']} images, {seeds}"])


def default_folder(config: Mapping[str, Any]) -> Path:
    """The folder under runs of a search that was not told where to write."""
    names = [config["space"]["name"], config["method"]["name"], config["data"][0]]
    return free_folder("-".join([*map(stem, names), str(config["seed"])]), config)


def free_folder(name: str, config: Mapping[str, Any]) -> Path:
    """The first of runs/`name`, runs/`name`-2, ... that does not exist, is empty, or holds a run of this very config."""
    number, config = 1, json.loads(json.dumps(config))
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or folder.is_dir() and (not any(folder.iterdir()) or _config(folder) == config):
            return folder
        number += 1


def results(prepared: Prepared, result: Result) -> dict[str, Any]:
    """What results.json holds of a search that has ended."""
    return {"holdout": dict(result.holdout), "cell": prepared.space.format(result.genotype),
            **prepared.space.cost(result.genotype), "margin": margin(prepared, result)}


def report(prepared: Prepared, result: Result, run: Run) -> str:
    """What a search ends with, for a person: the cell, its size, accuracy, where everything lies, what to do next."""
    from dnas.pictures import terminal_cell

    genotype, space = result.genotype, prepared.space
    gates = prepared.method.gates(result.state)
    cost = space.cost(genotype)
    folder = shlex.quote(str(run.folder))
    pictures = sorted(path.name for path in run.folder.iterdir() if path.suffix in (".svg", ".png"))
    board = "" if find_spec("tensorboard") else "   (after pip install tensorboard)"
    snippet = f"import dnas; print(dnas.load_genotype({str(run.folder)!r}))"
    lines = [
        "", terminal_cell(genotype, space.groups), space.format(genotype), "",
        f"margin    the gate of an edge's first operation leads its second by {100 * margin(prepared, result):.1f} points "
        "(median)",
        f"size      {cost['params']:,} parameters, {cost['macs']:,} multiply-adds per image as a network of its own",
        *(f"budget    {line}" for line in budget_lines(prepared.config, space, genotype, gates)),
        f"hold-out  {100 * result.holdout['accuracy']:.2f} % accuracy of the supernet, "
        f"loss {result.holdout['loss']:.3f}",
        f"time      {result.seconds:.1f} s",
        f"run       {run.folder}" + (f" (pictures: {', '.join(pictures)})" if pictures else ""),
        "next",
        f"  dnas train {folder}",
        f"  dnas select {folder} --selection perturbation",
        f"  dnas report {folder}",
        f"  tensorboard --logdir {folder}{board}",
        f"  dnas search --config {folder}/config.json --seed {prepared.config['seed'] + 1}",
        f"  python -c \"{snippet}\"" if folder == str(run.folder) else f"  python -c {shlex.quote(snippet)}",
    ]
    return "\n".join(lines)


def report_seeds(prepared: Prepared, results: Mapping[int, Result | NonFiniteLoss], folders: Sequence[Path]) -> str:
    """What the searches of several seeds end with: each on a line, what they have in common, and what to do next."""
    import numpy as np

    from dnas.compare import agreement
    from dnas.engine.progress import percent

    space = prepared.space
    lines = ["", "seed  hold-out %     parameters  genotype"]
    for seed, result in results.items():
        if isinstance(result, Exception):
            lines.append(f"{seed:4}  {result}")
            continue
        accuracy, params = 100 * result.holdout["accuracy"], space.cost(result.genotype)["params"]
        lines.append(f"{seed:4}  {accuracy:10.2f}  {params:13,}  {space.format(result.genotype)}")
    found = {seed: result for seed, result in results.items() if not isinstance(result, Exception)}
    lines.append("")
    if found:
        accuracies = np.array([result.holdout["accuracy"] for result in found.values()])
        lines.append(f"hold-out  {percent(accuracies, 2)} accuracy of the supernet, {len(found)} searches")
    if len(found) > 1:
        pairs = itertools.combinations([result.genotype for result in found.values()], 2)
        lines.append(f"agreement {100 * np.mean([agreement(*pair) for pair in pairs]):.0f} % of the edges carry the same "
                     "operation, mean over pairs of searches")
    lines += [f"budget    seed {seed}: {line}" for seed, result in found.items()
              for line in budget_lines(prepared.config, space, result.genotype, prepared.method.gates(result.state))]
    if found:
        lines += [f"time      {max(result.seconds for result in found.values()):.1f} s", "next",
                  f"  dnas compare {shlex.join(str(folders[list(results).index(seed)]) for seed in found)}"]
    return "\n".join(lines)


def margin(prepared: Prepared, result: Result) -> float:
    """Median over all edges of the difference between the largest gate and the next, as shares of their edge's sum."""
    import numpy as np

    leads = []
    for rows in prepared.method.gates(result.state).values():
        ranked = np.sort(np.asarray(rows, np.float64), -1)[:, ::-1]
        leads += list((ranked[:, 0] - ranked[:, 1]) / np.maximum(ranked.sum(-1), 1e-12) if ranked.shape[1] > 1
                      else np.ones(len(ranked)))
    return float(np.median(leads))


def stem(name: str) -> str:
    """A short form of a name or path that can be part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", Path(name.rpartition(":")[2]).name.removesuffix(".npz")) or "data"


def _config(folder: Path) -> Any:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
