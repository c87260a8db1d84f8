"""Types that all parts share: groups of edges, gates, genotypes, batches, networks and search spaces."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dnas import registry

if TYPE_CHECKING:  # reading a run does not import jax
    from jax import Array
else:
    Array = Any
Tree = Any
Weights = Tree
"""Shared network parameters: the variables of the inner problem."""
Stats = Tree
"""Running averages of batch norm."""
Gates = Mapping[str, Array]
"""Mixing weights `[E, K]` of each group of edges."""
Logits = Mapping[str, Array]
"""Architecture logits `[E, K]` of each group; a relaxation may add entries of its own."""

SKIP_DROPOUT = "skip_dropout"
"""Entry of gates beside the groups, a scalar in [0, 1): the probability with which each entry of what a skip connection puts
out is dropped, the others scaled up (P-DARTS, arXiv 1904.12760). A space that reads it lists it in `reads`."""

OPEN, REMOVED = -1, -2
"""Values of a decision other than an operation: still mixed, and removed from the network."""


class Batch(NamedTuple):
    """A mini-batch: inputs `[B, ...]`, such as images `[B, H, W, C]`; targets `[B, ...]`, such as classes `[B]` integers;
    weights `[B]` of their losses, None for equal ones."""

    inputs: Array
    targets: Array
    weights: Array | None = None

    def mean(self, losses: Array) -> Array:
        """Mean of the examples' losses `[B]`, times the weights if there are any."""
        return (losses if self.weights is None else losses * self.weights).mean()


@dataclass(frozen=True)
class Group:
    """Edges that share one architecture array `[E, K]`.

    edges: (source, target) of each edge, in the order of the array's rows.
    ops: the operations' names in the order of its columns; or one such tuple per edge, if edges differ.
        Shorter tuples are padded to K in the array; padded entries never receive a gate.
    """

    edges: tuple[tuple[int, int], ...]
    ops: tuple[Any, ...]

    def __post_init__(self):
        if not self.edges or not self.ops:
            raise ValueError("a Group needs at least one edge and one operation")
        edges = tuple((int(s), int(t)) for s, t in self.edges)
        shared = all(isinstance(op, str) for op in self.ops)
        ops = tuple(self.ops) if shared else tuple(tuple(row) for row in self.ops)
        if len(set(edges)) != len(edges):
            raise ValueError(f"a Group names an edge twice: {edges}")
        if not shared and len(ops) != len(edges):
            raise ValueError(f"a Group has {len(edges)} edges but operations for {len(ops)}")
        for row in [ops] if shared else ops:
            if not row or len(set(row)) != len(row):
                raise ValueError(f"an edge needs operations with different names, got {row}")
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "ops", ops)

    def edge_ops(self, edge: int) -> tuple[str, ...]:
        """Names of the operations on edge number `edge`."""
        return self.ops if isinstance(self.ops[0], str) else self.ops[edge]

    @property
    def shape(self) -> tuple[int, int]:
        """(E, K)."""
        return len(self.edges), max(len(self.edge_ops(e)) for e in range(len(self.edges)))

    @property
    def allowed(self) -> np.ndarray:
        """Boolean `[E, K]`: which entries of the array stand for an operation."""
        edges, ops = self.shape
        return np.array([[k < len(self.edge_ops(e)) for k in range(ops)] for e in range(edges)])

    def softmax(self, logits: Any) -> np.ndarray:
        """Softmax over operations of logits `[..., E, K]`; zero in padded entries."""
        masked = np.where(self.allowed, np.asarray(logits, np.float64), -np.inf)
        powers = np.exp(masked - masked.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True)


def is_skip(op: str) -> bool:
    """Whether an operation is a skip connection or the identity, by its name."""
    return "skip" in op or "identity" in op


class Choice(NamedTuple):
    """One edge of a discrete network and its operation."""

    source: int
    target: int
    op: str


SCHEMA = 1
LONGEST = 10**6
"""Most characters of a genotype, or of another description of a network in a file."""


