"""Logits to gates, and what gates meet on an edge with partial channels, against NumPy. In float64."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.decisions import decided, full_mask, undecided
from dnas.algorithms.relaxations import (
    EDGES,
    Architecture,
    edge_normalised,
    gumbel,
    nearest_on_simplex,
    softmax,
    sparsemax,
)
from dnas.algorithms.schedules import constant, linear, time_of
from dnas.methods.beta_darts import beta_darts
from dnas.methods.darts import darts
from dnas.methods.drnas import drnas
from dnas.shared_options import SharedOptions, shared_options
from dnas.types import OPEN, REMOVED, Genotype, Group
from search_spaces.layers.mixed import MixedOp, channel_shuffle
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


def gates_of(relaxation, arch, groups=GROUPS, *, key=None, mask=None, step=0, **hyper):
    """Of one group alone, if `groups` is its name; at a step of ten epochs of one step."""
    groups = {groups: GROUPS[groups]} if isinstance(groups, str) else groups
    hyper = {"epochs": 10, "steps": 1, **hyper}
    return relaxation.gates(key, Architecture(arch, full_mask(groups) | (mask or {}), groups), hyper, time_of(hyper, step))


def test_softmax_of_every_edge():
    arch = logits()
    gates = jax.device_get(gates_of(softmax(), arch))
    assert gates.keys() == GROUPS.keys()
    for name, group in GROUPS.items():
        for e in range(len(group.edges)):
            count = len(group.edge_ops(e))
            np.testing.assert_allclose(gates[name][e, :count], numpy_softmax(arch[name][e, :count]))
            np.testing.assert_array_equal(gates[name][e, count:], 0)


def test_sparsemax():
    """Known values; each row is the nearest point of the simplex, so moving to any other point of it goes uphill; and the
    Jacobian is that of a projection on the operations that are left."""
    project = jax.jit(nearest_on_simplex)
    of = lambda *logits: project(np.array(logits))
    np.testing.assert_allclose(of(1.0, 0.5, -1.0), (0.75, 0.25, 0), atol=1e-15)
    np.testing.assert_allclose(of(2.0, 0.0, 0.0), (1, 0, 0), atol=1e-15)
    np.testing.assert_allclose(of(0.3, -np.inf, 0.3), (0.5, 0, 0.5), atol=1e-15)
    np.testing.assert_allclose(jax.jit(jax.jacobian(nearest_on_simplex))(np.array([1, 0.5, -1])),
                               [[0.5, -0.5, 0], [-0.5, 0.5, 0], [0, 0, 0]], atol=1e-15)
    arch = logits()
    for name, rows in jax.device_get(jax.jit(lambda: gates_of(sparsemax(), arch))()).items():
        allowed = GROUPS[name].allowed
        np.testing.assert_allclose(rows.sum(-1), 1, rtol=1e-12)
        assert (rows >= 0).all() and (rows[~allowed] == 0).all()
        uphill = np.where(allowed, rows - arch[name], np.inf)  # of half the squared distance
        assert ((rows * np.where(allowed, uphill, 0)).sum(-1) <= uphill.min(-1) + 1e-12).all()


def test_sparsemax_is_an_option_where_gates_are_those_of_darts():
    chosen, plain = (beta_darts(relaxation=name).arch.relaxation for name in ("sparsemax", "softmax"))
    arch = {"nasbench201": np.eye(6, 3) * 5}
    (one, other) = (gates_of(relaxation, arch, "nasbench201")["nasbench201"] for relaxation in (chosen, plain))
    assert (one[0] == np.array([1.0, 0, 0])).all() and (other > 0).all()
    assert darts(relaxation="sparsemax", edge_normalisation=True).arch.relaxation.edges
    with pytest.raises(ValueError, match="relaxation 'entmax' must be one of softmax, sparsemax"):
        darts(relaxation="entmax")
    with pytest.raises(ValueError, match="in its own way: leave out the option relaxation"):
        drnas(relaxation="sparsemax")


RELAXATIONS = {"softmax": softmax(), "edges": edge_normalised(softmax()), "gumbel": gumbel(tau=constant("tau")),
               "hard": gumbel(tau=constant("tau"), hard=True)}
RELAXATIONS["both"] = edge_normalised(RELAXATIONS["hard"])


@pytest.mark.parametrize("masked", [False, True], ids=["padded", "masked"])
@pytest.mark.parametrize("name", RELAXATIONS)
def test_what_is_out_of_the_race_gets_no_gate_and_no_gradient(name, masked):
    """Whatever stands there, infinities and large numbers too: padding, and operations that a mask takes out."""
    group, arch = GROUPS["padded"], logits()
    mask = group.allowed & (np.arange(3) != 1) if masked else group.allowed
    arch |= {"padded": np.where(mask, arch["padded"], [0.0, np.inf, 1e300])}
    of = lambda arch: gates_of(RELAXATIONS[name], arch, "padded", key=jax.random.key(1), tau=0.7,
                               mask={"padded": jnp.array(mask)})["padded"]
    gates = np.asarray(of(arch))
    grads = jax.device_get(jax.grad(lambda arch: jnp.sum(of(arch) * np.arange(1.0, 4)))(arch))
    np.testing.assert_array_equal(gates[~mask], 0)
    np.testing.assert_array_equal(grads["padded"][~mask], 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gates, grads)))
    assert np.abs(grads["padded"][0][mask[0]]).min() > 0


@pytest.mark.parametrize("name", RELAXATIONS)
def test_an_edge_without_operations_stays_finite(name):
    """A mask may leave none on an edge, decided or not: no gates, and no gradient that is not a number."""
    mask = {"padded": jnp.array(GROUPS["padded"].allowed & (np.arange(3)[:, None] != 1))}

    def total(arch, choices):
        gates = gates_of(RELAXATIONS[name], arch, "padded", key=jax.random.key(1), tau=0.7, mask=mask)
        return jnp.sum(decided(gates, {"padded": choices}, mask)["padded"] * np.arange(1.0, 4))

    for choices in np.full(3, OPEN), np.array([OPEN, REMOVED, OPEN]):
        value, grads = jax.value_and_grad(total)(logits(), choices)
        assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
        np.testing.assert_array_equal(grads["padded"][1], 0)
        assert np.abs(grads["padded"][0]).max() > 0


def test_edge_shares_add_up_at_every_node():
    """By target node, also where a node's edges are not next to each other, and whatever the logits' size."""
    arch = logits() | {"darts" + EDGES: np.linspace(-500.0, 500.0, 14)}
    plain, gates = jax.device_get((gates_of(softmax(), arch), gates_of(edge_normalised(softmax()), arch)))
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
    plain, gates = jax.device_get((gates_of(softmax(), arch), gates_of(edge_normalised(softmax()), arch)))
    for name in GROUPS:
        np.testing.assert_allclose(gates[name], plain[name] / np.array(INTO[name])[:, None], rtol=1e-14)


def test_edges_are_shared_of_any_relaxation():
    """Of the same draw, without a key of its own."""
    arch, key = logits(), jax.random.key(3)
    drawn = jax.device_get(gates_of(RELAXATIONS["hard"], arch, key=key, tau=1.0))
    shared = jax.device_get(gates_of(RELAXATIONS["both"], arch, key=key, tau=1.0))
    for name in GROUPS:
        np.testing.assert_allclose(shared[name], drawn[name] * shared[name].sum(-1, keepdims=True), rtol=1e-12)
        assert (shared[name].sum(-1) < 1).any()


def test_gumbel_draws_by_the_probabilities():
    """The largest entry is each operation as often as softmax says, at any temperature; without a key it is softmax."""
    arch, count = {"padded": logits()["padded"]}, 4000
    draw = jax.jit(jax.vmap(lambda key: gates_of(RELAXATIONS["hard"], arch, "padded", key=key, tau=0.3)["padded"]))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), count)))
    expected = gates_of(softmax(), arch, "padded")["padded"]
    np.testing.assert_allclose(np.sort(drawn, -1), np.broadcast_to([0, 0, 1], drawn.shape), atol=1e-15)
    np.testing.assert_allclose(drawn.mean(0), expected, atol=4 * 0.5 / count**0.5)
    np.testing.assert_array_equal(gates_of(RELAXATIONS["hard"], arch, "padded", tau=0.3)["padded"], expected)


def test_hard_gumbel_passes_the_gradient_of_the_soft_one():
    arch, key, slopes = {"padded": logits()["padded"]}, jax.random.key(5), np.array([1.0, -2.0, 0.5])
    grads = [jax.grad(lambda arch, name=name: jnp.sum(slopes * gates_of(
        RELAXATIONS[name], arch, "padded", key=key, tau=0.7)["padded"]))(arch)["padded"] for name in ("gumbel", "hard")]
    np.testing.assert_allclose(*grads, rtol=1e-12)
    assert np.abs(grads[0]).max() > 0.01


def test_the_temperature_is_annealed():
    """From 10 to 0.1: the same draw is flat in the beginning and all but one-hot in the end."""
    annealed, key, arch = gumbel(tau=linear("first", "last")), jax.random.key(0), {"darts": logits()["darts"]}
    at = lambda step: np.asarray(gates_of(annealed, arch, "darts", key=key, step=step, first=10.0, last=0.1)["darts"])
    np.testing.assert_allclose(np.log(at(0)[:, :1] / at(0)), np.log(at(5)[:, :1] / at(5)) * 5.05 / 10, rtol=1e-9)
    assert at(0).max() < 0.5 and np.median(at(10).max(-1)) > 0.99
    np.testing.assert_array_equal(at(10), at(1000))


def test_initial_logits():
    groups = {name: Group(tuple((0, t) for t in range(50)), tuple(map(str, range(100)))) for name in ("one", "two")}
    arch = jax.device_get(edge_normalised(softmax()).init(jax.random.key(0), groups))
    assert {name: leaf.shape for name, leaf in arch.items()} == {
        "one": (50, 100), "two": (50, 100), "one" + EDGES: (50,), "two" + EDGES: (50,)}
    assert softmax().init(jax.random.key(0), groups).keys() == groups.keys()
    for name in groups:
        np.testing.assert_allclose([arch[name].mean(), arch[name].std()], [0, 1e-3], atol=1e-4)
        np.testing.assert_allclose(arch[name + EDGES].std(), 1e-3, rtol=0.4)
    values = np.concatenate([leaf.ravel() for leaf in arch.values()])
    assert len(np.unique(values)) == len(values)


def test_decided_edges():
    groups = {"darts": GROUPS["darts"]}
    decisions, mask = undecided(groups), full_mask(groups)
    np.testing.assert_array_equal(decisions["darts"], [OPEN] * 14)
    arch = {"darts": logits()["darts"]}
    gates = gates_of(softmax(), arch, "darts")
    np.testing.assert_array_equal(decided(gates, decisions, mask)["darts"], gates["darts"])
    choices = np.array(decisions["darts"])
    choices[[0, 3, 13]] = 7, REMOVED, 0
    found = decided(gates, {"darts": choices}, mask)["darts"]
    assert found.dtype == gates["darts"].dtype
    found, left = np.asarray(found), np.setdiff1d(np.arange(14), [0, 3, 13])
    np.testing.assert_array_equal(found[[0, 3, 13]], [np.eye(8)[7], np.zeros(8), np.eye(8)[0]])
    np.testing.assert_array_equal(found[left], np.asarray(gates["darts"])[left])

    def total(arch):
        return jnp.sum(decided(gates_of(softmax(), arch, "darts"), {"darts": choices}, mask)["darts"] * np.arange(8.0))

    grads = np.asarray(jax.grad(total)(arch)["darts"])
    np.testing.assert_array_equal(grads[[0, 3, 13]], 0)
    assert np.abs(grads[left]).min() > 0


def test_whatever_a_relaxation_or_a_perturbation_gives_an_operation_out_of_the_race_it_gets_none():
    """An edge may be decided for one all the same, and entries that are no group stay as they are."""
    mask = {"darts": np.arange(14 * 8).reshape(14, 8) % 3 > 0}
    gates = {"darts": np.full((14, 8), 0.3), "scale": np.float64(7)}
    found = decided(gates, {"darts": np.array([OPEN] * 13 + [int(np.argmin(mask["darts"][13]))])}, mask)
    np.testing.assert_array_equal(found["darts"][:13], np.where(mask["darts"], 0.3, 0)[:13])
    np.testing.assert_array_equal(found["darts"][13], ~mask["darts"][13] & (np.cumsum(~mask["darts"][13]) == 1))
    assert found["scale"] == 7 and found.keys() == gates.keys()


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
    with shared_options(SharedOptions(partial_channels=parts)):
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
    with shared_options(SharedOptions(partial_channels=parts)):
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
