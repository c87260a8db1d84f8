"""The space for rows of numbers, and what spaces need for rows and sequences: checks, cost, notation, causality."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.data import load
from dnas.task import task_of
from search_spaces.check import check
from search_spaces.dense import LayerNorm, dense
from search_spaces.layers.mixed import MixedOp, MixedOptions, mixed_options, strided
from search_spaces.layers.primitives import BatchNorm, Identity, Zero
from search_spaces.nasbench201 import nasbench201
from tests.toy_causal import causal

RNG = np.random.default_rng(0)
TEXT = "batch_norm 4 gelu skip | identity 16 tanh none"


def wrong(space, inputs, outputs):
    return [finding for finding in check(space, inputs, outputs) if finding.wrong]


@pytest.mark.parametrize("image, outputs", [((5,), 1), ((3, 2), 4)])
def test_dense_does_what_a_space_must(image, outputs):
    assert not wrong(dense(image, outputs, hidden=8, layers=1), RNG.normal(size=(4, *image)), outputs)


def test_notation_and_cost():
    space = dense((5,), 3, hidden=8, layers=2)
    genotype = space.parse(TEXT)
    assert space.format(genotype) == TEXT
    stem, head, linear = 5 * 8 + 8, 8 * 3 + 3 + 16, lambda width: 8 * width + width + width * 8 + 8
    assert space.cost(genotype) == {"params": stem + head + 16 + linear(4) + linear(16),
                                    "macs": 5 * 8 + 8 * 3 + 2 * 8 * (4 + 16)}
    gates = {name: np.float64(gate) for name, gate in genotype.gates(space.groups).items()}
    assert space.expected(gates) == space.cost(genotype)
    for text in ("", TEXT + " | x", "batch_norm 5 gelu skip | identity 16 tanh none"):
        with pytest.raises(ValueError, match="not 2 dense layers"):
            space.parse(text)


@pytest.mark.parametrize("arguments, message", [
    (dict(hidden=3), "hidden >= 4"), (dict(layers=0), "layers >= 1"), (dict(classes=0), "classes >= 1"),
    (dict(image=()), "at least one number"), (dict(layers=101), "at most 100")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        dense(**arguments)


@pytest.mark.parametrize("partial, dtype", [(1, "bfloat16"), (2, "float32")])
def test_shared_options(partial, dtype):
    with mixed_options(MixedOptions(partial_channels=partial, dtype=dtype)):
        space = dense((5,), 3, hidden=8, layers=1)
    gates = {name: jnp.full(group.shape, 1 / group.shape[1]) for name, group in space.groups.items()}
    weights, stats = space.init(jax.random.key(0), jnp.zeros((2, 5)))
    outputs, _ = space.apply(weights, stats, gates, jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32), train=True, key=None)
    assert outputs.shape == (4, 3) and outputs.dtype == jnp.float32 and np.isfinite(outputs).all()


def test_a_dense_network_learns_diabetes():
    data = load("diabetes")
    task, space = task_of(data), dense((10,), 1, hidden=8, layers=1)
    network = space.network(space.parse("batch_norm 8 relu skip"))
    rows, test = data.splits["train"], data.splits["test"]
    inputs = (data.inputs - data.mean) / data.std
    weights, stats = network.init(jax.random.key(0), inputs[:1])

    @jax.jit
    def step(weights):
        outputs = lambda weights: network.apply(weights, stats, inputs[rows], train=True)[0]
        loss = lambda weights: task.losses(outputs(weights), data.targets[rows]).mean()
        return jax.tree.map(lambda w, g: w - 0.05 * g, weights, jax.grad(loss)(weights))

    for _ in range(60):
        weights = step(weights)
    outputs = network.apply(weights, stats, inputs[test], train=True)[0]
    mae = np.mean(task.metrics["mae"](outputs, data.targets[test]))
    assert mae < 0.8 * np.abs(data.targets[test] - data.target_mean).mean()


def test_layer_norm():
    x = jnp.asarray(RNG.normal(3, 2, (4, 6, 8)), jnp.float32)
    y, _ = LayerNorm(8).init_with_output(jax.random.key(0), x, True)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(-1), 1, rtol=1e-3)


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4), (6, 3, 2, 4)])
def test_batch_norm_and_mixed_operations_of_any_rank(shape):
    x = jnp.asarray(RNG.normal(2, 3, shape), jnp.float32)
    y, variables = BatchNorm().init_with_output(jax.random.key(0), x, True)
    axes = tuple(range(len(shape) - 1))
    np.testing.assert_allclose(y.mean(axes), 0, atol=1e-5)
    np.testing.assert_allclose(y.std(axes), 1, rtol=1e-3)
    op = MixedOp({"none": Zero, "skip": Identity})
    np.testing.assert_allclose(op.apply({}, x, jnp.array([0.25, 0.75]), True), 0.75 * x)
    assert not op.apply({}, x, -2, True).any()
    assert strided(x, 2).shape == (shape[0], *(-(-n // 2) for n in shape[1:-1]), 4)


def test_a_causal_space():
    space = causal((8,), 11)
    tokens = RNG.integers(0, 11, (4, 8)).astype(np.int32)
    assert not wrong(space, tokens, (8, 11))
    assert "need (4, 11)" in wrong(space, tokens, 11)[0].wrong
    weights, stats = space.init(jax.random.key(0), tokens)
    gates = {"chain": jnp.full((2, 4), 0.25)}
    run = lambda tokens: space.apply(weights, stats, gates, tokens, train=False, key=None)[0]
    later = tokens.copy()
    later[:, 5] = (later[:, 5] + 1) % 11
    moved = np.abs(run(later) - run(tokens)).max((0, 2)) > 0
    assert moved.tolist() == [False] * 5 + [True] * 3


def test_a_causal_space_in_bfloat16_keeps_its_tokens():
    with mixed_options(MixedOptions(dtype="bfloat16")):
        space = causal((3,), 400)
    weights, stats = space.init(jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
    row = lambda token: space.apply(weights, stats, {"chain": jnp.zeros((2, 4))}, jnp.full((1, 3), token, jnp.int32),
                                    train=False, key=None)[0]
    assert np.abs(row(301) - row(300)).max() > 0  # bfloat16 would make 300 of both


def test_spaces_for_images_say_so():
    with pytest.raises(ValueError, match=r"has the shape \(10,\); for rows of numbers there is --space dense"):
        nasbench201((10,), 2)
