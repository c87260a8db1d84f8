"""Sizes in shared weights: their masks and costs against known numbers, and every layer against the small network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.types import REMOVED, Genotype
from search_spaces.flax_space import flax_space
from search_spaces.layers.convolution import conv
from search_spaces.layers.entangled import (
    BatchNorm,
    Conv,
    Dense,
    LayerNorm,
    Size,
    beyond,
    centre,
    counting,
    expected_mask,
    fixed,
    masked,
    mixed_depth,
    prefix,
    product,
    report,
    sizes_group,
)

IMAGE = (6, 6, 2)


def gates(*values):
    return np.array(values, np.float64)


def test_a_kernel_of_ones():
    kernel = Size((3, 5, 7), gates(0.2, 0.7, 0.1))
    mask = expected_mask(centre(kernel), centre(kernel))
    np.testing.assert_allclose(mask[3], (0.1, 0.8, 1, 1, 1, 0.8, 0.1), rtol=1e-12)
    assert mask.sum() == pytest.approx(24.2, rel=1e-12)  # the mean of k^2
    assert isinstance(mask, np.ndarray) and mask.dtype == np.float64


def test_a_width_is_a_prefix():
    width = Size((8, 16, 32), gates(0.5, 0.3, 0.2))
    mask = expected_mask(prefix(width))
    np.testing.assert_allclose(mask, [1] * 8 + [0.5] * 8 + [0.2] * 16, rtol=1e-12)
    assert width.largest == 32
    assert Size((8, 16, 32), 1).largest == 16
    assert expected_mask(prefix(Size((8, 16, 32), 1))) is None and expected_mask(prefix(fixed(5))) is None


def test_one_choice_on_two_axes_is_not_two_choices():
    """Against the sum over all combinations: a shared choice, a ratio of one, and choices that are independent."""
    shared = Size((2, 4), gates(0.5, 0.5))
    assert expected_mask(prefix(shared), prefix(shared))[3, 3] == 0.5
    apart = [Size((2, 4), gates(0.5, 0.5)) for _ in range(2)]
    assert expected_mask(*map(prefix, apart))[3, 3] == 0.25
    embed, ratio, kernel = Size((2, 3), gates(0.3, 0.7)), Size((1.5, 2), gates(0.6, 0.4)), Size((1, 3), gates(0.1, 0.9))
    hidden = product(embed, ratio)
    assert hidden.table.tolist() == [[3, 4], [4, 6]] and hidden.largest == 6
    mask = expected_mask(prefix(hidden), prefix(embed), centre(kernel))
    every = np.zeros((6, 3, 3))
    for i, e in enumerate((2, 3)):
        for j, h in enumerate(hidden.table[i]):
            for k, side in enumerate((1, 3)):
                cut = (3 - side) // 2
                every[:h, :e, cut:3 - cut] += embed.gates[0][i] * ratio.gates[0][j] * kernel.gates[0][k]
    np.testing.assert_allclose(mask, every, rtol=1e-12)
    assert expected_mask(prefix(fixed(3)), prefix(Size((1, 2), 0))) is None
    assert expected_mask(prefix(fixed(3)), prefix(embed)).shape == (1, 3)


def merged(weight, x, gate):
    kernel = Size((1, 3, 5), gate)
    return conv(x, masked(weight, centre(kernel), centre(kernel), prefix(fixed(2)), prefix(fixed(3))))


def mixture(weight, x, gate, after=lambda y: y):
    return sum(gate[k] * after(conv(x, weight[2 - k:3 + k, 2 - k:3 + k])) for k in range(3))


def test_merged_weights_are_merged_outputs_of_what_is_linear():
    """And so are the gradients of gates and weights; with a ReLU behind each, neither holds."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        weight, x, gate = draw.normal(size=(5, 5, 2, 3)), draw.normal(size=(2, *IMAGE)), gates(0.2, 0.5, 0.3)
        direction = draw.normal(size=(2, 6, 6, 3))

        def slopes(apply):
            slope = jax.value_and_grad(lambda w, g: (direction * apply(w, x, g)).sum(), (0, 1))
            return jax.jit(slope)(weight, jnp.array(gate))

        one, other = slopes(merged), slopes(mixture)
        relu_one = slopes(lambda *args: nn.relu(merged(*args)))
        relu_other = slopes(lambda *args: mixture(*args, after=nn.relu))
        for a, b, c, d in zip(*map(jax.tree.leaves, (one, other, relu_one, relu_other))):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
            assert np.abs(c - d).max() > 1e-3


