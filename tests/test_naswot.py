"""NASWOT: codes by hand, the codes of discrete networks, what does not count, and determinants that are 0."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.platform import platform
from dnas.selection.naswot import code_kernel, log_determinant
from dnas.selection.select import select
from dnas.selection.types import Context, Unsuitable
from dnas.selection.zero_cost import _kernel, zero_cost, zero_cost_gates
from dnas.shared_options import SharedOptions, shared_options
from dnas.task import classification
from dnas.types import REMOVED, Batch, Genotype, Group
from search_spaces.dense import dense
from search_spaces.nasbench201 import nasbench201
from search_spaces.pure_space import mix, pure_space
from tests.problems import plain
from tests.test_selection import softmax_gates, undecided_state
from tests.toy_space import toy

INPUTS = np.random.default_rng(0).normal(size=(5, 12))
WEIGHTS = {"w": np.random.default_rng(1).normal(size=(2, 12, 12))}
OPS = "none", "relu", "linear"


def chain():
    """Two edges in a row, each nothing, a ReLU of a product, or the product; then the sum of all features."""
    groups = {"g": Group(((0, 1), (1, 2)), OPS)}

    def apply(weights, stats, gates, images, train, key):
        x = images
        for e in range(2):
            product = lambda x=x, e=e: x @ weights["w"][e]
            x = mix(gates["g"][e], (lambda x=x: 0 * x, lambda p=product: jax.nn.relu(p()), product))
        return jnp.stack([x.sum(-1), x[:, 0]], -1), stats

    return pure_space("chain", lambda key, images: (jax.tree.map(jnp.asarray, WEIGHTS), {}), apply, groups, image=(12,))


def context(space, inputs=INPUTS, logits=None):
    state = undecided_state(space, {"g": jnp.zeros((2, 3)) if logits is None else logits})
    return Context(space, classification(), softmax_gates, state, None, None, 2, 3,
                   batch=Batch(jnp.asarray(inputs), jnp.zeros(len(inputs), jnp.int32)))


def kernel_by_hand(codes):
    """K of codes `[B, units]` of several ReLUs, entry by entry."""
    count = len(codes[0])
    return np.array([[sum((code[i] == code[j]).sum() for code in codes) for j in range(count)] for i in range(count)], float)


def codes_by_hand(ops):
    x, codes = INPUTS, []
    for op, w in zip(ops, WEIGHTS["w"]):
        x = {"none": 0 * x, "relu": np.maximum(x @ w, 0), "linear": x @ w}[op]
        codes = {"none": [], "relu": [*codes, x > 0], "linear": codes}[op]
    return codes


def kernel_of(space, gates, weights, stats, inputs):
    return np.asarray(_kernel(space.apply, *jax.tree.map(jnp.asarray, (weights, stats, gates, inputs))))


def test_the_matrix_by_hand():
    """In float64, of all nine networks; operations that gates of zero exclude, and those before a none, do not count."""
    space = chain()
    with jax.enable_x64(True):
        for decisions in np.ndindex(3, 3):
            genotype = Genotype.from_decisions(space, {"g": np.array(decisions)})
            kernel = kernel_of(space, genotype.gates(space.groups), WEIGHTS, {}, INPUTS)
            expected = kernel_by_hand([np.zeros((5, 0), bool), *codes_by_hand([OPS[k] for k in decisions])])
            np.testing.assert_array_equal(kernel, expected)
    assert kernel_by_hand(codes_by_hand(["relu", "linear"])).any()


def test_programs_in_programs_are_searched():
    """ReLUs in loops, switches, calls and checkpoints, under a gradient of their own; and one that nothing reads."""
    def layer(x, w):
        unread = jax.nn.relu(x - w)
        return jax.checkpoint(jax.jit(nn.relu))(x + w), unread.sum()

    def network(x, index):
        x = lax_switch(index, x)
        shift = jnp.float32(0.5)  # a constant of the loop
        (x, _), _ = jax.lax.scan(lambda carry, w: ((layer(carry[0], w - shift)[0], carry[1] + 1), (carry[1], carry[0])),
                                 (x, 0), jnp.array([[0.8], [-0.3]]))
        return x

    def lax_switch(index, x):
        return jax.lax.switch(index, [nn.relu, lambda x: x * 2, lambda x: 2 * nn.relu(-x)], x)

    for index in range(3):
        first = {0: INPUTS > 0, 1: np.zeros((5, 0), bool), 2: INPUTS < 0}[index]
        x = {0: np.maximum(INPUTS, 0), 1: 2 * INPUTS, 2: 2 * np.maximum(-INPUTS, 0)}[index]
        codes = [first, x + 0.3 > 0, np.maximum(x + 0.3, 0) - 0.8 > 0]
        kernel = jax.jit(lambda x, index: code_kernel(network, x, index))(INPUTS, index)
        np.testing.assert_array_equal(kernel, kernel_by_hand(codes))


IMAGES = np.random.default_rng(3).normal(size=(4, 8, 8, 2))


def within(space, **options):
    with shared_options(SharedOptions(**options)):
        return space((8, 8, 2), 3, channels=4)


@pytest.mark.parametrize("of, every", [
    pytest.param(within(nasbench201), ([3, 2, 3, 1, 2, 3], [2, 3, 2, 4, 1, 3]), marks=pytest.mark.heavy, id="bundles"),
    pytest.param(within(toy, partial_channels=2), ([2, 3], [3, 1]), id="partial-channels"),
    pytest.param(within(toy, remat=True), ([2, 2], [1, 3]), id="remat")])
def test_the_matrix_is_that_of_the_discrete_network(of, every, monkeypatch):
    """Of which each ReLU's input is recorded as it is called, none of them unread."""
    (name, _), = of.groups.items()
    weights, stats = of.init(jax.random.key(0), jnp.asarray(IMAGES, jnp.float32))
    double = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
    relu, codes = nn.relu, []
    with jax.enable_x64(True):
        weights, stats = double(weights), double(stats)
        for decisions in every:
            genotype = Genotype.from_decisions(of, {name: np.array(decisions)})
            kernel = kernel_of(of, genotype.gates(of.groups), weights, stats, IMAGES)
            own = of.inherit(weights, genotype), of.inherit(stats, genotype)
            codes.clear()
            with monkeypatch.context() as patched:
                patched.setattr(nn, "relu", lambda x: (codes.append(np.asarray(x > 0).reshape(4, -1)), relu(x))[1])
                with jax.disable_jit():
                    of.apply(*own, genotype, IMAGES, train=True, key=None)
            assert codes
            np.testing.assert_array_equal(kernel, kernel_by_hand(codes))


