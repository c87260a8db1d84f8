"""How a search is split into sub-supernets: what was said of it, which operations each has, and which has a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnas.algorithms.method import Method
from dnas.fewshot import SPLIT
from dnas.fewshot.gradient_matching import MOST as MOST_OPERATIONS
from dnas.runs.children import damaged
from dnas.runs.files import read_json
from dnas.types import OPEN, Genotype, Group, SearchSpace

WAYS = "gm", "exhaustive", "random"
DEFAULTS = None, 1, None, 16, "inherit", 8
"""Their values unless given."""
MOST_CHILDREN = 64
"""Sub-supernets of one search."""


@dataclass(frozen=True)
class Split:
    """How a search is split. by: of WAYS. splits: how often every supernet is split. epochs: after which; batches: of the
    train split from which gradients are matched. weights: those of the last children, of their parent or fresh.
    train_epochs: for which the last candidates are trained to choose one."""

    by: str
    splits: int
    epochs: tuple[int, ...]
    batches: int
    weights: str
    train_epochs: int

    @property
    def config(self) -> dict[str, Any]:
        """What a config says of it: the options of a search, by their names there."""
        values = self.by, self.splits, list(self.epochs), self.batches, self.weights, self.train_epochs
        return dict(zip(SPLIT, values))

    @property
    def restarted(self) -> int:
        """Epochs that the schedules of the last children leave out, since their weights are fresh."""
        return self.epochs[-1] if self.weights == "fresh" else 0


@dataclass(frozen=True)
class Part:
    """An edge that was split, and the operations that one of the children has there."""

    group: str
    edge: int
    ops: tuple[str, ...]


def schedule_epochs(config: Mapping[str, Any], epoch: int) -> int:
    """Over how many epochs the schedules go by which the supernet of a search's config was trained to `epoch`."""
    split = config.get("split", {"split_weights": "inherit"})
    fresh = split["split_weights"] == "fresh" and epoch > split["split_epochs"][-1]
    return config["epochs"] - (split["split_epochs"][-1] if fresh else 0)