def test_a_width_has_a_gradient_behind_a_norm():
    """Before batch norm alone, its mask would be divided out: adding one behind keeps the gradient of the gates."""
    with jax.enable_x64(True):
        draw = np.random.default_rng(0)
        x, direction = draw.normal(size=(64, 1, 1, 4)), draw.normal(size=(64, 1, 1, 4))

        def slope(norm):
            def loss(gate):
                size = Size((1, 2, 4), gate)
                scaled = masked(jnp.asarray(x), *[prefix(fixed(1))] * 3, prefix(size))
                layer = norm(size)
                arguments = (scaled, True) if isinstance(layer, BatchNorm) else (scaled,)
                return (direction * layer.apply(variables(layer), *arguments, mutable=["batch_stats"])[0]).sum()
            return np.abs(jax.grad(loss)(jnp.array([0.4, 0.3, 0.3]))).max()

        def variables(layer):
            four = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
            return ({"params": {"bn": four}, "batch_stats": {"bn": {"mean": jnp.zeros(4), "var": jnp.ones(4)}}}
                    if isinstance(layer, BatchNorm) else {"params": four})

        assert slope(BatchNorm) > 1 and slope(LayerNorm) > 1
        assert slope(lambda size: BatchNorm(fixed(4))) < 1e-3 * slope(BatchNorm)  # only its epsilon leaks


def test_a_layer_norm_of_part_of_the_channels():
    """At one-hot gates its mean and variance are those of the channels that are there; without any it is finite."""
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(3, 4))
        variables = {"params": {"scale": jnp.array([1.0, 2, 3, 4]), "bias": jnp.arange(4.0)}}
        y = LayerNorm(Size((2, 4), gates(1, 0))).apply(variables, x)
        small = LayerNorm(fixed(2)).apply(jax.tree.map(lambda leaf: leaf[:2], variables), x[:, :2])
        np.testing.assert_allclose(y, np.pad(small, ((0, 0), (0, 2))), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(small, (x[:, :2] - x[:, :2].mean(1, keepdims=True))
                                   / np.sqrt(x[:, :2].var(1, keepdims=True) + 1e-5) * [1, 2] + [0, 1], rtol=1e-12)
        zero = jax.grad(lambda x: LayerNorm(Size((2, 4), gates(0, 0))).apply(variables, x).sum())(x)
        assert np.isfinite(zero).all()


SIZES = {"channels": ((3, 4, 6), (2, 4)), "kernel": ((1, 3), (3, 5), (1, 3)), "ratio": ((1.5, 2),), "depth": ((1, 2),)}


class Network(nn.Module):
    """Everything that there is: widths, kernels, strides, depthwise, depth of residual blocks on one stream, a ratio."""

    @nn.compact
    def __call__(self, images, gates, train):
        stem, stream = (Size(row, gate) for row, gate in zip(SIZES["channels"], gates["channels"]))
        side = [lambda k=k: Size(SIZES["kernel"][k], gates["kernel"][k]) for k in range(3)]
        x = Conv(stem, side[0](), bias=True, name="stem")(images, fixed(images.shape[-1]))
        x = nn.relu(BatchNorm(stem, name="stem_bn")(x, train))
        x = Conv(stream, 1, 2, name="down")(x, stem)

        def block(n, x):
            y = Conv(stream, side[1 + n](), depthwise=True, name=f"depthwise_{n}")(nn.relu(x), stream)
            return x + BatchNorm(stream, name=f"bn_{n}")(Conv(stream, 1, name=f"pointwise_{n}")(y, stream), train)

        depth = Size(SIZES["depth"][0], gates["depth"][0])
        x = mixed_depth([lambda x, n=n: block(n, x) for n in range(2)], depth, x)
        x = LayerNorm(stream, name="norm")(x.mean((1, 2)))
        hidden = product(stream, Size(SIZES["ratio"][0], gates["ratio"][0]))
        return Dense(fixed(3), name="head")(nn.relu(Dense(hidden, name="hidden")(x, stream)), hidden)


def skipped(decisions):
    return {"kernel": np.concatenate([[False], beyond(SIZES["depth"], decisions["depth"])])}


def space():
    return flax_space("everything", Network(), {name: sizes_group(rows) for name, rows in SIZES.items()}, image=IMAGE,
                      skipped=skipped)


def genotypes(one):
    draw = np.random.default_rng(0)
    for depth in (0, 1):
        rows = {name: draw.integers(group.allowed.sum(-1)) for name, group in one.groups.items()}
        yield Genotype.from_decisions(one, rows | {"depth": [depth]})


@pytest.mark.parametrize("train", [True, False])
def test_one_hot_gates_are_the_small_network(train):
    """Also without the rows of the block that its depth skips."""
    with jax.enable_x64(True):
        one, draw = space(), np.random.default_rng(0)
        images = draw.normal(size=(4, *IMAGE))
        trees = one.init(jax.random.key(0), images.astype(np.float32))
        weights, stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) + draw.uniform(0.1, 0.4, leaf.shape), trees)
        mixed = jax.jit(lambda gates: one.apply(weights, stats, gates, images, train=train)[0])
        for genotype in genotypes(one):
            own = jax.jit(lambda g=genotype: one.apply(one.inherit(weights, g), one.inherit(stats, g), g, images,
                                                       train=train)[0])()
            one_hot = {name: rows.astype(np.float64) for name, rows in genotype.gates(one.groups).items()}
            np.testing.assert_allclose(mixed(one_hot), own, rtol=1e-9, atol=1e-9)


