"""Hypergradients against closed forms, against brute force, and one battery over all of them. In float64."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.hypergradients import (
    HYPERGRADIENTS,
    conjugate_gradient,
    finite_difference,
    first_order,
    neumann,
    unrolled,
)

REVERSIBLE = ["unrolled", "neumann", "conjugate-gradient"]


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


def network(seed=0, width=6, batch=8, activation=jnp.tanh, dtype=jnp.float64):
    """inner, outer, weights, arch of a mixture of layers on random data; aux are the outputs `[batch, width]`."""
    keys = jax.random.split(jax.random.key(seed), 6)
    weights = {"mixed": jax.random.normal(keys[0], (2, 2, width, width), dtype) / width**0.5,
               "stem": {"kernel": jax.random.normal(keys[1], (width, width), dtype) / width**0.5,
                        "bias": jnp.zeros(width, dtype)}}
    arch = {"normal": jax.random.normal(keys[2], (2, 3), dtype), "reduce": jax.random.normal(keys[3], (2,), dtype)}
    images = jax.random.normal(keys[4], (2, batch, width), dtype)
    labels = jax.random.randint(keys[5], (2, batch), 0, width)

    def loss(part):
        def of(weights, arch):
            h = activation(images[part] @ weights["stem"]["kernel"] + weights["stem"]["bias"])
            for kernels, gates in zip(weights["mixed"], jax.nn.softmax(arch["normal"])):
                h = gates[0] * jnp.tanh(h @ kernels[0]) + gates[1] * (h @ kernels[1]) + gates[2] * h
            h = h * jax.nn.softmax(arch["reduce"])[0].astype(h.dtype)
            return optax.softmax_cross_entropy_with_integer_labels(h, labels[part]).mean(), h
        return of

    return loss(0), loss(1), weights, arch


def optimiser(problem, clip=None):
    """The lookahead of SGD with decay, momentum and a schedule, in its fourth step."""
    inner, _, weights, arch = problem
    tx = optax.chain(optax.clip_by_global_norm(clip or 1e9), optax.add_decayed_weights(0.05), optax.trace(0.9),
                     optax.scale_by_learning_rate(optax.exponential_decay(0.4, 1, 0.7)))
    state = tx.init(weights)
    for seed in range(3):
        state = tx.update(jax.grad(network(seed + 1)[0], has_aux=True)(weights, arch)[0], state, weights)[1]
    return step_of(tx, state, weights)


def brute_force(problem, lookahead):
    """value, aux and gradient of the outer loss after the step, by differentiating the whole of it."""
    inner, outer, weights, arch = problem

    def composed(arch):
        return outer(lookahead(jax.grad(inner, has_aux=True)(weights, arch)[0]), arch)

    return jax.value_and_grad(composed, has_aux=True)(arch)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_unrolled_is_brute_force(clip, reverse):
    problem = network()
    norm = optax.global_norm(jax.grad(problem[0], has_aux=True)(*problem[2:])[0])
    assert clip is None or norm > 2 * clip
    lookahead = optimiser(problem, clip)
    expected = brute_force(problem, lookahead)
    chex.assert_trees_all_close(unrolled(reverse=reverse)(*problem, lookahead), expected, rtol=1e-9, atol=1e-13)
    direct = jax.grad(problem[1], argnums=1, has_aux=True)(lookahead(jax.grad(problem[0], has_aux=True)(
        *problem[2:])[0]), problem[3])[0]
    assert optax.global_norm(jax.tree.map(jnp.subtract, expected[1], direct)) > 1e-3 * optax.global_norm(direct)


def test_finite_difference_converges_to_unrolled():
    problem = network()
    lookahead = optimiser(problem)
    value, exact = unrolled()(*problem, lookahead)

    def error(radius):
        found, grad = finite_difference(radius=radius)(*problem, lookahead)
        chex.assert_trees_all_close(found, value, rtol=1e-12)
        return optax.global_norm(jax.tree.map(jnp.subtract, grad, exact)) / optax.global_norm(exact)

    assert error(0.01) < 1e-5
    np.testing.assert_allclose([error(0.4) / error(0.2), error(0.2) / error(0.1)], 4, rtol=0.1)


def test_no_learning_rate_is_first_order():
    problem = network()
    lookahead = sgd_step(0.0, problem[2])
    expected = first_order()(*problem, lookahead)
    for estimator in unrolled(), unrolled(reverse=True), finite_difference():
        chex.assert_trees_all_equal(estimator(*problem, lookahead), expected)


def test_implicit_estimators_agree():
    inner, outer, weights, arch = network()

    def convex(w, a):
        loss, aux = inner(w, a)
        return loss + optax.tree.norm(w, squared=True), aux

    _, solved = conjugate_gradient(iterations=200)(convex, outer, weights, arch, None)
    _, series = neumann(terms=60, lr=0.3)(convex, outer, weights, arch, None)
    chex.assert_trees_all_close(solved, series, rtol=1e-3, atol=1e-6)


# How much is evaluated.


@pytest.mark.parametrize("name, inner_calls, outer_calls", [
    ("first-order", 0, 1), ("unrolled", 1, 1), ("finite-difference", 3, 1), ("neumann", 1, 1),
    ("conjugate-gradient", 1, 1),
])
def test_gradient_evaluations(name, inner_calls, outer_calls):
    """With the caller's weight step these make 2 for first order and 5 for DARTS' second order."""
    inner, outer, weights, arch = network()
    calls = []

    def counted(label, loss):
        return lambda *args: (calls.append(label), loss(*args))[1]

    lookahead = optimiser((inner, outer, weights, arch))
    HYPERGRADIENTS[name]()(counted("inner", inner), counted("outer", outer), weights, arch, lookahead)
    assert (calls.count("inner"), calls.count("outer")) == (inner_calls, outer_calls)


def test_operations_of_a_step():
    """By XLA's count: in gradients of the weights, a second-order step costs at most 5, a first-order one 2."""
    problem = network(width=64, batch=64)
    inner, outer, weights, arch = problem

    def flops(function):
        return jax.jit(function).lower(weights, arch).compile().cost_analysis()["flops"]

    def step(estimator):
        def run(weights, arch):
            _, grad = estimator(inner, outer, weights, arch, sgd_step(0.1, weights))
            arch = jax.tree.map(jnp.subtract, arch, grad)
            return arch, sgd_step(0.1, weights)(jax.grad(inner, has_aux=True)(weights, arch)[0])
        return run

    one = flops(lambda weights, arch: jax.grad(inner, has_aux=True)(weights, arch)[0])
    first = flops(step(first_order())) / one
    assert 1.3 < first < 2
    for estimator in unrolled(), unrolled(reverse=True), finite_difference():
        assert 2.7 * first / 1.5 < flops(step(estimator)) / one < 5


