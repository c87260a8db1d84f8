"""Hypergradients against closed forms, against brute force, and one battery over all of them. In float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.algorithms.hypergradients import (
    HYPERGRADIENTS,
    conjugate_gradient,
    finite_difference,
    first_order,
    neumann,
    unrolled,
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def step_of(tx, state, weights):
    """The lookahead of an optimiser in a given state."""
    return lambda grads: optax.apply_updates(weights, tx.update(grads, state, weights)[0])


def sgd_step(lr, weights):
    return step_of(optax.sgd(lr), optax.sgd(lr).init(weights), weights)


# Scalar problem: reduced objective (a - 1)^2, optimum (1, 1).


def toy_inner(w, a):
    return w**2 - 2 * a * w + a**2, None


def toy_outer(w, a):
    return a * w - 2 * a + 1, w


def toy_grad(estimator, a, w, lr):
    a, w = jnp.float64(a), jnp.float64(w)
    return estimator(toy_inner, toy_outer, w, a, sgd_step(lr, w))[1]


@pytest.mark.parametrize("a", [-1.0, 0.3, 2.0])
@pytest.mark.parametrize("estimator", [unrolled(), finite_difference(), neumann(terms=0, lr=0.5),
                                       neumann(terms=50, lr=0.1), conjugate_gradient()])
def test_toy_true_hypergradient_at_the_inner_optimum(estimator, a):
    np.testing.assert_allclose(toy_grad(estimator, a, a, 0.5), 2 * a - 2, rtol=1e-4, atol=1e-10)


@pytest.mark.parametrize("lr", [0.0, 0.1, 0.5])
def test_toy_gradients_away_from_it(lr):
    a, w = 2.0, -2.0
    ahead = w - 2 * lr * (w - a)
    np.testing.assert_allclose(toy_grad(first_order(), a, w, lr), w - 2)
    for estimator in unrolled(), unrolled(reverse=True), finite_difference():
        np.testing.assert_allclose(toy_grad(estimator, a, w, lr), ahead - 2 + 2 * lr * a, rtol=1e-10)


def alternate(estimator, lr, steps, rate=0.1):
    """Iterates (a, w) of gradient descent from (2, -2), the architecture first."""

    def step(carry, _):
        a, w = carry
        a = a - rate * estimator(toy_inner, toy_outer, w, a, sgd_step(lr, w))[1]
        w = w - rate * jax.grad(toy_inner, has_aux=True)(w, a)[0]
        return (a, w), jnp.stack([a, w])

    return jax.lax.scan(step, (jnp.float64(2), jnp.float64(-2)), None, steps)[1]


@pytest.mark.parametrize("estimator, lr, iterates", [
    (first_order(), 0.5, [(2.4, -1.12), (2.712, -0.3536), (2.94736, 0.306592), (3.116701, 0.868614)]),
    (unrolled(), 0.0, [(2.4, -1.12), (2.712, -0.3536), (2.94736, 0.306592), (3.116701, 0.868614)]),
    (unrolled(), 0.5, [(1.8, -1.24), (1.64, -0.664), (1.512, -0.2288), (1.4096, 0.09888)]),
    (finite_difference(), 0.5, [(1.8, -1.24), (1.64, -0.664), (1.512, -0.2288), (1.4096, 0.09888)]),
])
def test_toy_iterates(estimator, lr, iterates):
    np.testing.assert_allclose(alternate(estimator, lr, 4), iterates, atol=1e-6)


@pytest.mark.parametrize("estimator", [unrolled(), finite_difference()])
@pytest.mark.parametrize("lr", [0.0, 0.1, 0.25, 0.5])
def test_toy_fixed_points(estimator, lr):
    np.testing.assert_allclose(alternate(estimator, lr, 2000)[-1], 2 / (1 + 2 * lr), rtol=1e-9)


def test_toy_first_order_stalls():
    np.testing.assert_allclose(alternate(first_order(), 0.5, 2000)[-1], [2, 2], rtol=1e-9)


@pytest.mark.parametrize("estimator", [unrolled(), unrolled(reverse=True), finite_difference()])
def test_toy_with_momentum(estimator):
    a, w = jnp.float64(2), jnp.float64(-2)
    tx = optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(0.1))
    state = (optax.TraceState(jnp.float64(1)), *tx.init(w)[1:])
    (_, ahead), grad = estimator(toy_inner, toy_outer, w, a, step_of(tx, state, w))
    np.testing.assert_allclose([ahead, grad], [-1.29, -2.89], rtol=1e-10)


# Error law of the central difference.


@pytest.mark.parametrize("u, v", [(1.5, -0.7), (-0.4, 2.0), (3.0, 1e-3)])
def test_finite_difference_error(u, v):
    a, lr = jnp.float64(0.2), 0.3
    w = a + u
    problem = (lambda w, a: ((w - a) ** 4 / 4, None), lambda w, a: (v * w, None), w, a, sgd_step(lr, w))
    exact, approximate = unrolled()(*problem)[1], finite_difference()(*problem)[1]
    np.testing.assert_allclose(exact / -lr, -3 * u**2 * v, rtol=1e-10)
    np.testing.assert_allclose((approximate - exact) / -lr, -1e-4 * v, rtol=1e-6)


def test_finite_difference_radius_is_of_all_weights_together():
    a, lr = jnp.float64(0.2), 0.3
    v = {"first": jnp.array([0.5, -2.0]), "second": jnp.array(3.0)}
    w = jax.tree.map(lambda x: a + 1.5 + 0 * x, v)
    problem = (lambda w, a: (sum(jnp.sum((x - a) ** 4) for x in jax.tree.leaves(w)) / 4, None),
               lambda w, a: (optax.tree.vdot(v, w), None), w, a, sgd_step(lr, w))
    error = (finite_difference()(*problem)[1] - unrolled()(*problem)[1]) / -lr
    flat = np.array([0.5, -2.0, 3.0])
    np.testing.assert_allclose(error, -1e-4 * np.sum(flat**3) / np.sum(flat**2), rtol=1e-6)


# Quadratic problem: exact, truncated and unrolled values.

CURVATURE, TARGET = np.array([[2, 0.5], [0.5, 1]]), np.array([0.5, 0.5])


def quadratic(estimator, w, lr=0.5):
    a, w = jnp.array([1.0, -1.0]), jnp.asarray(w)
    (value, aux), grad = estimator(lambda w, a: (w @ CURVATURE @ w / 2 - w @ a, None),
                                   lambda w, a: (jnp.sum((w - TARGET) ** 2) / 2, w), w, a, sgd_step(lr, w))
    np.testing.assert_allclose(value, np.sum((aux - TARGET) ** 2) / 2)
    return aux, grad


OPTIMUM = np.linalg.solve(CURVATURE, [1, -1])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("terms, expected", [
    (0, (0.178571, -0.964286)), (1, (0.419643, -1.491071)), (2, (0.551339, -1.814732)),
    (5, (0.710345, -2.198068)), (20, (0.755079, -2.306067)),
])
def test_quadratic_neumann(terms, expected, reverse):
    where, grad = quadratic(neumann(terms=terms, lr=0.5, reverse=reverse), OPTIMUM)
    np.testing.assert_allclose(where, (0.857143, -1.428571), atol=1e-6)
    np.testing.assert_allclose(grad, expected, atol=1e-6)


def test_quadratic_conjugate_gradient():
    exact = np.linalg.solve(CURVATURE, OPTIMUM - TARGET)
    np.testing.assert_allclose(exact, (0.755102, -2.306122), atol=1e-6)
    for reverse in False, True:
        np.testing.assert_allclose(quadratic(conjugate_gradient(iterations=2, reverse=reverse), OPTIMUM)[1], exact)
    _, damped = quadratic(conjugate_gradient(iterations=2, damping=0.3), OPTIMUM)
    np.testing.assert_allclose(damped, np.linalg.solve(CURVATURE + 0.3 * np.eye(2), OPTIMUM - TARGET))
    _, early = quadratic(conjugate_gradient(iterations=1), OPTIMUM)
    residual = OPTIMUM - TARGET
    along = residual * (residual @ residual) / (residual @ CURVATURE @ residual)
    np.testing.assert_allclose(early, along)


@pytest.mark.parametrize("estimator", [unrolled(), unrolled(reverse=True), finite_difference()])
def test_quadratic_one_step(estimator):
    where, grad = quadratic(estimator, [0.0, 0.0])
    np.testing.assert_allclose(where, (0.5, -0.5))
    np.testing.assert_allclose(grad, (0, -0.5), atol=1e-10)


# A small network with two groups of edges.


def custom_tanh(nested):
    """tanh with a gradient of its own, whose rules call it again or not."""

    @jax.custom_vjp
    def tanh(x):
        return jnp.tanh(x)

    rule = tanh if nested else jnp.tanh
    tanh.defvjp(lambda x: (rule(x), x), lambda x, g: (g * (1 - rule(x) ** 2),))
    return tanh


def network(seed=0, width=6, batch=8, nested=False, dtype=np.float64):
    """inner, outer, weights, arch of a mixture of three operations on random data; aux is `[batch, width]`.

    It has a custom gradient, also in layers that the architecture does not reach.
    """
    draw = np.random.default_rng(seed)

    def normal(*shape):
        return draw.standard_normal(shape).astype(dtype)

    weights = {"mixed": [normal(width, width), normal(width, width)], "stem": {"kernel": normal(width, width)}}
    weights = jax.tree.map(lambda w: w / dtype(width**0.5), weights | {"bias": normal(width)})
    arch = {"normal": normal(1, 3), "reduce": normal(2)}
    images, targets = normal(2, batch, width), normal(2, batch, width)
    tanh = custom_tanh(nested)

    def loss(part):
        def of(weights, arch):
            h = tanh(images[part] @ weights["stem"]["kernel"])
            gates = jax.nn.softmax(arch["normal"][0])
            h = gates[0] * tanh(h @ weights["mixed"][0]) + gates[1] * (h @ weights["mixed"][1]) + gates[2] * h
            h = (h + weights["bias"]) * jnp.sin(arch["reduce"]).sum().astype(h.dtype)
            return jnp.mean((h - targets[part]) ** 2), h
        return of

    return loss(0), loss(1), weights, arch


def optimiser(clip=1e9):
    """weights -> the lookahead of SGD with decay, momentum and a schedule, in its fourth step."""
    tx = optax.chain(optax.clip_by_global_norm(clip), optax.add_decayed_weights(0.05), optax.trace(0.9),
                     optax.scale_by_learning_rate(optax.exponential_decay(0.4, 1, 0.7)))

    def at(weights):
        state = tx.init(weights)
        for gradient in [jax.tree.map(lambda w: 0.3 * jnp.cos(3 * w), weights)] * 3:
            state = tx.update(gradient, state, weights)[1]
        return step_of(tx, state, weights)

    return at


def sgd(lr=0.1):
    return lambda weights: sgd_step(lr, weights)


def estimate(estimator, problem, lookahead):
    """(value, aux), grad; `lookahead` is made of the weights."""
    inner, outer, *point = problem
    return jax.jit(lambda w, a: estimator(inner, outer, w, a, lookahead(w)))(*point)


def brute_force(inner, outer, weights, arch, lookahead):
    """An estimator that differentiates the outer loss after the step, as a function of the architecture."""

    def composed(arch):
        return outer(lookahead(jax.grad(inner, has_aux=True)(weights, arch)[0]), arch)

    return jax.value_and_grad(composed, has_aux=True)(arch)


def stopped(inner, outer, weights, arch, lookahead):
    """An estimator that takes the step but does not differentiate it."""
    ahead = lookahead(jax.grad(inner, has_aux=True)(weights, arch)[0])
    return jax.value_and_grad(outer, argnums=1, has_aux=True)(ahead, arch)


def distance(one, other):
    return optax.tree.norm(jax.tree.map(jnp.subtract, one, other)) / optax.tree.norm(other)


def test_unrolled_is_brute_force():
    problem, clip = network(), 0.5
    inner, _, weights, arch = problem
    assert optax.tree.norm(jax.jit(jax.grad(inner, has_aux=True))(weights, arch)[0]) > 2 * clip
    expected = estimate(brute_force, problem, optimiser(clip))
    for reverse in False, True:
        found = estimate(unrolled(reverse=reverse), problem, optimiser(clip))
        chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-13)
    for other in stopped, first_order():
        assert distance(estimate(other, problem, optimiser(clip))[1], expected[1]) > 1e-3


def test_finite_difference_converges_to_unrolled():
    problem = network()
    value, exact = estimate(unrolled(), problem, optimiser())

    def error(radius):
        found, grad = estimate(finite_difference(radius=radius), problem, optimiser())
        chex.assert_trees_all_close(found, value, rtol=1e-12)
        return distance(grad, exact)

    assert error(0.01) < 1e-5
    np.testing.assert_allclose(error(0.2) / error(0.1), 4, rtol=0.1)


def test_finite_difference_as_published():
    """The formula of the paper, literally, with the learning rate in hand."""
    problem, lr = network(), 0.3

    def published(inner, outer, weights, arch, lookahead):
        def moved(factor, direction):
            return jax.tree.map(lambda w, x: w + factor * x, weights, direction)

        def arch_grad(at):
            return jax.grad(inner, argnums=1, has_aux=True)(at, arch)[0]

        ahead = moved(-lr, jax.grad(inner, has_aux=True)(weights, arch)[0])
        value, (v, direct) = jax.value_and_grad(outer, argnums=(0, 1), has_aux=True)(ahead, arch)
        radius = 0.01 / jnp.sqrt(sum(jnp.sum(x**2) for x in jax.tree.leaves(v)))
        return value, jax.tree.map(lambda d, plus, minus: d - lr * (plus - minus) / (2 * radius), direct,
                                   arch_grad(moved(radius, v)), arch_grad(moved(-radius, v)))

    found, expected = (estimate(e, problem, sgd(lr)) for e in (finite_difference(), published))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-12)
    assert distance(found[1], estimate(unrolled(), problem, sgd(lr))[1]) > 1e-8


def test_no_learning_rate_is_first_order():
    problem = network()
    expected = estimate(first_order(), problem, sgd(0.0))
    for estimator in unrolled(), unrolled(reverse=True), finite_difference():
        chex.assert_trees_all_close(estimate(estimator, problem, sgd(0.0)), expected, rtol=1e-13)
        assert toy_grad(estimator, 0.3, 1.7, 0.0) == toy_grad(first_order(), 0.3, 1.7, 0.0)


def test_implicit_estimators_agree():
    inner, outer, *point = network()

    def convex(w, a):
        loss, aux = inner(w, a)
        return loss + optax.tree.norm(w, squared=True), aux

    solved, series = (estimate(estimator, (convex, outer, *point), lambda w: None)[1]
                      for estimator in (conjugate_gradient(iterations=200), neumann(terms=15, lr=0.4)))
    chex.assert_trees_all_close(solved, series, rtol=1e-3, atol=1e-6)


# How much is evaluated.


@pytest.mark.parametrize("name, inner_calls, outer_calls", [
    ("first-order", 0, 1), ("unrolled", 1, 1), ("finite-difference", 3, 1), ("neumann", 1, 1),
    ("conjugate-gradient", 1, 1),
])
def test_gradient_evaluations(name, inner_calls, outer_calls):
    """With the caller's weight step these make 2 for first order and 5 for DARTS' second order."""
    calls = []

    def counted(label, loss):
        return lambda *args: (calls.append(label), loss(*args))[1]

    inner, outer, *point = network()
    jax.eval_shape(lambda w, a: HYPERGRADIENTS[name]()(
        counted("inner", inner), counted("outer", outer), w, a, sgd_step(0.1, w)), *point)
    assert (calls.count("inner"), calls.count("outer")) == (inner_calls, outer_calls)


def test_operations_of_a_step():
    """By XLA's count: in gradients of the weights, a second-order step costs at most 5, a first-order one 2."""
    inner, outer, *point = network(width=64, batch=64)

    def flops(function):
        return jax.jit(function).lower(*point).compile().cost_analysis()["flops"]

    def step(estimator):
        def run(weights, arch):
            _, grad = estimator(inner, outer, weights, arch, sgd_step(0.1, weights))
            arch = jax.tree.map(jnp.subtract, arch, grad)
            return arch, sgd_step(0.1, weights)(jax.grad(inner, has_aux=True)(weights, arch)[0])
        return run

    one = flops(lambda weights, arch: jax.grad(inner, has_aux=True)(weights, arch)[0])
    assert 1.3 < flops(step(first_order())) / one < 2
    for estimator in unrolled(), finite_difference():
        assert 3 < flops(step(estimator)) / one < 5


