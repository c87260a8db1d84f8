"""Folders of pictures, one for each class, perhaps inside a folder for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnas.data.dataset import Dataset
from dnas.data.decode import File, Fit, is_picture
from dnas.data.pictures import PARTS, Labelled, from_pictures

NOT_PICTURES = ("Thumbs.db", "desktop.ini")
"""Files that operating systems leave; names that begin with a dot and __MACOSX are ignored as well."""


def holds_folders(folder: Path) -> bool:
    """Whether `folder` has sub-folders, of classes or splits."""
    return bool(_folders(folder))


def picture_folder(folder: Path, name: str, *, limit: int | None = None, resize: Sequence[int] = (),
                   fit: Fit | None = None) -> Dataset:
    """The Dataset of FOLDER/CLASS/PICTURE, or of FOLDER/train/CLASS/PICTURE beside test or val; see `PARTS`.

    Classes are numbered in the order of their names. Files that are not pictures are skipped, see `is_picture`. Options:
    see `from_pictures`. Raises ValueError that names the file or folder at fault.
    """
    parts = _parts(folder)
    class_names = [path.name for path in _folders(parts["train"])]
    pictures: list[Labelled] = []
    skipped: list[str] = []
    for part, place in parts.items():
        for path in _folders(place):
            if path.name not in class_names:
                raise ValueError(f"{path}: not a class of {parts['train']}, which has {', '.join(class_names[:5])}"
                                 f"{', ...' if len(class_names) > 5 else ''}")
            label = class_names.index(path.name)
            files, others = _files(path)
            pictures += [Labelled(File(str(file)), label, part) for file in files]
            skipped += map(str, others)
    return from_pictures(str(folder), name, pictures, class_names, limit=limit, resize=resize, fit=fit, skipped=skipped)


def _parts(folder: Path) -> dict[str, Path]:
    """The folder of each split; {"train": folder} if there are only classes."""
    parts, others = {}, []
    for path in _folders(folder):
        part = PARTS.get(path.name.lower())
        if part in parts:
            raise ValueError(f"{path}: {parts[part].name} exists too; there must be one folder for each split")
        if part:
            parts[part] = path
        else:
            others.append(path.name)
    if "train" not in parts or not holds_folders(parts["train"]):
        return {"train": folder}
    if others:
        raise ValueError(f"{folder / others[0]}: beside {parts['train'].name} there may be only test and val; "
                         "put classes into them, or remove it")
    return parts


def _folders(folder: Path) -> list[Path]:
    """The sub-folders of `folder`, by name."""
    return sorted((path for path in folder.iterdir()
                   if path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"), key=lambda p: p.name)


def _files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a class, by name, whole or not, and its other files."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name not in NOT_PICTURES)
    inner = next((path for path in files if path.is_dir()), None)
    if inner:
        raise ValueError(f"{inner}: a folder inside that of a class; pictures lie in FOLDER/CLASS, or in "
                         "FOLDER/train/CLASS and FOLDER/test/CLASS")
    pictures = [path for path in files if is_picture(path)]
    if not pictures:
        others = f", only others such as {files[0].name}" if files else ""
        raise ValueError(f"{folder}: no pictures in it{others}; fill it or remove it")
    return pictures, sorted({*files} - {*pictures})
