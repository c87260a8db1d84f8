"""The alternating optimiser on a scalar problem with a closed form, and against brute force. In float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dnas.algorithms.optimizers as optimizers
from dnas.algorithms.bilevel import bilevel
from dnas.algorithms.hypergradients import HYPERGRADIENTS, finite_difference, first_order, unrolled
from dnas.algorithms.players import Term, task_loss
from dnas.algorithms.relaxations import Architecture, Relaxation, softmax
from dnas.algorithms.schedules import cosine_by_epoch, time_of
from dnas.task import accuracy, classification
from dnas.types import OPEN, REMOVED
from tests.problems import (
    KEY,
    TRAIN,
    VALID,
    at,
    batches,
    begun,
    identity,
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


def scalar(hypergradient, xi=None, rate=0.1, **options):
    """Gradient descent on both; the look-ahead's rate is xi."""
    algorithm = bilevel(hypergradient and (lambda hyper: hypergradient), lookahead=None if xi is None else sgd(xi))
    return scalar_method(algorithm, rate=rate, **options)


FIRST = [(2.4, -1.12), (2.712, -0.3536), (2.94736, 0.306592), (3.116701, 0.868614)]
SECOND = [(1.8, -1.24), (1.64, -0.664), (1.512, -0.2288), (1.4096, 0.09888)]


@pytest.mark.parametrize("hypergradient, xi, iterates", [
    (first_order(), None, FIRST), (first_order(), 0.5, FIRST), (unrolled(), 0.0, FIRST),
    (finite_difference(), 0.0, FIRST), (unrolled(), 0.5, SECOND),
    (unrolled(reverse=True), 0.5, SECOND), (finite_difference(), 0.5, SECOND),
])
def test_scalar_iterates(hypergradient, xi, iterates):
    """The architecture first, and the weights' step with the new one."""
    np.testing.assert_allclose(iterate(scalar(hypergradient, xi), 4), iterates, atol=1e-6)


@pytest.mark.parametrize("hypergradient", [unrolled(), finite_difference()])
@pytest.mark.parametrize("xi, limit", [(0.0, 2), (0.1, 1.6667), (0.25, 1.3333), (0.5, 1)])
def test_scalar_fixed_points(hypergradient, xi, limit):
    last = iterate(scalar(hypergradient, xi), 1500)[-1]
    np.testing.assert_allclose(last, 2 / (1 + 2 * xi), rtol=1e-9)
    np.testing.assert_allclose(last, limit, atol=5e-5)


def test_scalar_first_order_stalls():
    np.testing.assert_allclose(iterate(scalar(first_order()), 1500)[-1], [2, 2], rtol=1e-9)


def test_by_default_the_step_taken_is_the_look_ahead():
    np.testing.assert_allclose(iterate(scalar(unrolled()), 4), iterate(scalar(unrolled(), xi=0.1), 4), rtol=1e-14)
    assert np.abs(iterate(scalar(unrolled()), 4) - np.array(FIRST)).min() > 1e-3


@pytest.mark.parametrize("hypergradient, gradient, ahead", [
    (unrolled(), -2.89, -1.29), (finite_difference(), -2.89, -1.29), (first_order(), -4, -2)])
def test_momentum_is_part_of_the_look_ahead(hypergradient, gradient, ahead):
    """Momentum buffer 1: leaving it out would give -2.8. The value is that at the weights ahead."""
    bound, hyper, state = scalar_start(scalar_method(bilevel(lambda hyper: hypergradient), momentum=0.9, arch_rate=1.0))
    state = state._replace(weights_opt=jax.tree.map(lambda leaf: jnp.ones_like(leaf), state.weights_opt))
    after, info = bound.step(KEY, state, TRAIN, VALID, hyper)
    np.testing.assert_allclose(state.arch["a"] - after.arch["a"], [[gradient]], rtol=1e-10)
    np.testing.assert_allclose(info["valid_loss"], 2 * ahead - 3, rtol=1e-10)
    a = 2 - gradient
    np.testing.assert_allclose([info["train_loss"], after.weights], [(2 + a) ** 2, -2 - 0.1 * (0.9 - 2 * (2 + a))])


