"""RARTS on a problem with a closed form: stationary points, iterates, descent, limits. In float64.

L = a y - 2 a + 1 + weight (w - a)^2 + coupling / 2 (y - w)^2
"""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.algorithms.hypergradients import first_order
from dnas.algorithms.players import bilevel, cross_entropy
from dnas.algorithms.rarts import rarts
from dnas.algorithms.relaxations import softmax
from dnas.methods.rarts import rarts as method
from dnas.types import Batch
from tests.test_bilevel import KEY, at, batches, begun, identity, iterate, plain, scalar_loss, start
from tests.toy_space import toy


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


MERGED = pytest.mark.parametrize("merged", [False, True], ids=["exact", "merged"])


def scalar(weight, coupling, rate, *, merged=False, arch_rate=None):
    return rarts(scalar_loss, identity, optax.sgd(rate), optax.sgd(rate if arch_rate is None else arch_rate),
                 coupling=coupling, weight=weight, merged=merged)


def seen(state):
    return state.weights, state.extra.weights, state.arch["a"][0, 0]


def put(optimizer, w, y, a):
    state = optimizer.init(*start(a, w))
    return state._replace(extra=state.extra._replace(weights=jnp.float64(y)))


def stationary(weight, coupling):
    a = 2 / (2 - 1 / (2 * weight) - 1 / coupling)
    return np.array([a * (1 - 1 / (2 * weight)), 2 - a, a])


def value(weight, coupling, w, y, a):
    return a * y - 2 * a + 1 + weight * (w - a) ** 2 + coupling / 2 * (y - w) ** 2


TABLE = {(10, 10): (1.027027, 0.918919, 1.081081), (100, 100): (1.002519, 0.992443, 1.007557),
         (1, 10): (0.714286, 0.571429, 1.428571), (1, 1): (2, -2, 4)}


@MERGED
@pytest.mark.parametrize("weight, coupling", TABLE)
def test_stationary_points(weight, coupling, merged):
    """Those of the table stay where they are, and from elsewhere the sweeps lead there."""
    there = stationary(weight, coupling)
    np.testing.assert_allclose(there, TABLE[weight, coupling], atol=5e-7)
    optimizer = scalar(weight, coupling, 1 / (2 * weight + coupling), merged=merged)
    np.testing.assert_allclose(iterate(optimizer, 2, put(optimizer, *there), look=seen), [there] * 2, rtol=1e-12)
    np.testing.assert_allclose(iterate(optimizer, 20_000, look=seen)[-1], there, rtol=1e-9)


def test_exact_sweeps():
    found = iterate(scalar(10, 10, 0.01), 3, look=seen)
    np.testing.assert_allclose(found, [(-1.2, -1.94, 1.3994), (-0.754120, -1.835406, 1.007050),
                                       (-0.510015, -1.712937, 0.740767)], atol=5e-7)


def test_merged_sweeps():
    """w and y as in the exact sweep; the architecture's gradient is that before they moved."""
    found, (w, y, a) = iterate(scalar(10, 10, 0.01, merged=True), 3, look=seen), (-2, -2, 2)
    for i in range(3):
        to_arch = 10 * -2 * (w - a) + y - 2
        w = w - 0.01 * (10 * 2 * (w - a) + 10 * (w - y))
        y = y - 0.01 * (a + 10 * (y - w))
        a = a - 0.01 * to_arch
        np.testing.assert_allclose(found[i], (w, y, a), rtol=1e-12)


@MERGED
def test_it_diverges_where_the_objective_has_a_saddle(merged):
    """A minimum needs 4 weight coupling > coupling + 2 weight."""
    saddle = scalar(1, 0.5, 0.05, merged=merged)
    away = np.abs(iterate(saddle, 2000, look=seen))
    assert away[-1].min() > 1e3 and (np.diff(away[1000:], axis=0) > 0).all()
    there = stationary(1, 0.5)
    near = iterate(saddle, 2000, put(saddle, *(there + [0, 0, 1e-6])), look=seen)
    assert np.abs(near[-1] - there).max() > 1e-3


@pytest.mark.parametrize("there", [(-2, -2, 2), (3, -1, 0), (-5, 4, 4)], ids=str)
def test_the_objective_falls_below_the_bound_on_the_steps(there):
    """2 over the largest of 2 weight + coupling, coupling and 2 weight, here 1/15, is enough; 1/10 is too much."""
    def objective(rate):
        optimizer = scalar(10, 10, rate)
        points = [there, *np.array(iterate(optimizer, 200, put(optimizer, *there), look=seen))]
        return value(10, 10, *np.array(points).T)

    for rate in 0.01, 0.066:
        assert (np.diff(objective(rate)) <= 1e-13).all()
    np.testing.assert_allclose(objective(0.066)[-1], value(10, 10, *stationary(10, 10)), rtol=1e-9)
    assert objective(0.1)[-1] > 1e3


def test_exact_and_merged_agree_as_the_steps_shrink():
    """At equal times the two paths lie a distance apart that falls with the step size."""
    def apart(rate):
        return np.abs(np.subtract(*(iterate(scalar(1, 10, rate, merged=merged), round(1 / rate), look=seen)[-1]
                                    for merged in (True, False)))).max()

    distances = [apart(rate) for rate in (0.01, 0.005, 0.0025)]
    np.testing.assert_allclose(np.divide(distances[1:], distances[:-1]), 0.5, atol=0.03)
    assert distances[0] > 1e-3