def test_a_removed_edge_has_no_codes():
    space = within(toy)
    weights, stats = space.init(jax.random.key(0), jnp.asarray(IMAGES, jnp.float32))
    gates = lambda row: Genotype.from_decisions(space, {"chain": np.array(row)}).gates(space.groups)
    removed, none, conv = (kernel_of(space, gates([k, 2]), weights, stats, IMAGES.astype(np.float32))
                           for k in (REMOVED, 0, 2))
    np.testing.assert_array_equal(removed, none)
    stem, edge = 8 * 8 * 2, 8 * 8 * 4
    assert (removed.diagonal() == stem + edge).all() and (conv.diagonal() == stem + 2 * edge).all()


@pytest.mark.heavy
def test_a_program_for_an_accelerator_counts_alike():
    """Where edges that leave one node otherwise share their ReLUs."""
    space = within(nasbench201)
    weights, stats = space.init(jax.random.key(0), jnp.asarray(IMAGES, jnp.float32))
    gates = Genotype.from_decisions(space, {"cell": np.array([2, 3, 2, 0, 1, 3])}).gates(space.groups)
    found = []
    for name in "cpu", "cuda":
        with platform(name):
            found.append(kernel_of(space, gates, weights, stats, IMAGES.astype(np.float32)))
    np.testing.assert_array_equal(*found)


def test_determinants():
    kernel = np.array([[3.0, 1, 2], [1, 3, 2], [2, 2, 3]])
    inputs = np.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(log_determinant(kernel, inputs), np.log(np.linalg.det(kernel)))
    equal = np.array([[3.0, 3, 1], [3, 3, 1], [1, 1, 3]])
    assert log_determinant(equal, inputs) == -np.inf
    np.testing.assert_allclose(log_determinant(equal, np.array([[1.0], [1.0], [2.0]])), np.log(8))
    assert log_determinant(np.zeros((3, 3)), inputs) == -np.inf


def test_the_best_has_the_largest_determinant():
    """The score of a network without ReLUs is -infinity, and counts as the least beside the gates."""
    space = chain()
    found = select(zero_cost(proxy="naswot", draws=30), context(space))
    rows, scores = found.scores["tried/g"], found.scores["tried"]
    for row, score in zip(rows, scores):
        kernel = kernel_by_hand([np.zeros((5, 0), bool), *codes_by_hand([OPS[k] for k in row])])
        np.testing.assert_allclose(score, log_determinant(kernel, INPUTS), rtol=1e-5)
    assert np.isneginf(scores).any() and np.isfinite(scores).any() and not np.isnan(scores).any()
    assert found.genotype.decisions(space.groups)["g"].tolist() == rows[scores.argmax()].tolist()
    logits = jnp.array([[0.0, 0, 3], [0, 0, 2]])
    both = select(zero_cost_gates(proxy="naswot", draws=30, weight=2.0, without=()), context(space, logits=logits))
    z = lambda values: (values - values.mean()) / values.std()
    logs = np.log(np.asarray(jax.nn.softmax(logits)))[[[0, 1]], rows].mean(-1)
    raised = np.where(np.isneginf(scores), scores[np.isfinite(scores)].min(), scores)
    np.testing.assert_allclose(both.scores["tried"], z(raised) + 2 * z(logs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space, inputs, message", [
    (plain(), np.zeros((4, 6)), "this network has no jax.nn.relu"),
    (chain()._replace(apply=lambda weights, stats, gates, x, **_: (jax.nn.relu(x.T).T, stats)), INPUTS,
     r"compares the 5 examples of a batch, and a ReLU of this network has the shape \[12, 5\]")])
def test_networks_that_it_cannot_judge(space, inputs, message):
    on = context(space, inputs)._replace(gates=lambda state: {name: np.ones(group.shape) for name, group in
                                                              space.groups.items()})
    with pytest.raises(Unsuitable, match=message):
        select(zero_cost(proxy="naswot", draws=2), on)


def test_layers_of_rows_have_codes():
    space = dense((6,), 3, layers=1)
    weights, stats = space.init(jax.random.key(0), jnp.zeros((4, 6)))
    inputs = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    ones = {name: np.eye(group.shape[1], dtype=np.float32)[[0] * len(group.edges)] for name, group in space.groups.items()}
    assert kernel_of(space, ones, weights, stats, inputs).trace() > 0
