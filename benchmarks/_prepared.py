"""A search as the command prepares it, and its step on images that lie ready."""

from __future__ import annotations


def prepared(*words):
    """What `dnas search` with these words is about to do: (Prepared, batch, images on the device, first state)."""
    import jax
    import jax.numpy as jnp

    from dnas.engine.compile import Examples
    from launch.arguments import parse
    from launch.prepare import prepare

    arguments = parse("search", "", list(words))
    ready = prepare(arguments)
    images = Examples(jnp.asarray(ready.data.inputs), jnp.asarray(ready.data.targets))
    return ready, arguments.batch, images, ready.method.init(jax.random.key(0), images.inputs[:1].astype("float32"))


def bare(ready, batch, state):
    """Compiles `state -> state`, one step on images that are normalised and in place; and says what it plans to take."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from dnas.engine.compile import built
    from dnas.types import Batch

    rng = np.random.default_rng(0)
    draw = lambda: Batch(jnp.asarray(rng.normal(size=(batch, *ready.data.image)), jnp.float32),
                         jnp.asarray(rng.integers(0, ready.data.classes, batch)))
    train, valid, key = draw(), draw(), jax.random.key(1)
    program = built(jax.jit(ready.method.step, donate_argnums=1).lower(key, state, train, valid))
    return lambda state: jax.block_until_ready(program(key, state, train, valid)[0]), program.memory_analysis()
