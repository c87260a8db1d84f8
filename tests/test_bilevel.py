"""The alternating optimiser on a scalar problem with a closed form, and against brute force. In float64.

Other tests take their problems from here: the scalar one, and the space `plain`.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.algorithms.hypergradients import HYPERGRADIENTS, finite_difference, first_order, unrolled
from dnas.algorithms.optimizers import cosine_by_epoch, sgd
from dnas.algorithms.players import Forward, Penalty, bilevel, cross_entropy
from dnas.algorithms.relaxations import softmax, undecided
from dnas.types import OPEN, REMOVED, Batch, Genotype, Group, SearchSpace


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


KEY = jax.random.key(0)


# L_train = (w - a)^2, L_valid = a w - 2 a + 1: reduced objective (a - 1)^2, optimum (1, 1).

TRAIN, VALID = Batch(None, False), Batch(None, True)


def scalar_loss(key, weights, stats, gates, batch):
    w, a = weights, gates["a"][0, 0]
    return (a * w - 2 * a + 1 if batch.targets else (w - a) ** 2), Forward(stats, jnp.zeros(()), jnp.zeros((1, 1)))


def identity(key, arch, step):
    return arch


def start(a, w):
    """Arguments of an optimiser's init."""
    return jnp.float64(w), {"a": jnp.full((1, 1), float(a))}, (), {"a": jnp.array([OPEN])}


def iterate(optimizer, steps, state=None, look=lambda state: (state.arch["a"][0, 0], state.weights)):
    """What `look` sees after each step, `[steps, ...]`; from a = 2, w = -2 unless given a state."""

    def step(state, _):
        state, info = optimizer.step(KEY, state, TRAIN, VALID)
        return state, jnp.stack(look(state))

    return jax.jit(lambda state: jax.lax.scan(step, state, None, steps)[1])(state or optimizer.init(*start(2.0, -2.0)))


def scalar(hypergradient, xi=None, rate=0.1, **options):
    """Gradient descent on both; the look-ahead's rate is xi."""
    return bilevel(scalar_loss, identity, hypergradient, optax.sgd(rate), optax.sgd(rate),
                   lookahead_tx=None if xi is None else optax.sgd(xi), **options)


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
    optimizer = bilevel(scalar_loss, identity, hypergradient, sgd(0.1, momentum=0.9, decay=0), optax.sgd(1.0))
    state = optimizer.init(*start(2.0, -2.0))
    state = state._replace(weights_opt=jax.tree.map(lambda leaf: jnp.ones_like(leaf), state.weights_opt))
    after, info = optimizer.step(KEY, state, TRAIN, VALID)
    np.testing.assert_allclose(state.arch["a"] - after.arch["a"], gradient, rtol=1e-10)
    np.testing.assert_allclose(info.valid_loss, 2 * ahead - 3, rtol=1e-10)
    a = 2 - gradient
    np.testing.assert_allclose([info.train_loss, after.weights], [(2 + a) ** 2, -2 - 0.1 * (0.9 - 2 * (2 + a))])


@pytest.mark.parametrize("starts, every", [(0, 1), (0, 3), (4, 1), (4, 3), (3, 3)])
def test_when_the_architecture_steps(starts, every):
    """Not before `starts` steps, and then as the last of every `every`; meanwhile its optimiser's memory rests too."""
    xi = 0.5
    optimizer = bilevel(scalar_loss, identity, unrolled(), optax.sgd(0.1), optax.sgd(0.1, momentum=0.5),
                        lookahead_tx=optax.sgd(xi), arch_starts=starts, arch_every=every)
    found = iterate(optimizer, 10)
    a, w, memory = 2.0, -2.0, 0.0
    for step in range(10):
        if step >= starts and (step + 1) % every == 0:
            memory = 0.5 * memory + w - 2 * xi * (w - a) - 2 + 2 * xi * a
            a -= 0.1 * memory
        w -= 0.2 * (w - a)
        np.testing.assert_allclose(found[step], [a, w], rtol=1e-12)


def test_no_hypergradient_leaves_the_architecture():
    found = iterate(scalar(None), 300)
    np.testing.assert_array_equal(found[:, 0], 2)
    np.testing.assert_allclose(found[-1, 1], 2, rtol=1e-12)
    state = scalar(None).init(*start(2.0, -2.0))
    after, info = scalar(None).step(KEY, state, TRAIN, VALID)
    assert (float(info.valid_loss), float(info.train_loss)) == (-7, 16)
    assert int(after.step) == 1 and after.step.dtype == jnp.int32


