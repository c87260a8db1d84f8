"""Write a trained network in a form that others read. What was written is read back and compared before it is kept."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from dnas.engine import cache
from launch.arguments import parsed, shown

TOLERANCE = 1e-5
"""By which outputs may differ, as they are and relative to their size."""
TESTED, DRAWN = 512, 64
"""Examples to compare on: of the test split, and drawn at random where it is not at hand."""


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    run: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """The run directory of a training, or a weights.safetensors."""
    format: Annotated[tuple[Literal["stablehlo", "safetensors", "flax"], ...],
                      tyro.conf.arg(help_behavior_hint="(required)")] = ()
    """stablehlo: one program with its weights, which JAX runs without this toolkit. safetensors: the weights, and in the
    metadata what they are of. flax: a Python file that defines the network, and its weights."""
    out: Annotated[str | None, shown("DIR", "export, beside the weights")] = None
    """Where it is written."""
    data: Annotated[tuple[str, ...], shown("SOURCE ...", "that of the run")] = ()
    """Data to compare on: a name or other source (`dnas datasets`)."""
    space: Annotated[str | None, shown("FACTORY", "that of the run")] = None
    """Where the network's space is, if it is your own: package.module:factory or file.py:factory."""
    task: Annotated[str | None, shown("FACTORY", "that of the run")] = None
    """Where its task is, likewise."""
    cache: Annotated[str | None, shown("DIR|off", "as for search")] = None
    """Where compiled programs are kept for the next time."""


class Unfaithful(Exception):
    """What was written computes something else than the network."""


class Sample(NamedTuple):
    """Inputs to compare on, their targets or None, and what they are, in words."""

    inputs: Any
    targets: Any
    said: str


def main(argv: Sequence[str]) -> int:
    """Runs `dnas export`. Raises ValueError for what it cannot read or use, and Unfaithful; then nothing is written."""
    arguments = parsed(Arguments(tyro.MISSING), "dnas export", __doc__, list(argv))
    if not arguments.format:
        raise ValueError("--format is missing: it is one or more of stablehlo, safetensors, flax")
    import dnas
    from search_spaces.export import flax_source
    from search_spaces.trained import in_batches

    trained = dnas.load(arguments.run, space=arguments.space, task=arguments.task)
    if "flax" in arguments.format:
        flax_source(trained)
    path = Path(arguments.run).expanduser()
    folder = path if path.is_dir() else path.parent
    out = Path(arguments.out).expanduser() if arguments.out else folder / "export"
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; it must be a folder")
    cache.enable(arguments.cache)
    sample = _sample(trained, folder, arguments)
    outputs = in_batches(trained.logits, sample.inputs)
    print(f"compared    on {sample.said}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for name in arguments.format:
            _write(name, trained, written, arguments, sample, outputs)
        out.mkdir(exist_ok=True)
        for file in sorted(written.iterdir()):
            os.replace(file, out / file.name)
            print(f"written     {out / file.name}  {(out / file.name).stat().st_size:,} bytes")
    finally:
        shutil.rmtree(written, ignore_errors=True)
    return 0


def _write(name: str, trained, folder: Path, arguments: Arguments, sample: Sample, outputs) -> None:
    """Writes the network into `folder` and compares what is there. Raises Unfaithful where it is another."""
    import numpy as np

    from dnas.engine.progress import metric_text
    from search_spaces.export import FORMATS
    from search_spaces.trained import in_batches, scores

    task = trained.task
    found = in_batches(FORMATS[name](trained, folder, arguments.space, arguments.task), sample.inputs)
    apart = float(np.abs(found - outputs).max())
    rows = np.arange(len(outputs))
    values = [] if sample.targets is None else [
        scores(task, each.__getitem__, rows, sample.targets)[task.metric] for each in (outputs, found)]
    spell = lambda value: metric_text(task, value, 2).removeprefix(f"{task.metric} ")
    same = not values or np.isclose(*values, TOLERANCE, 0 if task.confusion else TOLERANCE)
    if not np.allclose(found, outputs, TOLERANCE, TOLERANCE) or not same:
        counts = f", and {task.metric} is {spell(values[0])} before and {spell(values[1])} after" if values else ""
        raise Unfaithful(f"{name}: outputs differ by {apart:.1e}{counts}; nothing is written")
    share = f"{task.metric} {spell(values[0])} before and after; " if values else ""
    print(f"{name:<12}{share}outputs differ by {apart:.0e} at most", flush=True)


def _sample(trained, folder: Path, arguments: Arguments) -> Sample:
    """Examples of the test split of `data`, else of the run's; where that is not at hand, random ones.

    A run's own data is not loaded where that means to import something: who wants that says so by --data.
    """
    import numpy as np

    from dnas.data import load
    from dnas.data.checks import NOUNS

    config, data, takes, gives = _config(folder), arguments.data, trained.described.input, trained.described.output
    own = [] if data else ["limit", "window", "standardise"]
    known = {name: config[name] for name in ("resize", "fit", "target", *own) if config.get(name) is not None}
    known |= {"task": arguments.task or gives.task} if gives.task != "classification" else {}
    try:
        names = list(data) or [name for name in config.get("data", []) if ":" not in name or Path(name).exists()]
        found = load(names, **known)
    except (ValueError, TypeError):
        if data:
            raise
        return _drawn(trained)
    same = (found.image, found.kind, found.classes) == (takes.shape, takes.kind, gives.size)
    if not same or found.columns != takes.columns or found.characters != takes.characters:
        what = "classes" if gives.classes else "outputs"
        other = "; its columns or characters are others" if same else ""
        raise ValueError(f"{found.name}: {found.classes} {what} of {found.kind} {found.image}; the network is for "
                         f"{gives.size} of {takes.kind} {takes.shape}{other}; name its data by --data")
    test = found.splits["test"]
    rows = test[np.unique(np.linspace(0, len(test) - 1, min(TESTED, len(test))).astype(int))]
    said = f"{len(rows)} of the {len(test)} test {NOUNS[found.kind]}s of {found.name}"
    return Sample(found.inputs[rows], found.targets[rows], said)


def _config(folder: Path) -> dict[str, Any]:
    """The config of the run that the weights lie in, {} where they lie alone."""
    from launch.subject import run_config

    return run_config(folder / "config.json") if (folder / "config.json").exists() else {}


def _drawn(trained) -> Sample:
    import numpy as np

    takes, draw = trained.described.input, np.random.default_rng(0)
    shape = DRAWN, *takes.shape
    if takes.kind == "tokens":
        inputs = draw.integers(0, takes.vocabulary, shape, np.int32)
    elif takes.dtype == "uint8":
        inputs = draw.integers(0, 256, shape, np.uint8)
    else:
        inputs = (np.array(takes.mean) + np.array(takes.std) * draw.standard_normal(shape)).astype(np.float32)
    return Sample(inputs, None, f"{DRAWN} {takes.kind} drawn at random, for the run's data is not at hand: --data names it")
