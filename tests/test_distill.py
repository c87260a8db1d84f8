"""Self-distillation: the divergence, the vote, who is remembered, and when it changes nothing. In float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.distillation import Teachers, check_distillation, distillation, voting
from dnas.algorithms.players import Forward
from dnas.algorithms.schedules import time_of
from dnas.methods.darts import darts
from dnas.methods.sd_darts import sd_darts
from dnas.task import classification, divergence
from tests.problems import KEY, at, batches, numbers, plain


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


SPACE, TASK = plain(), classification()
DEFAULTS = {"distill_weight": 1.0, "distill_temperature": 1.0, "distill_warmup": 0}


def term(teachers=2, **options):
    return distillation(teachers=teachers, **options)


def value_of(sd, memory, stats, batch, student, *, step=0, steps=1, **hyper):
    """The term's value, where the student's outputs are given."""
    hyper = {**DEFAULTS, "epochs": 100, "steps": steps, **hyper}
    again = lambda weights, gates: SPACE.apply(weights, stats, gates, batch.inputs, train=True)[0]
    return sd.value(hyper, time_of(hyper, step), {}, {}, Forward(student, batch, again, TASK, None, None), memory)


def test_divergence_and_its_gradient():
    logits, voted = jnp.array([[1.0, 0.0, -1.0]]), jnp.array([[0.2, 0.5, 0.3]])
    value, grad = jax.value_and_grad(lambda logits: divergence(voted, logits, 2.0).sum())(logits)
    np.testing.assert_allclose(value, 0.802467, atol=5e-7)
    np.testing.assert_allclose(grad, [(0.612961, -0.385608, -0.227353)], atol=5e-7)
    twice = divergence(voted.repeat(2, 0), jnp.concatenate([logits, jnp.zeros((1, 3))]), 2.0)
    other = 4 * np.sum([0.2, 0.5, 0.3] * np.log(3 * np.array([0.2, 0.5, 0.3])))
    np.testing.assert_allclose(twice, [value, other])


def test_divergence_from_a_vote_with_zeros():
    """0 log 0 is 0, and so is the gradient of it."""
    logits = jnp.array([[1.0, 0.0, -800.0]])
    value, grad = jax.value_and_grad(lambda logits: divergence(jnp.array([[0.0, 1.0, 0.0]]), logits, 1.0).sum())(logits)
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
    ("step", {0: [], 1: [0], 2: [1, 0], 3: [2, 1, 0], 5: [4, 3, 2]}),
    ("epoch", {3: [], 4: [3], 7: [3], 8: [7, 3], 12: [11, 7, 3], 19: [15, 11, 7], 20: [19, 15, 11]}),
])
def test_which_supernets_are_remembered(every, remembered):
    """The newest first: the state before each step, or before the last step of each epoch of four."""
    sd, hyper = term(teachers=3, every=every), {"epochs": 5, "steps": 4}
    memory = sd.init({"w": jnp.full(2, -1.0)}, {"cell": jnp.full((1, 2), -1.0)})
    observe = jax.jit(lambda memory, step, weights, gates: sd.observe(memory, hyper, time_of(hyper, step), weights, gates))
    for step in range(max(remembered) + 1):
        if step in remembered:
            known = remembered[step]
            assert int(memory.filled) == len(known)
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
    found = value_of(term(vote=vote), memory, stats, batch, student, distill_temperature=temperature, distill_weight=0.3)
    np.testing.assert_allclose(found, 0.3 * temperature**2 * terms.sum(-1).mean(), rtol=1e-10)


def test_teachers_learn_nothing_and_their_weight_rises():
    weights, gates, stats, batch = supernets(3)
    student = logits_of(weights, gates, stats, batch, 2)
    memory = Teachers(*jax.tree.map(lambda leaf: leaf[:2], (weights, gates)), jnp.int32(2))

    def value(step, weights, gates, known, **hyper):
        return value_of(term(), Teachers(weights, gates, known), stats, batch, student, step=step, **hyper)

    full, grads = jax.value_and_grad(value, (1, 2))(0, *memory)
    assert full > 0.01 and all((leaf == 0).all() for leaf in jax.tree.leaves(grads))
    rising = jax.jit(functools.partial(value, distill_warmup=5, steps=2))
    for step, share in (0, 0), (1, 0.1), (5, 0.5), (10, 1), (1000, 1):
        np.testing.assert_allclose(rising(jnp.int32(step), *memory), share * full, rtol=1e-7)
    assert rising(jnp.int32(5), *memory._replace(filled=jnp.int32(0))) == value(5, *memory, distill_weight=0.0) == 0


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_student_like_its_teachers_learns_nothing_from_them(teachers, temperature):
    weights, gates, stats, batch = supernets(1)
    sd = term(teachers=teachers)
    one = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (weights, gates))
    memory = sd.init(*one)._replace(filled=jnp.int32(teachers))

    def value(weights, gates):
        student, _ = SPACE.apply(weights, stats, gates, batch.inputs, train=True)
        return value_of(sd, memory, stats, batch, student, distill_temperature=temperature)

    found, grads = jax.value_and_grad(value, (0, 1))(*one)
    assert abs(found) < 1e-14 and max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads)) < 1e-14
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, one)
    assert value(*moved) > 1e-4


# In a method.

STEPS = 3


def bound(factory=darts, **options):
    """A method for four epochs of three steps, bound; its numbers, and its first state."""
    method = factory(**options)
    hyper, algorithm = numbers(method, epochs=4, steps=STEPS), method.bind(SPACE, TASK)
    return algorithm, hyper, algorithm.init(KEY, None, hyper)


def run(algorithm, hyper, state, count):
    step, (train, valid), states, infos = jax.jit(algorithm.step), batches(7), [state], []
    for i in range(count):
        state, info = step(jax.random.fold_in(KEY, i), state, at(train, i), at(valid, i), hyper)
        states.append(state)
        infos.append(info)
    return states, infos


def program(algorithm, hyper, state):
    train, valid = batches(1)
    return jax.jit(algorithm.step).lower(KEY, state, at(train, 0), at(valid, 0), hyper).as_text()


def test_without_teachers_it_is_darts_bit_for_bit():
    """The very program of DARTS, on the same state."""
    expected = program(*bound())
    for factory, options in [(sd_darts, {"distill": 0}),
                             (darts, {"distill": 0, "distill_arch": True, "distill_vote": "hard"})]:
        without = bound(factory, **options)
        chex.assert_trees_all_equal(without[1:], bound()[1:])
        assert program(*without) == expected
    assert program(*bound(sd_darts)) != expected


FAST = {"lr": 0.2, "arch_lr": 0.1}


@functools.cache
def distilled(every):
    """Method, its numbers, and states and infos of seven steps with two teachers."""
    algorithm, hyper, state = bound(darts, distill=2, distill_every=every, distill_warmup=0, **FAST)
    return algorithm, hyper, *run(algorithm, hyper, state, 7)


@pytest.mark.parametrize("every, steps, taken", [
    ("step", 1, [0]), ("step", 7, [6, 5]), ("epoch", 2, []), ("epoch", 5, [2]), ("epoch", 7, [5, 2])])
def test_the_teachers_of_a_method(every, steps, taken):
    """Weights and gates are those of the supernet that a step trained, before the step."""
    algorithm, hyper, states, _ = distilled(every)
    memory = states[steps].memory["weights"]["distillation"]
    assert int(memory.filled) == len(taken) and not states[steps].memory["arch"]
    for k, step in enumerate(taken):
        chex.assert_trees_all_equal(row(memory.weights, k), states[step].weights)
        trained = algorithm.gates(states[step]._replace(arch=states[step + 1].arch), hyper)
        np.testing.assert_allclose(memory.gates["cell"][k], trained["cell"], rtol=1e-12)


def test_it_is_darts_until_there_is_a_teacher():
    """Then the weights' step differs from that of DARTS in the same state, the architecture's not. The loss is reported
    alone, and the term beside it."""
    _, _, states, infos = distilled("epoch")
    bare, expected = run(*bound(**FAST), STEPS + 1)
    for i in range(STEPS + 1):
        assert infos[i].keys() - expected[i].keys() == {"train_distillation"}
        chex.assert_trees_all_close({name: infos[i][name] for name in expected[i]}, expected[i], rtol=1e-11)
        assert infos[i]["train_distillation"] == 0 if i < STEPS else infos[i]["train_distillation"] > 1e-6
        if i < STEPS:
            chex.assert_trees_all_close(states[i + 1].weights, bare[i + 1].weights, rtol=1e-11)
    difference = jax.tree.map(jnp.subtract, states[STEPS + 1].weights, bare[STEPS + 1].weights)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(difference)) > 1e-8


def test_at_rest_teachers_equal_the_student_and_change_nothing():
    """Learning rates 0: losses and accumulated gradients are those of DARTS."""
    rest = {"lr": 0.0, "lr_min": 0.0, "arch_lr": 0.0}
    states, infos = run(*bound(distill=2, distill_every="step", distill_warmup=0, distill_arch=True, **rest), 3)
    bare, expected = run(*bound(**rest), 3)
    assert [int(states[-1].memory[player]["distillation"].filled) for player in ("weights", "arch")] == [2, 2]
    assert max(abs(info[name]) for info in infos for name in ("train_distillation", "valid_distillation")) < 1e-13
    chex.assert_trees_all_close([{name: info[name] for name in expected[0]} for info in infos], expected, rtol=1e-13)
    chex.assert_trees_all_close(states[-1]._replace(memory=()), bare[-1]._replace(memory=()), rtol=1e-11, atol=1e-14)


def test_a_task_without_divergence_has_no_teachers():
    algorithm = sd_darts().bind(SPACE, TASK._replace(name="mine", soften=None, divergence=None))
    hyper, (train, valid) = numbers(sd_darts()), batches(1)
    with pytest.raises(ValueError, match="the task mine has no divergence to distil by"):
        algorithm.step(KEY, algorithm.init(KEY, None, hyper), at(train, 0), at(valid, 0), hyper)


@pytest.mark.parametrize("options, message", [
    ({"teachers": 0}, "at least 1 teacher, not 0"), ({"every": 1}, "every must be epoch or step, not 1"),
    ({"vote": "loud"}, "vote must be soft or hard, not 'loud'"),
])
def test_parts_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        term(**options)


@pytest.mark.parametrize("options, message", [
    ({"warmup": -1}, "distill_warmup is -1, it must be 0 or more"), ({"weight": -1.0}, "distill_weight is -1.0"),
    ({"temperature": 0.0}, "distill_temperature is 0, it must be above 0"),
    ({"temperature": float("nan")}, "distill_temperature is nan"), ({"weight": float("nan")}, "distill_weight is nan"),
])
def test_numbers_out_of_range_are_refused(options, message):
    options = {f"distill_{name}": value for name, value in options.items()}
    for refuse in (lambda: check_distillation(DEFAULTS | options), lambda: sd_darts(**options),
                   lambda: sd_darts().replace(**options)):
        with pytest.raises(ValueError, match=message):
            refuse()


def test_a_method_refuses_a_negative_number_of_teachers():
    with pytest.raises(ValueError, match="distill is -1"):
        sd_darts(distill=-1)