@MERGED
def test_a_strong_coupling_makes_it_one_network(merged):
    """y = w, descending on a w - 2 a + 1 + (w - a)^2: with rate * coupling = 1 a sweep adds both gradients."""
    coupling, rate = 1e5, 1e-5
    found = iterate(scalar(1, coupling, rate, merged=merged), 100_000, look=seen)[::1000]

    def one_network(carry, _):
        w, a = carry
        w, a = w - rate * (2 * (w - a) + a), a - rate * (w - 2 - 2 * (w - a))
        return (w, a), jnp.stack([w, w, a])

    alone = jax.lax.scan(one_network, (jnp.float64(-2), jnp.float64(2)), None, 100_000)[1][::1000]
    np.testing.assert_allclose(found, alone, atol=2e-4)
    assert np.abs(alone[-1] - alone[0]).min() > 0.9
    limit = 2 / (2 - 1 / 2)
    np.testing.assert_allclose(stationary(1, 1e6), [limit / 2, 2 - limit, limit], rtol=5e-6)


def test_without_training_data_it_is_first_order_at_y():
    """weight and coupling too small to be seen and y at rest leave the architecture of first-order DARTS at y."""
    space = plain()
    loss, relax, rest = cross_entropy(space), softmax(space.groups), optax.sgd(0.0)
    train, valid = (at(batch, 0) for batch in batches(1))
    darts = bilevel(loss, relax, first_order(), rest, optax.sgd(1.0))
    expected = darts.step(KEY, begun(darts, space), train, valid)[0].arch
    for merged in False, True:
        optimizer = rarts(loss, relax, rest, optax.sgd(1.0), coupling=1e-200, weight=1e-200, merged=merged)
        state = begun(optimizer, space)
        assert np.abs(state.arch["cell"] - expected["cell"]).max() > 0.01
        found = optimizer.step(KEY, state, train, valid)[0].arch
        np.testing.assert_allclose(found["cell"], expected["cell"], rtol=1e-14)


def test_each_copy_has_its_own_data_statistics_and_optimiser():
    space = plain()
    optimizer = rarts(cross_entropy(space), softmax(space.groups), optax.sgd(0.1, momentum=0.9), optax.sgd(1.0),
                      coupling=2.0, weight=0.5)
    train, valid = (at(batch, 0) for batch in batches(1))
    state = begun(optimizer, space)
    chex.assert_trees_all_equal((state.extra.weights, state.extra.stats), (state.weights, state.stats))
    state = state._replace(extra=state.extra._replace(stats={"mean": jnp.ones(6)}))
    after, info = optimizer.step(KEY, state, train, valid)
    gates = softmax(space.groups)(None, state.arch, 0)
    for batch, weight, before, found, stats, loss, other in [
            (train, 0.5, state.stats, after.weights, after.stats, info.train_loss, state.weights),
            (valid, 1.0, state.extra.stats, after.extra.weights, after.extra.stats, info.valid_loss, after.weights)]:
        (expected, forward), grads = jax.value_and_grad(cross_entropy(space), 1, has_aux=True)(
            KEY, state.weights, before, gates, batch)
        grads = jax.tree.map(lambda g, scale=weight: scale * g, grads)
        moved = jax.tree.map(lambda w, g, o: w - 0.1 * (g + 2.0 * (w - o)), state.weights, grads, other)
        chex.assert_trees_all_close((found, stats, loss), (moved, forward.stats, expected), rtol=1e-12, atol=1e-14)
    again, _ = optimizer.step(KEY, state, train, Batch(valid.inputs + 1, valid.targets))
    chex.assert_trees_all_equal((again.weights, again.stats, again.weights_opt),
                                (after.weights, after.stats, after.weights_opt))
    assert np.abs(again.extra.stats["mean"] - after.extra.stats["mean"]).max() > 0.01


@pytest.mark.parametrize("coupling, weight", [(0, 1), (-1, 1), (1, 0), (1, -2), (float("nan"), 1), (1, float("nan"))])
def test_couplings_and_weights_that_are_not_positive_are_refused(coupling, weight):
    with pytest.raises(ValueError, match=re.escape(f"coupling > 0 and weight > 0, got {coupling} and {weight}")):
        scalar(weight, coupling, 0.01)
    with pytest.raises(ValueError, match="coupling > 0 and weight > 0"):
        method(toy(), 1, 1, coupling=coupling, weight=weight)


@pytest.mark.parametrize("lr, coupling, bound", [
    (0.025, 80, "80"), (0.025, 81.0, "80"), (0.1, 20, "20"), (4, 1, "0.5")])
def test_a_coupling_beyond_the_bound_is_refused_with_the_bound(lr, coupling, bound):
    with pytest.raises(ValueError, match=re.escape(f"lr * coupling < 2; take coupling < {bound}")):
        method(toy(), 1, 1, lr=lr, coupling=coupling)
    method(toy(), 1, 1, lr=lr, coupling=0.99 * float(bound))


def test_the_bound_is_that_of_the_coupling_alone():
    """Where no data pulls, y - w shrinks for rate * coupling < 2 and grows beyond."""
    def gap(product):
        optimizer = scalar(1e-9, 10, product / 10, arch_rate=0)
        w, y, _ = iterate(optimizer, 50, put(optimizer, 0, 1, 0), look=seen)[-1]
        return abs(y - w)

    assert gap(1.9) < 0.1 and gap(2.1) > 10
