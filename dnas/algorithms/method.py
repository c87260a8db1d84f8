"""A method: numbers, two players and the algorithm by which they move; and a method bound to a space and a task."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from dnas.algorithms.decisions import Stop
from dnas.algorithms.players import Player, Problem, SearchState, gates_of, objective
from dnas.algorithms.relaxations import edge_normalised
from dnas.algorithms.schedules import ENGINE, Hyper, time_of
from dnas.task import Task, check_name
from dnas.types import Array, Batch, Gates, Genotype, Logits, SearchSpace, Weights

MOST = float(np.finfo(np.float32).max)
"""Largest number that a compiled program takes."""


PARTS = ("relaxation", "perturbation", "descent", "architecture")
"""Parts that two joined methods could both want: how gates are made, what they are changed to, how the weights move, and
what the architecture descends on, is decided or stopped by."""


class Steps(NamedTuple):
    """init(key, inputs, hyper) -> state; step(key, state, train, valid, hyper) -> state, {name: scalar}. Pure functions.

    begin(state) -> state: sets `extra` to match, after the weights were replaced by those of another search.
    importance(key, state, batch, hyper) -> [B], at least 0. From the second epoch on, training examples are drawn with
        replacement: when a share s of the epochs is done, with chances that are s times in proportion to the importance
        and 1 - s times even. None: each example once in every epoch.
    """

    init: Callable[..., SearchState]
    step: Callable[..., tuple[SearchState, dict[str, Array]]]
    begin: Callable[[SearchState], SearchState] = lambda state: state
    importance: Callable[..., Array] | None = None


class Algorithm(NamedTuple):
    """A method bound to a space and a task: pure functions of a state and of the method's numbers, all traceable but select.

    init(key, inputs, hyper) -> state, which depends on the shape of the inputs only;
    step(key, state, train, valid, hyper) -> state, {name: scalar}, all of which must stay finite;
    gates(state, hyper) -> the gates by which the supernet is evaluated, decided edges one-hot;
    select(state, hyper) -> Genotype, by the method's own rule;
    begin(state) -> state, importance(key, state, batch, hyper) -> [B] or None, see `Steps`;
    loss(player, state, batch, hyper, key=None) -> (weights, arch) -> scalar: what the player, "weights" or
        "arch", minimises on a batch, its relaxation, perturbation and terms included, with the draws of the key, by
        default the same every time.
    """

    init: Callable[..., SearchState]
    step: Callable[[Array, SearchState, Batch, Batch, Hyper], tuple[SearchState, dict[str, Array]]]
    gates: Callable[[SearchState, Hyper], Gates]
    select: Callable[[SearchState, Hyper], Genotype]
    begin: Callable[[SearchState], SearchState]
    loss: Callable[..., Callable[[Weights, Logits], Array]]
    importance: Callable[..., Array] | None = None


@dataclass(frozen=True, eq=False)
class Method:
    """A way of searching, as the files of `dnas.methods` return it. It is for any space and number of epochs.

    hyper: its numbers by name. They are arguments of the compiled step: another value compiles nothing anew.
    arch, weights: the players. algorithm: Problem -> Steps, how they take turns; see `bilevel`, `single_level`, `rarts`.
    check: (hyper) -> None, raises ValueError in one line for numbers out of range; called when the method is built, and
        when a search begins, then with the numbers of the search (`dnas.algorithms.schedules.ENGINE`) as well.
    select: (space, state, gates) -> Genotype, the method's own rule; None for the space's rule on the gates.
    decide: (space, state, record) -> state with other decisions or another mask, called on the host after each epoch
        with its record, which also has "epochs", those of the search, and "trajectory", the logits `[epoch, E, K]` of each
        group before the first epoch and after those before this one; None for none.
    stop: (records) -> Stop or None, called likewise.
    check_search: (space, search) -> None, raises ValueError in one line for a search that the method cannot carry out;
        called before it begins. search has "epochs", "diagnose", epochs between diagnoses or 0, "decisions", those that the
        search begins with, and "weights", whether it begins with those of another search or of a trained network.
    changed, replaced: which of PARTS `extend` has changed, and which of them replaced whatever was there.
    still: whether its architecture never moves.
    selection: the name of the selection that ends a search unless another is given; None for that of the preset.
    source: {"name": ..., options}, the config that builds the method again; None if it was not built by name.
    """

    hyper: Mapping[str, float]
    arch: Player
    weights: Player
    algorithm: Callable[[Problem], Steps]
    check: Callable[[Hyper], None] = lambda hyper: None
    select: Callable[[SearchSpace, SearchState, Gates], Genotype] | None = None
    decide: Callable[[SearchSpace, SearchState, Mapping[str, Any]], SearchState] | None = None
    stop: Callable[[Any], Stop | None] | None = None
    check_search: Callable[[SearchSpace, Mapping[str, Any]], None] = lambda space, search: None
    changed: frozenset[str] = frozenset()
    replaced: frozenset[str] = frozenset()
    still: bool = False
    selection: str | None = None
    source: Mapping[str, Any] | None = None

    def __post_init__(self):
        hyper = {name: _number(name, value) for name, value in self.hyper.items()}
        clash = hyper.keys() & ENGINE.keys()
        if clash:
            raise ValueError(f"a method's number cannot be called {min(clash)!r}: the search itself has one")
        for player in (self.arch, self.weights):
            for name in player.terms:
                check_name("term", name)
        object.__setattr__(self, "hyper", hyper)
        self.check(hyper)
        self.check({name: float(np.float32(value)) for name, value in hyper.items()})  # as the program rounds them

    def replace(self, **numbers: float) -> Method:
        """This method with other numbers. Raises ValueError for a name that it does not have, or a value out of range."""
        for name in numbers:
            if name not in self.hyper:
                near = difflib.get_close_matches(name, self.hyper, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.hyper)}"
                raise ValueError(f"the method has no number {name!r}; {hint}")
        listed = self.source is not None and numbers.keys() <= self.source.keys()
        return dataclasses.replace(self, hyper={**self.hyper, **numbers},
                                   source={**self.source, **numbers} if listed else None)

    def extend(self, *, arch: Mapping[str, Any] | None = None, weights: Mapping[str, Any] | None = None, relaxation=None,
               terms: Mapping[str, Any] | None = None, hyper: Mapping[str, float] | None = None,
               check: Callable[[Hyper], None] | None = None, check_search: Callable[..., None] | None = None,
               **parts) -> Method:
        """This method with other parts.

        Args:
            arch, weights: fields of `Player` to replace in that player; terms join those that it has.
            relaxation, terms: the same for both players. Edges that are normalised stay so.
            hyper: numbers to add or replace. check, check_search: further checks beside those that it has.
            parts: other fields of `Method`.

        Raises ValueError where `relaxation` would undo another that was chosen.
        """
        sides = {name: {**(arch or {}), **(weights or {})}.get(name) for name in PARTS}
        replaced = {name for name in ("perturbation", "descent") if sides[name]} | ({"relaxation"} if relaxation else set())
        moves = any((arch or {}).get(name) for name in ("terms", "optimizer")) or parts.keys() & {"decide", "stop"}
        changed = replaced | ({"relaxation"} if sides["relaxation"] else set()) | ({"architecture"} if moves else set())
        if relaxation and "relaxation" in self.changed:
            raise ValueError("the method makes its gates in its own way: leave out the option relaxation")
        if relaxation and self.arch.relaxation.edges and not relaxation.edges:
            relaxation = edge_normalised(relaxation)
        shared = {} if relaxation is None else {"relaxation": relaxation}
        joined = lambda player, changes: player._replace(
            **{**shared, **changes, "terms": {**player.terms, **(terms or {}), **changes.get("terms", {})}})

        return dataclasses.replace(self, hyper={**self.hyper, **(hyper or {})}, arch=joined(self.arch, arch or {}),
                                   weights=joined(self.weights, weights or {}), check=_in_turn(self.check, check),
                                   check_search=_in_turn(self.check_search, check_search), source=None,
                                   changed=self.changed | changed, replaced=self.replaced | replaced, **parts)

    def join(self, change: Callable[..., Method], options: Mapping[str, Any], names: tuple[str, str]) -> Method:
        """This method, changed by `change(method, **options)`, which is what another method does to DARTS.

        Raises ValueError, with the names of both, if the other would undo a part of this one, or could do nothing.
        """
        after = change(dataclasses.replace(self, changed=frozenset(), replaced=frozenset()), **options)
        undone = [part for part in PARTS if part in self.changed & after.replaced]
        if undone:
            turn = "" if undone[0] in self.replaced else f", or put {names[1]} first"
            raise ValueError(f"{names[1]} replaces the {undone[0]}, which {names[0]} has set: leave one of them out{turn}")
        if self.still and "architecture" in after.changed:
            raise ValueError(f"{names[1]} acts on the moves of the architecture, and that of {names[0]} never moves: leave "
                             "one of them out")
        return dataclasses.replace(after, changed=self.changed | after.changed, replaced=self.replaced | after.replaced)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={value:g}" for name, value in self.hyper.items())
        return f"<method {self.source['name'] if self.source else 'of your own'}: {numbers}>"

    def bind(self, space: SearchSpace, task: Task) -> Algorithm:
        """The functions that search `space` for `task`. Raises ValueError if a term has the name of its metric."""
        for player in (self.arch, self.weights):
            clash = player.terms.keys() & task.metrics.keys()
            if clash:
                raise ValueError(f"a term cannot be called {min(clash)!r}: the task {task.name} has that metric")
        problem = Problem(space, task, self.arch, self.weights)
        steps = self.algorithm(problem)

        def gates(state, hyper):
            return gates_of(problem, self.weights, None, state.arch, state, hyper, time_of(hyper, state.step))

        def select(state, hyper):
            if self.select:
                return self.select(space, state, gates(state, hyper))
            return space.genotype({name: row for name, row in gates(state, hyper).items() if name in space.groups})

        def loss(name, state, batch, hyper, key=None):
            memory, key = state.memory[name] if state.memory else {}, jax.random.key(0) if key is None else key
            of = objective(problem, getattr(problem, name), key, batch, state, hyper, time_of(hyper, state.step), memory)
            return lambda weights, arch: of(weights, arch)[0]

        return Algorithm(steps.init, steps.step, gates, select, steps.begin, loss, steps.importance)

    def numbers_of(self, *, epochs: int, steps: int, fine_tuning: float = 0.0) -> dict[str, Any]:
        """All numbers of a search by this method of `epochs` epochs of `steps` steps, as arrays: the hyper of a step.

        Raises ValueError if the method's check refuses them.
        """
        whole = {**self.hyper, "epochs": epochs, "steps": steps, "fine_tuning": fine_tuning}
        self.check(whole)
        return {name: np.asarray(value, np.int32 if name in ("epochs", "steps") else np.float32)
                for name, value in whole.items()}


def _in_turn(first: Callable[..., None], second: Callable[..., None] | None) -> Callable[..., None]:
    """Both checks, one after the other."""
    def both(*args):
        first(*args)
        second(*args)

    return both if second else first


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{name} is {value!r}, it must be a number")
    most = 2**31 - 1 if isinstance(value, (int, np.integer)) else MOST
    if abs(value) > most and value != np.inf:
        raise ValueError(f"{name} is {value:g}, it must be at most {most:g}")
    return value