def test_the_relaxation_is_told_the_step():
    def scheduled(key, arch, step):
        return {"a": arch["a"] * (step + 1)}

    optimizer = bilevel(scalar_loss, scheduled, None, optax.sgd(0.5), optax.sgd(0.1))
    np.testing.assert_allclose(iterate(optimizer, 4)[:, 1], [2, 4, 6, 8])  # at rate 1/2 the weights jump to the optimum


def test_what_a_penalty_is_given():
    """Its memory, the step, and the weights before the step with the gates by which the step trained them."""

    def value(memory, key, step, stats, batch, logits):
        return memory["scale"] * (1.0 + step)

    def observe(memory, step, weights, gates):
        return memory | {"seen": jnp.stack([weights, gates["a"][0, 0], 1.0 * step])}

    penalty = Penalty(lambda weights, gates: {"scale": jnp.float64(10), "seen": jnp.zeros(3)}, value, observe)
    plain = scalar(first_order())
    for both in False, True:
        optimizer = scalar(first_order(), penalty=penalty, penalise_arch=both)
        state, bare = optimizer.init(*start(2.0, -2.0)), plain.init(*start(2.0, -2.0))
        for i in range(2):
            before = state
            (state, info), (bare, expected) = (o.step(KEY, s, TRAIN, VALID)
                                               for o, s in ((optimizer, state), (plain, bare)))
            np.testing.assert_allclose(info.train_loss - expected.train_loss, 10 * (1 + i))
            np.testing.assert_allclose(info.valid_loss - expected.valid_loss, 10 * (1 + i) * both)
            np.testing.assert_allclose(state.extra["seen"], [before.weights, state.arch["a"][0, 0], i])
            chex.assert_trees_all_equal(state._replace(extra=()), bare)


# A space of no framework: three edges, one with an operation fewer, and a running average.


def plain(width=6, classes=3):
    groups = {"cell": Group(((0, 1), (0, 2), (1, 2)), (("tanh", "skip"),) + (("tanh", "skip", "none"),) * 2)}

    def init(key, images):
        keys = jax.random.split(key, 3)
        weights = {"stem": jax.random.normal(keys[0], (width, width)),
                   "edges": jax.random.normal(keys[1], (3, width, width)) / width**0.5,
                   "head": jax.random.normal(keys[2], (width, classes))}
        return weights, {"mean": jnp.zeros(width)}

    def apply(weights, stats, gates, images, *, train, key=None):
        gates = (gates.gates(groups) if isinstance(gates, Genotype) else gates)["cell"]
        h = images @ weights["stem"]
        mean = h.mean(0) if train else stats["mean"]
        nodes = [h - mean, 0, 0]
        for e, (source, target) in enumerate(groups["cell"].edges):
            x = nodes[source]
            nodes[target] += gates[e, 0] * jnp.tanh(x @ weights["edges"][e]) + gates[e, 1] * x
        stats = {"mean": 0.9 * stats["mean"] + 0.1 * mean} if train else stats
        return nodes[2] @ weights["head"], stats

    def genotype(scores):
        return Genotype.from_decisions(space, {"cell": np.where(groups["cell"].allowed, scores["cell"], -1).argmax(-1)})

    space = SearchSpace("plain", {}, groups, init, apply, genotype, lambda weights, genotype: weights,
                        lambda genotype=None: {"params": 0, "macs": 0}, None, str, None)
    return space


def batches(count, seed=0, size=8, width=6, classes=3, dtype=np.float64):
    """`count` pairs of a train and a valid batch, as one Batch each with leading axis `count`."""
    draw = np.random.default_rng(seed)
    return [Batch(draw.normal(size=(count, size, width)).astype(dtype), draw.integers(0, classes, (count, size)))
            for _ in range(2)]


def at(batch, i):
    return jax.tree.map(lambda leaf: leaf[i], batch)


def begun(optimizer, space, seed=0):
    """A state whose architecture prefers something."""
    weights, stats = space.init(jax.random.key(seed), None)
    arch = {"cell": jax.random.normal(jax.random.key(seed + 1), (3, 3))}
    return optimizer.init(weights, arch, stats, undecided(space.groups))


SCHEDULE = cosine_by_epoch(0.4, 0.1, 4, 2)
CLIP = 0.25


@pytest.fixture(scope="module")
def fourth():
    """The taken optimiser, and a state before its fourth step: with momentum, and clipped so far."""
    with jax.enable_x64(True):
        space, tx = plain(), sgd(SCHEDULE, momentum=0.9, decay=0.05, clip=CLIP)
        optimizer = bilevel(cross_entropy(space), softmax(space.groups), None, tx, optax.sgd(1.0))

        state, (train, valid) = begun(optimizer, space), batches(3)
        for i in range(3):
            state, _ = optimizer.step(KEY, state, at(train, i), at(valid, i))
        return space, tx, state


