"""Lanes: several searches in one program, each on devices of its own where there are several, on one device along a leading
axis where that is fast, else in turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.method import Algorithm
from dnas.algorithms.schedules import Hyper
from dnas.data import Dataset
from dnas.engine.compile import Examples, epoch_of, start_search
from dnas.engine.devices import available, planned, size, spelled
from dnas.engine.mesh import DATA, LANE, mesh_of, sizes_of
from dnas.platform import on_cpu
from dnas.types import Array, Tree


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite. The message names the step and the last good checkpoint."""


class LaneProgram(NamedTuple):
    """An epoch of several searches.

    advance: `(states, hypers, keys, train, valid, *, on_metrics) -> states` of `width` lanes, all of them lists; train and
        valid hold rows `[steps, batch]`; on_metrics(metrics, done) as for `dnas.engine.compile.epoch_of`, with values
        `[width, done]`.
    width: lanes that one call advances.
    memory: bytes for all lanes, on the first device, as estimated; None if unavailable. note: how the lanes run and the
    memory, as text. compiled: the program.
    """

    advance: Callable
    width: int
    memory: int | None
    note: str
    compiled: jax.stages.Compiled


def start_lanes(algorithm: Algorithm, data: Dataset, examples: Examples, state: Tree, hyper: Hyper, steps: int, batch: int,
                lanes: int, *, at_once: bool | None = None, key: Any = None) -> Callable[[], LaneProgram]:
    """Starts compiling an epoch of `lanes` searches with states like `state`: as many at once as fit the memory, and one on
    each group of devices at least. Call the returned function to wait for the program.

    at_once: False to run one after another on a device, by the program of a single search. None: False on a CPU, where a
        convolution of several networks at once takes longer than one by one; True elsewhere.
    key: see `dnas.engine.compile.program_key`.
    """
    at_once = not on_cpu() if at_once is None else at_once
    groups = sizes_of(mesh_of(examples))[LANE]
    start = lambda each: start_search(algorithm, data, examples, state, hyper, steps, batch,
                                      each * groups if each * groups > 1 else None, key=key)
    started = start(-(-lanes // groups) if at_once else 1)
    return lambda: _fitting(start, started, examples, state, steps, lanes, at_once)


def _fitting(start: Callable, started: Callable, examples: Examples, state: Tree, steps: int, lanes: int,
             at_once: bool) -> LaneProgram:
    """The program of as many lanes as fit the memory: the `started` one, else one of fewer lanes."""
    sizes, memory_there, all_at_once = sizes_of(mesh_of(examples)), available(), None
    groups = sizes[LANE]
    share = -(-lanes // groups)  # searches of each group of devices
    fitting = share if at_once else 1
    while True:
        each = -(-share // -(-share // fitting))
        program = started()
        plan, width = planned(program), each * groups
        # between epochs the states of several groups lie on the first device
        memory = plan and plan + (lanes if groups > 1 else lanes - width) * size(state)
        all_at_once = all_at_once or memory
        if each == 1 or None in (memory, memory_there) or memory <= memory_there:
            break
        one = (plan - size(examples)) / each - (size(state) if groups == 1 else 0)  # beside its state, which is there anyway
        fitting = min(max(int((memory_there - size(examples) - lanes * size(state)) / one), 1), each - 1)
        started = start(-(-share // -(-share // fitting)))
    use = f"{spelled(memory)} of {spelled(memory_there)}"
    if groups > 1:
        note = f"{lanes} searches on {groups * sizes[DATA]} devices, {width} at a time: {use} on the first device"
    elif not at_once:
        why = " (a CPU takes longer for all at once)" if on_cpu() else ""
        note = f"{lanes} searches in turn, by one program{why}: {use}"
    elif width == lanes:
        note = f"{lanes} searches at once, in one program: {use}"
    else:
        note = f"{lanes} searches at once need {spelled(all_at_once)}, {fitting} would fit: {width} at a time, {use}"
    if None not in (memory, memory_there) and memory > memory_there:
        note += ", which may be too little"
    run = _on_groups if groups > 1 else _in_turn if width == 1 else _at_once
    return LaneProgram(run(epoch_of(program, examples, steps)), width, memory, note, program)


def _in_turn(advance: Callable) -> Callable:
    """`LaneProgram.advance` by the program of a single search."""
    def run(states, hypers, keys, train, valid, *, on_metrics):
        each = lambda metrics, done: on_metrics({name: values[None] for name, values in metrics.items()}, done)
        return [advance(states[0], hypers[0], keys[0], train[0], valid[0], on_metrics=each)[0]]

    return run


def _at_once(advance: Callable) -> Callable:
    """`LaneProgram.advance` by a program of several lanes."""
    def run(states, hypers, keys, train, valid, *, on_metrics):
        hyper = {name: np.stack([hyper[name] for hyper in hypers]) for name in hypers[0]}
        return list(advance(tuple(states), hyper, jnp.stack(keys), np.stack(train), np.stack(valid),
                            on_metrics=on_metrics)[0])

    return run


def _on_groups(advance: Callable) -> Callable:
    """`LaneProgram.advance` by a program of lanes on several groups of devices, of states with a leading axis."""
    def run(states, hypers, keys, train, valid, *, on_metrics):
        state, hyper = (jax.tree.map(lambda *leaves: np.stack(leaves), *jax.device_get(trees)) for trees in (states, hypers))
        state, _ = advance(state, hyper, jnp.stack(keys), np.stack(train), np.stack(valid), on_metrics=on_metrics)
        state = jax.device_get(state)
        return [jax.tree.map(lambda leaf, n=n: jnp.asarray(leaf[n]), state) for n in range(len(states))]

    return run


class Epoch(NamedTuple):
    """The next epoch of a lane: its state before it and the arguments of its steps.

    train, valid: rows `[steps, batch]`. on_metrics(metrics, done, seconds): called with the values `[done]` of the first
    steps and this lane's share of their seconds.
    """

    state: Tree
    hyper: Hyper
    key: Array
    train: np.ndarray
    valid: np.ndarray
    on_metrics: Callable


class EpochEnd(NamedTuple):
    """A lane after an epoch. summary: last return value of its on_metrics; seconds: its share of the time."""

    state: Tree
    summary: object
    seconds: float


def advance_lanes(program: LaneProgram, due: Mapping[int, Epoch]) -> dict[int, EpochEnd | NonFiniteLoss]:
    """Runs the epochs that are due, by the number of their lane; a lane whose on_metrics raised NonFiniteLoss ends with it.

    Lanes 0..width - 1 run at once, then the next `width`, each always at the same index of the program, on which the last
    bits of its results depend. Idle lanes repeat an active lane's steps; the result is discarded.
    """
    groups = {}
    for number, epoch in due.items():
        groups.setdefault(number // program.width, {})[number % program.width] = epoch
    return {group * program.width + place: lane for group, epochs in groups.items()
            for place, lane in _advance_group(program, epochs).items()}


def _advance_group(program: LaneProgram, due: Mapping[int, Epoch]) -> dict[int, EpochEnd | NonFiniteLoss]:
    began, summaries, failed = time.monotonic(), {}, {}
    active = next(iter(due.values()))
    idle = lambda: active._replace(state=jax.tree.map(jnp.copy, active.state))
    share = lambda: (time.monotonic() - began) / len(due)

    def on_metrics(metrics: Mapping[str, np.ndarray], done: int) -> None:
        for place, epoch in due.items():
            try:
                if place not in failed:
                    values = {name: value[place] for name, value in metrics.items()}
                    summaries[place] = epoch.on_metrics(values, done, share())
            except NonFiniteLoss as error:
                failed[place] = error
        if len(failed) == len(due):
            raise next(iter(failed.values()))

    with contextlib.suppress(NonFiniteLoss):
        states, hypers, keys, train, valid, _ = map(list, zip(*(due.get(place) or idle() for place in range(program.width))))
        states = program.advance(states, hypers, keys, train, valid, on_metrics=on_metrics)
    return {place: failed.get(place) or EpochEnd(states[place], summaries[place], share()) for place in due}
