"""Methods whose gates are drawn or need not sum to one, against closed forms and enumeration, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from dnas.algorithms.decisions import full_mask
from dnas.algorithms.relaxations import Architecture
from dnas.algorithms.schedules import time_of
from dnas.methods.drnas import draw, drnas
from dnas.methods.fair_darts import above, fair_darts
from dnas.methods.gdas import gdas
from dnas.methods.reinmax import reinmax, straight_through
from dnas.methods.rsps import rsps
from dnas.methods.snas import snas
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
    """And, of equal logits, uniform draws from the simplex: P(gate > x) = (1 - x)^2 of three operations."""
    logits, count = jnp.array([[1.0, 0, 0]]), 20_000
    both = np.asarray(drawn(drnas(), jnp.array([[1.0, 0, 0], [0, 0, 0]]), count, group=Group(((0, 1), (1, 2)), EDGE.ops)))
    for x in 0.2, 0.5, 0.8:
        np.testing.assert_allclose((both[:, 1] > x).mean(0), (1 - x) ** 2, atol=0.02)
    draws = both[:, 0]
    np.testing.assert_allclose(draws.sum(-1), 1)
    error = 5 * np.sqrt(0.05 / count)
    np.testing.assert_allclose(draws.mean(0), [.5, .25, .25], atol=error)
    np.testing.assert_allclose(draws.var(0), [.05, .0375, .0375], atol=0.002)
    np.testing.assert_allclose(gates_of(drnas(), logits), [[.5, .25, .25]])
    slopes = jax.jacobian(lambda rows: drawn(drnas(), rows).mean((0, 1)))(logits)[:, 0]
    expected = jax.jacobian(lambda rows: gates_of(drnas(), rows)[0])(logits)[:, 0]
    np.testing.assert_allclose(expected, np.array([[2, -2, -2], [-1, 3, -1], [-1, -1, 3]]) / 16)
    np.testing.assert_allclose(slopes, expected, atol=0.012)


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
    total = lambda rows, key: (gates(rows, key) * jnp.arange(1.0, 4)).sum()
    for key in jax.random.key(0), None:
        slopes = np.asarray(jax.grad(total)(rows, key))
        assert np.isfinite(slopes).all()
        np.testing.assert_array_equal(slopes[[0, 1], [2, 1]], 0)
        assert np.abs(slopes[[0, 0, 1, 1], [0, 1, 0, 2]]).min() > 0


def test_very_small_logits_stay_finite():
    with jax.enable_x64(False):
        rows = jnp.array([[low, low, 2 * low] for low in (-5.0, -50.0, -500.0)])
        value, slopes = jax.value_and_grad(lambda rows: (draw(jax.random.key(0), rows) * jnp.arange(1.0, 4)).sum())(rows)
        assert 3 <= value <= 9 and np.isfinite(slopes).all()


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


# GDAS and SNAS.


@pytest.mark.parametrize("gradient", ["textbook", "drawn"])
def test_gdas_draws_one_operation_by_the_probabilities_at_any_temperature(gradient):
    rows, count = jnp.array([[0.5, -1.0, 1.5]]), 4000
    for step in 0, 9:
        draws = np.asarray(drawn(gdas(gradient=gradient), rows, count, step=step))[:, 0]
        np.testing.assert_array_equal(np.sort(draws, -1), np.broadcast_to([0, 0, 1], draws.shape))
        np.testing.assert_allclose(draws.mean(0), jax.nn.softmax(rows)[0], atol=0.03)
    np.testing.assert_array_equal(gates_of(gdas(gradient=gradient), rows), jax.nn.softmax(rows))


def test_gradients_of_gdas():
    """Of <gates, c>: the textbook's is that of <soft, c>; the other is that of the drawn soft gate times its c."""
    rows, c, key = jnp.array([[0.5, -1.0, 1.5]]), jnp.array([3.0, -2.0, 0.7]), jax.random.key(4)
    soft = lambda rows: gates_of(snas(tau_max=10.0), rows, key)
    slope = lambda gates: jax.grad(lambda rows: (gates(rows) * c).sum())(rows)
    textbook, of_drawn = (slope(lambda rows, g=g: gates_of(gdas(gradient=g), rows, key)) for g in ("textbook", "drawn"))
    np.testing.assert_allclose(textbook, slope(soft), rtol=1e-12)
    k = int(soft(rows).argmax())
    np.testing.assert_allclose(of_drawn, c[k] * jax.grad(lambda rows: soft(rows)[0, k])(rows), rtol=1e-12)
    assert np.abs(textbook - of_drawn).max() > 1e-3


