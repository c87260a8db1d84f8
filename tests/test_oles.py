"""OLES: which weights belong to an operation, their cosines by hand, and what is held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.methods.darts import darts
from dnas.methods.oles import Watch, cosines, labels_of, oles, spread, watched
from dnas.task import classification
from search_spaces.darts import darts as darts_space
from search_spaces.nasbench201 import nasbench201
from tests.problems import KEY, at, batches, plain, two_cells
from tests.problems import numbers as numbers_of
from tests.toy_space import toy

IMAGES = jnp.zeros((1, 4, 4, 1))


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def weights_of(space):
    return jax.tree.map(jnp.float64, space.init(KEY, IMAGES)[0])


def test_the_operations_of_a_space():
    """The stem of the toy has a part called conv, as an operation is, and is none."""
    labels = labels_of(two_cells(), weights_of(two_cells()))
    numbers = [labels[f"cell_{c}"][f"edge_{e}"]["tanh"]["w"].item() for c in range(2) for e in range(3)]
    assert sorted(numbers) == list(range(6)) and labels["head"].item() == -1
    space = toy((4, 4, 1), 3)
    labels = labels_of(space, weights_of(space))
    assert [labels[f"edge_{e}"]["conv"]["conv"]["kernel"].item() for e in range(2)] == [0, 1]
    assert labels["stem"]["conv"]["kernel"].item() == -1
    with pytest.raises(ValueError, match="none of space plain has weights under its name"):
        oles().bind(plain(), classification()).init(KEY, None, numbers_of(oles()))


@pytest.mark.heavy
@pytest.mark.parametrize("make, count", [
    (lambda: nasbench201((4, 4, 1), 3, channels=2, cells=2, scan="off"), 2 * 6 * 6),
    (lambda: nasbench201((4, 4, 1), 3, channels=2, cells=2, scan="on"), 2 * 3 * 6),
    (lambda: darts_space((4, 4, 1), 3, channels=4, cells=3), 4 * 3 * 14 + 2 * 8)])  # skips of edges that stride have some
def test_the_operations_of_published_spaces(make, count):
    space = make()
    weights = weights_of(space)
    labels = labels_of(space, weights)
    assert sorted({number for label in jax.tree.leaves(labels) for number in label.ravel()}) == list(range(-1, count))
    mask = spread(labels, jnp.ones(count, bool))
    assert not mask["stem_conv"]["kernel"].any() and not mask["head"]["dense"]["kernel"].any()
    genotype = space.genotype({name: np.eye(group.shape[1])[np.full(group.shape[0], 3)] for name, group in
                               space.groups.items()})
    ones = space.inherit(jax.tree.map(lambda leaf, held: jnp.broadcast_to(held, leaf.shape), weights, mask), genotype)
    for path, leaf in jax.tree.leaves_with_path(ones):
        assert leaf.all() == any("edge" in key.key for key in path) == leaf.any()


def test_cosines_by_hand():
    a, b = jnp.array([[1.0, 0], [3, 4], [0, 0]]), jnp.array([[1.0, 1], [3, 4], [1, 1]])
    np.testing.assert_allclose(cosines(a, b), [[0.5**0.5], [1], [0]])


def test_the_mean_is_over_arrays_and_bundles_are_apart():
    """Two arrays of an operation, one with two edges along its first axis."""
    labels = {"a": np.array([0, 1]).reshape(2, 1, 1), "b": np.array([[0]]), "c": np.array([-1])}
    train = {"a": jnp.ones((2, 3, 4)), "b": jnp.ones((5, 2)), "c": jnp.ones(3)}
    valid = {"a": jnp.ones((2, 3, 4)).at[0, 0].set(-1.0), "b": -jnp.ones((5, 2)), "c": jnp.zeros(3)}
    watch = watched(labels, Watch(jnp.zeros(2), jnp.zeros(2, jnp.int32), jnp.zeros(2, bool)), train, valid, False, 0.4)
    np.testing.assert_allclose(watch.total, [((-1 + 1 + 1) / 3 - 1) / 2, 1])
    assert watch.count.tolist() == [1, 1]


def test_an_operation_is_held_if_its_mean_cosine_is_low():
    space = two_cells()
    weights = weights_of(space)
    ones = jax.tree.map(jnp.ones_like, weights)
    other = jax.tree.map(jnp.copy, ones)
    other["cell_1"]["edge_2"]["tanh"]["w"] *= -1
    labels = labels_of(space, weights)
    bad = labels["cell_1"]["edge_2"]["tanh"]["w"].item()
    watch = Watch(jnp.zeros(6), jnp.zeros(6, jnp.int32), jnp.zeros(6, bool))
    watch = watched(labels, watch, ones, ones, False, 0.4)
    assert not watch.held.any() and watch.count.tolist() == [1] * 6
    watch = watched(labels, watch, ones, other, True, 0.4)
    assert watch.held.tolist() == [number == bad for number in range(6)] and not watch.total.any() and not watch.count.any()
    watch = watched(labels, watch, jax.tree.map(jnp.zeros_like, ones), jax.tree.map(jnp.zeros_like, ones), True, 0.4)
    assert watch.held.sum() == 1  # what has no gradient is not judged, and what is held stays so
    mask = spread(labels, watch.held)
    assert mask["cell_1"]["edge_2"]["tanh"]["w"].all() and sum(leaf.sum() for leaf in jax.tree.leaves(mask)) == 1


def end(factory, steps=4, **settings):
    method, (train, valid) = factory(**settings), batches(steps)
    algorithm, hyper = method.bind(two_cells(), classification()), numbers_of(method, epochs=10, steps=1)
    state, step = algorithm.init(KEY, None, hyper), jax.jit(algorithm.step)
    states = [state]
    for i in range(steps):
        states.append(step(jax.random.fold_in(KEY, i), states[-1], at(train, i), at(valid, i), hyper)[0])
    return states


def test_below_every_cosine_it_is_darts_and_above_it_only_the_rest_moves():
    for one, other in zip(end(oles, agreement=-1.0, window=1), end(darts)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), one.weights, other.weights)
    states = end(oles, agreement=1.0, window=3)  # judged in the third step, whose update is the first to be held
    moved = [[bool((new != old).any()) for old, new in zip(jax.tree.leaves(a.weights), jax.tree.leaves(b.weights))]
             for a, b in zip(states, states[1:])]
    assert moved == [[True] * 7] * 2 + [[False] * 6 + [True]] * 2
    assert states[-1].extra.held.all()


def test_what_cannot_be_is_refused():
    for settings, message in [({"agreement": 2.0}, "agreement is 2.0"), ({"window": 0}, "window is 0")]:
        with pytest.raises(ValueError, match=message):
            oles(**settings)
