"""What a page shows of a front: a picture, its networks, and the command that trains one of them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dnas.fronts.front import Evaluated, Front
from dnas.fronts.problem import limits_text
from dnas.reports import html
from dnas.runs.index import Quality


def options_text(selection: Mapping[str, Any]) -> str:
    """The options of a selection's config on one line, without those that are not set."""
    spell = lambda value: " ".join(map(str, value)) if isinstance(value, list) else value
    return ", ".join(f"{name} {spell(value)}" for name, value in selection.items()
                     if name != "name" and value is not None and value != [])


def front_parts(front: Front, folder: Path, run: Path, quality: Quality, names: Sequence[str],
                lying: Callable[[Path, str], str]) -> list[str]:
    """The front that the selection in `folder` found in the supernet of the search in `run`.

    quality: how networks are judged. names: of the front's networks, none where they are not known. lying: a picture that
    lies in a run, as HTML.
    """
    limits, metric = limits_text(front.limits), quality.metric
    judged = (f" Each network's {metric} is measured with the weights of the supernet, on the validation examples and by "
              "the statistics of their batches; that at the top of the page is of the hold-out examples."
              if metric in front.objectives else "")
    about = (f"{folder.name}: of {len(front.evaluated):,} networks{f' with {limits}' if limits else ''} the front has "
             f"{len(front.networks):,}, none of which dominates another; it covers {100 * front.hypervolume():.1f} % of the "
             f"box between the best and the worst value of each objective.{judged}")
    rows = front.rows(names, [metric] if quality.percent else [])
    if names:
        rows = [[number, name, *values] for number, *values, name in rows]
    return [html.paragraph(about), lying(folder / "front.svg", f"{folder.name}: all networks evaluated, and the front"),
            html.table(rows[0], rows[1:], text=2 if names else 1), *_command(front, folder, run)]


def _command(front: Front, folder: Path, run: Path) -> list[str]:
    """The command that trains a network from the middle of the front."""
    middle = front.networks[len(front.networks) // 2]
    cost = _cost(front, middle)
    if cost is None:
        return []
    value = middle.values[cost]
    limit = f"{cost}<={value:.0f}" if value == round(value) else f"{cost}<={value!r}"
    number = 1 + front.networks.index(front.best(limit))
    command = shlex.join(["dnas", "train", str(run), "--selection", folder.name, "--pick", limit])
    return [html.code(f"# trains network {number} from scratch; with --inherit it begins with the weights of the supernet\n"
                      f"{command}")]


def _cost(front: Front, network: Evaluated) -> str | None:
    """The cost by which a network is picked: an objective after the first of which less is better, else multiply-adds."""
    others = [name for name, better in list(front.objectives.items())[1:] if better < 0][-1:]
    return next((name for name in (*others, "macs") if name in network.values), None)