# All of them.


@pytest.fixture(params=HYPERGRADIENTS)
def estimator(request):
    return HYPERGRADIENTS[request.param]()


def test_structure_and_values(estimator):
    problem = network()
    problem[3]["reduce"] = problem[3]["reduce"].astype(jnp.float32)
    lookahead = optimiser(problem)
    (value, aux), grad = estimator(*problem, lookahead)
    chex.assert_trees_all_equal_shapes_and_dtypes(grad, problem[3])
    chex.assert_tree_all_finite(grad)
    assert all(optax.global_norm(leaf) > 0 for leaf in jax.tree.leaves(grad))
    where = problem[2]
    if estimator.__module__.rpartition(".")[2] in ("unrolled", "finite_difference"):
        where = lookahead(jax.grad(problem[0], has_aux=True)(*problem[2:])[0])
    chex.assert_trees_all_close((value, aux), problem[1](where, problem[3]), rtol=1e-9)


def test_float32(estimator):
    problem = network(dtype=jnp.float32)
    (value, _), grad = estimator(*problem, sgd_step(0.1, problem[2]))
    assert value.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(grad, problem[3])


def test_jit(estimator):
    problem = network()
    inner, outer, weights, arch = problem
    plain = estimator(*problem, optimiser(problem))
    jitted = jax.jit(lambda w, a: estimator(inner, outer, w, a, optimiser((inner, outer, w, a))))(weights, arch)
    chex.assert_trees_all_close(jitted, plain, rtol=1e-8, atol=1e-12)


def test_vmap_over_seeds(estimator):
    def run(weights, arch):
        return estimator(*network()[:2], weights, arch, sgd_step(0.1, weights))

    seeds = [network(seed)[2:] for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    one_by_one = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[run(*seed) for seed in seeds])
    chex.assert_trees_all_close(jax.vmap(run)(*stacked), one_by_one, rtol=1e-7, atol=1e-11)


def test_outer_loss_without_weights(estimator):
    """Its gradient to the weights is zero, which no norm may divide by."""
    inner, _, weights, arch = network()
    grad = estimator(inner, lambda w, a: (jnp.sum(a["normal"] ** 3), None), weights, arch, sgd_step(0.1, weights))[1]
    np.testing.assert_allclose(grad["normal"], 3 * arch["normal"] ** 2)
    np.testing.assert_array_equal(grad["reduce"], 0)


def custom_tanh(nested):
    @jax.custom_vjp
    def tanh(x):
        return jnp.tanh(x)

    rule = tanh if nested else jnp.tanh
    tanh.defvjp(lambda x: (rule(x), x), lambda x, g: (g * (1 - rule(x) ** 2),))
    return tanh


def test_losses_with_custom_gradients(estimator):
    plain, custom = network(), network(activation=custom_tanh(nested=False))
    expected = estimator(*plain, sgd_step(0.1, plain[2]))
    chex.assert_trees_all_close(estimator(*custom, sgd_step(0.1, custom[2])), expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", REVERSIBLE)
def test_losses_with_nested_custom_gradients(name):
    plain, custom = network(), network(activation=custom_tanh(nested=True))
    expected = HYPERGRADIENTS[name]()(*plain, sgd_step(0.1, plain[2]))
    found = HYPERGRADIENTS[name](reverse=True)(*custom, sgd_step(0.1, custom[2]))
    chex.assert_trees_all_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("factory, settings", [
    (finite_difference, {"radius": 0.0}), (finite_difference, {"radius": float("nan")}), (neumann, {"terms": -1}),
    (neumann, {"lr": 0.0}), (conjugate_gradient, {"iterations": 0}), (conjugate_gradient, {"damping": -0.1}),
])
def test_bad_settings(factory, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} is"):
        factory(**settings)
