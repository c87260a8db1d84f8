"""From what a user names (a data set, files, a folder, a factory) to a Dataset."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dnas import registry
from dnas.data import graphs
from dnas.data.dataset import SPLITS, Dataset, from_arrays
from dnas.data.decode import Fit
from dnas.data.files import IDX, Arrays, cifar_folder, idx_file, idx_folder, npz, npz_graph, npz_pieces
from dnas.data.folders import holds_folders, picture_folder
from dnas.data.huggingface import PREFIX, hugging_face, is_saved

FORMS = ("a name (`dnas datasets` lists them), a folder of pictures in a folder for each class, a .npz file, the .npz "
         "pieces of one set, a folder of them, of the four idx files or of CIFAR-10's binary batches, hf:NAME, "
         "package.module:factory or file.py:factory")


def digits(limit: int | None = None) -> Dataset:
    """1,797 handwritten digits, 8x8 grey, 10 classes; scikit-learn carries them (Alpaydin & Kaynak 1998)."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)
    return from_arrays("digits", images, raw.target, pad=1, flip=False, limit=limit)


DATASETS: dict[str, Callable[..., Dataset]] = {"digits": digits}
"""Loaders by name, with one optional argument, `limit`; the docstring is the line that lists the data set."""


def load(source: str | Sequence[str], *, limit: int | None = None, resize: Sequence[int] = (),
         fit: Fit | None = None) -> Dataset:
    """The data set that `source` names.

    source: one of
        a name in DATASETS;
        a .npz with `x` [N, H, W, C] or [N, H, W] and `y` [N], and `x_test` and `y_test` if there are any;
        a .npz with a graph in planetoid's form (the arrays of `dnas.data.graphs.ARRAYS`);
        several .npz, the pieces of one set in order: one with `test` in its file name is the test set;
        a folder of such pieces (in the order of their names), of the four idx files of MNIST or Fashion-MNIST
        (plain or .gz), or of the binary batches of CIFAR-10;
        a folder of PNG or JPEG pictures, FOLDER/CLASS/PICTURE or FOLDER/train/CLASS/PICTURE beside test or val;
        `hf:NAME`, a data set of Hugging Face's hub, `hf:FOLDER`, or a folder that `datasets` wrote;
        `package.module:factory` or `file.py:factory`, a callable without arguments that returns a Dataset,
        (x, y) or (x, y, x_test, y_test).
    limit: how many images outside the test set to keep, evenly of each class; always the same ones.
    resize, fit: what becomes of pictures (folders of them, and hf:), see `dnas.data.pictures`; not for arrays.

    Augmentation: CIFAR-10 (or a 32x32x3 .npz with `cifar` in its name or its folder's) and idx files in a
    folder with `fashion` in its name get pad 4 and flips; other idx files pad 2, digits pad 1, else H // 8.
    Raises ValueError, in one line that names the file and what is wrong with it.
    """
    names = [source] if isinstance(source, str) else [str(name) for name in source]
    if not names:
        raise ValueError(f"no data named; give {FORMS}")
    pictures = _pictures(names[0]) if len(names) == 1 else None
    if pictures:
        return pictures(limit=limit, resize=resize, fit=fit)
    arrays = _arrays(names)
    if resize or fit:
        raise ValueError(f"{names[0]}: resize and fit are for folders of pictures and hf:; this is arrays of one size")
    return arrays(limit=limit)


def _arrays(names: Sequence[str]) -> Callable[..., Dataset]:
    """What loads the arrays that `names` stand for. Raises ValueError where one of them is not there."""
    if len(names) > 1:
        return partial(_from_npz, [_existing(name) for name in names])
    name = names[0]
    if name in DATASETS:
        return DATASETS[name]
    if ":" in name and not Path(name).exists():
        return partial(_from_factory, name)
    path = _existing(name)
    return partial(_from_folder, path) if path.is_dir() else partial(_from_npz, [path])


