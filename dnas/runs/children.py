"""The children of a few-shot search as they lie in its run: which there are, and which of them was chosen."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnas.runs.directory import CHILDREN, differences, refuse_link
from dnas.runs.files import read_json

CHOICE = "choice.json"
"""File in the folder of the children: which of them was chosen, and all of which it was one."""
NAME = re.compile(r"[0-9]+(-[0-9]+)*")
"""Of a child's folder."""


def damaged(file: str | Path, why: str) -> ValueError:
    """The error of a file of a few-shot search that holds something else than what the search wrote."""
    return ValueError(f"{file} is damaged: {why}; restore it")


def read_choice(folder: Path) -> dict[str, Any]:
    """What choice.json of the few-shot search in `folder` holds: see `checked_children`, and what it cost, "supernet_epochs"
    and "gradients". Raises ValueError, in one line, where it cannot be read, or is damaged."""
    refuse_link(folder / CHILDREN)
    file = folder / CHILDREN / CHOICE
    choice = checked_children(read_json(file), file)
    for key in ("supernet_epochs", "gradients"):
        if type(choice.get(key)) is not int or choice[key] < 0:
            raise damaged(file, f"{key} must be a whole number, 0 or more")
    return choice


def checked_children(said: Mapping[str, Any], file: str | Path) -> Mapping[str, Any]:
    """`said`, which the file has: "children", with the name of its folder, its operations, network and results for each, and
    the number of the "chosen" one. Raises ValueError, in one line, where it is anything else."""
    children, chosen = said.get("children"), said.get("chosen")
    if not isinstance(children, list) or not children or not all(map(_is_child, children)):
        raise damaged(file, "children must be supernets of a few-shot search, with their results")
    if len({child["name"] for child in children}) < len(children):
        raise damaged(file, "two of the children have one name")
    if type(chosen) is not int or not 0 <= chosen < len(children):
        raise damaged(file, f"chosen is {repr(chosen)[:80]}, which must be the number of a child, 0 to {len(children) - 1}")
    return said


def children_of(folder: Path) -> list[Path]:
    """The runs of the last children of the few-shot search in `folder`; [] of another search, or before one was chosen.

    Raises ValueError, in one line, where they are gone though the search has ended, or are other runs than it wrote.
    """
    config = read_json(folder / "config.json")
    if "split" not in config or "within" in config:
        return []
    refuse_link(folder / CHILDREN)
    file = folder / CHILDREN / CHOICE
    if not os.path.lexists(file):
        if (folder / "results.json").exists():
            raise ValueError(f"{folder} is a few-shot search that has ended, and its {file} is gone; restore it, or search "
                             "in another folder")
        return []
    children = [file.parent / child["name"] for child in read_choice(folder)["children"]]
    for child in children:
        refuse_link(child)
        own = read_json(child / "config.json")
        others = differences({name: value for name, value in own.items() if name != "within"}, config)
        if others or not own.get("within"):
            raise ValueError(f"{child} is not a child of {folder}: {others or 'its config has no within'}; restore it")
    return children


def _is_child(said: Any) -> bool:
    """Whether this is what choice.json and results.json have of a child."""
    if not isinstance(said, dict) or not all(isinstance(said.get(key), str) for key in ("name", "within", "cell")):
        return False
    trained, holdout = said.get("trained"), said.get("holdout")
    return NAME.fullmatch(said["name"]) is not None and isinstance(trained, list) and all(map(_is_number, trained)) \
        and isinstance(holdout, dict) and all(value is None or _is_number(value) for value in holdout.values())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300
