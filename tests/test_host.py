"""First states evaluated in NumPy are those that JAX computes, and compile nothing for what is drawn or filled."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.engine import host
from dnas.engine.host import initial
from dnas.methods.darts import darts
from dnas.task import classification
from search_spaces.layers.primitives import torch_uniform
from search_spaces.nasbench201 import nasbench201
from tests.toy_space import toy

IMAGES = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)


def same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
        assert isinstance(a, jax.Array) and a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = map(jax.random.key_data, (a, b))
        np.testing.assert_array_equal(a, b)


def everything(key, images):
    """What initialisers use: draws one by one, mapped, in a loop either way and within a jitted function; constants."""
    keys = jax.random.split(key, 6)
    draw = lambda _, key: (None, (torch_uniform(key, (3, images.shape[-1])), key))
    a, b = torch_uniform(keys[0], (3, 2)), jnp.ones((2, 3), jnp.bfloat16)
    c = jax.jit(partial(torch_uniform, shape=(4, 2)))(key)
    _, (rows, seen) = jax.lax.scan(draw, None, keys, reverse=True)
    mapped = jax.vmap(lambda key: torch_uniform(key, (2, 2)))(keys[:3])
    return {"a": a, "copy": jnp.array(a), "b": b, "c": c, "rows": rows, "seen": seen, "mapped": [*mapped], "key": key,
            "number": jnp.zeros((), jnp.int32), "wide": jnp.broadcast_to(a.sum(0), (2, 5, 2)), "rank": len(images.shape),
            "logits": 1e-3 * jax.random.normal(keys[1], (4, 5)), "half": torch_uniform(keys[2], (2, 2), jnp.bfloat16)}


def test_every_bit_is_that_of_the_traced_function():
    images = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32)
    expected = jax.tree.map(jnp.asarray, everything(jax.random.key(5), images))
    same(initial(everything, jax.random.key(5), images), expected)


@pytest.mark.parametrize("space", [toy, partial(nasbench201, channels=2, cells=2)], ids=["toy", "scanned"])
def test_a_first_state_is_drawn_without_a_compiled_callback(space, monkeypatch):
    method = darts().bind(space((8, 8, 1), 10), classification())
    hyper = darts().numbers_of(epochs=2, steps=4)
    with monkeypatch.context() as patch:
        patch.setattr(host, "evaluate", jax.core.eval_jaxpr)
        expected = initial(method.init, jax.random.key(2), IMAGES, hyper)
    bound = []
    real = host._bound
    monkeypatch.setattr(host, "_bound", lambda eqn, *inputs: bound.append(eqn.primitive.name) or real(eqn, *inputs))
    monkeypatch.setattr(jax.core, "eval_jaxpr", None)  # it has been traced already
    state = initial(method.init, jax.random.key(2), IMAGES, hyper)
    monkeypatch.undo()
    same(state, expected)
    assert not {"pure_callback", "scan", "broadcast_in_dim"} & {*bound}
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(buffers) == len(set(buffers))  # so that each can be donated


def test_another_version_of_jax_costs_time_only(monkeypatch):
    monkeypatch.setattr(host, "_evaluate", lambda *args: {}["params"])
    expected = jax.tree.map(jnp.asarray, everything(jax.random.key(5), IMAGES))
    same(initial(everything, jax.random.key(5), IMAGES), expected)


def test_it_traces_once_for_all_keys_and_within_a_trace():
    traces = []

    def init(key, images):
        traces.append(images.shape)
        return nn.initializers.ones(key, images.shape[1:]), jax.random.uniform(key)

    values = [float(initial(init, jax.random.key(n), IMAGES)[1]) for n in range(2)]
    assert values[0] != values[1] and len(traces) == 1
    shapes = jax.eval_shape(lambda key: initial(init, key, IMAGES), jax.random.key(0))
    assert shapes[0].shape == (8, 8, 1) and len(traces) == 1


def test_values_that_depend_on_the_images_are_refused():
    with pytest.raises(ValueError, match="may depend on their shape only"):
        initial(lambda key, images: images.mean(), jax.random.key(0), IMAGES)


def test_weights_larger_than_the_memory_are_refused_before_they_are_computed(monkeypatch):
    monkeypatch.setattr(host, "available", lambda: 2**20)
    monkeypatch.setattr(host, "evaluate", None)
    large = lambda key, images: {"weights": jax.random.normal(key, (1024, 1024)), "mean": jnp.zeros(1024)}
    with pytest.raises(ValueError, match=r"need 4.0 MiB of memory, and there are 1.0 MiB; choose smaller sizes"):
        initial(large, jax.random.key(0), IMAGES)
