"""Search a space on real images, and write what is found into a run directory."""

from __future__ import annotations

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
    from dnas import Result, Run


def main(argv: Sequence[str]) -> int:
    """Runs `dnas search`. Raises what is wrong as ValueError, RunWriteError or NonFiniteLoss."""
    arguments = parse("search", __doc__, argv)
    prepared = prepare(arguments)
    from dnas import open_run, search
    from dnas.data import describe

    folder = Path(arguments.run).expanduser() if arguments.run else default_folder(prepared.config)
    with open_run(folder, prepared.config) as run:
        cache.enable(arguments.cache)
        print(describe(prepared.data))
        print(f"space   {named(prepared.config, 'space')}")
        print(f"method  {named(prepared.config, 'method')}, {arguments.epochs} epochs of {prepared.steps} steps "
              f"of {arguments.batch} images, seed {arguments.seed}")
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
        print(report(prepared, result, run))
    return 0


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
        f"  tensorboard --logdir {folder}{board}",
        f"  dnas search --config {folder}/config.json --seed {prepared.config['seed'] + 1}",
        f"  python -c \"{snippet}\"" if folder == str(run.folder) else f"  python -c {shlex.quote(snippet)}",
    ]
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
