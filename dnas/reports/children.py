"""The part of a run's page about the sub-supernets of a few-shot search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dnas.reports import html
from dnas.runs.index import Quality


def children_parts(results: Mapping[str, Any], quality: Quality, where: str) -> list[str]:
    """A table of the children in a run's results, of which one was chosen; [] where there are none.

    where: the file of the results, for messages. Raises ValueError for a damaged one.
    """
    if "children" not in results:
        return []
    try:
        rows = [["chosen" if number == results["chosen"] else "", str(child["name"]), str(child["within"]),
                 str(child["cell"]), ", ".join(quality.text(value) for value in child["trained"]) or "not trained",
                 quality.text(child["holdout"][quality.metric])] for number, child in enumerate(results["children"])]
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"{where}: children must be supernets of a few-shot search, with their results") from None
    header = ["", "supernet", "its operations", "its network", "trained, valid", "hold-out of the supernet"]
    return [html.heading("The supernets of the few-shot search"), html.table(header, rows, text=4)]
