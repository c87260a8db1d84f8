"""Loads a Dataset from its source: a name, files, a folder or a factory."""

from __future__ import annotations

import difflib
import importlib.util
import operator
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from dnas import registry
from dnas.data import graphs
from dnas.data.dataset import Dataset, balanced, from_arrays, with_task
from dnas.data.decode import Fit
from dnas.data.files import IDX, Arrays, cifar_folder, expanded, idx_file, idx_folder, npz, npz_graph, npz_pieces
from dnas.data.folders import holds_folders, picture_folder
from dnas.data.huggingface import PREFIX, hugging_face, is_saved
from dnas.data.splits import SPLITS
from dnas.data.tables import csv_table
from dnas.data.text import text_file

FORMS = ("a name (`dnas datasets` lists them), a folder of pictures in a folder for each class, a .npz file, the .npz "
         "pieces of one set, a .csv table, a .txt text, a folder of .npz pieces, of the four idx files or of CIFAR-10's "
         "binary batches, hf:NAME, package.module:factory or file.py:factory")

MNIST = (28, 28)
"""Height and width of the images of MNIST and Fashion-MNIST."""
CLASS_WEIGHTS = ("equal", "balanced")


class Options(NamedTuple):
    """Options of `load` that some sources refuse; None if unset."""

    limit: int | None = None
    task: str | None = None
    target: str | None = None
    window: int | None = None
    standardise: bool | None = None

    def refuse(self, name: str, option: str, why: str) -> None:
        """Raises ValueError that begins with `name` and ends with `why` if the option is set."""
        if getattr(self, option) is not None:
            raise ValueError(f"{name}: {option} {getattr(self, option)} {why}")

    def of_arrays(self) -> dict[str, Any]:
        """The options that every source of arrays takes."""
        return {"limit": self.limit, "task": self.task, "standardise": self.standardise}