# All of them.


@pytest.fixture(params=HYPERGRADIENTS)
def name(request):
    return request.param


@functools.cache
def compiled(name):
    """The estimator on the losses of `network()`, as a jitted function of weights and arch."""
    inner, outer, *_ = network()
    return jax.jit(lambda w, a: HYPERGRADIENTS[name]()(inner, outer, w, a, sgd_step(0.1, w)))


def test_structure_and_value(name):
    """A gradient like arch; value and aux are the outer loss, where the paper evaluates it."""
    problem = network()
    value, grad = compiled(name)(*problem[2:])
    chex.assert_trees_all_equal_shapes_and_dtypes(grad, problem[3])
    chex.assert_tree_all_finite(grad)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grad))
    where = stopped if name in ("unrolled", "finite-difference") else first_order()
    chex.assert_trees_all_close(value, estimate(where, problem, sgd())[0], rtol=1e-9)


@pytest.mark.parametrize("dtypes", [(np.float32, np.float32), (np.float64, np.float32), (np.float32, jnp.bfloat16)])
def test_dtypes(name, dtypes):
    inner, outer, weights, arch = network(dtype=dtypes[0])
    arch["reduce"] = arch["reduce"].astype(dtypes[1])
    (value, _), grad = jax.eval_shape(compiled(name), weights, arch)
    chex.assert_trees_all_equal_shapes_and_dtypes(grad, arch)