def _pictures(name: str) -> Callable[..., Dataset] | None:
    """What loads the pictures that `name` stands for; None if it stands for something else."""
    if name.startswith(PREFIX):
        return partial(hugging_face, name.removeprefix(PREFIX))
    folder = Path(name).expanduser()
    if name in DATASETS or not folder.is_dir() or _holds_arrays(folder):
        return None
    if is_saved(folder):
        return partial(hugging_face, name)
    return partial(picture_folder, folder, folder.resolve().name) if holds_folders(folder) else None


def _holds_arrays(folder: Path) -> bool:
    return any(idx_file(folder, stem) for stem in IDX.values()) or any(folder.glob("data_batch_*.bin")) \
        or any(folder.glob("*.npz"))


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if path.exists():
        return path
    near = difflib.get_close_matches(name.lower(), DATASETS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"give {FORMS}"
    raise ValueError(f"no file, folder or data set {name!r}; {hint}")


def _from_npz(paths: list[Path], limit) -> Dataset:
    for path in paths:
        if path.suffix != ".npz":
            raise ValueError(f"{path}: not a .npz file; data is {FORMS}")
    first = paths[0].resolve()
    found = npz_graph(paths[0], graphs.ARRAYS) if len(paths) == 1 else None
    if found:
        if limit is not None:
            raise ValueError(f"{paths[0]}: limit {limit} is not for a graph, whose nodes belong together")
        return graphs.planetoid(str(paths[0]), first.stem, found)
    name = first.stem + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    arrays = npz(paths[0]) if len(paths) == 1 else npz_pieces(paths)
    return _dataset(str(paths[0]), name, arrays, limit, *_suits(f"{first.parent.name}/{first.name}", arrays))


def _from_folder(folder: Path, limit) -> Dataset:
    name = folder.resolve().name
    if any(idx_file(folder, stem) for stem in IDX.values()):
        pad, flip = (4, True) if "fashion" in name.lower() else (2, False)
        return _dataset(str(folder), name, idx_folder(folder), limit, pad, flip)
    if any(folder.glob("data_batch_*.bin")):
        return _dataset(str(folder), name, cifar_folder(folder), limit, 4, True)
    pieces = sorted(folder.glob("*.npz"))
    if pieces:
        arrays = npz_pieces(pieces)
        return _dataset(str(folder), name, arrays, limit, *_suits(f"{name}/{pieces[0].name}", arrays))
    files = sorted(path.name for path in folder.iterdir())
    listed = ", ".join(files[:5] + ["..."] * (len(files) > 5)) or "nothing"
    raise ValueError(f"{folder}: holds {listed}; a folder of data has a folder of pictures for each class, .npz files, the "
                     f"four idx files (train-images-idx3-ubyte, ...) or data_batch_*.bin and test_batch.bin")


def _suits(name: str, arrays: Arrays) -> tuple[int | None, bool]:
    """(pad, flip) of npz data: those of CIFAR-10 if name and shape say so; pad None is the default."""
    cifar = "cifar" in name.lower() and arrays.x.shape[1:] == (32, 32, 3)
    return (4, True) if cifar else (None, False)


def _dataset(where: str, name: str, arrays: Arrays, limit, pad, flip) -> Dataset:
    return from_arrays(where, *arrays, pad=pad, flip=flip, limit=limit)._replace(name=name)


def _from_factory(name: str, limit) -> Dataset:
    found = registry.load(name)()
    if isinstance(found, Dataset):
        if limit is not None:
            raise ValueError(f"{name}: limit {limit} is not for a ready Dataset; return (x, y) instead")
        empty = [part for part in SPLITS if not len(found.splits.get(part, ()))]
        if empty:
            raise ValueError(f"{name}: its Dataset lacks images for {', '.join(empty)}; each needs some")
        return found
    if not isinstance(found, tuple) or len(found) not in (2, 4):
        what = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
        raise ValueError(f"{name}: it returned {what}; a factory returns a Dataset, (x, y) or "
                         f"(x, y, x_test, y_test)")
    return from_arrays(name, *found, limit=limit)
