"""Self-distillation: the divergence, the vote, who is remembered, and when it changes nothing. In float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.distillation import Teachers, distillation, divergence, voting
from dnas.methods.darts import darts
from dnas.methods.sd_darts import sd_darts
from tests.test_bilevel import KEY, at, batches, plain


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


SPACE = plain()
DEFAULTS = {"teachers": 2, "weight": 1.0, "temperature": 1.0, "vote": "soft", "every": 1, "warmup": 0}


def penalty(**options):
    return distillation(SPACE, **{**DEFAULTS, **options})


def test_divergence_and_its_gradient():
    logits, voted = jnp.array([[1.0, 0.0, -1.0]]), jnp.array([[0.2, 0.5, 0.3]])
    value, grad = jax.value_and_grad(divergence, 1)(voted, logits, 2.0)
    np.testing.assert_allclose(value, 0.802467, atol=5e-7)
    np.testing.assert_allclose(grad, [(0.612961, -0.385608, -0.227353)], atol=5e-7)
    twice = divergence(voted.repeat(2, 0), jnp.concatenate([logits, jnp.zeros((1, 3))]), 2.0)
    other = 4 * np.sum([0.2, 0.5, 0.3] * np.log(3 * np.array([0.2, 0.5, 0.3])))
    np.testing.assert_allclose(twice, (value + other) / 2)  # the mean over the batch


def test_divergence_from_a_vote_with_zeros():
    """0 log 0 is 0, and so is the gradient of it."""
    logits = jnp.array([[1.0, 0.0, -800.0]])
    value, grad = jax.value_and_grad(divergence, 1)(jnp.array([[0.0, 1.0, 0.0]]), logits, 1.0)
    share = np.exp(1) / (1 + np.exp(1))
    np.testing.assert_allclose(value, -np.log(1 - share))
    np.testing.assert_allclose(grad, [[share, -share, 0]], atol=1e-15)


VOTES = np.array([(0.6, 0.3, 0.1), (0.2, 0.7, 0.1), (0.5, 0.4, 0.1)])[:, None]


@pytest.mark.parametrize("vote, known, expected", [
    ("soft", (1, 1, 1), (1.3 / 3, 1.4 / 3, 0.1)), ("hard", (1, 1, 1), (2 / 3, 1 / 3, 0)),
    ("soft", (1, 0, 0), (0.6, 0.3, 0.1)), ("hard", (1, 1, 0), (0.5, 0.5, 0)), ("soft", (0, 0, 0), (0, 0, 0)),
])
def test_votes(vote, known, expected):
    """Soft and hard choose different classes here; teachers that are not yet known do not vote."""
    np.testing.assert_allclose(voting(jnp.array(VOTES), jnp.array(known, bool), vote), [expected], rtol=1e-12)


@pytest.mark.parametrize("every, remembered", [
    (1, {0: [], 1: [0], 2: [1, 0], 3: [2, 1, 0], 5: [4, 3, 2]}),
    (4, {3: [], 4: [3], 7: [3], 8: [7, 3], 12: [11, 7, 3], 19: [15, 11, 7], 20: [19, 15, 11]}),
])
def test_which_supernets_are_remembered(every, remembered):
    """The newest first: the state before each step, or before the last step of each epoch of four."""
    sd = penalty(teachers=3, every=every)
    memory = sd.init({"w": jnp.full(2, -1.0)}, {"cell": jnp.full((1, 2), -1.0)})
    observe = jax.jit(sd.observe)
    for step in range(max(remembered) + 1):
        if step in remembered:
            known = remembered[step]
            assert int(memory.known) == len(known)
            expected = [*known, -1, -1, -1][:3]
            np.testing.assert_array_equal(memory.weights["w"], np.repeat(expected, 2).reshape(3, 2))
            np.testing.assert_array_equal(memory.gates["cell"][:, 0, 0], expected)
        now = float(step)
        memory = observe(memory, jnp.int32(step), {"w": jnp.full(2, now)}, {"cell": jnp.full((1, 2), now)})


def row(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


def supernets(count):
    """`count` weights and gates, stacked, and batches."""
    draw = np.random.default_rng(3)
    weights = {"stem": (6, 6), "edges": (3, 6, 6), "head": (6, 3)}
    weights = {name: draw.normal(size=(count, *shape)) for name, shape in weights.items()}
    return weights, {"cell": draw.dirichlet(np.ones(3), (count, 3))}, {"mean": jnp.zeros(6)}, at(batches(1)[0], 0)


def logits_of(weights, gates, stats, batch, k=0):
    return SPACE.apply(row(weights, k), stats, row(gates, k), batch.inputs, train=True)[0]


@pytest.mark.parametrize("vote", ["soft", "hard"])
@pytest.mark.parametrize("known", [1, 2])
def test_value_by_hand(vote, known):
    """weight T^2 KL(vote of the known teachers' softmax(logits / T) || the student's), on the batch at hand."""
    weights, gates, stats, batch = supernets(3)
    student = np.asarray(logits_of(weights, gates, stats, batch, 2))
    temperature, softmax = 2.5, lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    q = np.array([softmax(np.asarray(logits_of(weights, gates, stats, batch, k)) / temperature) for k in range(known)])
    q = q.mean(0) if vote == "soft" else np.mean(q[..., None].argmax(-2) == np.arange(3), 0)
    p = softmax(student / temperature)
    terms = np.where(q > 0, q * (np.log(np.where(q > 0, q, 1)) - np.log(p)), 0)
    memory = Teachers(*jax.tree.map(lambda leaf: leaf[:2], (weights, gates)), jnp.int32(known))
    found = penalty(temperature=temperature, vote=vote, weight=0.3).value(memory, KEY, 0, stats, batch, student)
    np.testing.assert_allclose(found, 0.3 * temperature**2 * terms.sum(-1).mean(), rtol=1e-10)


def test_teachers_learn_nothing_and_their_weight_rises():
    weights, gates, stats, batch = supernets(3)
    student = logits_of(weights, gates, stats, batch, 2)
    memory = Teachers(*jax.tree.map(lambda leaf: leaf[:2], (weights, gates)), jnp.int32(2))

    def value(sd):
        return lambda step, weights, gates, known: sd.value(
            Teachers(weights, gates, known), KEY, step, stats, batch, student)

    full, grads = jax.value_and_grad(value(penalty()), (1, 2))(0, *memory)
    assert full > 0.01 and all((leaf == 0).all() for leaf in jax.tree.leaves(grads))
    rising = jax.jit(value(penalty(warmup=10)))
    for step, share in (0, 0), (1, 0.1), (5, 0.5), (10, 1), (1000, 1):
        np.testing.assert_allclose(rising(jnp.int32(step), *memory), share * full, rtol=1e-7)
    assert rising(jnp.int32(5), *memory._replace(known=jnp.int32(0))) == value(penalty(weight=0.0))(5, *memory) == 0


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_like_its_teachers_learns_nothing_from_them(teachers, temperature):
    weights, gates, stats, batch = supernets(1)
    sd = penalty(teachers=teachers, temperature=temperature)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (weights, gates))
    memory = sd.init(*one)._replace(known=jnp.int32(teachers))

    def value(weights, gates):
        student, _ = SPACE.apply(weights, stats, gates, batch.inputs, train=True)
        return sd.value(memory, KEY, 0, stats, batch, student)

    found, grads = jax.value_and_grad(value, (0, 1))(*one)
    assert abs(found) < 1e-14 and max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) < 1e-14
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, one)
    assert value(*moved) > 1e-4


# In a method.

STEPS = 3


def built(factory=darts, **options):
    """A method for four epochs of three steps, and its first state."""
    method = factory(SPACE, 4, STEPS, **options)
    return method, method.init(KEY, None)


def run(method, state, count):
    step, (train, valid), states, infos = jax.jit(method.step), batches(7), [state], []
    for i in range(count):
        state, info = step(jax.random.fold_in(KEY, i), state, at(train, i), at(valid, i))
        states.append(state)
        infos.append(info)
    return states, infos


def program(method, state):
    train, valid = batches(1)
    return jax.jit(method.step).lower(KEY, state, at(train, 0), at(valid, 0)).as_text()


def test_without_teachers_or_weight_it_is_darts_bit_for_bit():
    """The very program of DARTS, on the same state."""
    expected = program(*built())
    for factory, options in [(sd_darts, {"distill": 0}), (sd_darts, {"distill_weight": 0.0}),
                             (darts, {"distill": 0, "distill_arch": True, "distill_vote": "hard"})]:
        method, state = built(factory, **options)
        chex.assert_trees_all_equal(state, built()[1])
        assert program(method, state) == expected
    assert program(*built(sd_darts)) != expected


FAST = {"lr": 0.2, "arch_lr": 0.1}


@functools.cache
def distilled(every):
    """Method, states and infos of seven steps with two teachers."""
    method, state = built(distill=2, distill_every=every, distill_warmup=0, **FAST)
    return method, *run(method, state, 7)


@pytest.mark.parametrize("every, steps, taken", [
    ("step", 1, [0]), ("step", 7, [6, 5]), ("epoch", 2, []), ("epoch", 5, [2]), ("epoch", 7, [5, 2])])
def test_the_teachers_of_a_method(every, steps, taken):
    """Weights and gates are those of the supernet that a step trained, before the step."""
    method, states, _ = distilled(every)
    memory = states[steps].extra
    assert int(memory.known) == len(taken)
    for k, step in enumerate(taken):
        chex.assert_trees_all_equal(row(memory.weights, k), states[step].weights)
        trained = method.gates(states[step]._replace(arch=states[step + 1].arch))
        np.testing.assert_allclose(memory.gates["cell"][k], trained["cell"], rtol=1e-12)


def test_it_is_darts_until_there_is_a_teacher():
    """Then the weights' step differs from that of DARTS in the same state, the architecture's not."""
    _, states, infos = distilled("epoch")
    bare, expected = run(*built(**FAST), STEPS + 1)
    for i in range(STEPS):
        chex.assert_trees_all_close(infos[i], expected[i], rtol=1e-11)
        chex.assert_trees_all_close(states[i + 1].weights, bare[i + 1].weights, rtol=1e-11)
    assert infos[STEPS].train_loss > expected[STEPS].train_loss + 1e-6
    assert infos[STEPS].valid_loss == pytest.approx(float(expected[STEPS].valid_loss), rel=1e-11)
    difference = jax.tree.map(jnp.subtract, states[STEPS + 1].weights, bare[STEPS + 1].weights)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(difference)) > 1e-8


def test_at_rest_teachers_equal_the_student_and_change_nothing():
    """Learning rates 0: losses and accumulated gradients are those of DARTS."""
    rest = {"lr": 0.0, "lr_min": 0.0, "arch_lr": 0.0}
    states, infos = run(*built(distill=2, distill_every="step", distill_warmup=0, distill_arch=True, **rest), 3)
    bare, expected = run(*built(**rest), 3)
    assert int(states[-1].extra.known) == 2
    chex.assert_trees_all_close(infos, expected, rtol=1e-13)
    chex.assert_trees_all_close(states[-1]._replace(extra=()), bare[-1], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("options, message", [
    ({"teachers": 0}, "teachers >= 1"), ({"every": 0}, "every >= 1"), ({"warmup": -1}, "warmup >= 0"),
    ({"temperature": 0.0}, "temperature > 0"), ({"temperature": float("nan")}, "temperature > 0"),
    ({"weight": -1.0}, "weight >= 0"), ({"vote": "loud"}, "vote is soft or hard, not 'loud'"),
])
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        penalty(**options)


@pytest.mark.parametrize("options", [{"distill": -1}, {"distill_temperature": -1.0}, {"distill_warmup": -1}])
def test_a_method_refuses_them_too(options):
    with pytest.raises(ValueError):
        sd_darts(SPACE, 4, STEPS, **options)