@pytest.mark.parametrize("starts, every", [(0, 1), (0, 3), (4, 1), (4, 3), (3, 3)])
def test_when_the_architecture_steps(starts, every):
    """Not in the first `starts` epochs (of one step), and then as the last of every `every` steps; meanwhile its
    optimiser's memory rests too."""
    xi = 0.5
    method = scalar(unrolled(), xi, hyper={"arch_warmup": starts, "arch_every": every}, arch={"optimizer": sgd(0.1, 0.5)})
    found = iterate(method, 10)
    a, w, memory = 2.0, -2.0, 0.0
    for step in range(10):
        if step >= starts and (step + 1) % every == 0:
            memory = 0.5 * memory + w - 2 * xi * (w - a) - 2 + 2 * xi * a
            a -= 0.1 * memory
        w -= 0.2 * (w - a)
        np.testing.assert_allclose(found[step], [a, w], rtol=1e-12)


def test_the_warm_up_is_in_epochs():
    bound, _, state = scalar_start(method := scalar(first_order(), hyper={"arch_warmup": 2}))
    step, moved = jax.jit(bound.step), []
    for _ in range(8):
        after, _ = step(KEY, state, TRAIN, VALID, numbers(method, epochs=9, steps=3))
        moved.append(bool(after.arch["a"] != state.arch["a"]))
        state = after
    assert moved == [False] * 6 + [True] * 2


def test_no_hypergradient_leaves_the_architecture():
    found = iterate(scalar(None), 300)
    np.testing.assert_array_equal(found[:, 0], 2)
    np.testing.assert_allclose(found[-1, 1], 2, rtol=1e-12)
    bound, hyper, state = scalar_start(scalar(None))
    after, info = bound.step(KEY, state, TRAIN, VALID, hyper)
    assert (float(info["valid_loss"]), float(info["train_loss"])) == (-7, 16)
    assert info.keys() == {"train_loss", "valid_loss", "train_weight", "valid_weight"}
    assert int(after.step) == 1 and after.step.dtype == jnp.int32


def test_a_relaxation_is_given_the_time_and_the_numbers():
    """The share of ten epochs of one step, times a number of the method."""
    scheduled = identity()._replace(gates=lambda key, architecture, hyper, t: {
        "a": architecture.logits["a"] * (hyper["slope"] * t.share + 1)})
    method = scalar_method(bilevel(None), rate=0.5, hyper={"slope": 10.0}, relaxation=scheduled)
    np.testing.assert_allclose(iterate(method, 4)[:, 1], [2, 4, 6, 8])  # at rate 1/2 the weights jump to the optimum


def test_each_player_sees_its_own_gates():
    """The weights' player sees a, the architecture's 3 a: the hypergradient of first order is then 3 (w - 2)."""
    tripled = identity()._replace(gates=lambda key, architecture, hyper, t: {"a": 3 * architecture.logits["a"]})
    found = iterate(scalar(first_order(), arch={"relaxation": tripled}), 2)
    a, w = 2.0, -2.0
    for step in range(2):
        a -= 0.1 * 3 * (w - 2)
        w -= 0.2 * (w - a)
        np.testing.assert_allclose(found[step], [a, w], rtol=1e-12)


@pytest.mark.parametrize("who", ["weights", "arch"])
def test_a_perturbation_is_of_one_player(who):
    """It may differentiate the loss of the task by the gates; what it leads to is descended on."""
    def ascent(key, loss, gates, architecture, hyper, t):
        return jax.tree.map(lambda gate, slope: gate + hyper["radius"] * jax.lax.stop_gradient(slope), gates,
                            jax.grad(loss)(gates))

    found = iterate(scalar(first_order(), hyper={"radius": 0.25}, **{who: {"perturbation": ascent}}), 3)
    a, w = 2.0, -2.0
    for step in range(3):
        a -= 0.1 * (w - 2)  # linear in the gate, so that a perturbation of it changes the loss alone
        w -= 0.2 * (w - (a - 0.25 * 2 * (w - a) if who == "weights" else a))
        np.testing.assert_allclose(found[step], [a, w], rtol=1e-12)
    bound, hyper, state = scalar_start(scalar(None, hyper={"radius": 0.25}, **{who: {"perturbation": ascent}}))
    _, info = bound.step(KEY, state, TRAIN, VALID, hyper)
    assert float(info["train_loss"]) == (16 if who == "arch" else (-2 - 4) ** 2)
    assert float(info["valid_loss"]) == (-7 if who == "weights" else -4 * (2 - 0.25 * 4) + 1)


