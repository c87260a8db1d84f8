"""Operations against small arrays worked out independently: scipy, or by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from dnas.platform import on_cpu
from search_spaces.cost import macs
from search_spaces.layers.batch_norm import normalised as batch_normalised
from search_spaces.layers.convolution import conv, plain_conv
from search_spaces.layers.depthwise import depthwise, depthwise_form, plain, taps
from search_spaces.layers.kernels import materialised
from search_spaces.layers.pooling import avg_pool, max_pool
from search_spaces.layers.primitives import (
    AvgPool,
    BatchNorm,
    Conv,
    DilConv,
    FactorizedReduce,
    Linear,
    MaxPool,
    Noise,
    PoolBN,
    SepConv,
    torch_uniform,
)


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
    for convolution in conv, plain_conv:
        np.testing.assert_allclose(convolution(x, weight, stride), expected[:, ::stride, ::stride], atol=1e-12)


@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (3, 3), (5, 2), (5, 3), (1, 2)])
@pytest.mark.parametrize("size", [(6, 5), (4, 7)])
def test_gradients_of_a_convolution_are_those_that_jax_derives(kernel, stride, size):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(2, *size, 3)), rng.normal(size=(kernel, kernel, 3, 4))
    (y, back), (_, exact) = (jax.vjp(lambda *args, each=each: each(*args, stride), x, weight) for each in (conv, plain_conv))
    g = jnp.asarray(rng.normal(size=y.shape))
    for mine, expected in zip(back(g), exact(g)):
        np.testing.assert_allclose(mine, expected, atol=1e-12)

    def twice(convolution):
        cubed = lambda x, w: jnp.sum(convolution(x, w, stride) ** 3)
        return jax.grad(lambda w: jnp.sum(jax.grad(cubed)(x, w) ** 2))(weight)

    np.testing.assert_allclose(twice(conv), twice(plain_conv), rtol=1e-9, atol=1e-9)


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
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * x.mean(), rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * x.var(), rtol=1e-6)
    assert not variables.get("params")
    settled = {"batch_stats": {"mean": np.full(1, 2.0), "var": np.full(1, 9.0)}}
    np.testing.assert_allclose(norm.apply(settled, x, False), (x - 2) / np.sqrt(9 + 1e-5), atol=1e-10)


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (6, 2)])
def test_gradients_of_batch_norm_are_those_that_jax_derives(shape):
    x, g, direction = drawn(*shape), drawn(*shape, seed=1), drawn(*shape, seed=2)

    def plain(x):
        axes = tuple(range(x.ndim - 1))
        return (x - x.mean(axes)) * (x.var(axes) + 1e-5) ** -0.5

    mine = lambda x: batch_normalised(x, 1e-5)[0]
    np.testing.assert_allclose(mine(x), plain(x), atol=1e-12)
    first = lambda f: jax.grad(lambda x: (f(x) ** 3 * g).sum())
    np.testing.assert_allclose(first(mine)(x), first(plain)(x), atol=1e-10)
    second = lambda f: jax.jvp(first(f), (x,), (direction,))[1]
    np.testing.assert_allclose(second(mine), second(plain), atol=1e-9)


def test_batch_norm_sums_half_precision_in_float32():
    x = jnp.asarray(drawn(64, 8, 8, 2) + 1, jnp.bfloat16)
    y, mean, variance = batch_normalised(x, 1e-5)
    assert (y.dtype, mean.dtype, variance.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)
    np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(variance, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-4)


def test_what_is_materialised_is_not_changed_and_not_fused():
    x = drawn(3, 4)
    np.testing.assert_array_equal(materialised(x), x)
    np.testing.assert_array_equal(jax.grad(lambda x: (materialised(x) ** 2).sum())(x), 2 * x)
    compiled = jax.jit(lambda x: materialised(x * 2 + 1).sum() + materialised(x * 3).max()).lower(x).compile().as_text()
    assert compiled.count(" call(") == (2 if on_cpu() else 0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pool", [avg_pool, max_pool])
@pytest.mark.parametrize("size", [(6, 7), (5, 4), (1, 2)])
def test_gradients_of_pooling_are_those_of_its_definition(pool, stride, size):
    x = drawn(2, *size, 3)
    rows, columns = -(-size[0] // stride), -(-size[1] // stride)
    g = drawn(2, rows, columns, 3, seed=1)
    expected = np.zeros(x.shape)
    for b, r, c, d in np.ndindex(2, rows, columns, 3):
        real = [(b, i, j, d) for i in range(stride * r - 1, stride * r + 2) for j in range(stride * c - 1, stride * c + 2)
                if 0 <= i < size[0] and 0 <= j < size[1]]
        back = [(max(real, key=lambda at: x[at]), 1)] if pool is max_pool else [(at, 1 / len(real)) for at in real]
        for at, share in back:
            expected[at] += share * g[b, r, c, d]
    np.testing.assert_allclose(jax.vjp(lambda x: pool(x, stride), x)[1](g)[0], expected, atol=1e-14)


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


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def normalised(x):
    return (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)


# Depthwise convolution


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
def test_depthwise_convolution_is_scipys_with_torch_padding(stride, dilation):
    x, weight = drawn(2, 7, 6, 3), drawn(3, 3, 1, 3, seed=1)
    kernel = np.zeros((1 + 2 * dilation, 1 + 2 * dilation, 3))
    kernel[::dilation, ::dilation] = weight[:, :, 0]
    expected = np.stack([[correlate2d(np.pad(image[..., c], dilation), kernel[..., c], "valid") for c in range(3)]
                         for image in x]).transpose(0, 2, 3, 1)[:, ::stride, ::stride]
    for form in plain, taps:
        np.testing.assert_allclose(form(x, weight, stride, dilation), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 2)])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 1, 1), (3, 2, 1), (3, 1, 2), (3, 2, 2), (5, 1, 1), (5, 2, 2)])
def test_depthwise_gradients_are_those_of_the_convolution(size, kernel, stride, dilation):
    x, weight = drawn(2, *size, 3), drawn(kernel, kernel, 1, 3, seed=1)
    g = drawn(*jax.eval_shape(lambda: plain(x, weight, stride, dilation)).shape, seed=2)

    def pulled(form):
        return jax.jit(lambda x, weight, g: jax.vjp(lambda *args: form(*args, stride, dilation), x, weight)[1](g))

    for expected, found in zip(pulled(plain)(x, weight, g), pulled(taps)(x, weight, g)):
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_depthwise_second_derivatives_in_both_orders():
    x, weight = drawn(2, 5, 4, 2), drawn(3, 3, 1, 2, seed=1)
    direction = drawn(3, 3, 1, 2, seed=2)

    def slope(form):
        return jax.grad(lambda weight, x: jnp.sum(form(x, weight, 2, 1) ** 3), argnums=(0, 1))

    def forward(form):
        return jax.jvp(lambda weight: slope(form)(weight, x), (weight,), (direction,))[1]

    def reverse(form):
        return jax.grad(lambda weight, x: jnp.vdot(slope(form)(weight, x)[0], direction), argnums=(0, 1))(weight, x)

    for order in forward, reverse:
        for found, expected in zip(order(taps), order(plain)):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_depthwise_under_vmap_is_one_convolution_for_each_weight():
    x, weights = drawn(2, 4, 4, 2), drawn(3, 3, 3, 1, 2, seed=1)
    grad = jax.grad(lambda weight: jnp.sum(taps(x, weight, 1, 2) ** 2))
    np.testing.assert_allclose(jax.vmap(grad)(weights), np.stack([grad(weight) for weight in weights]), atol=1e-12)


def test_depthwise_form_is_chosen_by_the_context():
    x, weight = drawn(1, 4, 4, 2), drawn(3, 3, 1, 2)

    def convolves():
        return "conv_general_dilated" in str(jax.make_jaxpr(lambda x, weight: depthwise(x, weight))(x, weight))

    for form in "plain", "taps":
        with depthwise_form(form):
            assert convolves() == (form == "plain")
    assert convolves() == (not on_cpu())
    with pytest.raises(ValueError, match="forms plain, taps, not 'winograd'"), depthwise_form("winograd"):
        pass


def test_depthwise_multiply_adds_count_in_every_form():
    for form in "plain", "taps":
        with depthwise_form(form):
            assert macs(lambda x, weight: depthwise(x, weight, 2), drawn(1, 7, 8, 3), drawn(5, 5, 1, 3)) == 4 * 4 * 3 * 25


# Pooling


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(6, 7), (5, 4), (1, 2)])
def test_max_pool_is_flaxs_with_gradients_to_the_first_of_equals(stride, size):
    x = np.random.default_rng(0).integers(-3, 3, (2, *size, 3)).astype(float)

    def flaxs(x):
        return nn.max_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)))

    found, pull = jax.vjp(lambda x: max_pool(x, stride), x)
    expected, expected_pull = jax.vjp(flaxs, x)
    np.testing.assert_array_equal(found, expected)
    g = drawn(*found.shape)
    np.testing.assert_allclose(pull(g)[0], expected_pull(g)[0], atol=1e-12)
    by_hand = np.max([np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
                      [:, i:i + size[0], j:j + size[1]] for i in range(3) for j in range(3)], 0)
    np.testing.assert_array_equal(found, by_hand[:, ::stride, ::stride])


def test_max_pool_does_not_hide_what_is_not_a_number():
    x = np.zeros((1, 5, 5, 1))
    x[0, 2, 2, 0] = np.nan
    assert np.isnan(max_pool(x)[0, 1:4, 1:4]).all() and np.isnan(max_pool(x)).sum() == 9


@pytest.mark.parametrize("size", [(6, 7), (5, 4), (1, 2)])
def test_strided_average_is_every_second_one(size):
    x = drawn(2, *size, 3)
    np.testing.assert_allclose(avg_pool(x, 2), avg_pool(x)[:, ::2, ::2], atol=1e-15)


@pytest.mark.parametrize("pool", [MaxPool, AvgPool])
def test_pooling_of_a_supernet_is_normalised(pool):
    x = drawn(4, 5, 6, 2)
    module = PoolBN(2, 2, pool)
    variables = module.init(jax.random.key(0), x, True)
    assert set(variables) == {"batch_stats"}
    y, _ = module.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, normalised(np.asarray(pool(2, 2)(x, True))), atol=1e-9)


# The operations of the DARTS family


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (6, 7)])
def test_factorized_reduce_takes_two_of_four_pixels(size):
    x = drawn(2, *size, 3)
    module = FactorizedReduce(5)
    variables = module.init(jax.random.key(0), x, True)
    a, b = (np.asarray(variables["params"][name]["kernel"])[0, 0] for name in ("conv_a", "conv_b"))
    assert a.shape == (3, 2) and b.shape == (3, 3)
    rows, columns = -(-size[0] // 2), -(-size[1] // 2)
    whole = np.zeros((2, 2 * rows, 2 * columns, 3))
    whole[:, :size[0], :size[1]] = np.maximum(x, 0)
    expected = np.concatenate([whole[:, ::2, ::2] @ a, whole[:, 1::2, 1::2] @ b], -1)
    y, _ = module.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, normalised(expected), atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
def test_dilated_and_separable_convolution(stride):
    x = drawn(3, 6, 7, 2)

    def block(x, weights, stride, dilation):
        y = plain(jnp.maximum(x, 0), jnp.float64(weights["depthwise"]["kernel"]), stride, dilation)
        return normalised(np.asarray(y @ weights["pointwise"]["kernel"][0, 0]))

    def run(module):
        variables = module.init(jax.random.key(0), x, True)
        return variables["params"], module.apply(variables, x, True, mutable=["batch_stats"])[0]

    weights, y = run(DilConv(4, stride, 5))
    assert weights["depthwise"]["kernel"].shape == (5, 5, 1, 2) and weights["pointwise"]["kernel"].shape == (1, 1, 2, 4)
    np.testing.assert_allclose(y, block(x, weights, stride, 2), atol=1e-9)
    weights, y = run(SepConv(2, stride, 3))
    first = block(x, weights["first"], stride, 1)
    np.testing.assert_allclose(y, block(first, weights["second"], 1, 1), atol=1e-9)


def test_noise_ignores_its_input_and_needs_no_key():
    x, y = drawn(4, 33, 32, 3), drawn(4, 33, 32, 3, seed=1)
    noise = Noise(5, 2)
    fixed = noise.apply({}, x, True)
    assert fixed.shape == (4, 17, 16, 5) and fixed.dtype == np.float64
    assert abs(fixed.mean()) < 0.05 and abs(fixed.std() - 1) < 0.05
    for other in noise.apply({}, y, True), noise.apply({}, x, False):
        np.testing.assert_array_equal(other, fixed)
    drawn_by = [noise.apply({}, x, True, rngs={"dropout": jax.random.key(i)}) for i in (1, 1, 2)]
    np.testing.assert_array_equal(drawn_by[0], drawn_by[1])
    assert not np.array_equal(drawn_by[0], drawn_by[2]) and not np.array_equal(drawn_by[0], fixed)