def test_temperatures():
    """GDAS reaches its last one in the last epoch and stays there; SNAS goes by e / epochs. Seen in the ratio of gates."""
    from dnas.methods.gdas import temperature

    hyper = lambda epochs: {"tau_max": 10.0, "tau_min": 0.1, "epochs": epochs, "steps": 1}
    at = lambda step, epochs: float(temperature(hyper(epochs), time_of(hyper(epochs), step)))
    assert [at(0, 250), at(249, 250), at(250, 250), at(0, 1)] == pytest.approx([10, 0.1, 0.1, 10])
    assert at(83, 250) == pytest.approx(10 - 9.9 * 83 / 249)
    rows, key = jnp.array([[0.5, -1.0, 1.5]]), jax.random.key(4)
    spread = lambda step: np.ptp(np.log(gates_of(snas(), rows, key, step=step, epochs=150)))
    np.testing.assert_allclose([spread(0) / spread(75), spread(0) / spread(149)], [0.515, 0.0364667], rtol=1e-5)


@pytest.mark.parametrize("factory, settings, message", [
    (gdas, {"tau_min": 0.0}, "tau_min is 0.0, it must be positive"), (snas, {"tau_max": -1.0}, "tau_max is -1.0"),
    (gdas, {"gradient": "exact"}, "gradient 'exact' must be one of textbook, published, drawn"),
    (snas, {"arch_clip": 0.0}, "arch_clip is 0.0"), (snas, {"momentum": 1.0}, "momentum is 1.0"),
    (reinmax, {"tau": 0.5}, "tau is 0.5, it must be 1 or more"), (drnas, {"kl": -1.0}, "kl is -1.0"),
    (fair_darts, {"threshold": 1.0}, "threshold is 1.0"), (fair_darts, {"zero_one": -1.0}, "zero_one is -1.0"),
    (fair_darts, {"zero_one_form": "l3"}, "'l3' must be l2 or l1"), (rsps, {"lr": -1.0}, "lr is -1.0"),
    (fair_darts, {"edge_normalisation": True}, "edge_normalisation must be off"),
])
def test_settings_out_of_range_are_refused(factory, settings, message):
    with pytest.raises(ValueError, match=message):
        factory(**settings)


def test_snas_is_one_level():
    """One draw for both players, on the training batch: validation data moves nothing. Logits start about 1."""
    from tests.test_methods import KEY, TASK, numbers, plain, some

    method = snas()
    algorithm, hyper = method.bind(plain(), TASK), numbers(method, epochs=4, steps=2)
    state, (train, valid) = algorithm.init(KEY, None, hyper), some(0)
    np.testing.assert_allclose(state.arch["cell"], 1, atol=0.05)
    step = jax.jit(algorithm.step)
    one, other = (step(KEY, state, train, batch, hyper) for batch in (valid, train))
    for name in "weights", "arch":
        jax.tree.map(np.testing.assert_array_equal, getattr(one[0], name), getattr(other[0], name))
    assert one[1]["valid_loss"] != other[1]["valid_loss"] and np.abs(one[0].arch["cell"] - state.arch["cell"]).max() > 1e-5


# ReinMax.


def mean_gradient(estimate, logits, slope):
    """The mean over all draws of an estimator's gradient, where the loss has the gradient `slope(one_hot)`."""
    total = 0
    for k, p in enumerate(jax.nn.softmax(logits)):
        surrogate = lambda logits, k=k: jnp.vdot(estimate(logits, jnp.array(k)), slope(jnp.eye(len(logits))[k]))
        total += p * jax.grad(surrogate)(logits)
    return total


def straight(logits, k):
    soft = jax.nn.softmax(logits)
    return jnp.eye(len(logits))[k] + soft - jax.lax.stop_gradient(soft)


def test_reinmax_is_exact_for_linear_and_quadratic_losses():
    """By enumeration, where straight-through is exact for the linear one only."""
    draw = np.random.default_rng(0)
    logits, c, a = (jnp.asarray(draw.normal(size=shape)) for shape in (4, 4, (4, 4)))
    linear, quadratic = lambda d: jnp.vdot(c, d), lambda d: jnp.vdot(c, d) + d @ (a + a.T) @ d
    for loss in linear, quadratic:
        exact = jax.grad(lambda logits, loss=loss: jax.nn.softmax(logits) @ jax.vmap(loss)(jnp.eye(4)))(logits)
        mean = mean_gradient(lambda logits, k: straight_through(logits, k, 1.0), logits, jax.grad(loss))
        np.testing.assert_allclose(mean, exact, atol=1e-12)
        biased = np.abs(mean_gradient(straight, logits, jax.grad(loss)) - exact).max()
        assert biased < 1e-12 if loss is linear else biased > 0.1


