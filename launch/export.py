"""Write a trained network in a form that others read. What was written is read back and compared before it is kept."""

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from launch import cache
from launch.arguments import parsed, shown

TOLERANCE = 1e-5
"""By which logits may differ, as they are and relative to their size."""
TESTED, DRAWN = 512, 64
"""Images to compare on: of the test split, and drawn at random where it is not at hand."""


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
    """Images to compare on: a name or other source of images (`dnas datasets`)."""
    space: Annotated[str | None, shown("FACTORY", "that of the run")] = None
    """Where the network's space is, if it is your own: package.module:factory or file.py:factory."""
    cache: Annotated[str | None, shown("DIR|off", "as for search")] = None
    """Where compiled programs are kept for the next time."""


class Unfaithful(Exception):
    """What was written computes something else than the network."""


class Sample(NamedTuple):
    """Images to compare on, their labels if they have any, and what they are, in words."""

    images: Any
    labels: Any
    said: str


def main(argv: Sequence[str]) -> int:
    """Runs `dnas export`. Raises ValueError for what it cannot read or use, and Unfaithful; then nothing is written."""
    arguments = parsed(Arguments(tyro.MISSING), "dnas export", __doc__, list(argv))
    if not arguments.format:
        raise ValueError("--format is missing: it is one or more of stablehlo, safetensors, flax")
    import dnas
    from search_spaces.export import flax_source
    from search_spaces.trained import in_batches

    trained = dnas.load(arguments.run, space=arguments.space)
    if "flax" in arguments.format:
        flax_source(trained)
    path = Path(arguments.run).expanduser()
    folder = path if path.is_dir() else path.parent
    out = Path(arguments.out).expanduser() if arguments.out else folder / "export"
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; it must be a folder")
    cache.enable(arguments.cache)
    sample = _sample(trained, folder, arguments.data)
    logits = in_batches(trained.logits, sample.images)
    print(f"compared    on {sample.said}", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for name in arguments.format:
            _write(name, trained, written, arguments.space, sample, logits)
        out.mkdir(exist_ok=True)
        for file in sorted(written.iterdir()):
            os.replace(file, out / file.name)
            print(f"written     {out / file.name}  {(out / file.name).stat().st_size:,} bytes")
    finally:
        shutil.rmtree(written, ignore_errors=True)
    return 0


def _write(name: str, trained, folder: Path, space: str | None, sample: Sample, logits) -> None:
    """Writes the network into `folder` and compares what is there. Raises Unfaithful where it is another."""
    import numpy as np

    from search_spaces.export import FORMATS
    from search_spaces.trained import in_batches

    found = in_batches(FORMATS[name](trained, folder, space), sample.images)
    apart = float(np.abs(found - logits).max())
    right = [] if sample.labels is None else [int((each.argmax(-1) == sample.labels).sum()) for each in (logits, found)]
    if not np.allclose(found, logits, TOLERANCE, TOLERANCE) or len(set(right)) > 1:
        counts = f", and {right[0]} and {right[1]} of {len(sample.images)} images are right" if right else ""
        raise Unfaithful(f"{name}: logits differ by {apart:.1e}{counts}; nothing is written")
    share = f"accuracy {100 * right[0] / len(sample.images):.2f} % before and after; " if right else ""
    print(f"{name:<12}{share}logits differ by {apart:.0e} at most", flush=True)


def _sample(trained, folder: Path, data: tuple[str, ...]) -> Sample:
    """Images of the test split of `data`, else of the run's; where that is not at hand, random ones.

    A run's own data is not loaded where that means to import something: who wants that says so by --data.
    """
    import numpy as np

    from dnas.data import load

    config = _config(folder)
    known = {name: config[name] for name in ("resize", "fit", *([] if data else ["limit"])) if config.get(name)}
    try:
        names = list(data) or [name for name in config.get("data", []) if ":" not in name or Path(name).exists()]
        found = load(names, **known)
    except (ValueError, TypeError):
        if data:
            raise
        return _drawn(trained)
    if found.image != trained.described.input.image or found.classes != len(trained.classes):
        raise ValueError(f"{found.name}: {found.classes} classes of images {found.image}; the network is for "
                         f"{len(trained.classes)} of {trained.described.input.image}; name its data by --data")
    test = found.splits["test"]
    rows = test[np.unique(np.linspace(0, len(test) - 1, min(TESTED, len(test))).astype(int))]
    return Sample(found.inputs[rows], found.targets[rows], f"{len(rows)} of the {len(test)} test images of {found.name}")


def _config(folder: Path) -> dict[str, Any]:
    """The config of the run that the weights lie in, {} where they lie alone."""
    from launch.subject import run_config

    return run_config(folder / "config.json") if (folder / "config.json").exists() else {}


def _drawn(trained) -> Sample:
    import numpy as np

    takes, draw = trained.described.input, np.random.default_rng(0)
    shape = DRAWN, *takes.image
    images = draw.integers(0, 256, shape, np.uint8) if takes.pixels == "uint8" else \
        (np.array(takes.mean) + np.array(takes.std) * draw.standard_normal(shape)).astype(np.float32)
    return Sample(images, None, f"{DRAWN} images drawn at random, for the run's data is not at hand: --data names it")