def test_vmap_over_seeds(name):
    seeds = [network(seed)[2:] for seed in range(3)]

    def stack(*trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    one_by_one = stack(*[compiled(name)(*seed) for seed in seeds])
    chex.assert_trees_all_close(jax.vmap(compiled(name))(*stack(*seeds)), one_by_one, rtol=1e-7, atol=1e-11)


def test_outer_loss_without_weights(name):
    """Its gradient to the weights is zero, which no norm may divide by."""
    inner, _, weights, arch = network()
    problem = inner, lambda w, a: (jnp.sum(a["normal"] ** 3), None), weights, arch
    grad = estimate(HYPERGRADIENTS[name](), problem, sgd())[1]
    np.testing.assert_allclose(grad["normal"], 3 * arch["normal"] ** 2)
    np.testing.assert_array_equal(grad["reduce"], 0)


@pytest.mark.parametrize("name", ["unrolled", "neumann", "conjugate-gradient"])
def test_nested_custom_gradients(name):
    """Rules that call their own function are beyond forward mode."""
    factory = HYPERGRADIENTS[name]
    expected = compiled(name)(*network()[2:])
    with pytest.raises(TypeError, match="custom_vjp"):
        estimate(factory(), network(nested=True), sgd())
    found = estimate(factory(reverse=True), network(nested=True), sgd())
    chex.assert_trees_all_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("factory, settings", [
    (finite_difference, {"radius": 0.0}), (finite_difference, {"radius": float("nan")}), (neumann, {"terms": -1}),
    (neumann, {"lr": 0.0}), (conjugate_gradient, {"iterations": 0}), (conjugate_gradient, {"damping": -0.1}),
])
def test_bad_settings(factory, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} is"):
        factory(**settings)