@dataclass(frozen=True)
class Genotype:
    """A discrete architecture: the operation on each of its edges. Hashable, so that it can be static under jit.

    space, options: name and options of the space. choices: per group the edges, in the order of the space's rule.
    """

    space: str
    options: Mapping[str, Any] = field(hash=False)
    choices: Mapping[str, tuple[Choice, ...]] = field(hash=False)

    def __post_init__(self):
        choices = {g: tuple(Choice(*c) for c in cs) for g, cs in self.choices.items()}
        object.__setattr__(self, "options", dict(self.options))
        object.__setattr__(self, "choices", choices)

    def __hash__(self):
        return hash((self.space, tuple((g, cs) for g, cs in sorted(self.choices.items()))))

    def __repr__(self) -> str:
        return f"<genotype of {self.space}: " + " | ".join(
            f"{name}: " + ", ".join(f"{op}({source}->{target})" for source, target, op in chosen)
            for name, chosen in self.choices.items()) + ">"

    def _repr_svg_(self) -> str:
        """Its picture, for notebooks."""
        return registry.load("dnas.reports.cells:genotype_svg")(self)

    def decisions(self, groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
        """Operation index of every edge `[E]`, REMOVED if the genotype lacks the edge.

        Raises ValueError if the genotype names a group, edge or operation that `groups` lacks.
        """
        if set(self.choices) != set(groups):
            raise ValueError(f"genotype has groups {sorted(self.choices)}, the space has {sorted(groups)}")
        decisions = {}
        for name, group in groups.items():
            row = np.full(len(group.edges), REMOVED, np.int32)
            for source, target, op in self.choices[name]:
                if (source, target) not in group.edges:
                    raise ValueError(f"genotype has edge {source}->{target}, not an edge of group {name!r}")
                e = group.edges.index((source, target))
                if op not in group.edge_ops(e):
                    raise ValueError(f"genotype has {op!r} on edge {source}->{target} of group {name!r}; "
                                     f"the operations there are {', '.join(group.edge_ops(e))}")
                if row[e] != REMOVED:
                    raise ValueError(f"genotype names edge {source}->{target} of group {name!r} twice")
                row[e] = group.edge_ops(e).index(op)
            decisions[name] = row
        return decisions

    def gates(self, groups: Mapping[str, Group]) -> dict[str, np.ndarray]:
        """One-hot gates `[E, K]` of this genotype; a removed edge's row is zero."""
        return {name: (row[:, None] == np.arange(groups[name].shape[1])).astype(np.float32)
                for name, row in self.decisions(groups).items()}

    @classmethod
    def from_decisions(cls, space: SearchSpace, decisions: Mapping[str, Any]) -> Genotype:
        """The genotype of operation indices `[E]` per group; edges marked REMOVED, and those that the other decisions skip,
        are left out."""
        decisions = space.without_skipped(decisions)
        choices = {name: tuple(Choice(s, t, group.edge_ops(e)[int(decisions[name][e])])
                               for e, (s, t) in enumerate(group.edges) if int(decisions[name][e]) != REMOVED)
                   for name, group in space.groups.items()}
        return cls(space.name, space.options, choices)

    def to_json(self) -> str:
        """Text of `genotype.json`; `from_json` reads it back to an equal genotype."""
        groups = {g: [{"source": c.source, "target": c.target, "op": c.op} for c in cs]
                  for g, cs in self.choices.items()}
        return json.dumps({"schema": SCHEMA, "space": self.space, "options": self.options, "groups": groups}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Reads `to_json`'s text. Raises ValueError on anything else."""
        if len(text) > LONGEST:
            raise ValueError(f"not a genotype: it has more than {LONGEST:,} characters")
        try:
            raw = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not a genotype: not valid JSON ({error})") from None
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise ValueError(f"not a genotype of schema {SCHEMA}")
        try:
            if not isinstance(raw["options"], dict):
                raise TypeError
            _name(raw["space"])
            choices = {_name(g): tuple(Choice(_index(c["source"]), _index(c["target"]), _name(c["op"])) for c in cs)
                       for g, cs in raw["groups"].items()}
        except (KeyError, TypeError, AttributeError):
            raise ValueError("not a genotype: it needs space, options, and groups whose edges have "
                             "source, target and op, all names printable") from None
        return cls(raw["space"], raw["options"], choices)


def _index(value) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _name(value) -> str:
    """`value` if it is a printable text, which is safe in terminals, pictures and pages; else TypeError."""
    if not isinstance(value, str) or not value.isprintable():
        raise TypeError
    return value


class Network(NamedTuple):
    """A discrete network, to be trained from scratch.

    init(key, images) -> weights, stats
    apply(weights, stats, images, *, train, key, drop_path=None) -> logits `[B, classes]`, stats. `train` uses batch
        statistics and returns updated averages; otherwise the averages are used, and the key may be None. One with an
        auxiliary head returns, while training, a pair of logits: its own and the head's.
        drop_path: probability with which each operation's output is dropped while training, a scalar, traced or not.
    source() -> (Flax module, options of its operations, index of the operation of each edge by group), for exports; None
        for a network that is not a Flax module.
    """

    init: Callable[..., tuple[Weights, Stats]]
    apply: Callable[..., tuple[Array, Stats]]
    source: Callable[[], tuple] | None = None


class SearchSpace(NamedTuple):
    """A search space, as pure functions. `search_spaces.flax_space` makes one of a Flax module.

    name, options: enough to build the space again; groups: the searched edges, by name.
    init(key, images) -> weights, stats
    apply(weights, stats, gates | genotype, images, *, train, key) -> logits `[B, classes]`, stats
        With gates it is the supernet; with a genotype the discrete network, which contains only the chosen
        operations, under the same names. `train` uses batch statistics and returns updated averages.
    genotype(scores: {group: [E, K]}) -> Genotype, by the space's own rule, ties to the lower index.
    inherit(weights, genotype) -> the sub-tree of supernet weights (or stats) that the discrete network uses.
    cost(genotype | None) -> {"params", "macs"} of the stand-alone network, or of the supernet for None; macs are
        multiply-adds per example.
    network(genotype, auxiliary=False) -> the stand-alone network, as it is trained after the search, of the size in the
        space's options. Its weights are not the supernet's. auxiliary: with a second head for training; ValueError if the
        space has none.
    format(genotype) -> the published notation, on one line; parse(text) -> Genotype, raising ValueError.
    expected(gates) -> {"params", "macs"}: the mean of `cost` over networks drawn by the gates, edge by edge; at
        one-hot gates `cost` itself. Differentiable; numpy gates give numpy results. None if unavailable.
    inherited: this space with the `network` and `cost` of discrete networks that take the weights of `inherit` and compute
        what the supernet computes at one-hot gates; None if unavailable.
    input_dtype: of its inputs: float32, or int32 for tokens.
    cells: how many cells share the gates of each group, where the supernet also takes a group's gates `[cells, E, K]`, other
        ones for each cell in the order of the network; without a group whose cells cannot be told apart.
    reads: the entries of gates beside the groups that the supernet reads, such as SKIP_DROPOUT.
    source: {"name": ..., options}, the config that builds the space again; None if it was not built by name.
    skipped(decisions: {group: [E]}) -> {group: booleans [E]}: the edges that a network of these operation indices does not
        have, such as those of a block beyond its depth; groups that always have all of theirs are left out. With the last
        operation of every edge none is skipped: sizes are ascending.
    reorder(weights, trees, trained=None) -> trees, with the most important channels first, so that small networks have
        those; what the largest network computes stays. Traceable. trees: of weights, stats, or optimiser states, in which
        nested dicts have the names of weights and stats; all get the order that `weights` say. trained: {group: booleans
        `[E, K]`}, the sizes whose networks must keep their channels; default: all channels may move. None if unavailable.
    """

    name: str
    options: Mapping[str, Any]
    groups: Mapping[str, Group]
    init: Callable[..., tuple[Weights, Stats]]
    apply: Callable[..., tuple[Array, Stats]]
    genotype: Callable[[Mapping[str, Any]], Genotype]
    inherit: Callable[[Tree, Genotype], Tree]
    cost: Callable[[Genotype | None], dict[str, int]]
    network: Callable[..., Network]
    format: Callable[[Genotype], str]
    parse: Callable[[str], Genotype]
    expected: Callable[[Gates], dict[str, Array]] | None = None
    inherited: SearchSpace | None = None
    input_dtype: str = "float32"
    cells: Mapping[str, int] = {}
    reads: tuple[str, ...] = ()
    source: Mapping[str, Any] | None = None
    skipped: Callable[[Mapping[str, Any]], Mapping[str, np.ndarray]] = lambda decisions: {}
    reorder: Callable[..., list[Tree]] | None = None

    def draw(self, rng: np.random.Generator) -> Genotype:
        """A network drawn uniformly: the space's own rule on random scores."""
        return self.genotype({name: rng.random(group.shape) for name, group in self.groups.items()})

    def largest(self) -> Genotype:
        """The network of the last operation of every edge, or as near as the space's own rule comes: it skips none, and has
        as many edges as the rule keeps."""
        return self.genotype({name: group.allowed * np.arange(1.0, group.shape[1] + 1)
                              for name, group in self.groups.items()})

    def without_skipped(self, decisions: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Decisions `[E]` of each group with REMOVED for the edges that the others skip, so that equal networks are
        equal genotypes."""
        return {name: np.asarray(decisions[name]) for name in self.groups} | {
            name: np.where(edges, REMOVED, decisions[name]) for name, edges in self.skipped(decisions).items()}

    def __repr__(self) -> str:
        groups = ", ".join(f"{name}: {len(group.edges)} edges" for name, group in self.groups.items())
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"<search space {self.name}({options[:300]}): {groups}>"


class Evaluator(Protocol):
    """A function from a genotype to named numbers: accuracies in %, seconds, millions."""

    def __call__(self, genotype: Genotype) -> Mapping[str, float]: ...
