"""Scores of many networks in a trained supernet, saved on the way: what `dnas rank` compares with a table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dnas.runs.files import read_arrays, write_arrays
from dnas.selection.types import Context
from dnas.types import Genotype, Group, Tree

AT_ONCE = 96
"""Networks that are scored between two writings of the file."""
DECISIONS, SECONDS, DESCRIBED = "decisions", "seconds", "described"
"""Arrays of a file of scores that are no scores."""
REMEDY = "remove it to score anew"
"""What to do about a file of scores that does not fit."""


class NetworkScores(NamedTuple):
    """Scores of n networks. decisions: `[n, E]`, index of the operation of each edge, groups side by side; values: {"loss",
    and each metric of the task: [n]}, means over the examples, losses in nats or squared units; seconds: that scoring them
    took, without compiling."""

    decisions: np.ndarray
    values: Mapping[str, np.ndarray]
    seconds: float

    def of(self, decisions: np.ndarray) -> NetworkScores | None:
        """The scores of the networks `decisions` `[N, E]` in their order; None where any of them has none. seconds: in
        proportion."""
        place = {row.tobytes(): number for number, row in enumerate(self.decisions)}
        rows = [place.get(row.tobytes()) for row in np.asarray(decisions, np.int32)]
        if None in rows:
            return None
        return NetworkScores(self.decisions[rows], {name: values[rows] for name, values in self.values.items()},
                             self.seconds * len(set(rows)) / max(len(place), 1))


def score_networks(context: Context, genotypes: Sequence[Genotype], examples: int, *,
                   state_of: Callable[[Genotype], Tree], file: Path | None = None, of: Mapping[str, Any] = {},
                   on_scored: Callable[[int, float], None] = lambda done, left: None) -> NetworkScores:
    """Scores networks of the context's space at one-hot gates, with batch statistics, on the first `examples` of the mixed
    validation split.

    examples: of `whole_batches`, for those are what is computed. state_of: the state of the supernet that scores a network,
    one object for all networks that share it. file: an .npz that is written after every AT_ONCE networks; those that it has
    are not scored again. of: JSON that tells this supernet from another, see `dnas.api.supernet.fingerprint`.
    on_scored(networks done, seconds left): after each writing.
    Raises ValueError, in one line and before anything is scored, for a number of examples out of range, and where the
    file is damaged or of something else.
    """
    examples, groups = checked_examples(examples, context.examples), context.space.groups
    described = json.dumps({**of, "examples": examples}, sort_keys=True)
    scores = _begun(file, described, groups, ["loss", *context.task.metrics])
    there = {row.tobytes() for row in scores.decisions}
    missing = [each for each in dict.fromkeys(genotypes) if row_of(each, groups).tobytes() not in there]
    by_state: dict[int, tuple[Tree, list[Genotype]]] = {}
    for genotype in missing:
        state = state_of(genotype)
        by_state.setdefault(id(state), (state, []))[1].append(genotype)
    if missing:
        context.score(state, [missing[-1].gates(groups)], 0, 1)  # compiles
    began, done = time.monotonic(), 0
    for state, networks in by_state.values():
        for first in range(0, len(networks), AT_ONCE):
            some, started = networks[first:first + AT_ONCE], time.monotonic()
            parts = [context.score(state, [each.gates(groups) for each in some[at:at + context.width]], 0, examples)
                     for at in range(0, len(some), context.width)]
            values = {name: np.concatenate([known, *(part[name].mean(1, dtype=np.float64) for part in parts)])
                      for name, known in scores.values.items()}
            scores = NetworkScores(np.concatenate([scores.decisions, [row_of(each, groups) for each in some]]), values,
                                   scores.seconds + time.monotonic() - started)
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_arrays(file, {DECISIONS: scores.decisions, **values, SECONDS: np.float64(scores.seconds),
                                    DESCRIBED: np.array(described)})
            done += len(some)
            on_scored(len(genotypes) - len(missing) + done, (time.monotonic() - began) / done * (len(missing) - done))
    return scores.of(np.stack([row_of(each, groups) for each in genotypes]))


def checked_examples(examples: int | None, most: int) -> int:
    """How many examples to score on; None stands for all `most` of the split. Raises ValueError where there are not so many.
    """
    if examples is not None and (type(examples) is not int or not 1 <= examples <= most):
        raise ValueError(f"examples is {examples!r}; it must be 1 to {most:,}, the size of the validation split")
    return most if examples is None else examples


def whole_batches(context: Context, examples: int | None) -> int:
    """How many examples there are in the number of the context's batches that is nearest to `examples`, at least one batch;
    None stands for the whole split. Raises ValueError as `checked_examples`."""
    batches = max(1, round(checked_examples(examples, context.examples) / context.rows))
    return context.examples if examples is None else min(context.examples, batches * context.rows)


def row_of(genotype: Genotype, groups: Mapping[str, Group]) -> np.ndarray:
    """The operation indices `[E]` of all groups of a network, side by side."""
    return np.concatenate(list(genotype.decisions(groups).values())).astype(np.int32)


def read_scores(file: Path) -> NetworkScores:
    """The scores in a file of `score_networks`. Raises ValueError, in one line, where it is damaged."""
    return _read(file)[0]


def _begun(file: Path | None, described: str, groups: Mapping[str, Group], names: Sequence[str]) -> NetworkScores:
    """The scores in the file, of no network if it does not exist. Raises ValueError where they are of something else."""
    edges = sum(len(group.edges) for group in groups.values())
    if file is None or not file.exists():
        return NetworkScores(np.zeros((0, edges), np.int32), {name: np.zeros(0) for name in names}, 0.0)
    scores, before = _read(file)
    if scores.decisions.shape[1] != edges or scores.values.keys() != {*names}:
        raise ValueError(f"{file} is not a file of scores in this space (its arrays do not fit); {REMEDY}")
    there, here = json.loads(before), json.loads(described)
    for key in ("examples", *here):
        if there.get(key) != here[key]:
            what = f"on {there.get(key)} examples, and not on {here[key]}" if key == "examples" else \
                f"of another state of the supernet ({key} {str(there.get(key))[:12]} there, {str(here[key])[:12]} here)"
            raise ValueError(f"{file} has scores {what}; {REMEDY}")
    return scores


def _read(file: Path) -> tuple[NetworkScores, str]:
    arrays = read_arrays(file, REMEDY)
    try:
        decisions, described = arrays.pop(DECISIONS), str(arrays.pop(DESCRIBED))
        scores = NetworkScores(decisions, arrays, float(arrays.pop(SECONDS)))
        if not isinstance(json.loads(described), dict) or decisions.ndim != 2 or decisions.dtype != np.int32 or any(
                values.shape != (len(decisions),) or values.dtype != np.float64 for values in arrays.values()) or not (
                0 < scores.seconds < np.inf):
            raise ValueError("its arrays do not fit")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is not a file of scores ({str(error)[:80]}); {REMEDY}") from None
    return scores, described