@pytest.mark.parametrize("hypergradient, clipped, tolerance", [
    (unrolled(), True, 1e-10), (unrolled(reverse=True), True, 1e-10), (unrolled(), False, 1e-10),
    (finite_difference(radius=1e-4), False, 1e-6),
], ids=["as taken", "as taken, reverse", "without clipping", "finite difference, without clipping"])
def test_second_order_is_brute_force_through_the_real_update(fourth, hypergradient, clipped, tolerance):
    """In the fourth step, with momentum, decay, schedule and clipping active."""
    space, taken, state = fourth
    loss, relax = cross_entropy(space), softmax(space.groups)
    unclipped = sgd(SCHEDULE, momentum=0.9, decay=0.05)
    optimizer = bilevel(loss, relax, hypergradient, taken, optax.sgd(1.0), lookahead_tx=None if clipped else unclipped)

    def evaluate(weights, arch, batch):
        return loss(KEY, weights, state.stats, relax(None, arch, 3), batch)

    def moved(tx, arch, train):
        grads, forward = jax.grad(evaluate, has_aux=True)(state.weights, arch, train)
        return optax.apply_updates(state.weights, tx.update(grads, state.weights_opt, state.weights)[0]), grads, forward

    def composed(arch):
        return evaluate(moved(taken if clipped else unclipped, arch, train)[0], arch, valid)[0]

    train, valid = (at(batch, 0) for batch in batches(1, seed=1))
    after, info = optimizer.step(KEY, state, train, valid)
    value, expected = jax.value_and_grad(composed)(state.arch)
    first_order = jax.grad(evaluate, 1, has_aux=True)(state.weights, state.arch, valid)[0]
    _, grads, _ = moved(taken, state.arch, train)
    assert optax.tree.norm(grads) > 2 * CLIP
    found = state.arch["cell"] - after.arch["cell"]
    np.testing.assert_allclose(found, expected["cell"], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(info.valid_loss, value, rtol=1e-10)
    assert np.abs(found - first_order["cell"]).max() > 1e-3

    # The weights' own step: clipped, by the new architecture; and of the validation data no trace.
    weights, _, trained = moved(taken, after.arch, train)
    chex.assert_trees_all_close(after.weights, weights, rtol=1e-10)
    chex.assert_trees_all_close((info.train_accuracy, after.stats), (trained.accuracy, trained.stats), rtol=1e-10)


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_decided_edges_do_not_move_and_train_what_is_decided(name):
    """An edge decided for `skip`, which has no weights, or removed leaves the weights of its other operation alone."""
    space, (train, valid) = plain(), batches(1)
    optimizer = bilevel(cross_entropy(space), softmax(space.groups), HYPERGRADIENTS[name](), optax.sgd(0.1),
                        optax.sgd(1.0))
    state = begun(optimizer, space)._replace(decisions={"cell": jnp.array([1, OPEN, REMOVED])})
    after, _ = optimizer.step(KEY, state, at(train, 0), at(valid, 0))
    moved = np.abs(np.asarray(after.arch["cell"] - state.arch["cell"]))
    np.testing.assert_array_equal(moved[[0, 2]], 0)
    assert moved[1].min() > 0
    chex.assert_trees_all_equal(after.decisions, state.decisions)
    change = np.abs(after.weights["edges"] - state.weights["edges"])
    assert change[0].max() == change[2].max() == 0 < change[1].min()


def test_stochastic_relaxations_draw_once_a_step():
    """Training loss, validation loss and the weights' step meet the same gates, another step other ones."""
    drawn = []

    def noisy(key, arch, step):
        noise = jax.random.normal(key, (1, 1))
        jax.debug.callback(lambda value: drawn.append(float(value[0, 0])), noise)
        return {"a": arch["a"] + noise}

    optimizer = bilevel(scalar_loss, noisy, finite_difference(), optax.sgd(0.1), optax.sgd(0.1))
    state = optimizer.init(*start(2.0, -2.0))
    drawn.clear()
    state, _ = optimizer.step(jax.random.key(1), state, TRAIN, VALID)
    jax.effects_barrier()
    assert len(drawn) >= 3 and len(set(drawn)) == 1
    optimizer.step(jax.random.key(2), state, TRAIN, VALID)
    jax.effects_barrier()
    assert len(set(drawn)) == 2
