"""Logits to gates, and what gates meet on an edge with partial channels, against NumPy. In float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.relaxations import EDGES, decided, edge_logits, edge_normalised, initial_logits, softmax, undecided
from dnas.types import OPEN, REMOVED, Genotype, Group
from search_spaces.mixed import MixedOp, MixedOptions, channel_shuffle, mixed_options
from search_spaces.nasbench201 import EDGES as CELL
from tests.toy_space import toy


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


DARTS = tuple((source, target) for target in range(2, 6) for source in range(target))
GROUPS = {
    "nasbench201": Group(CELL, ("a", "b", "c")),
    "darts": Group(DARTS, tuple("abcdefgh")),
    "padded": Group(((0, 2), (1, 3), (1, 2)), (("a", "b", "c"), ("a",), ("b", "c"))),
}
INTO = {"nasbench201": [1, 2, 2, 3, 3, 3], "darts": [2] * 2 + [3] * 3 + [4] * 4 + [5] * 5, "padded": [2, 1, 2]}
"""How many edges of the group end where this one does."""


def numpy_softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(-1, keepdims=True)


def logits():
    draw = np.random.default_rng(0)
    return {name: 2 * draw.normal(size=group.shape) for name, group in GROUPS.items()} | {
        name + EDGES: 2 * draw.normal(size=len(group.edges)) for name, group in GROUPS.items()}


def test_softmax_of_every_edge():
    arch = logits()
    gates = jax.device_get(softmax(GROUPS)(None, arch, 0))
    assert gates.keys() == GROUPS.keys()
    for name, group in GROUPS.items():
        for e in range(len(group.edges)):
            count = len(group.edge_ops(e))
            np.testing.assert_allclose(gates[name][e, :count], numpy_softmax(arch[name][e, :count]))
            np.testing.assert_array_equal(gates[name][e, count:], 0)


@pytest.mark.parametrize("relaxation", [softmax, edge_normalised])
def test_padding_gets_no_gate_and_no_gradient(relaxation):
    """Whatever stands there: infinities and large numbers too."""
    group, arch = GROUPS["padded"], logits()
    arch |= {"padded": np.where(group.allowed, arch["padded"], [0.0, np.inf, 1e300])}
    relax, allowed = relaxation({"padded": group}), group.allowed
    gates = np.asarray(relax(None, arch, 0)["padded"])
    grads = jax.device_get(jax.grad(lambda arch: jnp.sum(relax(None, arch, 0)["padded"] ** 2))(arch))
    np.testing.assert_array_equal(gates[~allowed], 0)
    np.testing.assert_array_equal(grads["padded"][~allowed], 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gates, grads)))
    assert np.abs(grads["padded"][0]).min() > 0


def test_edge_shares_add_up_at_every_node():
    """By target node, also where a node's edges are not next to each other, and whatever the logits' size."""
    arch = logits() | {"darts" + EDGES: np.linspace(-500.0, 500.0, 14)}
    plain, gates = jax.device_get((softmax(GROUPS)(None, arch, 0), edge_normalised(GROUPS)(None, arch, 0)))
    for name, group in GROUPS.items():
        shares, edges = gates[name].sum(-1), arch[name + EDGES]
        np.testing.assert_allclose(gates[name], shares[:, None] * plain[name], rtol=1e-12)
        targets = np.array([target for _, target in group.edges])
        for target in set(targets):
            into = targets == target
            assert into.sum() == INTO[name][int(np.argmax(into))]
            np.testing.assert_allclose(shares[into], numpy_softmax(edges[into] - edges[into].max()), rtol=1e-12)
            np.testing.assert_allclose(shares[into].sum(), 1)


def test_equal_edges_share_alike():
    """PC-DARTS without channels to pass by and with edge logits 0 is DARTS divided by the edges into a node."""
    arch = logits() | {name + EDGES: np.zeros(len(group.edges)) for name, group in GROUPS.items()}
    plain, gates = softmax(GROUPS)(None, arch, 0), edge_normalised(GROUPS)(None, arch, 0)
    for name in GROUPS:
        np.testing.assert_allclose(gates[name], plain[name] / np.array(INTO[name])[:, None], rtol=1e-14)


def test_initial_logits():
    groups = {name: Group(tuple((0, t) for t in range(50)), tuple(map(str, range(100)))) for name in ("one", "two")}
    arch = jax.device_get(edge_logits(jax.random.key(0), groups))
    assert {name: leaf.shape for name, leaf in arch.items()} == {
        "one": (50, 100), "two": (50, 100), "one" + EDGES: (50,), "two" + EDGES: (50,)}
    assert initial_logits(jax.random.key(0), groups).keys() == groups.keys()
    for name in groups:
        np.testing.assert_allclose([arch[name].mean(), arch[name].std()], [0, 1e-3], atol=1e-4)
        np.testing.assert_allclose(arch[name + EDGES].std(), 1e-3, rtol=0.4)
    values = np.concatenate([leaf.ravel() for leaf in arch.values()])
    assert len(np.unique(values)) == len(values)


def test_decided_edges():
    groups = {"darts": GROUPS["darts"]}
    decisions = undecided(groups)
    np.testing.assert_array_equal(decisions["darts"], [OPEN] * 14)
    arch = {"darts": logits()["darts"]}
    gates = softmax(groups)(None, arch, 0)
    np.testing.assert_array_equal(decided(gates, decisions)["darts"], gates["darts"])
    choices = np.array(decisions["darts"])
    choices[[0, 3, 13]] = 7, REMOVED, 0
    found = decided(gates, {"darts": choices})["darts"]
    assert found.dtype == gates["darts"].dtype
    found, left = np.asarray(found), np.setdiff1d(np.arange(14), [0, 3, 13])
    np.testing.assert_array_equal(found[[0, 3, 13]], [np.eye(8)[7], np.zeros(8), np.eye(8)[0]])
    np.testing.assert_array_equal(found[left], np.asarray(gates["darts"])[left])

    def total(arch):
        return jnp.sum(decided(softmax(groups)(None, arch, 0), {"darts": choices})["darts"] * np.arange(8.0))

    grads = np.asarray(jax.grad(total)(arch)["darts"])
    np.testing.assert_array_equal(grads[[0, 3, 13]], 0)
    assert np.abs(grads[left]).min() > 0


# Partial channels.


@pytest.mark.parametrize("shape", [(8,), (2, 3, 8)])
def test_channel_shuffle(shape):
    x = np.broadcast_to(np.arange(8), shape)
    np.testing.assert_array_equal(channel_shuffle(x, 4), np.broadcast_to([0, 2, 4, 6, 1, 3, 5, 7], shape))


@pytest.mark.parametrize("channels, groups", [(8, 4), (8, 2), (12, 3), (6, 1), (6, 6)])
def test_channel_shuffle_back_and_forth(channels, groups):
    x = np.random.default_rng(0).normal(size=(2, channels))
    once = channel_shuffle(x, groups)
    for i in range(channels // groups):
        for j in range(groups):
            np.testing.assert_array_equal(once[:, i * groups + j], x[:, j * (channels // groups) + i])
    np.testing.assert_array_equal(channel_shuffle(once, channels // groups), x)


class Times(nn.Module):
    """Every `stride`-th pixel times a factor of its own a channel; says how many channels it was built for."""

    channels: int
    stride: int = 1
    factor: float = 1.0

    @nn.compact
    def __call__(self, x, train):
        assert x.shape[-1] == self.channels
        return x[:, ::self.stride, ::self.stride] * self.factor * (1 + jnp.arange(self.channels))


def mixed(x, gate, parts, stride):
    ops = {"twice": partial(Times, factor=2.0), "minus": partial(Times, factor=-1.0)}
    with mixed_options(MixedOptions(partial_channels=parts)):
        return MixedOp(ops, stride=stride).apply({}, x, gate, True)


def by_hand(x, gate, parts, stride):
    batch, height, width, channels = x.shape
    seen = channels // parts
    out = np.zeros((batch, -(-height // stride), -(-width // stride), channels))
    for h in range(out.shape[1]):
        for w in range(out.shape[2]):
            for c in range(channels):
                if c < seen:
                    out[:, h, w, c] = (2 * gate[0] - gate[1]) * (1 + c) * x[:, h * stride, w * stride, c]
                else:
                    window = x[:, h * stride:(h + 1) * stride, w * stride:(w + 1) * stride, c]
                    out[:, h, w, c] = (gate[0] + gate[1]) * window.max((1, 2))
    return out[..., [j * seen + i for i in range(seen) for j in range(parts)]]


@pytest.mark.parametrize("gate", [(0.1, 0.15), (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("stride, size", [(1, 4), (2, 4), (2, 5)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_partial_channels_by_hand(parts, stride, size, gate):
    """The first 1/K through the operations, the rest past them: max-pooled, and times the weight of the edge."""
    x = np.random.default_rng(0).normal(size=(2, size, 4, 8)) - 3
    np.testing.assert_allclose(mixed(x, jnp.array(gate), parts, stride), by_hand(x, gate, parts, stride), rtol=1e-12)


@pytest.mark.parametrize("parts, stride", [(4, 1), (4, 2), (1, 2)])
def test_a_chosen_operation_is_its_one_hot_gate(parts, stride):
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8))
    for k in range(2):
        np.testing.assert_array_equal(mixed(x, k, parts, stride), mixed(x, jnp.eye(2)[k], parts, stride))
    removed = mixed(x, REMOVED, parts, stride)
    np.testing.assert_array_equal(removed, mixed(x, jnp.zeros(2), parts, stride))
    assert removed.shape == (2, 4 // stride, 4 // stride, 8)


def test_gradient_of_a_gate_with_partial_channels():
    """The channels passed by tell a gate nothing but the weight of its edge, which a softmax does not move."""
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 8))
    where = np.ones(8)
    where[channel_shuffle(np.arange(8), 4) < 2] = 0

    def passed(arch):
        return jnp.sum(where * mixed(x, jax.nn.softmax(arch), 4, 1) ** 2)

    np.testing.assert_allclose(jax.grad(passed)(jnp.array([0.3, -1.0])), 0, atol=1e-12)


def network(parts):
    with mixed_options(MixedOptions(partial_channels=parts)):
        space = toy((4, 4, 1), 3, channels=8)
    weights, stats = space.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 4, 4, 1), np.float32))
    return space, weights, stats


def test_one_part_is_the_plain_network_bit_for_bit():
    plain = toy((4, 4, 1), 3, channels=8)
    space, weights, stats = network(1)
    images, gates = np.zeros((4, 4, 4, 1)), {"chain": np.zeros((2, 4))}

    def program(space):
        return jax.jit(partial(space.apply, train=True)).lower(weights, stats, gates, images).as_text()

    assert space.options == plain.options
    jax.tree.map(np.testing.assert_array_equal, (weights, stats), plain.init(jax.random.key(0), images))
    assert program(space) == program(plain)


@pytest.mark.parametrize("row", [(2, 3), (REMOVED, 2)], ids=str)
def test_one_hot_gates_are_the_discrete_network_with_partial_channels(row):
    space, weights, stats = network(4)
    assert weights["edge_0"]["conv"]["conv"]["kernel"].shape == (1, 1, 2, 2)
    genotype = Genotype.from_decisions(space, {"chain": np.array(row)})
    assert genotype.options["partial_channels"] == 4
    weights = jax.tree.map(lambda leaf: leaf.astype(np.float64), weights)
    images = np.random.default_rng(0).normal(size=(4, 4, 4, 1))
    whole, _ = space.apply(weights, stats, genotype.gates(space.groups), images, train=True)
    parts = space.inherit(weights, genotype), space.inherit(stats, genotype)
    single, _ = space.apply(*parts, genotype, images, train=True)
    np.testing.assert_allclose(single, whole, rtol=1e-12)


@pytest.mark.parametrize("parts, message", [(0, "it must be at least 1"), (3, "not a multiple of partial_channels 3")])
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        network(parts)
