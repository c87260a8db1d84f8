"""Text for a terminal."""

from __future__ import annotations

import contextvars
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def plain(text: str) -> str:
    """`text` on one line, without control characters of terminals."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


options = contextvars.ContextVar("options", default=frozenset())
"""The names of the options of the command that runs, as Python spells them."""


def as_flags(text: str) -> str:
    """`text` with the names of the command's options as its flags spell them: arch-warmup for arch_warmup.

    Names within paths, keys of a config and what is said for Python, `name=value`, stay.
    """
    return re.sub(r"(?<![\w./\\'\"-])[a-z]+(?:_[a-z0-9]+)+(?![\w/\\'\"=-]|\.\w)",
                  lambda word: word[0].replace("_", "-") if word[0] in options.get() else word[0], text)


def terminal_width() -> int | None:
    """Columns of the terminal; None if standard output is not one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def size_text(cost: Mapping[str, int]) -> str:
    """Parameters and multiply-adds as text."""
    return f"{cost['params']:,} parameters, {cost['macs']:,} multiply-adds per example"


def front_text(front, names: Sequence[str] = (), percent: Sequence[str] = ()) -> str:
    """A Pareto front as a table, and how much of the objectives' box it covers. names, percent: see `Front.rows`."""
    from dnas.fronts.problem import limits_text
    from dnas.reports.text import columns

    limits = limits_text(front.limits)
    share = front.hypervolume()
    rows = front.rows(names, percent)
    return "\n".join([columns([[plain(cell) for cell in row] for row in rows], left=0),
                      f"front      {len(front.networks):,} of {len(front.evaluated):,} networks evaluated" +
                      (f" with {limits}" if limits else ""),
                      f"covers     {100 * share:.1f} % of the box between the best and the worst value of each objective"])


def front_of_search(front, supernet) -> str:
    """`front_text` of a front in a supernet, with the notations of its networks, and the metric in % where it is a share."""
    from dnas.task import task_of

    task = task_of(supernet.data)
    names = [supernet.space.format(each.genotype) for each in front.networks]
    return front_text(front, names, [task.metric] if task.percent else [])


def budget_lines(config: Mapping[str, Any], space, genotype, gates=None) -> list[str]:
    """A line for each limit of a config: whether `genotype` meets it, and the expected cost by `gates`."""
    from dnas.algorithms.budget import BAND, NAMES, likelihood, met
    from dnas.api.supernet import budget_of

    budget = budget_of(config)
    if not budget.limits:
        return []
    shares = met(space, budget, genotype)
    verdict = "met" if shares["ok"] else f"NOT MET, which takes 0 to {100 * BAND:.0f} % less" + (
        " of one and no more of the other" if len(budget.limits) > 1 else "")
    mixture = space.expected(likelihood(space)(gates)) if gates else {}
    return [f"{limit:,.0f} {NAMES[name]}: {verdict}; this network has {100 * abs(shares[name] - 1):.1f} % "
            f"{'more' if shares[name] > 1 else 'less'}" + (f", one drawn by the gates {mixture[name]:,.0f}" if gates else "")
            for name, limit in budget.limits.items()]