def test_the_gradient_of_reinmax_is_its_formula():
    logits, g, k, tau = jnp.array([0.5, -1.0, 1.5]), np.array([3.0, -2.0, 0.7]), 0, 1.7
    p, one_hot = np.asarray(jax.nn.softmax(logits)), np.eye(3)[k]
    q = (np.asarray(jax.nn.softmax(logits / tau)) + one_hot) / 2
    times = lambda p, v: p * (v - p @ v)
    value, slope = jax.vjp(lambda logits: straight_through(logits, jnp.array(k), tau), logits)
    np.testing.assert_array_equal(value, one_hot)
    np.testing.assert_allclose(slope(jnp.asarray(g))[0], times(q, 2 * g) - times(p, g) / 2, rtol=1e-12)


@pytest.mark.parametrize("method", [rsps(), reinmax(), gdas(), gdas(gradient="drawn"), snas()],
                         ids=["rsps", "reinmax", "gdas", "gdas, drawn", "snas"])
def test_masked_operations_are_not_drawn_and_have_no_gradient(method):
    rows, mask = jnp.array([[1.0, 0, jnp.inf], [1, 1e300, 0], [0, 1, 2]]), PADDED.allowed & (np.arange(3) != 1)
    mask[0], mask[2] = (True, True, False), False
    draws = np.asarray(drawn(method, rows, 1000, group=PADDED, mask=mask))
    np.testing.assert_allclose(draws.sum(-1), 1)
    assert not draws[:, 0, 2].any() and not draws[:, 1, 1].any()
    total = lambda rows: (gates_of(method, rows, jax.random.key(1), group=PADDED, mask=mask) * jnp.arange(1.0, 4))[:2].sum()
    slopes = np.asarray(jax.grad(total)(rows))
    assert np.isfinite(slopes).all() and (np.abs(slopes[0, :2]) > 0).all() == (method.hyper.keys() != rsps().hyper.keys())
    np.testing.assert_array_equal(slopes[[0, 1], [2, 1]], 0)


def test_reinmax_draws_by_the_probabilities():
    rows = jnp.array([[0.5, -1.0, 1.5]])
    np.testing.assert_allclose(drawn(reinmax(), rows).mean((0, 1)), jax.nn.softmax(rows)[0], atol=0.03)


@pytest.mark.parametrize("factory", [drnas, gdas])
def test_edges_stay_normalised_when_the_relaxation_changes(factory):
    """As in pc-darts+drnas: both players draw by it, and the gates of all edges into a node sum to one."""
    method = factory(edge_normalisation=True)
    assert method.arch.relaxation is method.weights.relaxation and not factory().arch.relaxation.edges
    hyper = {**method.hyper, "epochs": 10, "steps": 1}
    arch = method.arch.relaxation.init(jax.random.key(0), {"cell": PADDED})
    architecture = Architecture(arch, {"cell": PADDED.allowed}, {"cell": PADDED})
    rows = method.arch.relaxation.gates(jax.random.key(1), architecture, hyper, time_of(hyper, 0))["cell"]
    np.testing.assert_allclose([rows[0].sum(), rows[1:].sum()], 1, rtol=1e-6)
    assert 0 < rows[1].sum() < 1


# FairDARTS.


def test_gates_of_fair_darts_are_sigmoids_that_begin_at_a_half():
    rows = jnp.array([[1.0, 7, 0], [1, 0, -1], [0, 1, 2]])
    gates = gates_of(fair_darts(), rows, group=PADDED)
    np.testing.assert_allclose(gates, np.where(PADDED.allowed, 1 / (1 + np.exp(-rows)), 0))
    first = fair_darts().arch.relaxation.init(jax.random.key(0), {"cell": PADDED})
    np.testing.assert_array_equal(first["cell"], 0)


@pytest.mark.parametrize("form", ["l2", "l1"])
def test_the_zero_one_term(form):
    """Its value, its gradient, which is zero at logits of zero, and its indifference to masked operations."""
    logits = jnp.array([[0.0, 2, -1], [3, 0, 7]])
    method = fair_darts(zero_one=2.0, zero_one_form=form)
    term = lambda mask=None: value_of(method.arch.terms["zero-one"], logits, method.hyper, mask=mask)
    apart = 1 / (1 + np.exp(-np.asarray(logits))) - 0.5
    each = apart**2 if form == "l2" else np.abs(apart)
    assert float(term()(logits)) == pytest.approx(-2 * each.mean())
    mask = np.array([[True, True, True], [True, True, False]])
    assert float(term(mask)(logits)) == pytest.approx(-2 * each[mask].mean())
    slopes = np.asarray(jax.grad(term(mask))(logits))
    inner = (0.5 + apart) * (0.5 - apart) * (2 * apart if form == "l2" else np.sign(apart))
    np.testing.assert_allclose(slopes, np.where(mask, -2 * inner / mask.sum(), 0), atol=1e-15)
    np.testing.assert_array_equal(jax.grad(term())(0 * logits), 0)


