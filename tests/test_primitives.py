"""Operations against small arrays worked out independently: scipy, or by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from search_spaces.primitives import BatchNorm, Conv, Linear, avg_pool, conv, conv_loop_safe, torch_uniform


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [6, 5])
def test_convolution_is_scipys_with_torch_padding(stride, size):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, size, size, 3)), rng.normal(size=(3, 3, 3, 4))
    expected = np.zeros((2, size, size, 4))
    for b, c, d in np.ndindex(2, 3, 4):
        expected[b, :, :, d] += correlate2d(np.pad(x[b, :, :, c], 1), weight[:, :, c, d], "valid")
    for convolution in conv, conv_loop_safe:
        np.testing.assert_allclose(convolution(x, weight, stride), expected[:, ::stride, ::stride], atol=1e-12)


def test_loop_safe_gradients_are_those_of_the_convolution():
    rng = np.random.default_rng(0)
    x, weight, g = rng.normal(size=(2, 6, 5, 3)), rng.normal(size=(3, 3, 3, 4)), rng.normal(size=(2, 6, 5, 4))
    for plain, safe in zip(jax.vjp(conv, x, weight)[1](g), jax.vjp(conv_loop_safe, x, weight)[1](g)):
        np.testing.assert_allclose(safe, plain, atol=1e-12)

    def twice(convolution):
        return jax.grad(lambda w: jnp.sum(jax.grad(lambda x: jnp.sum(convolution(x, w) ** 3))(x) ** 2))(weight)

    np.testing.assert_allclose(twice(conv_loop_safe), twice(conv), rtol=1e-9)


def test_average_counts_real_pixels_only():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    expected = np.array([[np.mean([x[0, i, j, 0] for i in range(max(r - 1, 0), min(r + 2, 3))
                                   for j in range(max(c - 1, 0), min(c + 2, 4))]) for c in range(4)] for r in range(3)])
    np.testing.assert_allclose(avg_pool(x)[0, :, :, 0], expected)
    np.testing.assert_allclose(avg_pool(np.ones((1, 1, 1, 1))), 1)


def test_batch_norm_has_torchs_momentum_and_epsilon():
    x = np.random.default_rng(0).normal(3, 2, size=(4, 2, 2, 1))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, True)
    y, updated = norm.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - x.mean()) / np.sqrt(x.var() + 1e-5), atol=1e-10)
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["mean"], 0.1 * x.mean(), rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["norm"]["var"], 0.9 + 0.1 * x.var(), rtol=1e-6)
    assert not variables.get("params")


def test_initial_weights_are_torchs_uniform():
    draw = np.asarray(torch_uniform(jax.random.key(0), (3, 3, 16, 64)))
    limit = (9 * 16) ** -0.5
    assert draw.dtype == np.float32 and limit * 0.99 < np.abs(draw).max() <= limit
    assert abs(draw.var() / (limit**2 / 3) - 1) < 0.05 and abs(draw.mean()) < 0.01 * limit
    assert np.array_equal(draw, torch_uniform(jax.random.key(0), (3, 3, 16, 64)))
    keys = jax.random.split(jax.random.key(1), 3)
    rows = jax.jit(jax.vmap(lambda key: torch_uniform(key, (2, 5))))(keys)
    assert all(np.array_equal(row, torch_uniform(key, (2, 5))) for key, row in zip(keys, rows))
    bias = Linear(7).init(jax.random.key(2), np.ones((1, 400)))["params"]["dense"]["bias"]
    assert 0 < np.abs(bias).max() <= 0.05


def test_modules_name_their_weights():
    shapes = jax.eval_shape(lambda key: Conv(5, 3).init(key, jnp.ones((1, 4, 4, 2))), jax.random.key(0))
    assert shapes["params"]["kernel"].shape == (3, 3, 2, 5)
    assert isinstance(Conv(5), nn.Module)
