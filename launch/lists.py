"""`dnas spaces`, `methods`, `selections` and `datasets`: the names, with a line each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dnas import registry
from launch.arguments import data_options, has_option, load_data, read_command
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
    """Checks all requirements of a space; 2 if it fails one."""
    usage = ("usage: dnas spaces check SPACE [--space.OPTION VALUE] [--data SOURCE]; SPACE is a name, "
             "package.module:factory or file.py:factory")
    if {"-h", "--help"} & set(argv):
        print(f"{usage}\n\nChecks all that a space must do on a few examples of the data, and says where it fails.\n"
              "Without --data these are digits for a space of images, else random inputs of the factory's default shape.\n"
              "Options of the space: dnas search --space SPACE --help")
        return 0
    if not argv or argv[0].startswith("-"):
        raise ValueError(usage)
    from dnas.config import label
    from search_spaces.check import check

    values = read_search("spaces check", "", ["--space", *argv])
    shape = None if any(has_option(argv, flag) for flag in ("data", "config")) else _default_shape(values["space"])
    drawn = shape is not None and len(shape) != 3
    what, space, inputs, outputs = _drawn_example(values, shape) if drawn else _data_example(values)
    print(f"{what}\nspace {label(space.source, 'space')}\n", flush=True)
    wrong = 0
    for finding in check(space, inputs, outputs):
        wrong += finding.wrong is not None
        print(f"{'no ' if finding.wrong else 'yes'}  {finding.tried}" + (f"\n     {finding.wrong}" if finding.wrong else ""),
              flush=True)
    if wrong:
        raise ValueError(f"space {values['space']} falls short in {wrong} point{'s' if wrong > 1 else ''}, said above")
    print("\nIt does what a space must do.")
    return 0


def _data_example(values: Mapping[str, Any]) -> tuple:
    """The subject of a check as text, the space, and normalised examples of the data with the shape of their outputs."""
    import numpy as np

    import dnas
    from dnas.api.search_plan import check_space
    from dnas.data import describe, normalise

    data = load_data(values)
    space = dnas.space(values["space"], data, **values["space_options"])
    check_space(space, data)
    inputs = np.asarray(normalise(data.inputs[data.splits["train"][:4]], data.mean, data.std))
    return describe(data).splitlines()[0], space, inputs, data.outputs


def _drawn_example(values: Mapping[str, Any], shape: tuple[int, ...]) -> tuple:
    """The same of random inputs of this shape."""
    from types import SimpleNamespace

    import dnas
    from search_spaces.check import draw_example

    classes = _default(values["space"], "classes")
    classes = classes if isinstance(classes, int) else 10
    data = SimpleNamespace(image=shape, classes=classes, graph=None, vocabulary=classes)
    space = dnas.space(values["space"], data, **values["space_options"])
    try:
        inputs, outputs = draw_example(space, shape, classes)
    except Exception as error:
        raise ValueError(f"space {values['space']} cannot be built for inputs of shape {shape}, the default of its factory: "
                         f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    kind = "tokens" if space.input_dtype == "int32" else "numbers"
    return f"data random {kind}, inputs of shape {shape}, {classes} classes", space, inputs, outputs


def _default_shape(name: str) -> tuple[int, ...] | None:
    """The default shape of one input of a space's factory; None if it has none."""
    shape = _default(name, "image")
    return tuple(shape) if isinstance(shape, tuple | list) and all(isinstance(size, int) for size in shape) else None


def _default(name: str, parameter: str) -> Any:
    """The default of a parameter of a space's factory, None if it has none."""
    parameters = inspect.signature(registry.resolve(name, "space")).parameters
    default = parameters[parameter].default if parameter in parameters else None
    return None if default is inspect.Parameter.empty else default


def methods(argv: Sequence[str]) -> int:
    """Runs `dnas methods`."""
    return _print("methods", argv, _described("method"), "Method")


def selections(argv: Sequence[str]) -> int:
    """Runs `dnas selections`."""
    return _print("selections", argv, _described("selection"), "Selection")


def datasets(argv: Sequence[str]) -> int:
    """Runs `dnas datasets` and `dnas datasets check`."""
    if argv and argv[0] == "check":
        return _check_data(argv[1:])
    from dnas.data import DATASETS

    lines = {name: (load.__doc__ or "").partition("\n")[0] for name, load in DATASETS.items()}
    return _print("datasets", argv, lines | FILES, "Dataset, (x, y) or (x, y, x_test, y_test)")


def _check_data(argv: Sequence[str]) -> int:
    """Loads a source of data and prints its summary as a search does."""
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
    for name, line in lines.items():
        print(textwrap.fill(line, 80, initial_indent=f"{name:<{width}}  ", subsequent_indent=" " * (width + 2),
                            break_long_words=False, break_on_hyphens=False))
    used = "dnas select RUN --selection" if option == "selection" else f"dnas search --{option}"
    hint = "." if option == "data" else "; add --help for its options."
    print(f"\nUse one with `{used} NAME`{hint}")
    return 0