def test_weak_edges_leave_the_genotype():
    """Of DARTS's cells they go, in NAS-Bench-201 they become `none`; a node keeps its strongest edge."""
    from search_spaces.darts import darts as darts_space
    from search_spaces.nasbench201 import nasbench201

    space = darts_space()
    rows = {name: np.full(group.shape, 0.1) for name, group in space.groups.items()}
    rows["normal"][0, 4], rows["normal"][1, 5], rows["normal"][3, 0] = 0.9, 0.86, 0.99  # the last is `none`
    rows["normal"][4, 4], rows["normal"][2, 5] = 0.85, 0.2
    chosen = above(space, rows, 0.85)
    assert space.format(chosen).startswith("normal sep_conv_3x3:0, sep_conv_5x5:1 | sep_conv_3x3:2 | ")
    assert {len([c for c in chosen.choices["reduce"] if c.target == node]) for node in (2, 3, 4, 5)} == {1}
    assert len(chosen.choices["normal"]) == 5
    assert above(space, rows, 0.0) == space.genotype(rows)

    space = nasbench201()
    rows = {"cell": np.full((6, 5), 0.1) + 0.4 * np.eye(5)[0]}
    assert space.format(above(space, rows, 0.85)) == (
        "|skip_connect~0|+|skip_connect~0|none~1|+|skip_connect~0|none~1|none~2|")
    rows["cell"][np.arange(6), [3, 3, 2, 1, 4, 0]] = 0.6, 0.9, 0.7, 0.95, 0.86, 0.99
    assert space.format(above(space, rows, 0.85)) == (
        "|nor_conv_3x3~0|+|nor_conv_3x3~0|none~1|+|skip_connect~0|avg_pool_3x3~1|none~2|")
    decided = {"cell": np.eye(5)[[0, 3, 2, 1, 4, 0]]}
    assert above(space, decided, 0.85) == space.genotype(decided)


# Random search with weight sharing.


def test_rsps_draws_uniformly_and_its_genotype_is_that_of_the_first_logits():
    from tests.test_methods import KEY, TASK, numbers, plain, some

    draws = np.asarray(drawn(rsps(), jnp.array([[9.0, 0, -9]])))
    np.testing.assert_array_equal(np.sort(draws, -1), np.broadcast_to([0, 0, 1], draws.shape))
    np.testing.assert_allclose(draws.mean((0, 1)), 1 / 3, atol=0.03)
    method, space = rsps(), plain()
    algorithm, hyper = method.bind(space, TASK), numbers(method, epochs=4, steps=2)
    states = [algorithm.init(jax.random.key(seed), None, hyper) for seed in range(40)]
    np.testing.assert_array_equal(algorithm.gates(states[0], hyper)["cell"],
                                  np.where(space.groups["cell"].allowed, [[1 / 2]] + [[1 / 3]] * 2, 0))
    chosen = [algorithm.select(state, hyper) for state in states]
    assert chosen[0] == space.genotype({"cell": np.where(space.groups["cell"].allowed, states[0].arch["cell"], -9)})
    assert len(set(chosen)) > 8
    after, _ = jax.jit(algorithm.step)(KEY, states[0], *some(0), hyper)
    assert algorithm.select(after, hyper) == chosen[0]
    assert np.abs(after.weights["head"] - states[0].weights["head"]).max() > 1e-6
    mask = {"cell": space.groups["cell"].allowed & (np.arange(3) != 0)}
    for state in states[:10]:
        masked = algorithm.select(state._replace(mask=mask), hyper)
        assert all(choice.op != "tanh" for choice in masked.choices["cell"])


@pytest.mark.parametrize("gates, suits", [
    (np.full((2, 3), 1 / 3), False), (np.array([[.5, .5, 0], [1, 0, 0]]), False), (np.eye(3)[:2], True),
    (np.array([[.5, .5, 0], [.4, .6, 0]]), True)])
def test_magnitude_refuses_gates_that_are_all_alike(gates, suits):
    from types import SimpleNamespace

    from dnas.selection.magnitude import magnitude
    from dnas.selection.types import Unsuitable

    context = SimpleNamespace(gates=lambda state: {"cell": gates}, state=None)
    if suits:
        np.testing.assert_allclose(magnitude().begin(context).scores["cell"], gates, rtol=1e-6)
    else:
        with pytest.raises(Unsuitable, match="gates that differ"):
            magnitude().begin(context)
