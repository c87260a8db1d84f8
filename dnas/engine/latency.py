"""How long one run of a compiled network takes; several networks are measured in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from dnas.types import Array, Network, Stats, Weights

RUNS = 10
"""Runs of a network one after another in a round."""


def compiled_run(network: Network, weights: Weights, stats: Stats, inputs: Array) -> tuple[Callable[[], Any], float]:
    """A function that runs the compiled network once and returns when its device has finished; and the seconds that tracing
    and compiling took, which are fewer where the compilation cache has the program.

    inputs: normalised `[B, ...]`. Weights and inputs are arguments of the program and lie on the device.
    """
    forward = lambda weights, stats, inputs: network.apply(weights, stats, inputs, train=False, key=None)[0]
    arguments = jax.block_until_ready(jax.device_put((weights, stats, inputs)))
    started = time.perf_counter()
    program = jax.jit(forward).lower(*arguments).compile()
    seconds = time.perf_counter() - started
    return lambda: jax.block_until_ready(program(*arguments)), seconds


def time_in_turn(runs: Sequence[Callable[[], Any]], repetitions: int, *,
                 clock: Callable[[], float] = time.perf_counter) -> np.ndarray:
    """Milliseconds `[len(runs), repetitions]` of each run.

    First each is run RUNS times that do not count. Then there are rounds: in each round every network has its turn, in
    another order each time, and a turn is one run that does not count and RUNS that do. What drifts in the meantime, such as
    a clock rate or another process, so meets all networks alike; and what the network before left in the caches is not
    measured.
    """
    times, orders = np.zeros((len(runs), repetitions)), np.random.default_rng(0)
    for run in runs:
        for _ in range(RUNS):
            run()
    for first in range(0, repetitions, RUNS):
        for number in orders.permutation(len(runs)):
            run = runs[number]
            run()
            for repetition in range(first, min(first + RUNS, repetitions)):
                started = clock()
                run()
                times[number, repetition] = clock() - started
    return 1e3 * times