def test_what_a_term_is_given():
    """Its memory, the time, and the weights before the step with the gates by which the step trained them."""
    def value(hyper, t, arch, gates, forward, memory):
        assert forward.outputs.shape == (1, 2) and forward.task.name == "scalar"
        return memory["scale"] * (1.0 + t.step)

    def observe(memory, hyper, t, weights, gates):
        return memory | {"seen": jnp.stack([weights, gates["a"][0, 0], 1.0 * t.step])}

    term = Term(value, lambda weights, gates: {"scale": jnp.float64(10), "seen": jnp.zeros(3)}, observe)
    plainly, bare_hyper, first = scalar_start(scalar(first_order()))
    for both in False, True:
        player = {"terms": {"scaled": term}}
        bound, hyper, state = scalar_start(scalar(first_order(), weights=player, **{"arch": player} if both else {}))
        bare = first
        for i in range(2):
            before = state
            state, info = bound.step(KEY, state, TRAIN, VALID, hyper)
            bare, expected = plainly.step(KEY, bare, TRAIN, VALID, bare_hyper)
            assert info.keys() - expected.keys() == {"train_scaled"} | ({"valid_scaled"} if both else set())
            assert info["train_scaled"] == 10 * (1 + i) and info.get("valid_scaled", 10 * (1 + i)) == 10 * (1 + i)
            chex.assert_trees_all_equal({name: info[name] for name in expected}, expected)
            np.testing.assert_allclose(state.memory["weights"]["scaled"]["seen"], [before.weights, state.arch["a"][0, 0], i])
            chex.assert_trees_all_equal(state._replace(memory=()), bare._replace(memory=()))


@pytest.mark.parametrize("who", ["arch", "weights"])
def test_a_term_is_descended_on_by_its_player_alone(who):
    """5.5 a^2 / 2 by the logits, or w a by the outputs."""
    terms = {"arch": lambda hyper, t, arch, gates, forward, memory: hyper["scale"] * (arch["a"] ** 2).sum() / 2,
             "weights": lambda hyper, t, arch, gates, forward, memory: forward.outputs[0].prod()}
    found = iterate(scalar(first_order(), hyper={"scale": 5.5}, **{who: {"terms": {"extra": terms[who]}}}), 1)[0]
    a = 2 - 0.1 * (-4 + 5.5 * 2 * (who == "arch"))
    np.testing.assert_allclose(found, [a, -2 - 0.2 * (-2 - a) - 0.1 * a * (who == "weights")], rtol=1e-12)


LR = {"lr": 0.4, "lr_min": 0.1}
CLIP = 0.25


def taken(hyper, t, clip=CLIP):
    return optimizers.sgd(cosine_by_epoch("lr", "lr_min")(hyper, t), momentum=0.9, decay=0.05, clip=clip)


def unclipped(hyper, t):
    return taken(hyper, t, None)


@pytest.fixture(scope="module")
def fourth():
    """A state before its fourth step by the taken optimiser: with momentum, and clipped so far."""
    with jax.enable_x64(True):
        method = plain_method(bilevel(None), optimizer=taken, hyper=LR)
        bound, hyper = method.bind(plain(), classification()), numbers(method)
        state, (train, valid), step = begun(bound, hyper), batches(3), jax.jit(bound.step)
        for i in range(3):
            state, _ = step(KEY, state, at(train, i), at(valid, i), hyper)
        return state


