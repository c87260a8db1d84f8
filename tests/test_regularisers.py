"""Methods with terms of their own against closed forms, in float64, and their identities with DARTS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.players import Forward
from dnas.algorithms.relaxations import Architecture
from dnas.algorithms.schedules import Time
from dnas.methods.beta_darts import beta_darts
from dnas.methods.darts import darts
from dnas.types import Group


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def value_of(term, logits, hyper, share=1.0, mask=None):
    """A term of the architecture's loss as a function of the logits `[E, K]` of one group, when `share` is done."""
    group = Group(tuple((0, e + 1) for e in range(len(logits))), tuple("abcdefgh"[:logits.shape[1]]))
    mask = np.ones(logits.shape, bool) if mask is None else mask

    def value(rows):
        forward = Forward(None, None, None, None, Architecture({"cell": rows}, {"cell": mask}, {"cell": group}),
                          None)
        return term(hyper, Time(int(100 * share), 10, 10), {"cell": rows}, {"cell": jax.nn.softmax(rows)}, forward, ())

    return value


def test_beta_decay_is_the_mean_log_sum_of_exponentials_and_its_gradient_the_softmax():
    method, logits = beta_darts(beta=1.0), jnp.array([[1.0, 0, 0], [0, 0, 0]])
    value = value_of(method.arch.terms["beta"], logits, method.hyper)
    assert float(value(logits)) == pytest.approx(1.325029, abs=1e-6)
    np.testing.assert_allclose(jax.grad(value)(logits), [[.288058, .105971, .105971], [.166667] * 3], atol=1e-6)


def test_beta_decay_grows_by_whole_epochs():
    method, logits = beta_darts(), jnp.zeros((1, 3))
    at = lambda share: float(value_of(method.arch.terms["beta"], logits, method.hyper, share)(logits))
    assert at(0) == at(.09) == 0 and at(.5) == at(.59) == pytest.approx(25 * np.log(3))


def test_beta_decay_leaves_masked_operations_out():
    method, logits = beta_darts(beta=1.0), jnp.array([[0.0, 0, 7]])
    value = value_of(method.arch.terms["beta"], logits, method.hyper, mask=np.array([[True, True, False]]))
    assert float(value(logits)) == pytest.approx(np.log(2))


def test_beta_of_zero_is_darts():
    assert_same(beta_darts(beta=0.0), darts())


def assert_same(one, other, steps=3):
    """Both methods take the same steps, to rounding."""
    from tests.test_methods import EPOCHS, KEY, STEPS, TASK, numbers, plain, some

    ends = []
    for method in (one, other):
        algorithm, hyper = method.bind(plain(), TASK), numbers(method, epochs=EPOCHS, steps=STEPS)
        state = algorithm.init(KEY, None, hyper)
        for i in range(steps):
            state, _ = algorithm.step(jax.random.fold_in(KEY, i), state, *some(i), hyper)
        ends.append((state.weights, state.arch))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), *ends)
