"""Show what was found: its cells, the layers of its network, and how a run came to it."""

import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from launch.options import REQUIRED
from launch.parser import Positional, Shown, parse


@dataclass(frozen=True)
class Arguments:
    """What the command line says."""

    subject: Annotated[str, Positional("RUN|GENOTYPE")] = REQUIRED
    """A run directory, a folder of its selections, a genotype.json, or a published name such as darts-v2."""
    space: Annotated[str | None, Shown("FACTORY", "that of the run or genotype")] = None
    """Where the genotype's space is: a name, package.module:factory or file.py:factory."""
    cells: Annotated[int | None, Shown("INT", "as searched")] = None
    """Cells of the network."""
    channels: Annotated[int | None, Shown("INT", "as searched")] = None
    """Channels of its first cells."""
    out: Annotated[str | None, Shown("DIR", "beside the genotype")] = None
    """Where the pictures are written: cells.svg and cells.png, and of a run logits.svg."""


def main(argv: Sequence[str]) -> int:
    """Runs `dnas show`. Raises ValueError, in one line, for what it cannot read or use."""
    arguments = parse(Arguments(), "dnas show", __doc__, argv)
    from launch.subject import build, find

    subject = find(arguments.subject)
    genotype = subject.genotype
    data = _inputs(genotype.options)
    space, built = build(subject, data, arguments.space, cells=arguments.cells, channels=arguments.channels)
    path = Path(arguments.subject).expanduser()
    beside = (path if path.is_dir() else path.parent) if path.exists() else Path(".")
    out = Path(arguments.out).expanduser() if arguments.out else beside
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; it must be a folder")

    from dnas.reports.cells import draw_genotype, terminal_cell
    from dnas.reports.figures import draw_logits
    from dnas.reports.text import columns

    logits = history(path, space.groups)
    print(terminal_cell(genotype, space.groups), space.format(genotype), "", sep="\n")
    print(_layers(space, genotype, data))
    out.mkdir(parents=True, exist_ok=True)
    written = ["cells.svg", "cells.png"]
    for name in written:
        draw_genotype(genotype, space.groups, out / name)
    if logits:
        draw_logits({name: logits[name] for name in space.groups}, space.groups, out / "logits.svg")
        written.append("logits.svg")
        print("", f"shares of the operations over {len(next(iter(logits.values()))) - 1} epochs", sep="\n")
        print(columns(shares(logits, space.groups), left=4))
    print(f"\nwritten    {', '.join(str(out / name) for name in written)}")
    return 0


def _layers(space, genotype, data) -> str:
    """The network's layers as a table."""
    import jax

    from dnas.reports.text import columns
    from search_spaces.cost import layers

    network, inputs = space.network(genotype), jax.ShapeDtypeStruct((1, *data.image), space.input_dtype)
    weights, stats = jax.eval_shape(lambda key: network.init(key, inputs), jax.random.key(0))
    with_stats = lambda weights, inputs: network.apply(
        weights, jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape), stats), inputs, train=False, key=None)[0]
    found, cost = layers(with_stats, weights, inputs), space.cost(genotype)
    shape = lambda sizes: "x".join(map(str, sizes)) or "\N{EN DASH}"
    rows = [["layer", "puts out", "parameters", "multiply-adds"], ["input", shape(data.image), "", ""]]
    rows += [[layer.name, shape(layer.shape), f"{layer.params:,}", f"{layer.macs:,}"] for layer in found]
    return columns([*rows, ["network", "", f"{cost['params']:,}", f"{cost['macs']:,}"]], left=2)


def history(path: Path, groups):
    """The logits `[epochs + 1, E, K]` of the run at `path`, None where it is none.

    Raises ValueError, in one line, where they are not those of `groups`.
    """
    from dnas.runs.directory import read_arrays

    file = path / "arch.npz"
    if not file.exists():
        return None
    found = read_arrays(file, "the run's logits cannot be shown")
    for name, group in groups.items():
        rows = found.get(name)
        if rows is None or rows.dtype.kind != "f" or rows.ndim != 3 or not len(rows) or rows.shape[1:] != group.shape:
            raise ValueError(f"{file}: no logits [epochs, {group.shape[0]}, {group.shape[1]}] of group {name!r} in it; the "
                             "run's logits cannot be shown")
    return found


def _inputs(options):
    """What a genotype's options say of the inputs and outputs of its network, which may be missing."""
    from dnas.data.pictures import LARGEST
    from dnas.runs.model_file import MOST

    image, classes = options.get("image", [32, 32, 3]), options.get("classes", 10)
    most = MOST if isinstance(image, list) and len(image) < 3 else LARGEST
    if not isinstance(image, list) or not image or not all(type(n) is int and 0 < n <= most for n in image):
        raise ValueError(f"inputs of the genotype are {str(image)[:80]}; they are a shape, such as height, width, "
                         f"channels, each 1 to {most}")
    return types.SimpleNamespace(image=tuple(image), classes=classes, graph=None, vocabulary=options.get("vocabulary"))


def shares(history, groups) -> list[list[str]]:
    """Of each edge the leading operation with its share of the softmax, at the start, half way and at the end, below a
    header."""
    from dnas.reports.figures import softmaxed

    last = len(next(iter(history.values()))) - 1
    moments = sorted({0, last // 2, last})
    rows = [["edge", *(f"epoch {moment}" for moment in moments)]]
    for name, group in groups.items():
        found = softmaxed(history[name], group)
        for e, (source, target) in enumerate(group.edges):
            told = [f"{group.edge_ops(e)[found[m, e].argmax()]} {100 * found[m, e].max():.1f} %" for m in moments]
            rows.append([f"{name} {source}->{target}", *told])
    return rows
