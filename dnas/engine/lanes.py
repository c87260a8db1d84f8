"""Several searches advanced by one program: all at once where the device is good at that, else in turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dnas.algorithms.players import Method
from dnas.data import Dataset
from dnas.engine.compile import Examples, compile_steps, epoch_by
from dnas.engine.devices import available, planned, size, spelled
from dnas.platform import on_cpu
from dnas.types import Array, Tree


class NonFiniteLoss(RuntimeError):
    """A loss became NaN or infinite. The message names the step and the last good checkpoint."""


class Together(NamedTuple):
    """An epoch of several searches.

    advance: `(states, keys, train, valid, *, look) -> states` of `width` searches, all of them lists, train and valid of
        rows `[steps, batch]`; look(infos, done) as for `dnas.engine.compile.epoch_of`, its values `[width, done]`.
    width: searches that one call advances; there are calls until all have been.
    memory: bytes for all searches, as estimated; None where nobody knows. note: on both, for a person.
    """

    advance: Callable
    width: int
    memory: int | None
    note: str


def epochs_of(method: Method, data: Dataset, images: Examples, state: Tree, steps: int, batch: int, searches: int, *,
              at_once: bool | None = None) -> Together:
    """Compiles an epoch of `searches` searches with states like `state`: of as many at once as the memory allows.

    at_once: False for one after another by the program of a single one. None: so on a CPU, where a convolution of
        several networks at once takes longer than their convolutions one by one; at once elsewhere.
    """
    at_once = not on_cpu() if at_once is None else at_once
    fitting, had, asked = searches if at_once else 1, available(), None
    while True:
        width = -(-searches // -(-searches // fitting))
        compiled, infos = compile_steps(method, data, images, state, steps, batch, width if width > 1 else None)
        plan = planned(compiled)
        memory = plan and plan + (searches - width) * size(state)
        asked = asked or memory
        if width == 1 or None in (memory, had) or memory <= had:
            break
        each = (plan - size(images)) / width - size(state)  # beside its state, which is there in any case
        fitting = min(max(int((had - size(images) - searches * size(state)) / each), 1), width - 1)
    use = f"{spelled(memory)} of {spelled(had)}"
    if not at_once:
        why = " (a CPU takes longer for all at once)" if on_cpu() else ""
        note = f"{searches} searches in turn, by one program{why}: {use}"
    elif width == searches:
        note = f"{searches} searches at once, in one program: {use}"
    else:
        note = f"{searches} searches at once need {spelled(asked)}, {fitting} would fit: {width} at a time, {use}"
    if None not in (memory, had) and memory > had:
        note += ", which may be too little"
    return Together(_listed(epoch_by(compiled, infos, images, steps), width), width, memory, note)


def _listed(advance: Callable, width: int) -> Callable:
    """`Together.advance` of the epoch of a program of `width` searches."""
    def alone(states, keys, train, valid, *, look):
        each = lambda infos, done: look({name: values[None] for name, values in infos.items()}, done)
        return [advance(states[0], keys[0], train[0], valid[0], look=each)[0]]

    def at_once(states, keys, train, valid, *, look):
        return list(advance(tuple(states), jnp.stack(keys), np.stack(train), np.stack(valid), look=look)[0])

    return alone if width == 1 else at_once


class Epoch(NamedTuple):
    """What a search asks for: its state after the steps of epoch `number`.

    train, valid: rows `[steps, batch]`. look(infos, done, seconds): takes the values `[done]` of the first steps, and
        this search's share of the seconds that they took; its last answer comes back with the state.
    """

    number: int
    state: Tree
    key: Array
    train: np.ndarray
    valid: np.ndarray
    look: Callable


def advanced(together: Together, asked: Mapping[int, Epoch]) -> dict[int, tuple | NonFiniteLoss]:
    """Gives those who ask, by their places among `together.width`, (state, look's last answer, seconds), or the error
    that their look raised. Where nobody asks, somebody's steps are taken twice."""
    begun, seen, failed = time.monotonic(), {}, {}
    spare = next(iter(asked.values()))
    epochs = [asked[place] if place in asked else spare._replace(state=jax.tree.map(jnp.copy, spare.state))
              for place in range(together.width)]
    share = lambda: (time.monotonic() - begun) / len(asked)

    def look(infos, done):
        for place, epoch in asked.items():
            try:
                if place not in failed:
                    seen[place] = epoch.look({name: values[place] for name, values in infos.items()}, done, share())
            except NonFiniteLoss as error:
                failed[place] = error
        if len(failed) == len(asked):
            raise next(iter(failed.values()))

    with contextlib.suppress(NonFiniteLoss):
        _, states, keys, train, valid, _ = map(list, zip(*epochs))
        states = together.advance(states, keys, train, valid, look=look)
    return {place: failed.get(place) or (states[place], seen[place], share()) for place in asked}
