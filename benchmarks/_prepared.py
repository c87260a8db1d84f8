"""A search as the command prepares it, and its step on images that lie ready."""

from __future__ import annotations

from typing import Any, NamedTuple


class Started(NamedTuple):
    """A search before its first step. ready: launch.prepare.Prepared; algorithm, hyper: its method, bound, and its numbers;
    examples: its data on the device; state: the first one."""

    ready: Any
    batch: int
    algorithm: Any
    hyper: Any
    examples: Any
    state: Any


def prepared(*words):
    """What `dnas search` with these words is about to do."""
    from launch.arguments import parse
    from launch.prepare import prepare

    arguments = parse("search", "", list(words))
    return started(prepare(arguments), arguments.batch, arguments.epochs)


def started(ready, batch, epochs):
    """A prepared search before its first step."""
    from dnas.engine.compile import on_device
    from dnas.task import task_of

    algorithm = ready.method.bind(ready.space, task_of(ready.data))
    hyper = ready.method.numbers_of(epochs=epochs, steps=ready.steps)
    return Started(ready, batch, algorithm, hyper, on_device(ready.data), first(ready.data, algorithm, hyper, batch, 0))


def first(data, algorithm, hyper, batch, seed):
    """The first state of a search."""
    import jax

    from dnas.engine.host import initial
    from dnas.engine.search import input_shape

    return initial(algorithm.init, jax.random.key(seed), input_shape(data, batch), hyper)


def bare(data, algorithm, hyper, batch, state):
    """Compiles `state -> state`, one step on images that are normalised and in place; and says what it plans to take."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dnas.engine.programs import compile_program
    from dnas.types import Batch

    rng = np.random.default_rng(0)
    draw = lambda: Batch(jnp.asarray(rng.normal(size=(batch, *data.image)), jnp.float32),
                         jnp.asarray(rng.integers(0, data.classes, batch)))
    train, valid, key = draw(), draw(), jax.random.key(1)
    program = compile_program(algorithm.step, (key, state, train, valid, hyper), donate_argnums=(1,))
    return lambda state: jax.block_until_ready(program(key, state, train, valid, hyper)[0]), program.memory_analysis()