def checked_split(options: Mapping[str, Any], epochs: int) -> Split | None:
    """The split of a search of `epochs` epochs; None without one. options: those of SPLIT that are not None.

    Raises ValueError, in one line, for what cannot be.
    """
    if "split" not in options:
        for name, value in options.items():
            raise ValueError(f"{name} is {value!r} without split; it needs split, one of {', '.join(WAYS)}")
        return None
    by, splits, ends, batches, weights, train_epochs = (dict(zip(SPLIT, DEFAULTS)) | options).values()
    if by not in WAYS:
        raise ValueError(f"split is {by!r}; it must be one of {', '.join(WAYS)}")
    for name, value, most in zip((SPLIT[1], SPLIT[3], SPLIT[5]), (splits, batches, train_epochs), (6, 10**6, 1000)):
        if type(value) is not int or not 1 <= value <= most:
            raise ValueError(f"{name} is {value!r}; it must be a whole number, 1 to {most:,}")
    if weights not in ("inherit", "fresh"):
        raise ValueError(f"split_weights is {weights!r}; it must be inherit or fresh")
    if ends is None:
        if epochs <= splits:
            raise ValueError(f"splits is {splits} and epochs {epochs}; each of the {splits + 1} stages needs an epoch")
        ends = [epochs * (n + 1) // (splits + 1) for n in range(splits)]
    ends = tuple(ends) if isinstance(ends, Sequence) else (ends,)
    whole = all(type(end) is int for end in ends)
    if len(ends) != splits or not whole or list(ends) != sorted({*ends}) or not 0 < ends[0] <= ends[-1] < epochs:
        raise ValueError(f"split_epochs is {' '.join(map(str, ends))}; it must be {splits} growing number"
                         f"{'s' * (splits > 1)}, above 0 and below the {epochs} epochs of the search")
    return Split(by, splits, ends, batches, weights, train_epochs)


def check_splits(split: Split, space: SearchSpace, method: Method, allowed: Mapping[str, np.ndarray], *, epochs: int,
                 steps: int) -> None:
    """Raises ValueError, in one line, for a space or a method that cannot be split so in a search of `epochs` epochs of
    `steps` steps. allowed: booleans `[E, K]` of each group, the operations with which the search begins."""
    if method.decide or method.stop:
        what = "decides on operations itself during a search" if method.decide else "ends a search by a rule of its own"
        name = method.source["name"] if method.source else "of your own"
        raise ValueError(f"split divides the operations and the epochs of a search, and method {name} {what}; leave one of "
                         "them out")
    method.numbers_of(epochs=epochs - split.restarted, steps=steps)
    counts = sorted((len(ops) for ops in divisible(choosable(space), allowed).values()), reverse=True)
    if len(counts) < split.splits:
        raise ValueError(f"splits is {split.splits}, and space {space.name} has {len(counts)} edges with operations to "
                         f"divide; each can be split once")
    if split.by == "gm" and counts[0] > MOST_OPERATIONS:
        raise ValueError(f"split gm tries all halves of an edge's operations, at most {MOST_OPERATIONS}, and space "
                         f"{space.name} has an edge of {counts[0]}; choose split random")
    children = int(np.prod(counts[:split.splits])) if split.by == "exhaustive" else 2**split.splits
    if children > MOST_CHILDREN:
        raise ValueError(f"splits is {split.splits}, which makes up to {children} supernets by split {split.by}; it must be "
                         f"at most {MOST_CHILDREN}: choose fewer splits" + ", or gm" * (split.by == "exhaustive"))


def choosable(space: SearchSpace) -> dict[str, np.ndarray]:
    """Booleans `[E, K]` of each group: which operations the space's own rule chooses where they score best. In the DARTS
    space that is never `none`."""
    others = {name: group.allowed * np.linspace(0, 1, group.shape[1]) for name, group in space.groups.items()}
    masks = {name: np.zeros(group.shape, bool) for name, group in space.groups.items()}
    for name, mask in masks.items():
        for e, k in np.argwhere(space.groups[name].allowed):
            scores = {**others, name: others[name].copy()}
            scores[name][e] = 2.0 * (np.arange(mask.shape[1]) == k)
            mask[e, k] = space.genotype(scores).decisions(space.groups)[name][e] == k
    return masks


def divisible(chosen: Mapping[str, np.ndarray], mask: Mapping[str, Any], decisions: Mapping[str, Any] | None = None,
              parts: Sequence[Part] = ()) -> dict[tuple[str, int], list[int]]:
    """The edges that a supernet can be split on, those that are neither decided nor in `parts`, and the operations to divide
    there, at least two: those of its mask that are among `chosen`, see `choosable`. Every child has the others."""
    done = {(part.group, part.edge) for part in parts}
    edges = {(name, e): np.flatnonzero(rows[e] & np.asarray(mask[name])[e]).tolist() for name, rows in chosen.items()
             for e in range(len(rows)) if decisions is None or int(decisions[name][e]) == OPEN}
    return {edge: ops for edge, ops in edges.items() if len(ops) > 1 and edge not in done}


def drawn_split(edges: Mapping[tuple[str, int], Sequence[int]], by: str,
                rng: np.random.Generator) -> tuple[tuple[str, int], tuple[tuple[int, ...], ...]]:
    """An edge that is drawn, and its operations in random halves, or for `exhaustive` each by itself."""
    edge = list(edges)[int(rng.integers(len(edges)))]
    ops = list(edges[edge])
    if by == "exhaustive":
        return edge, tuple((k,) for k in ops)
    order = rng.permutation(ops).tolist()
    return edge, tuple(tuple(sorted(half)) for half in (order[:len(ops) // 2], order[len(ops) // 2:]))


def read_split(file: Path, groups: Mapping[str, Group], edges: Mapping[tuple[str, int], Sequence[int]],
               ) -> tuple[tuple[str, int], list[list[int]], dict[str, Any]]:
    """The edge on which a supernet was split, the operations of each part, and all else that its split.json says.

    edges: those that it could be split on, see `divisible`. Raises ValueError, in one line, for a damaged file.
    """
    said = read_json(file)
    edge, parts = (said.get("group"), said.get("edge")), said.get("ops")
    if not isinstance(edge[0], str) or type(edge[1]) is not int or edge not in edges:
        raise damaged(file, f"group and edge are {repr(edge[0])[:80]} and {repr(edge[1])[:80]}, which must be an edge that "
                            "can be split")
    names = groups[edge[0]].edge_ops(edge[1])
    divided = {names[k]: k for k in edges[edge]}
    lists = isinstance(parts, list) and len(parts) > 1 and all(isinstance(part, list) and part for part in parts)
    ops = [op for part in parts for op in part] if lists else []
    if not all(isinstance(op, str) for op in ops) or sorted(ops) != sorted(divided):
        raise damaged(file, f"ops must be two or more parts of {', '.join(divided)}")
    if type(said.get("gradients")) is not int or said["gradients"] < 0:
        raise damaged(file, "gradients must be a whole number, 0 or more")
    if type(said.get("similarity", 0.0)) not in (int, float):
        raise damaged(file, "similarity must be a number")
    return edge, [[divided[op] for op in part] for part in parts], said


def child_mask(mask: Mapping[str, Any], edge: tuple[str, int], ops: Sequence[int],
               divided: Sequence[int]) -> dict[str, np.ndarray]:
    """The mask of the child that has `ops` of the operations that were `divided` on an edge."""
    masks = {name: np.array(rows) for name, rows in mask.items()}
    masks[edge[0]][edge[1], [k for k in divided if k not in ops]] = False
    return masks


def part_of(groups: Mapping[str, Group], edge: tuple[str, int], ops: Sequence[int]) -> Part:
    """The operations of an edge by name."""
    name, e = edge
    return Part(name, e, tuple(groups[name].edge_ops(e)[k] for k in ops))


def parts_text(parts: Sequence[Part], groups: Mapping[str, Group]) -> str:
    """What makes a child, for a person: `cell 0->1 skip conv, cell 1->2 pool`."""
    spell = lambda part: f"{part.group} {'->'.join(map(str, groups[part.group].edges[part.edge]))} {' '.join(part.ops)}"
    return ", ".join(map(spell, parts))


def contains(mask: Mapping[str, Any], groups: Mapping[str, Group], genotype: Genotype) -> bool:
    """Whether a mask allows all operations of a network."""
    chosen = genotype.decisions(groups)
    return all(bool(mask[name][e][k]) for name, row in chosen.items() for e, k in enumerate(row) if k >= 0)


def containing(masks: Sequence[Mapping[str, Any]], groups: Mapping[str, Group], genotype: Genotype) -> int:
    """The number of the supernet that contains a network: whose mask allows all its operations, the first of several.

    masks: booleans `[E, K]` of each group, of each supernet. Edges that a network does not have are in any supernet.
    Raises ValueError if none contains it, and as `Genotype.decisions`.
    """
    for number, mask in enumerate(masks):
        if contains(mask, groups, genotype):
            return number
    raise ValueError(f"none of the {len(masks)} supernets has all operations of {genotype!r}")
