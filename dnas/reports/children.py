"""The part of a run's page about the sub-supernets of a few-shot search."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnas.reports import html
from dnas.runs.children import CHOICE, checked_children, read_choice
from dnas.runs.directory import CHILDREN
from dnas.runs.index import Quality


def children_parts(results: Mapping[str, Any], quality: Quality, folder: Path) -> list[str]:
    """A table of the children in a run's results, of which one was chosen; [] where there are none.

    folder: of the run. Raises ValueError where its results.json, or the choice.json that they are from, is damaged.
    """
    if "children" not in results:
        return []
    children, text = checked_children(results, folder / "results.json")["children"], quality.text
    if os.path.lexists(folder / CHILDREN / CHOICE):
        read_choice(folder)
    holdouts = [child["holdout"].get(quality.metric) for child in children]
    rows = [["chosen" if number == results["chosen"] else "", child["name"], child["within"], child["cell"],
             ", ".join(map(text, child["trained"])) or "not trained", "" if holdout is None else text(holdout)]
            for number, (child, holdout) in enumerate(zip(children, holdouts))]
    header = ["", "supernet", "its operations", "its network", "trained, valid", "hold-out of the supernet"]
    return [html.heading("The supernets of the few-shot search"), html.table(header, rows, text=4)]
