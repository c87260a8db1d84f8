"""pa-da and shift-nas: what is drawn, and how often, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.decisions import full_mask
from dnas.algorithms.relaxations import Architecture
from dnas.data.batches import by_importance, drawn_indices
from dnas.methods.pa_da import by_gradient, mixed, pa_da, path, rarity
from dnas.methods.shift_nas import bin_of, in_race, networks_by_cost, shift_nas
from dnas.task import classification, regression
from dnas.types import Group
from search_spaces.conv_macro import conv_macro

NORMS = np.array([1.0, 2.0, 3.0, 10.0])
EDGES = Group(((0, 1), (1, 2)), ("a", "b", "c"))


def variance(chances, gradients):
    """Of the estimate g / (N p)."""
    return (gradients**2 / chances).sum() / len(gradients) ** 2 - gradients.mean() ** 2


def test_draws_in_proportion_to_the_norms_have_the_least_variance():
    assert variance(np.full(4, 0.25), NORMS) == pytest.approx(12.5)
    assert variance(NORMS / NORMS.sum(), NORMS) == pytest.approx(0)
    others = np.random.default_rng(0).dirichlet(np.ones(4), 20_000)
    assert min(variance(each, NORMS) for each in others) > 0


def test_chances_shift_from_even_ones_to_the_norms():
    """Norms 1, 2, 3 and 10, after one and after three of four epochs; the numbers are computed by hand."""
    allowed = jnp.ones(4, bool)
    np.testing.assert_allclose(mixed(jnp.asarray(NORMS), allowed, 1 / 4), [.203125, .21875, .234375, .34375], rtol=1e-6)
    np.testing.assert_allclose(mixed(jnp.asarray(NORMS), allowed, 3 / 4), [.109375, .15625, .203125, .53125], rtol=1e-6)
    np.testing.assert_allclose(by_importance(NORMS, 3 / 4), [.109375, .15625, .203125, .53125])
    np.testing.assert_allclose(by_importance(np.zeros(4), 1.0), np.full(4, 0.25))
    masked = mixed(jnp.asarray(NORMS), jnp.array([True, False, True, False]), 0.5)
    np.testing.assert_allclose(masked, [.5 * 1 / 4 + .25, 0, .5 * 3 / 4 + .25, 0], rtol=1e-6)
    np.testing.assert_allclose(mixed(jnp.zeros(4), allowed, 1.0), np.full(4, 0.25))


def test_importance_of_an_example_is_the_norm_of_its_gradient():
    """Of a cross-entropy ||softmax - onehot||, of probabilities .7, .2 and .1; the labels' numbers are computed by hand."""
    outputs = jnp.log(jnp.array([[.7, .2, .1]] * 3))
    norms = by_gradient(classification(), outputs, jnp.arange(3))
    np.testing.assert_allclose(norms, [.374166, 1.067708, 1.157584], atol=1e-6)
    squares = by_gradient(regression(), jnp.array([[3.0], [1.0]]), jnp.array([[1.0], [1.0]]))
    assert squares[1] == 0 and squares[0] > 0


def test_examples_are_drawn_with_replacement_by_their_chances():
    train, chances = np.arange(100, 110), np.array([0.5] + [0.5 / 9] * 9)
    rows = np.stack([drawn_indices(0, epoch, train, 5, chances) for epoch in range(2000)])
    assert rows.shape == (2000, 2, 5) and rows.dtype == np.int32
    assert np.mean(rows == 100) == pytest.approx(0.5, abs=0.015)
    np.testing.assert_array_equal(drawn_indices(3, 4, train, 5, chances), drawn_indices(3, 4, train, 5, chances))


def architecture(mask=None):
    mask = full_mask({"cell": EDGES})["cell"] if mask is None else jnp.asarray(mask)
    return Architecture({"cell": jnp.zeros((2, 3))}, {"cell": mask}, {"cell": EDGES})


def test_paths_are_drawn_by_their_chances_and_never_out_of_the_race():
    chances = {"cell": jnp.array([[.1, .3, .6], [.5, .25, .25]])}
    of = jax.jit(jax.vmap(lambda key, mask: path(key, architecture(mask), chances)["cell"], (0, None)))
    keys = jax.random.split(jax.random.key(0), 20_000)
    np.testing.assert_allclose(of(keys, jnp.ones((2, 3), bool)).mean(0), chances["cell"], atol=0.015)
    half = of(keys, jnp.array([[True, True, False], [True, True, True]])).mean(0)
    np.testing.assert_allclose(half[0], [.25, .75, 0], atol=0.015)


def test_the_correction_makes_the_estimate_unbiased():
    """The mean of weighted gradients over draws is that over all nine networks, and without weights it is not."""
    chances = {"cell": jnp.array([[.1, .3, .6], [.5, .25, .25]])}
    gradients = jnp.array([[1.0, 2, 9], [5, 1, 3]])

    def one(key):
        gates = path(key, architecture(), chances)
        value = (gates["cell"] * gradients).sum(-1).prod()
        return value, value * rarity(gates, architecture(), chances)

    plain, weighted = map(np.asarray, jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 40_000)))
    whole = float((gradients[0][:, None] * gradients[1]).mean())
    error = weighted.std() / np.sqrt(len(weighted))
    assert weighted.mean() == pytest.approx(whole, abs=5 * error)
    assert abs(plain.mean() - whole) > 20 * plain.std() / np.sqrt(len(plain))


@pytest.fixture(scope="module")
def space():
    return conv_macro((8, 8, 3), 3, channels=2)


def test_uniform_draws_of_many_choices_are_of_medium_cost_and_bins_reach_the_ends(space):
    """Twenty picks of 3, 4 or 6: the ends of 60..120 are practically never drawn."""
    sums = np.random.default_rng(0).choice([3, 4, 6], (100_000, 20)).sum(1)
    assert sums.mean() == pytest.approx(86.7, abs=0.1) and sums.std() == pytest.approx(5.57, abs=0.05)
    assert np.mean(sums <= 66) < 1e-4 and np.mean(sums >= 114) < 1e-4
    pool, counts, ends = networks_by_cost(space, 10)
    assert (counts > 0).all() and ends[0] < ends[1]
    for b, count in enumerate(counts):
        for n in {0, int(count) - 1}:
            gates = {name: np.eye(3, dtype=np.float32)[rows[b, n]] for name, rows in pool.items()}
            macs = float(space.expected(gates)["macs"])
            assert ends[0] * 0.999 <= macs <= ends[1] * 1.001
            assert int(bin_of(macs, ends, 10)) == b or abs((macs - ends[0]) / (ends[1] - ends[0]) * 10 % 1 - 0.5) > 0.49


def test_an_edge_that_lost_its_operation_takes_another():
    """As in a split of a few-shot search."""
    allowed, others = jnp.array([[True, True, False], [True, True, True]]), jnp.array([[0, 1.0, 0], [1.0, 0, 0]])
    np.testing.assert_array_equal(in_race(jnp.array([2, 2]), allowed, others), [[0, 1, 0], [0, 0, 1]])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="without both it is spos"):
        pa_da(paths=False, data=False)
    with pytest.raises(ValueError, match="bins is 1, it must be 2 to 1000"):
        shift_nas(bins=1)
