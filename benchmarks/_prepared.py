"""A search as the command prepares it, and its step on images that lie ready."""

from __future__ import annotations

from typing import Any, NamedTuple


class Started(NamedTuple):
    """A search before its first step. plan: see `dnas.api.search_plan`; algorithm, hyper: its bound method and its numbers;
    examples: its data on the device; state: the first one."""

    plan: Any
    batch: int
    algorithm: Any
    hyper: Any
    examples: Any
    state: Any


def prepared(*words):
    """What `dnas search` with these words is about to do."""
    return started(plan_of(*words))


def plan_of(*words):
    """The plan of `dnas search` with these words."""
    from dnas.api.search_plan import plan_search
    from launch.arguments import load_data
    from launch.search_options import read_search, settings_of

    words = ["--preset", "paper", *words]
    values = read_search("search", "", words)
    data = load_data(values)
    spaces, methods = settings_of(values, words, data)
    return plan_search(spaces[0], methods[0], data, epochs=values["epochs"], batch=values["batch"], seed=values["seed"],
                       preset=values["preset"])


def started(plan):
    """A planned search before its first step."""
    from dnas.engine.compile import on_device
    from dnas.task import task_of

    setting = plan.settings[0]
    algorithm = setting.method.bind(setting.space, task_of(plan.data))
    hyper = setting.method.numbers_of(epochs=plan.epochs, steps=plan.steps)
    state = first(plan.data, algorithm, hyper, plan.batch, 0)
    return Started(plan, plan.batch, algorithm, hyper, on_device(plan.data), state)


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