def test_what_a_network_costs_on_average():
    """The sum over all networks of what each costs times its probability; differentiable; one network at one-hot gates."""
    with jax.enable_x64(True):
        one, draw = space(), np.random.default_rng(1)
        shares = {name: group.allowed * draw.uniform(0.2, 1, group.shape) for name, group in one.groups.items()}
        shares = {name: rows / rows.sum(-1, keepdims=True) for name, rows in shares.items()}
        where = [(name, e, k) for name, group in one.groups.items() for e in range(group.shape[0])
                 for k in range(len(group.edge_ops(e)))]
        value, mean = one.expected(shares), {"params": 0.0, "macs": 0.0}
        costs = {}
        for combination in np.ndindex(*[len(group.edge_ops(e)) for group in one.groups.values() for e in
                                        range(group.shape[0])]):
            picks, rows = iter(combination), {}
            probability = 1.0
            for name, group in one.groups.items():
                rows[name] = np.array([next(picks) for _ in range(group.shape[0])])
                probability *= shares[name][np.arange(group.shape[0]), rows[name]].prod()
            genotype = Genotype.from_decisions(one, rows)
            if genotype not in costs:
                one_hot = {name: gate.astype(np.float64) for name, gate in genotype.gates(one.groups).items()}
                costs[genotype] = one.expected(one_hot)
            mean = {name: mean[name] + probability * costs[genotype][name] for name in mean}
        assert len(costs) == 3 * 2 * 2 * 2 * (2 + 2 * 2) and all(isinstance(number, float) for number in value.values())
        assert value == pytest.approx(mean, rel=1e-12)
        for genotype in list(costs)[::40]:
            assert costs[genotype] == one.cost(genotype)
        slopes = jax.grad(lambda gates: one.expected(gates)["macs"])(jax.tree.map(jnp.asarray, shares))
        assert all(slopes[name][e, k] > 0 for name, e, k in where)


def test_the_layers_say_what_they_cost_where_somebody_listens():
    embed, heads = Size((4, 8), gates(0.5, 0.5)), Size((1, 2), gates(0.25, 0.75))
    report(embed, params=1)
    with counting() as cost:
        report(embed, heads, params=2)
        report(embed, embed, params=1, macs=3)
        report(params=5)
    assert cost.mean() == {"params": pytest.approx(2 * 6 * 1.75 + 40 + 5), "macs": pytest.approx(120)}


def test_equal_networks_are_equal_genotypes():
    one = space()
    rows = {name: np.zeros(group.shape[0], int) for name, group in one.groups.items()}
    first, second = (Genotype.from_decisions(one, rows | {"kernel": np.array([0, 0, k])}) for k in (0, 1))
    assert first == second and [choice.source for choice in first.choices["kernel"]] == [0, 1]
    scores = {name: np.zeros(group.shape) for name, group in one.groups.items()}
    assert one.genotype(scores | {"kernel": np.eye(2)[[0, 0, 1]]}) == first
    assert beyond(((0, 2), (1, 3)), (0, 0)).tolist() == [True, True, False, True, True]


@pytest.mark.parametrize("go, message", [
    (lambda: Size((4, 2), 0), "ascending"),
    (lambda: Size((2, 4), gates(1, 0, 0)), r"a choice of 2 sizes, 2, 4, has gates of shape \(3,\)"),
    (lambda: Size((2, 4), REMOVED), "needs one of 2, 4"),
    (lambda: Conv(fixed(2), Size((2, 3), 0)).init(jax.random.key(0), np.zeros((1, *IMAGE)), fixed(2)), "must be odd, got 2"),
    (lambda: Conv(fixed(2), 3, name="a").init(jax.random.key(0), np.zeros((1, *IMAGE)), fixed(3)), "reads 2 channels"),
    (lambda: Conv(fixed(2), 3, depthwise=True).init(jax.random.key(0), np.zeros((1, *IMAGE)), fixed(2)), "must put out"),
    (lambda: mixed_depth([], Size((1, 2), 1), np.zeros(1)), "a depth of 2"),
])
def test_what_cannot_be_is_refused_in_one_line(go, message):
    with pytest.raises(ValueError, match=message) as caught:
        go()
    assert "\n" not in str(caught.value)
