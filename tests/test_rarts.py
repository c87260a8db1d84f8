"""RARTS on a problem with a closed form: stationary points, iterates, descent, limits. In float64.

L = a y - 2 a + 1 + weight (w - a)^2 + coupling / 2 (y - w)^2
"""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.players import task_loss
from dnas.algorithms.rarts import rarts
from dnas.methods.rarts import rarts as method
from dnas.task import classification
from dnas.types import Batch
from tests.problems import (
    KEY,
    TRAIN,
    VALID,
    at,
    batches,
    begun,
    iterate,
    numbers,
    plain,
    plain_method,
    scalar_method,
    scalar_start,
    sgd,
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


MERGED = pytest.mark.parametrize("merged", [False, True], ids=["exact", "merged"])


def scalar(weight, coupling, rate, *, merged=False, arch_rate=None):
    return scalar_method(rarts(merged=merged), rate=rate, arch_rate=arch_rate,
                         hyper={"coupling": coupling, "weight": weight})


def seen(state):
    return state.weights, state.extra.weights, state.arch["a"][0, 0]


def put(optimizer, w, y, a):
    _, _, state = scalar_start(optimizer, a, w)
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
    train, valid = (at(batch, 0) for batch in batches(1))

    def after(method):
        bound, hyper = method.bind(plain(), classification()), numbers(method)
        state = begun(bound, hyper)
        return state.arch["cell"], bound.step(KEY, state, train, valid, hyper)[0].arch["cell"]

    before, expected = after(plain_method(rate=0.0))
    assert np.abs(before - expected).max() > 0.01
    for merged in False, True:
        _, found = after(plain_method(rarts(merged=merged), rate=0.0, hyper={"coupling": 1e-200, "weight": 1e-200}))
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_each_copy_has_its_own_data_statistics_and_optimiser():
    space, (train, valid) = plain(), (at(batch, 0) for batch in batches(1))
    method = plain_method(rarts(), optimizer=sgd(0.1, 0.9), hyper={"coupling": 2.0, "weight": 0.5})
    bound, hyper = method.bind(space, classification()), numbers(method)
    state, step = begun(bound, hyper), jax.jit(bound.step)
    chex.assert_trees_all_equal((state.extra.weights, state.extra.stats), (state.weights, state.stats))
    state = state._replace(extra=state.extra._replace(stats={"mean": jnp.ones(6)}))
    after, info = step(KEY, state, train, valid, hyper)

    def loss(weights, stats, batch):
        value, _, stats = task_loss(space, classification())(KEY, weights, stats, bound.gates(state, hyper), batch)
        return value, stats

    for batch, weight, before, found, stats, value, other in [
            (train, 0.5, state.stats, after.weights, after.stats, info["train_loss"], state.weights),
            (valid, 1.0, state.extra.stats, after.extra.weights, after.extra.stats, info["valid_loss"], after.weights)]:
        (expected, expected_stats), grads = jax.value_and_grad(loss, has_aux=True)(state.weights, before, batch)
        grads = jax.tree.map(lambda g, scale=weight: scale * g, grads)
        moved = jax.tree.map(lambda w, g, o: w - 0.1 * (g + 2.0 * (w - o)), state.weights, grads, other)
        chex.assert_trees_all_close((found, stats, value), (moved, expected_stats, expected), rtol=1e-12, atol=1e-14)
    again, _ = step(KEY, state, train, Batch(valid.inputs + 1, valid.targets), hyper)
    chex.assert_trees_all_equal((again.weights, again.stats, again.weights_opt),
                                (after.weights, after.stats, after.weights_opt))
    assert np.abs(again.extra.stats["mean"] - after.extra.stats["mean"]).max() > 0.01


@pytest.mark.parametrize("merged", [False, True])
def test_terms_of_both_players(merged):
    """w descends on the weights' term times weight, y and the architecture on the architecture's; both are reported."""
    product = lambda scale: lambda hyper, t, arch, gates, forward, memory: scale * forward.outputs[0].prod()
    method = scalar(10, 10, 0.01, merged=merged).extend(weights={"terms": {"ours": product(3)}},
                                                        arch={"terms": {"theirs": product(5)}})
    bound, hyper, state = scalar_start(method)
    _, info = bound.step(KEY, state, TRAIN, VALID, hyper)
    assert (info["train_ours"], info["valid_theirs"]) == (3 * -4, 5 * -4)
    assert not {"train_theirs", "valid_ours"} & info.keys()
    w, y, a = iterate(method, 1, look=seen)[0]
    np.testing.assert_allclose(w, -2 - 0.01 * 10 * (2 * -4 + 3 * 2), rtol=1e-12)
    np.testing.assert_allclose(y, -2 - 0.01 * (2 + 5 * 2 + 10 * (-2 - w)), rtol=1e-12)
    there = (-2, -2) if merged else (w, y)
    np.testing.assert_allclose(a, 2 - 0.01 * (10 * (-2 * (there[0] - 2) + 3 * there[0]) + there[1] - 2 + 5 * there[1]),
                               rtol=1e-12)


@pytest.mark.parametrize("coupling, weight", [(0, 1), (-1, 1), (1, 0), (1, -2), (float("nan"), 1), (1, float("nan"))])
def test_couplings_and_weights_that_are_not_positive_are_refused(coupling, weight):
    with pytest.raises(ValueError, match=re.escape(f"coupling > 0 and weight > 0, got {coupling} and {weight}")):
        method(coupling=coupling, weight=weight)
    with pytest.raises(ValueError, match="coupling > 0 and weight > 0"):
        method().replace(coupling=coupling, weight=weight)


@pytest.mark.parametrize("lr, coupling, bound", [
    (0.025, 80, "80"), (0.025, 81.0, "80"), (0.1, 20, "20"), (4, 1, "0.5")])
def test_a_coupling_beyond_the_bound_is_refused_with_the_bound(lr, coupling, bound):
    with pytest.raises(ValueError, match=re.escape(f"lr * coupling < 2; use coupling < {bound}")):
        method(lr=lr, coupling=coupling)
    method(lr=lr, coupling=0.99 * float(bound))


def test_the_bound_is_that_of_the_coupling_alone():
    """Where no data pulls, y - w shrinks for rate * coupling < 2 and grows beyond."""
    def gap(product):
        optimizer = scalar(1e-9, 10, product / 10, arch_rate=0)
        w, y, _ = iterate(optimizer, 50, put(optimizer, 0, 1, 0), look=seen)[-1]
        return abs(y - w)

    assert gap(1.9) < 0.1 and gap(2.1) > 10