def digits(**options) -> Dataset:
    """1,797 handwritten digits, 8x8 grey, 10 classes; scikit-learn carries them (Alpaydin & Kaynak 1998)."""
    raw = _carried("digits.csv.gz", ",")
    if raw is None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        raw = np.column_stack([bunch.data, bunch.target])
    images = np.rint(raw[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return from_arrays("digits", images, raw[:, -1].astype(int), pad=1, flip=False, **options)


def diabetes(**options) -> Dataset:
    """442 patients, 10 measurements each, and how far diabetes went in a year: regression; scikit-learn carries them."""
    x, y = _carried("diabetes_data_raw.csv.gz", None), _carried("diabetes_target.csv.gz", None)
    if x is None or y is None:
        from sklearn.datasets import load_diabetes

        x, y = load_diabetes(return_X_y=True, scaled=False)
    return from_arrays("diabetes", x, y, kind="features", **options)


DATASETS: dict[str, Callable[..., Dataset]] = {"digits": digits, "diabetes": diabetes}
"""Loaders by name, with options of `from_arrays`; `dnas datasets` lists the first line of their docstrings."""


def load(source: str | os.PathLike | Sequence[str | os.PathLike], *, limit: int | None = None,
         resize: int | tuple[int, ...] = (), fit: Literal["crop", "pad", "stretch"] | None = None,
         task: str | None = None, target: str | None = None,
         window: int | None = None, standardise: bool | None = None, augment: str | Callable | None = None,
         class_weights: Literal["equal", "balanced"] = "equal") -> Dataset:
    """The data set that `source` names.

    source: one of
        a name in DATASETS;
        a .npz with `x` [N, ...] and `y` [N, ...], see `from_arrays`, and perhaps `x_test` and `y_test`;
        a .npz with a graph in planetoid's form (the arrays of `dnas.data.graphs.ARRAYS`);
        several .npz, the pieces of one set in order: one with `test` in its file name is the test set;
        a .csv table whose first line names the columns (`dnas.data.tables`);
        a .txt text, of which each character is predicted from those before it (`dnas.data.text`);
        a folder of such .npz pieces (in the order of their names), of the four idx files of MNIST or Fashion-MNIST
        (plain or .gz), or of the binary batches of CIFAR-10;
        a folder of PNG, JPEG, WebP or BMP pictures, FOLDER/CLASS/PICTURE or FOLDER/train/CLASS/PICTURE beside test or val;
        `hf:NAME`, a data set of Hugging Face's hub, `hf:FOLDER`, or a folder that `datasets` wrote;
        `package.module:factory` or `file.py:factory`, a callable without arguments that returns a Dataset,
        (x, y) or (x, y, x_test, y_test).

    Args:
        limit: Examples to use outside the test set, evenly of each class; always the same ones.
        resize: Size in pixels of pictures from folders and hf:, a side or height and width.
        fit: How pictures get that size: cropped to fill it, whole on black, or stretched.
        task: What to predict: a name, or the place of a function of yours that returns a Task.
        target: Column of a .csv to predict.
        window: Characters of a text in one input.
        standardise: Bring images and features to mean 0 and standard deviation 1, or leave them as they are.
        augment: Function (key, inputs) -> inputs instead of crops and flips, as file.py:function or package.module:function.
        class_weights: Weights of losses: equal for all examples, or balanced so that each class counts the same.

    augment may also be a function, see `Dataset`, but only a place becomes part of the result's `source`.

    Augmentation by default: CIFAR-10 (or a 32x32x3 .npz with `cifar` in its name or its folder's) and idx files in a folder
    with `fashion` in its name get pad 4 and flips; other idx files pad 2; both pads only at 28x28 pixels. digits get pad 1,
    all others the defaults of `from_arrays`.
    Raises ValueError that names the file and what is wrong with it.
    """
    names = [str(name) for name in ([source] if isinstance(source, (str, os.PathLike)) else source)]
    if not names:
        raise ValueError(f"no data named; give {FORMS}")
    if class_weights not in CLASS_WEIGHTS:
        raise ValueError(f"class_weights {class_weights!r}; it must be one of {', '.join(CLASS_WEIGHTS)}")
    function = registry.load(augment) if isinstance(augment, str) else augment
    if function is not None and not callable(function):
        raise ValueError(f"augment {augment!r}; it must be a function (key, inputs) -> inputs, or its place")
    options = Options(limit, task and registry.absolute(task), target, window, standardise)
    sides = (resize,) if isinstance(resize, int) else tuple(resize)
    data = _read(names, options, sides, fit)
    if function is not None:
        if data.graph is not None:
            raise ValueError(f"{data.name}: augment is not for a graph, all of whose nodes are used at every step")
        data = data._replace(augment=function)
    if class_weights == "balanced":
        data = data._replace(class_weights=balanced(data))
    place = registry.absolute(augment) if isinstance(augment, str) else None
    return data._replace(source=_source(names, options, sides, fit, place, class_weights))


def _source(names: Sequence[str], options: Options, resize: Sequence[int], fit: Fit | None, augment: str | None,
            class_weights: str) -> dict[str, Any]:
    """The content of `Dataset.source`, with absolute paths."""
    whole = lambda number: None if number is None else operator.index(number)
    values = {"data": [_absolute(name) for name in names], "task": options.task, "target": options.target,
              "window": whole(options.window), "standardise": False if options.standardise is False else None,
              "limit": whole(options.limit), "resize": [whole(side) for side in resize] or None, "fit": fit,
              "augment": augment, "class_weights": None if class_weights == "equal" else class_weights}
    return {key: value for key, value in values.items() if key == "limit" or value is not None}


def is_place(name: str) -> bool:
    """Whether a source of data is a function to import."""
    return ":" in name and not name.startswith(PREFIX) and name not in DATASETS and not Path(name).exists()


def _absolute(name: str) -> str:
    """A source of data that is valid from any folder."""
    prefix = PREFIX if name.startswith(PREFIX) else ""
    place = registry.absolute(name.removeprefix(prefix))
    path = os.path.expanduser(place)
    return prefix + (os.path.abspath(path) if name not in DATASETS and os.path.exists(path) else place)


def _read(names: Sequence[str], options: Options, resize: Sequence[int], fit: Fit | None) -> Dataset:
    """The data set of these names, without class weights and augmentation by the user."""
    end = Path(names[0]).suffix.lower()
    for option, suffix in ("target", ".csv"), ("window", ".txt"):
        if end != suffix:
            options.refuse(names[0], option, f"is for {suffix} files only")
    pictures = _pictures(names[0]) if len(names) == 1 else None
    if pictures:
        options.refuse(names[0], "standardise", "is not for pictures, which are always standardised")
        return with_task(pictures(limit=options.limit, resize=resize, fit=fit), options.task)
    arrays = _arrays(names)
    if resize or fit:
        raise ValueError(f"{names[0]}: resize and fit are for folders of pictures and hf:; these are arrays of one size")
    return arrays(options)


def _carried(name: str, delimiter: str | None) -> np.ndarray | None:
    """The numbers in a file of scikit-learn, without importing it, which takes a second; None if there is no file."""
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.origin).parent / "datasets" / "data" / name if spec and spec.origin else None
    return np.loadtxt(path, delimiter=delimiter) if path and path.is_file() else None


def _arrays(names: Sequence[str]) -> Callable[[Options], Dataset]:
    """The loader of the arrays that `names` stand for. Raises ValueError if one does not exist."""
    if len(names) > 1:
        return partial(_from_npz, [_existing(name) for name in names])
    name = names[0]
    if name in DATASETS:
        return lambda options: DATASETS[name](**options.of_arrays())
    if is_place(name):
        return partial(_from_factory, name)
    path = _existing(name)
    if path.is_dir():
        return partial(_from_folder, path)
    return partial({".csv": _from_csv, ".txt": _from_text}.get(path.suffix.lower(), _from_npz), [path])


def _pictures(name: str) -> Callable[..., Dataset] | None:
    """The loader of the pictures that `name` stands for; None if it does not name pictures."""
    if name.startswith(PREFIX):
        return partial(hugging_face, name.removeprefix(PREFIX))
    folder = expanded(name)
    if name in DATASETS or not folder.is_dir() or _holds_arrays(folder):
        return None
    if is_saved(folder):
        return partial(hugging_face, name)
    return partial(picture_folder, folder, folder.resolve().name) if holds_folders(folder) else None


def _holds_arrays(folder: Path) -> bool:
    return any(idx_file(folder, stem) for stem in IDX.values()) or any(folder.glob("data_batch_*.bin")) \
        or any(folder.glob("*.npz"))


def _existing(name: str) -> Path:
    path = expanded(name)
    if path.is_file() or path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{name} is neither a file nor a folder; give {FORMS}")
    near = difflib.get_close_matches(name.lower(), DATASETS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"give {FORMS}"
    raise ValueError(f"no file, folder or data set {name!r}; {hint}")


def _from_csv(paths: list[Path], options: Options) -> Dataset:
    return csv_table(paths[0], target=options.target, **options.of_arrays())


def _from_text(paths: list[Path], options: Options) -> Dataset:
    options.refuse(str(paths[0]), "standardise", "is for images and features; a text is tokens")
    return with_task(text_file(paths[0], window=options.window, limit=options.limit), options.task)


def _from_npz(paths: list[Path], options: Options) -> Dataset:
    for path in paths:
        if path.suffix != ".npz":
            raise ValueError(f"{path}: not a .npz, .csv or .txt file; data is {FORMS}")
    first = paths[0].resolve()
    graph = npz_graph(paths[0], graphs.ARRAYS) if len(paths) == 1 else None
    if graph:
        for option in "limit", "standardise":
            options.refuse(str(paths[0]), option, "is not for a graph, all of whose nodes are used")
        return with_task(graphs.planetoid(str(paths[0]), first.stem, graph), options.task)
    name = first.stem + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    arrays = npz(paths[0]) if len(paths) == 1 else npz_pieces(paths)
    return _dataset(str(paths[0]), name, arrays, options, *_suits(f"{first.parent.name}/{first.name}", arrays))


def _from_folder(folder: Path, options: Options) -> Dataset:
    name = folder.resolve().name
    if any(idx_file(folder, stem) for stem in IDX.values()):
        arrays, fashion = idx_folder(folder), "fashion" in name.lower()
        pad = (4 if fashion else 2) if arrays.x.shape[1:] == MNIST else None
        return _dataset(str(folder), name, arrays, options, pad, fashion)
    if any(folder.glob("data_batch_*.bin")):
        return _dataset(str(folder), name, cifar_folder(folder), options, 4, True)
    pieces = sorted(folder.glob("*.npz"))
    if pieces:
        arrays = npz_pieces(pieces)
        return _dataset(str(folder), name, arrays, options, *_suits(f"{name}/{pieces[0].name}", arrays))
    files = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(files[:5] + ["..."] * (len(files) > 5)) or "nothing"
    raise ValueError(f"{folder}: holds {listed}; a folder of data has a folder of pictures for each class, .npz files, the "
                     f"four idx files (train-images-idx3-ubyte, ...) or data_batch_*.bin and test_batch.bin")


def _suits(name: str, arrays: Arrays) -> tuple[int | None, bool]:
    """(pad, flip) of npz data: those of CIFAR-10 by name and shape, else the defaults."""
    cifar = "cifar" in name.lower() and arrays.x.shape[1:] == (32, 32, 3)
    return (4, True) if cifar else (None, False)


def _dataset(where: str, name: str, arrays: Arrays, options: Options, pad, flip) -> Dataset:
    return from_arrays(where, *arrays, pad=pad, flip=flip, **options.of_arrays())._replace(name=name)


def _from_factory(name: str, options: Options) -> Dataset:
    result = registry.load(name)()
    if isinstance(result, Dataset):
        for option in "limit", "standardise":
            options.refuse(name, option, "is not for a ready Dataset; return (x, y) instead")
        empty = [part for part in SPLITS if not len(result.splits.get(part, ()))]
        if empty:
            raise ValueError(f"{name}: its Dataset lacks examples for {', '.join(empty)}; each split needs some")
        return with_task(result, options.task)
    if not isinstance(result, tuple) or len(result) not in (2, 4):
        what = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise ValueError(f"{name}: it returned {what}; a factory must return a Dataset, (x, y) or "
                         f"(x, y, x_test, y_test)")
    where, _, function = name.rpartition(":")
    short = f"{os.path.basename(where).removesuffix('.py')}:{function}"
    return from_arrays(name, *result, **options.of_arrays())._replace(name=short)
