"""`dnas spaces`, `dnas methods` and `dnas datasets`: what there is, with a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dnas import registry
from launch.arguments import data_options, load_data, read_command
from launch.search_options import read_search

OWN = "a function of yours that returns a"
FILES = {
    "FILE.npz": "x: images [N, H, W, C] or [N, H, W], numbers [N, F] or tokens [N, T]; y [N, ...]; x_test, y_test if any",
    "TABLE.csv": "rows of numbers and texts below the names of the columns; --target COLUMN is predicted",
    "TEXT.txt": "characters, each predicted from those before it; --window CHARACTERS",
    "GRAPH.npz": "a graph in planetoid's form: x_data, x_indices, x_indptr, x_shape, edge_index, y, train_idx, ...",
    "FOLDER": "of .npz pieces, of the four idx files of MNIST or Fashion-MNIST, or of CIFAR-10's binary batches",
    "PICTURES": "FOLDER/CLASS/*.png or .jpg, or FOLDER/train/CLASS/... beside test or val; --resize, --fit",
    "hf:NAME": "of Hugging Face's hub, or a folder that its `datasets` wrote; pip install 'dnas[hf]'",
}


def spaces(argv: Sequence[str]) -> int:
    """Runs `dnas spaces` and `dnas spaces check`."""
    if argv and argv[0] == "check":
        return _check(argv[1:])
    return _print("spaces", argv, _described("space"), "SearchSpace")


def _check(argv: Sequence[str]) -> int:
    """Tries all that a space must do; 2 if it falls short."""
    usage = ("usage: dnas spaces check SPACE [--space.OPTION VALUE] [--data SOURCE]; SPACE is a name, "
             "package.module:factory or file.py:factory")
    if {"-h", "--help"} & set(argv):
        print(f"{usage}\n\nTries all that a space must do on a few examples of the data, and says where it falls short.\n"
              "Options of the space: dnas search --space SPACE --help")
        return 0
    if not argv or argv[0].startswith("-"):
        raise ValueError(usage)
    values = read_search("spaces check", "", ["--space", *argv])
    import numpy as np

    import dnas
    from dnas.api.search import check_space
    from dnas.config import label
    from dnas.data import describe, normalise
    from search_spaces.check import check

    data = load_data(values)
    space = dnas.space(values["space"], data, **values["space_options"])
    check_space(space, data)
    print(f"{describe(data).splitlines()[0]}\nspace {label(space.source, 'space')}\n", flush=True)
    wrong = 0
    images = data.inputs[data.splits["train"][:4]]
    images = np.asarray(normalise(images, data.mean, data.std))
    for finding in check(space, images, data.outputs):
        wrong += finding.wrong is not None
        print(f"{'no ' if finding.wrong else 'yes'}  {finding.tried}" + (f"\n     {finding.wrong}" if finding.wrong else ""),
              flush=True)
    if wrong:
        raise ValueError(f"space {values['space']} falls short in {wrong} point{'s' if wrong > 1 else ''}, said above")
    print("\nIt does what a space must do.")
    return 0


def methods(argv: Sequence[str]) -> int:
    """Runs `dnas methods`."""
    return _print("methods", argv, _described("method"), "Method")


def datasets(argv: Sequence[str]) -> int:
    """Runs `dnas datasets` and `dnas datasets check`."""
    if argv and argv[0] == "check":
        return _check_data(argv[1:])
    from dnas.data import DATASETS

    lines = {name: (load.__doc__ or "").partition("\n")[0] for name, load in DATASETS.items()}
    return _print("datasets", argv, lines | FILES, "Dataset, (x, y) or (x, y, x_test, y_test)")


def _check_data(argv: Sequence[str]) -> int:
    """Loads a source of data and prints what a search would print of it."""
    usage = ("usage: dnas datasets check SOURCE [--limit N] [--task TASK] [--target COLUMN] [--window N] [--resize SIDE] "
             "[--fit crop|pad|stretch] [--augment FUNCTION]")
    if {"-h", "--help"} & set(argv):
        print(f"{usage}\n\nReads the data, and prints its sizes and targets, the splits, and examples that are in two of "
              "them.")
        return 0
    if not argv or argv[0].startswith("-"):
        raise ValueError(usage)
    from dnas.data import describe

    print(describe(load_data(read_command("datasets check", "", ["--data", *argv], data_options()))))
    return 0


def _described(kind: str) -> dict[str, str]:
    return {name: registry.describe(name, kind) for name in sorted(registry.names(kind))}


def _print(command: str, argv: Sequence[str], lines: Mapping[str, str], returned: str) -> int:
    option = {"datasets": "data"}.get(command, command[:-1])
    if argv and argv[0] not in ("-h", "--help"):
        raise ValueError(f"unexpected argument {argv[0]!r}; `dnas {command}` takes none")
    lines = {**lines, "FILE.py:NAME": f"{OWN} {returned}; PACKAGE.MODULE:NAME likewise"}
    width = max(map(len, lines))
    print("\n".join(f"{name:<{width}}  {line}" for name, line in lines.items()))
    hint = "." if option == "data" else "; add --help for its options."
    print(f"\nUse one with `dnas search --{option} NAME`{hint}")
    return 0
