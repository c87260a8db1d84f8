"""Edges that leave one node, computed at once: the same functions as edge by edge."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.platform import platform
from dnas.shared_options import SharedOptions, shared_options
from search_spaces.darts import Cell
from search_spaces.layers.bundle import bundle, stack_edges, unstack_edges
from search_spaces.layers.mixed import MixedOp, drop_path
from search_spaces.layers.primitives import (
    AvgPool,
    Conv,
    DilConv,
    FactorizedReduce,
    Identity,
    MaxPool,
    PoolBN,
    ReLUConvBN,
    SepConv,
    Zero,
)
from search_spaces.repeated import Repeated

EDGES = ("a", "b", "c")
OPS = {"none": Zero, "skip": Identity, "reduce": FactorizedReduce, "conv_1x1": partial(ReLUConvBN, kernel=1),
       "conv_3x3": ReLUConvBN, "avg_pool": AvgPool, "max_pool": partial(PoolBN, pool=MaxPool), "sep_3x3": SepConv,
       "dil_5x5": partial(DilConv, kernel=5), "scaled": partial(ReLUConvBN, affine=True)}


class Own(nn.Module):
    """An operation of somebody's own, of modules that know nothing of edges."""

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.channels, (3, 3), self.stride, name="conv")(x)
        share = nn.sigmoid(nn.Dense(self.channels, name="dense")(x.mean((1, 2), keepdims=True)))
        return nn.BatchNorm(not train, name="bn")(x) * share


class Node(nn.Module):
    """What the edges put out, side by side."""

    ops: tuple
    stride: int = 1
    separate: bool = False

    @nn.compact
    def __call__(self, x, gates, train):
        if self.separate:
            y = [MixedOp(dict(self.ops), stride=self.stride, name=edge)(x, gate, train) for edge, gate in zip(EDGES, gates)]
        else:
            y = bundle(dict(self.ops), EDGES, x, gates, train, stride=self.stride)
        return jnp.concatenate(y, -1)


PLAIN = SharedOptions()


def compare(ops, *, stride=1, options=PLAIN, wrap=lambda module, **fields: module(**fields), size=7, on=None):
    """Values, moved averages, and gradients to weights, gates and inputs are those of separate edges, in float64."""
    rng = np.random.default_rng(0)
    x, gates = rng.normal(size=(2, size, size, 4)), rng.random((len(EDGES), len(ops)))
    bundled, apart = (wrap(Node, ops=tuple(ops.items()), stride=stride, separate=separate) for separate in (False, True))
    with jax.enable_x64(True), shared_options(options), platform(on):
        shapes = jax.eval_shape(lambda key: bundled.init(key, x, gates, True), jax.random.key(0))
        variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1, leaf.shape)), dict(shapes))
        direction = rng.normal(size=len(x))

        def loss(module, weights, stats, gates, x):
            y, after = module.apply({"params": weights, **stats}, x, gates, True, mutable=["batch_stats"])
            return (jnp.sin(y) * direction[:, None, None, None]).sum(), after

        def run(module, variables):
            weights = variables.pop("params", {})
            return jax.value_and_grad(partial(loss, module), argnums=(0, 2, 3), has_aux=True)(weights, variables, gates, x)

        (value, after), (to_weights, *others) = run(bundled, dict(variables))
        expected = run(apart, dict(unstack_edges(variables)))
        values = (value, unstack_edges(after)), (unstack_edges(to_weights), *others)
        assert jax.tree.structure(values) == jax.tree.structure(expected)
        for leaf, other in zip(jax.tree.leaves(values), jax.tree.leaves(expected)):
            np.testing.assert_allclose(leaf, other, rtol=1e-9, atol=1e-10)
    assert jax.tree.structure(stack_edges(unstack_edges(variables), variables)) == jax.tree.structure(variables)
    return variables


@pytest.mark.parametrize("on, stride", [
    ("cpu", 1), ("cpu", 2), ("cuda", 1), pytest.param("cuda", 2, marks=pytest.mark.heavy)])
@pytest.mark.heavy
def test_operations_of_the_toolkit(stride, on):
    compare({name: op for name, op in OPS.items() if name != ("reduce" if stride == 1 else "skip")}, stride=stride, on=on)


def test_an_operation_of_ones_own():
    compare({"own": Own, "skip": Identity})


@pytest.mark.parametrize("stride", [1, pytest.param(2, marks=pytest.mark.heavy)])
def test_partial_channels(stride):
    compare({"sep_3x3": SepConv, "conv_3x3": ReLUConvBN}, stride=stride, size=8, options=SharedOptions(partial_channels=2))


def test_operations_that_are_computed_again():
    compare({"sep_3x3": SepConv, "conv_3x3": ReLUConvBN}, options=SharedOptions(remat=True))


@pytest.mark.parametrize("count", [pytest.param(2, marks=pytest.mark.heavy), 6])
def test_cells_in_a_loop(count):
    """Written out, and as a loop."""
    class Cells(nn.Module):
        fields: dict

        @nn.compact
        def __call__(self, x, gates, train):
            return Repeated(partial(Mean, fields=self.fields), count, True, name="stage")(x, gates, train)

    class Mean(nn.Module):
        fields: dict

        @nn.compact
        def __call__(self, x, gates, train):
            y = Node(**self.fields, name="node")(x, gates, train)
            return y.reshape(*y.shape[:-1], len(EDGES), -1).mean(-2)

    variables = compare({"sep_3x3": SepConv, "conv_3x3": ReLUConvBN}, size=4,
                        wrap=lambda module, **fields: Cells(fields))
    kernel = variables["params"]["stage"]["cells"]["node"]["a+b+c"]["conv_3x3"]["conv"]["kernel"]
    assert kernel.shape == (count, 3, 3, 3, 4, 4)
    each = unstack_edges(variables)["params"]["stage"]["cells"]["node"]["b"]["conv_3x3"]["conv"]["kernel"]
    assert np.array_equal(each, kernel[:, 1])
    again = stack_edges(unstack_edges(variables), variables)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(variables)))


