"""One-hot gates: one operation of each edge is computed, and the network is the one that all of them give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.one_hot import gates_are_one_hot, one_hot_gates
from dnas.platform import platform
from dnas.shared_options import SharedOptions, shared_options
from dnas.task import classification
from dnas.types import REMOVED, Batch, Genotype
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Identity, Zero
from search_spaces.nasbench201 import nasbench201
from tests.toy_space import toy

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 8, 2)), jnp.float32)
TARGETS = jnp.arange(3) % 3


def within(space, **options):
    with shared_options(SharedOptions(**options)):
        return space((8, 8, 2), 3, channels=4)


def space():
    return nasbench201((8, 8, 2), 3, channels=4)


def gates(decisions=(3, 1, 2, 4, REMOVED, 3)):
    return {"cell": jnp.asarray([np.eye(5)[k] if k >= 0 else np.zeros(5) for k in decisions], jnp.float32)}


def gradients(of, weights, stats, gates, one_hot, **options):
    """The loss, its gradients to weights and gates, and the statistics after the pass."""
    def loss(weights, gates):
        with one_hot_gates(one_hot):
            outputs, after = of.apply(weights, stats, gates, IMAGES, train=True, **options)
        return classification().losses(outputs, TARGETS).mean(), after

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(weights, gates)


@pytest.mark.parametrize("of", [space(), within(toy, partial_channels=2), within(toy, remat=True)],
                         ids=["bundles", "partial-channels", "remat"])
@pytest.mark.heavy
def test_outputs_and_gradients_of_the_weights_are_those_of_all_operations(of):
    weights, stats = of.init(jax.random.key(0), IMAGES)
    (name, group), = of.groups.items()
    at = {name: gates()["cell"][:len(group.edges), :len(group.ops)]}
    (loss, _), (all_grads, _) = gradients(of, weights, stats, at, False)
    (alone, after), (grads, _) = gradients(of, weights, stats, at, True)
    np.testing.assert_allclose(alone, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), grads, all_grads)
    assert jax.tree.structure(after) == jax.tree.structure(stats)


def test_paths_are_dropped():
    of = within(toy, drop_path=0.4)
    weights, stats = of.init(jax.random.key(0), IMAGES)
    at = {"chain": jnp.eye(4)[jnp.array([2, 3])]}
    first, second = (gradients(of, weights, stats, at, True, key=jax.random.key(seed))[0][0] for seed in range(2))
    assert np.isfinite([first, second]).all() and first != second


def test_statistics_of_operations_that_are_not_computed_stay():
    of = space()
    weights, stats = of.init(jax.random.key(0), IMAGES)
    (_, after), _ = gradients(of, weights, stats, gates([1] * 6), True)
    cells = lambda tree: [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if "edge_" in str(path)]
    for before, now in zip(cells(stats), cells(after), strict=True):
        np.testing.assert_array_equal(before, now)


def test_the_gradient_of_a_gate_is_that_of_its_output_or_of_zeros_that_were_added():
    """GDAS's published gradient: by hand, of an edge to which each other gate is added as a number."""
    of, at = space(), gates()
    weights, stats = of.init(jax.random.key(0), IMAGES)
    _, (_, alone) = gradients(of, weights, stats, at, True)
    _, (_, textbook) = gradients(of, weights, stats, at, False)
    chosen = np.asarray(at["cell"]) == 1
    np.testing.assert_allclose(alone["cell"][chosen], textbook["cell"][chosen], rtol=2e-4, atol=1e-6)
    others = np.asarray(alone["cell"])[~chosen & chosen.any(-1, keepdims=True)].reshape(5, 4)
    np.testing.assert_allclose(others, np.repeat(others[:, :1], 4, 1), rtol=1e-5)  # each a sum over the same tensor
    assert np.abs(others).max() > 1e-4


def test_an_edge_by_hand():
    edge, x = MixedOp({"none": Zero, "skip": Identity}), jnp.asarray([[2.0, -3.0, 0.5]])

    def total(gate, x, one_hot=True):
        with one_hot_gates(one_hot):
            return (edge.apply({}, x, gate, True) * jnp.array([1.0, 2.0, 4.0])).sum()

    for gate, expected in (([0.0, 1.0], [7.0, -2.0]), ([1.0, 0.0], [0.0, 7.0])):
        np.testing.assert_allclose(jax.grad(total)(jnp.array(gate), x), expected)
    np.testing.assert_allclose(jax.grad(total, 1)(jnp.array([0.0, 1.0]), x), [[1, 2, 4]])
    np.testing.assert_allclose(jax.grad(total)(jnp.array([0.0, 1.0]), x, False), [0, -2])
    with platform("cuda"):  # where all are computed
        np.testing.assert_allclose(jax.grad(total)(jnp.array([0.0, 1.0]), x), [7, -2])


def branches(closed):
    """The numbers of convolutions in the branches of each switch, and those outside of any."""
    def walk(jaxpr):
        outside, inside = 0, []
        for eqn in jaxpr.eqns:
            if eqn.primitive.name == "cond":
                inside.append(sorted(walk(branch.jaxpr)[0] for branch in eqn.params["branches"]))
                continue
            outside += eqn.primitive.name == "conv_general_dilated"
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    more, deeper = walk(inner)
                    outside, inside = outside + more, inside + deeper
        return outside, inside

    return walk(closed.jaxpr)


def test_each_edge_is_a_switch_between_its_operations():
    of = space()
    weights, stats = of.init(jax.random.key(0), IMAGES)

    def outputs(gates):
        with one_hot_gates():
            return of.apply(weights, stats, gates, IMAGES, train=True)[0]

    outside, switches = branches(jax.make_jaxpr(outputs)(gates()))
    assert len(switches) == 18 and all(each == [0, 0, 0, 0, 1] for each in switches)
    assert outside == branches(jax.make_jaxpr(lambda: of.apply(weights, stats, Genotype.from_decisions(
        of, {"cell": np.ones(6, int)}), IMAGES, train=True)[0])())[0]


def recorded_space(seen):
    """The toy space, which notes whether gates are one-hot whenever it is traced."""
    plain = toy()

    def apply(weights, stats, gates, inputs, **options):
        seen.append(gates_are_one_hot())
        return plain.apply(weights, stats, gates, inputs, **options)

    return plain._replace(apply=apply)


@pytest.mark.parametrize("name, options, expected", [
    ("darts", {}, {False}), ("rsps", {}, {True}), ("reinmax", {}, {False, True}), ("gdas", {}, {False, True}),
    ("gdas", {"gradient": "published"}, {True}), ("gdas", {"gradient": "drawn"}, {True}), ("snas", {}, {False}),
    ("gdas+sdarts-rs", {}, {False}), ("gdas+darts-minus", {}, {False})])
def test_which_methods_compute_one_operation(name, options, expected):
    seen = []
    of, method = recorded_space(seen), dnas.method(name, **options)
    algorithm, hyper = method.bind(of, classification()), method.numbers_of(epochs=2, steps=2)
    inputs = jnp.zeros((4, 8, 8, 1))
    state = jax.eval_shape(lambda: algorithm.init(jax.random.key(0), inputs, hyper))
    batch = Batch(inputs, jnp.zeros(4, jnp.int32))
    seen.clear()
    jax.eval_shape(lambda state: algorithm.step(jax.random.key(0), state, batch, batch, hyper), state)
    assert set(seen) == expected
