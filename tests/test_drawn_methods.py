"""Methods whose gates are drawn or need not sum to one, against closed forms and enumeration, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dnas.algorithms.decisions import full_mask
from dnas.algorithms.relaxations import Architecture
from dnas.algorithms.schedules import time_of
from dnas.methods import drnas as drnas_file
from dnas.methods.drnas import drnas
from dnas.types import Group
from tests.test_regularisers import value_of


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


EDGE = Group(((0, 1),), ("a", "b", "c"))
PADDED = Group(((0, 1), (0, 2), (1, 2)), (("a", "b"), ("a", "b", "c"), ("a", "b", "c")))


def gates_of(method, rows, key=None, *, group=EDGE, mask=None, player="weights", step=0, **hyper):
    """The gates `[E, K]` of one group of logits `rows`, at a step of ten epochs of one step."""
    hyper = {**method.hyper, "epochs": 10, "steps": 1, **hyper}
    mask = full_mask({"cell": group})["cell"] if mask is None else jnp.asarray(mask)
    architecture = Architecture({"cell": jnp.asarray(rows, jnp.float64)}, {"cell": mask}, {"cell": group})
    return getattr(method, player).relaxation.gates(key, architecture, hyper, time_of(hyper, step))["cell"]


def drawn(method, rows, count=4000, **how):
    """Draws `[count, E, K]` by the logits."""
    return jax.jit(jax.vmap(lambda key: gates_of(method, rows, key, **how)))(jax.random.split(jax.random.key(0), count))


# DrNAS.


def test_dirichlet_moments_and_the_gradient_of_the_mean():
    logits, count = jnp.array([[1.0, 0, 0]]), 20_000
    draws = np.asarray(drawn(drnas(), logits, count))[:, 0]
    np.testing.assert_allclose(draws.sum(-1), 1)
    error = 5 * np.sqrt(0.05 / count)
    np.testing.assert_allclose(draws.mean(0), [.5, .25, .25], atol=error)
    np.testing.assert_allclose(draws.var(0), [.05, .0375, .0375], atol=0.002)
    np.testing.assert_allclose(gates_of(drnas(), logits), [[.5, .25, .25]])
    slopes = jax.jacobian(lambda rows: drawn(drnas(), rows).mean((0, 1)))(logits)[:, 0]
    expected = jax.jacobian(lambda rows: gates_of(drnas(), rows)[0])(logits)[:, 0]
    np.testing.assert_allclose(expected, np.array([[2, -2, -2], [-1, 3, -1], [-1, -1, 3]]) / 16)
    np.testing.assert_allclose(slopes, expected, atol=0.012)


def test_the_first_draws_are_uniform_on_the_simplex():
    """P(gate > x) = (1 - x)^2 of three operations."""
    draws = np.asarray(drawn(drnas(), jnp.zeros((1, 3)), 10_000))[:, 0]
    for x in 0.2, 0.5, 0.8:
        np.testing.assert_allclose((draws > x).mean(0), (1 - x) ** 2, atol=0.025)


def test_masked_operations_leave_the_draw_to_the_others():
    """What remains of an edge is a draw of its own, Dirichlet(2, 1); padding and an edge without operations stay finite."""
    rows, mask = jnp.array([[1.0, 0, 7], [1, -3, 0], [0, 1, 2]]), PADDED.allowed & (np.arange(3) != 1)
    mask[0], mask[2] = (True, True, False), False
    gates = lambda rows, key: gates_of(drnas(), rows, key, group=PADDED, mask=mask)
    draws = np.asarray(drawn(drnas(), rows, group=PADDED, mask=mask))
    np.testing.assert_allclose(draws.sum(-1), 1)
    np.testing.assert_array_equal(draws[:, 0, 2], 0)
    np.testing.assert_array_equal(draws[:, 1, 1], 0)
    np.testing.assert_allclose(draws[:, :2].mean(0), gates(rows, None)[:2], atol=0.025)
    np.testing.assert_allclose(gates(rows, None)[:2], [[2 / 3, 1 / 3, 0], [2 / 3, 0, 1 / 3]])
    for key in jax.random.key(0), None:
        slopes = np.asarray(jax.grad(lambda rows: (gates(rows, key) * jnp.arange(1.0, 4)).sum())(rows))
        assert np.isfinite(slopes).all()
        np.testing.assert_array_equal(slopes[[0, 1], [2, 1]], 0)
        assert np.abs(slopes[[0, 0, 1, 1], [0, 1, 0, 2]]).min() > 0


def test_very_small_logits_stay_finite():
    with jax.enable_x64(False):
        for low in -5.0, -50.0, -500.0:
            rows = jnp.array([[low, low, 2 * low]])
            value, slopes = jax.value_and_grad(lambda rows: (
                drnas_file.draw(jax.random.key(0), rows) * jnp.arange(1.0, 4)).sum())(rows)
            assert np.isfinite(value) and np.isfinite(slopes).all()


def test_the_divergence_is_that_of_its_definition():
    """By the entropy of scipy's Dirichlet distribution."""
    from scipy.stats import dirichlet

    logits = jnp.array([[1.0, 0, -0.5], [0.3, 2, 5]])
    beta = np.where(logits > 0, logits + 1, np.exp(logits))
    value = value_of(drnas(kl=2.0).arch.terms["kl"], logits, {"kl": 2.0})
    divergence = lambda row: -dirichlet(row).entropy() - special.gammaln(len(row))  # of a density from the constant Gamma(K)
    assert float(value(logits)) == pytest.approx(2 * sum(map(divergence, beta)), rel=1e-9)
    masked = value_of(drnas(kl=1.0).arch.terms["kl"], logits, {"kl": 1.0}, mask=np.array([[True, True, False]] * 2))
    assert float(masked(logits)) == pytest.approx(sum(divergence(row[:2]) for row in beta), rel=1e-9)
    at_one = value_of(drnas(kl=1.0).arch.terms["kl"], 0 * logits, {"kl": 1.0})
    np.testing.assert_allclose([at_one(0 * logits), *jax.grad(at_one)(0 * logits).ravel()], 0, atol=1e-12)