@pytest.mark.parametrize("hypergradient, clipped, tolerance", [
    (unrolled(), True, 1e-10), (unrolled(reverse=True), True, 1e-10), (unrolled(), False, 1e-10),
    (finite_difference(radius=1e-4), False, 1e-6),
], ids=["as taken", "as taken, reverse", "without clipping", "finite difference, without clipping"])
def test_second_order_is_brute_force_through_the_real_update(fourth, hypergradient, clipped, tolerance):
    """In the fourth step, with momentum, decay, schedule and clipping active."""
    space, state = plain(), fourth
    method = plain_method(bilevel(lambda hyper: hypergradient, lookahead=None if clipped else unclipped),
                          optimizer=taken, hyper=LR)
    bound, hyper = method.bind(space, classification()), numbers(method)
    loss, t = task_loss(space, classification()), time_of(hyper, 3)

    def evaluate(weights, arch, batch):
        gates = softmax().gates(None, Architecture(arch, state.mask, space.groups), hyper, t)
        value, outputs, stats = loss(KEY, weights, state.stats, gates, batch)
        return value, (outputs, stats)

    @functools.partial(jax.jit, static_argnums=0)
    def moved(optimizer, arch, train):
        grads, aux = jax.grad(evaluate, has_aux=True)(state.weights, arch, train)
        updates, _ = optimizer(hyper, t).update(grads, state.weights_opt, state.weights)
        return optax.apply_updates(state.weights, updates), grads, aux

    def composed(arch):
        return evaluate(moved(taken if clipped else unclipped, arch, train)[0], arch, valid)[0]

    train, valid = (at(batch, 0) for batch in batches(1, seed=1))
    after, info = jax.jit(bound.step)(KEY, state, train, valid, hyper)
    value, expected = jax.jit(jax.value_and_grad(composed))(state.arch)
    first_order = jax.jit(jax.grad(evaluate, 1, has_aux=True))(state.weights, state.arch, valid)[0]
    _, grads, _ = moved(taken, state.arch, train)
    assert optax.tree.norm(grads) > 2 * CLIP
    found = state.arch["cell"] - after.arch["cell"]
    np.testing.assert_allclose(found, expected["cell"], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(info["valid_loss"], value, rtol=1e-10)
    assert np.abs(found - first_order["cell"]).max() > 1e-3

    # The weights' own step: clipped, by the new architecture; and of the validation data no trace.
    weights, _, (outputs, stats) = moved(taken, after.arch, train)
    chex.assert_trees_all_close(after.weights, weights, rtol=1e-10)
    chex.assert_trees_all_close((info["train_accuracy"], after.stats), (accuracy(outputs, train.targets).mean(), stats),
                                rtol=1e-10)


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_decided_edges_do_not_move_and_train_what_is_decided(name):
    """An edge decided for `skip`, which has no weights, or removed leaves the weights of its other operation alone."""
    (train, valid), method = batches(1), plain_method(bilevel(lambda hyper: HYPERGRADIENTS[name]()))
    bound, hyper = method.bind(plain(), classification()), numbers(method)
    state = begun(bound, hyper)._replace(decisions={"cell": jnp.array([1, OPEN, REMOVED])})
    after, _ = bound.step(KEY, state, at(train, 0), at(valid, 0), hyper)
    moved = np.abs(np.asarray(after.arch["cell"] - state.arch["cell"]))
    np.testing.assert_array_equal(moved[[0, 2]], 0)
    assert moved[1].min() > 0
    chex.assert_trees_all_equal(after.decisions, state.decisions)
    change = np.abs(after.weights["edges"] - state.weights["edges"])
    assert change[0].max() == change[2].max() == 0 < change[1].min()


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_operations_out_of_the_race_get_no_gate_and_do_not_move(name):
    """What is left on the edge shares all of it, as if the other operation had never been there."""
    (train, valid), method = batches(1), plain_method(bilevel(lambda hyper: HYPERGRADIENTS[name]()))
    bound, hyper = method.bind(plain(), classification()), numbers(method)
    mask = np.array([[True, False, False], [False, True, True], [True, True, True]])
    state = begun(bound, hyper)._replace(mask={"cell": jnp.array(mask)})
    gates = np.asarray(bound.gates(state, hyper)["cell"])
    np.testing.assert_array_equal(gates > 0, mask)
    np.testing.assert_allclose(gates.sum(-1), 1)
    after, _ = bound.step(KEY, state, at(train, 0), at(valid, 0), hyper)
    moved = np.abs(np.asarray(after.arch["cell"] - state.arch["cell"]))
    np.testing.assert_array_equal(moved[~mask], 0)
    np.testing.assert_allclose(moved[0], 0, atol=1e-15)  # the only one left has nothing to gain
    assert moved[1:][mask[1:]].min() > 0
    assert np.abs(after.weights["edges"] - state.weights["edges"])[1].max() == 0
    chex.assert_trees_all_equal(after.mask, state.mask)


def test_stochastic_relaxations_draw_once_a_step_and_player():
    """The look-ahead and the weights' step meet the same gates; the validation loss and another step other ones."""
    drawn = []

    def noisy(key, architecture, hyper, t):
        noise = jax.random.normal(key, (1, 1))
        jax.debug.callback(lambda value: drawn.append(float(value[0, 0])), noise)
        return {"a": architecture.logits["a"] + noise}

    bound, hyper, state = scalar_start(scalar(finite_difference(), relaxation=Relaxation(identity().init, noisy)))
    drawn.clear()
    state, _ = bound.step(jax.random.key(1), state, TRAIN, VALID, hyper)
    jax.effects_barrier()
    assert len(drawn) >= 4 and sorted(map(drawn.count, set(drawn))) == [1, len(drawn) - 1]
    bound.step(jax.random.key(2), state, TRAIN, VALID, hyper)
    jax.effects_barrier()
    assert len(set(drawn)) == 4