def test_edges_are_dropped_apart_from_each_other():
    node = Node((("pool", MaxPool), ("skip", Identity)))
    x, gates = jnp.ones((64, 2, 2, 1)), jnp.asarray([[1.0, 0], [1, 0], [0, 1]])
    with drop_path(0.5):
        y = np.asarray(node.apply({}, x, gates, True, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y[..., :2])) == {0, 2} and not np.array_equal(y[..., 0], y[..., 1])
    assert (y[..., 2] == 1).all()  # an identity is never dropped


def test_a_discrete_network_has_modules_of_single_edges():
    node, x = Node((("conv_3x3", ReLUConvBN), ("skip", Identity))), jnp.zeros((1, 4, 4, 2))
    assert set(node.init(jax.random.key(0), x, (0, 1, 0), True)["params"]) == {"a", "c"}


def test_weights_are_drawn_as_those_of_single_edges():
    """As many of each, by the fan-in of one edge, and independent of each other."""
    node, x = Node((("conv", partial(ReLUConvBN, kernel=1)),)), jnp.zeros((1, 4, 4, 64))
    kernel = np.asarray(node.init(jax.random.key(0), x, jnp.ones((3, 1)), True)["params"]["a+b+c"]["conv"]["conv"]["kernel"])
    assert kernel.shape == (3, 1, 1, 64, 64)
    for part in kernel:
        assert 0.98 < np.abs(part).max() * 8 <= 1 and abs(part.mean()) < 0.01
    assert abs(np.corrcoef(kernel[0].ravel(), kernel[1].ravel())[0, 1]) < 0.1


def count(closed, wanted):
    """How many operations of the program `wanted` holds for, those of inner programs with them."""
    inner = [value for eqn in closed.eqns for value in jax.tree.leaves(
        list(eqn.params.values()), is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"))]
    return sum(map(wanted, closed.eqns)) + sum(count(getattr(leaf, "jaxpr", leaf), wanted) for leaf in inner
                                               if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr"))


def test_a_source_is_pooled_once_and_convolved_once_for_all_edges():
    """However many edges leave it."""
    node = Node((("conv_3x3", ReLUConvBN), ("pool", partial(PoolBN, pool=MaxPool))))
    x, gates = jnp.zeros((2, 8, 8, 4)), jnp.ones((3, 2))
    variables = node.init(jax.random.key(0), x, gates, True)
    program = jax.make_jaxpr(lambda x: node.apply(variables, x, gates, True, mutable=["batch_stats"]))(x)
    assert count(program.jaxpr, lambda eqn: eqn.primitive.name == "conv_general_dilated") == 1
    assert count(program.jaxpr, lambda eqn: eqn.primitive.name == "max" and eqn.outvars[0].aval.ndim > 4) == 0


@pytest.mark.parametrize("reduction", [False, True])
def test_edges_with_other_operations_are_in_other_bundles(reduction):
    """As in S1: sources 0 and 1 have edges of two kinds."""
    ops = tuple(("skip_connect", "sep_conv_3x3") if e % 2 else ("none", "dil_conv_3x3") for e in range(14))
    cell, s = Cell(ops, 2, reduction, False, False), jnp.zeros((1, 4, 4, 2))
    shapes = jax.eval_shape(lambda key: cell.init(key, s, s, tuple(jnp.ones((14, 2))), True), jax.random.key(0))["params"]
    edges = [edge for name in shapes for edge in name.split("+") if edge.startswith("edge")]
    assert len(edges) == len(set(edges)) == 14 and any("+" in name for name in shapes)


def test_wrong_numbers_of_gates_name_the_bundle():
    node = Node((("conv_3x3", Conv), ("skip", Identity)))
    with pytest.raises(ValueError, match=r"edge 'a\+b\+c' mixes 2 operations"):
        node.init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)), jnp.ones((3, 5)), True)


@pytest.mark.parametrize("edges, gates, message", [
    (("a", "a"), [0, 0], "each once, not"), ((), [], "one or more edges"), ("ab", [0, 0], "one or more edges"),
    (("a", "b"), [0], "2 edges, a, b, and 1 gates"), (("a", "b"), [0, jnp.ones(2)], "must be alike, not an array"),
    (("a", "b"), [jnp.ones(2), jnp.ones(3)], "must be alike, not an array"), (("a+b",), [0], r"'a\+b' has a '\+' in it"),
    (("a+b", "c"), [0, 0], r"'a\+b' has a '\+' in it"), (("a+b", "c"), jnp.ones((2, 2)), r"'a\+b' has a '\+' in it")])
def test_wrong_edges_and_gates_are_one_line(edges, gates, message):
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self, x):
            return bundle({"skip": Identity, "none": Zero}, edges, x, gates, True)

    with pytest.raises(ValueError, match=message):
        Wrong().init(jax.random.key(0), jnp.zeros((1, 4, 4, 2)))
