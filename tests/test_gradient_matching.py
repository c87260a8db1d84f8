"""Gradient matching: which operations may share a supernet, on numbers whose answer is known and on a planted conflict."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.relaxations import Architecture, softmax
from dnas.data import steps_per_epoch
from dnas.engine.compile import on_device
from dnas.fewshot.gradient_matching import best_edge, distances, halves, similarity_across
from dnas.fewshot.gradients import compile_gradient, edge_distances, own_weights, shared_weights
from dnas.fewshot.split import (
    Part,
    check_splits,
    checked_split,
    child_mask,
    choosable,
    containing,
    divisible,
    drawn_split,
    part_of,
    schedule_epochs,
)
from dnas.methods.darts import darts
from dnas.methods.sgas import sgas
from dnas.task import task_of
from dnas.types import Genotype, Group
from search_spaces.flax_space import flax_space
from search_spaces.layers.mixed import MixedOp
from search_spaces.layers.primitives import Linear
from tests.test_search import BATCH, EPOCHS, first_state, tiny
from tests.toy_space import toy

GOLDEN = np.array([(1, 0), (1, 0.1), (0, 1), (0.1, 1)])


def test_the_halves_are_those_of_agreeing_gradients():
    """Known answers of `adjacent` section 6: intra .0099, cross 3.603, cut similarity .397, others 1.80."""
    apart = distances(GOLDEN)
    assert halves(apart) == ((0, 1), (2, 3))
    within = lambda pair: sum(apart[a, b] for half in pair for a, b in itertools.combinations(half, 2))
    assert within(halves(apart)) == pytest.approx(0.0099, abs=5e-5)
    across = sum(apart[a, b] for a in (0, 1) for b in (2, 3))
    assert across == pytest.approx(3.603, abs=5e-4)
    assert 4 * similarity_across(apart, halves(apart)) == pytest.approx(4 - across) == pytest.approx(0.397, abs=5e-4)
    for other in (((0, 2), (1, 3)), ((0, 3), (1, 2))):
        assert within(other) == pytest.approx(1.80, abs=5e-3)


def test_distances_are_of_directions_and_a_gradient_of_zero_agrees_with_none():
    apart = distances(np.array([(1, 0), (5, 0), (-2, 0), (0, 0)]))
    np.testing.assert_allclose(apart, [[0, 0, 2, 1], [0, 0, 2, 1], [2, 2, 0, 1], [1, 1, 1, 0]])


def test_an_odd_number_is_halved_as_nearly_as_can_be():
    rng = np.random.default_rng(0)
    for count in (2, 3, 5, 7):
        pair = halves(distances(rng.normal(size=(count, 3))))
        assert sorted(map(len, pair)) == [count // 2, count - count // 2] and sorted(sum(pair, ())) == list(range(count))
    near = distances(np.array([(0, 1), (1, 0), (1, 0.1), (0.1, 1), (1, 0.05)]))
    assert halves(near) == ((0, 3), (1, 2, 4))
    for count in (1, 21):
        with pytest.raises(ValueError, match="it must be 2 to 20"):
            halves(np.zeros((count, count)))


def test_the_edge_whose_halves_agree_least_is_split_whatever_their_number():
    few, many = distances(np.array([(1, 0), (-1, 0.2)])), distances(np.array([(1, 0), (1, 0.1), (0, 1), (0.1, 1)]))
    assert best_edge({("g", 0): many, ("g", 1): few}) == (("g", 1), ((0,), (1,)))
    assert best_edge({("g", 0): many, ("g", 1): many})[0] == ("g", 0)


class Scaled(nn.Module):
    """What comes in, times a number, times a weight of its own."""

    number: float

    @nn.compact
    def __call__(self, x, train):
        return self.number * x * self.param("own", nn.initializers.ones, (1,))


def op(number):
    return lambda channels, stride, **rest: Scaled(number)


class Planted(nn.Module):
    """Two edges in a chain, and a third beside them: x or -x on the first, near-duplicates on the others."""

    classes: int

    @nn.compact
    def __call__(self, images, gates, train):
        x = nn.Dense(4, name="stem")(images.mean((1, 2)))
        x = MixedOp({"plus": op(1.0), "minus": op(-1.0)}, name="edge_0")(x, gates["g"][0], train)
        x = x + MixedOp({"plus": op(1.0), "minus": op(1.1)}, name="edge_1")(x, gates["g"][1], train)
        return Linear(self.classes, name="head")(x)


@pytest.fixture(scope="module")
def data():
    return tiny()


@pytest.fixture(scope="module")
def space(data):
    return toy(data.image, data.classes)


def matched(space, data, batches=2):
    """The compiled gradient, the state and the weights of each edge, and the distances of all edges by a gradient."""
    method = darts(lr=0.1)
    algorithm, examples = method.bind(space, task_of(data)), on_device(data)
    hyper = method.numbers_of(epochs=EPOCHS, steps=steps_per_epoch(data, BATCH))
    state = algorithm.init(jax.random.key(0), jax.ShapeDtypeStruct((BATCH, *data.image), jnp.float32), hyper)
    owned, edges = own_weights(space, state.weights), divisible(choosable(space), state.mask, state.decisions)
    distances_by = lambda gradient: edge_distances(gradient, data, examples, state, hyper, BATCH, edges,
                                                   shared_weights(owned), batches, 0)
    return compile_gradient(algorithm, data, examples, state, hyper, BATCH), state, owned, distances_by


def test_an_edge_of_x_and_minus_x_is_split_before_one_of_duplicates(data):
    space = flax_space("planted", Planted(data.classes), {"g": Group(((0, 1), (1, 2)), ("plus", "minus"))}, image=data.image)
    gradient, *_, distances_by = matched(space, data)
    assert best_edge(distances_by(gradient)) == (("g", 0), ((0,), (1,)))


def test_the_weights_of_an_edge_are_those_of_its_operations(space):
    weights, _ = space.init(jax.random.key(0), jax.ShapeDtypeStruct((1, *space.options["image"]), jnp.float32))
    owned, paths = own_weights(space, weights), []
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        paths += [jax.tree_util.keystr(path)] * leaf.size
    for e in (0, 1):
        assert {path for path, own in zip(paths, owned["chain", e]) if own} == \
            {path for path in paths if f"edge_{e}" in path}
        assert {paths[place] for place in shared_weights(owned)["chain", e]} == {path for path in paths
                                                                                if f"edge_{1 - e}" in path}


def test_weights_that_several_edges_form_belong_to_all_of_them():
    from search_spaces.width import width

    space = width((8, 8, 1), 3)
    weights, _ = space.init(jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32))
    owned = own_weights(space, weights)
    assert (owned["width", 1] & owned["width", 2]).any() and not (owned["width", 0] & owned["width", 5]).any()
    everybody, nobody = np.ones(4, bool), np.zeros(4, bool)
    assert list(shared_weights({"a": everybody, "b": nobody})["a"]) == [0, 1, 2, 3]
    assert list(shared_weights({"a": nobody, "b": nobody})["a"]) == [0, 1, 2, 3]


def test_gradients_of_the_edge_itself_do_not_count(data, space):
    """Neither those, nor what belongs to no operation; those of the other edge do."""
    gradient, state, owned, distances_by = matched(space, data)
    before, rng = distances_by(gradient), np.random.default_rng(0)
    assert all(np.isfinite(apart).all() and apart.max() > 0.01 for apart in before.values())
    own, other = owned["chain", 0], owned["chain", 1]
    for mine, same in ((own, True), (~own & ~other, True), (other, False)):
        changed = distances_by(lambda *args, mine=mine: np.asarray(gradient(*args)) + mine * rng.normal(size=len(mine)))
        assert np.array_equal(changed["chain", 0], before["chain", 0]) == same


def test_masked_operations_have_no_gate_and_no_gradient():
    group = {"g": Group(((0, 1), (1, 2)), ("a", "b", "c"))}
    mask = {"g": jnp.array([[True, False, True], [True, True, True]])}
    logits = {"g": jnp.array([[0.3, 2.0, -0.4], [0.1, 0.2, 0.3]])}
    gates = lambda logits: softmax().gates(None, Architecture(logits, mask, group), {}, None)["g"]
    np.testing.assert_allclose(gates(logits).sum(-1), 1, rtol=1e-6)
    assert gates(logits)[0, 1] == 0
    slope = jax.grad(lambda logits: (gates(logits) * jnp.arange(6.0).reshape(2, 3)).sum())(logits)["g"]
    assert slope[0, 1] == 0 and (slope[0, [0, 2]] != 0).all()


def test_children_divide_the_operations_and_a_network_is_in_one_of_them(data, space):
    state = first_state(data)
    edges = divisible(choosable(space), state.mask, state.decisions)
    assert edges == {("chain", e): [0, 1, 2, 3] for e in (0, 1)}
    masks = [child_mask(state.mask, ("chain", 1), half, edges["chain", 1]) for half in ((0, 3), (1, 2))]
    np.testing.assert_array_equal(masks[0]["chain"] ^ masks[1]["chain"], [[False] * 4, [True] * 4])
    assert part_of(space.groups, ("chain", 1), (0, 3)) == Part("chain", 1, ("none", "pool"))
    for k, expected in enumerate((0, 1, 1, 0)):
        genotype = Genotype.from_decisions(space, {"chain": np.array([2, k])})
        assert containing(masks, space.groups, genotype) == expected
    with pytest.raises(ValueError, match="none of the 1 supernets"):
        containing(masks[:1], space.groups, genotype.from_decisions(space, {"chain": np.array([2, 1])}))
    part = Part("chain", 1, ("none", "pool"))
    assert list(divisible(choosable(space), masks[0], state.decisions, [part])) == [("chain", 0)]
    assert divisible(choosable(space), masks[0], {"chain": np.array([2, -1])}) == {("chain", 1): [0, 3]}


def test_operations_that_the_rule_never_chooses_are_in_every_child():
    from search_spaces.darts import darts as darts_space

    space = darts_space((8, 8, 1), 3, channels=2, cells=3)
    edges = divisible(choosable(space), {name: group.allowed for name, group in space.groups.items()})
    none = space.groups["normal"].ops.index("none")
    assert len(edges) == 28 and all(none not in ops and len(ops) == 7 for ops in edges.values())
    mask = child_mask({name: group.allowed for name, group in space.groups.items()}, ("normal", 3), [1, 2],
                      edges["normal", 3])
    assert mask["normal"][3].sum() == 3 and mask["normal"][3, none]


def test_operations_of_edges_that_the_rule_may_drop_or_a_depth_skip_are_divided():
    from search_spaces.robust_darts import s1
    from search_spaces.tas import tas

    for space in s1((8, 8, 1), 3, channels=2, cells=3), tas((8, 8, 1), 3):
        allowed = {name: group.allowed for name, group in space.groups.items()}
        assert all((choosable(space)[name] == rows).all() for name, rows in allowed.items())


def test_random_splits_are_balanced_and_exhaustive_ones_have_an_operation_each():
    edges = {("g", 0): [0, 1, 2], ("g", 4): [1, 2, 3, 4]}
    for seed in range(5):
        edge, parts = drawn_split(edges, "random", np.random.default_rng(seed))
        assert sorted(sum(parts, ())) == edges[edge] and abs(len(parts[0]) - len(parts[1])) <= 1
        edge, parts = drawn_split(edges, "exhaustive", np.random.default_rng(seed))
        assert list(parts) == [(k,) for k in edges[edge]]
    assert len({drawn_split(edges, "random", np.random.default_rng(seed)) for seed in range(20)}) > 3


@pytest.mark.parametrize("options, epochs, said", [
    ({"splits": 2}, 8, "splits is 2 without split; it needs split"),
    ({"split_batches": 2}, 8, "split_batches is 2 without split"),
    ({"split": "best"}, 8, "split is 'best'; it must be one of gm, exhaustive, random"),
    ({"split": "gm", "splits": 0}, 8, "splits is 0; it must be a whole number, 1 to 6"),
    ({"split": "gm", "split_train_epochs": 0}, 8, "split_train_epochs is 0; it must be a whole number"),
    ({"split": "gm", "splits": 3}, 3, "splits is 3 and epochs 3; each of the 4 stages needs an epoch"),
    ({"split": "gm", "splits": 2, "split_epochs": (4, 4)}, 8, "split_epochs is 4 4; it must be 2 growing numbers"),
    ({"split": "gm", "split_epochs": (8,)}, 8, "split_epochs is 8; it must be 1 growing number, above 0 and below the 8"),
    ({"split": "gm", "split_epochs": 9}, 8, "split_epochs is 9; it must be 1 growing number"),
    ({"split": "gm", "split_weights": "old"}, 8, "split_weights is 'old'; it must be inherit or fresh")])
def test_a_split_that_cannot_be_is_refused(options, epochs, said):
    with pytest.raises(ValueError, match=said):
        checked_split(options, epochs)


def test_stages_have_equal_shares_and_nothing_is_split_unless_said():
    assert checked_split({}, 8) is None
    assert checked_split({"split": "gm"}, 9).epochs == (4,)
    assert checked_split({"split": "random", "splits": 3}, 4).epochs == (1, 2, 3)
    said = checked_split({"split": "gm", "splits": 2, "split_epochs": [1, 5], "split_weights": "fresh"}, 8)
    assert said.epochs == (1, 5) and said.restarted == 5 and checked_split(said.config, 8) == said
    assert [schedule_epochs({"epochs": 8, "split": said.config}, epoch) for epoch in (1, 5, 6, 8)] == [8, 8, 3, 3]
    assert schedule_epochs({"epochs": 8}, 8) == 8


LENGTH = {"epochs": 8, "steps": 4}


def test_splits_must_suit_the_space_and_the_method(space):
    allowed = {"chain": space.groups["chain"].allowed}
    check_splits(checked_split({"split": "gm", "splits": 2}, 8), space, darts(), allowed, **LENGTH)
    for by, splits, method, said in (
            ("gm", 3, darts(), "splits is 3, and space toy has 2 edges with operations to divide"),
            ("random", 1, sgas(), "split divides the operations .* decides on operations itself"),
            ("gm", 1, darts(keep=2), "decides on operations itself")):
        with pytest.raises(ValueError, match=said):
            check_splits(checked_split({"split": by, "splits": splits}, 8), space, method, allowed, **LENGTH)
    wide = flax_space("wide", nn.Dense(1), {"g": Group(tuple((n, n + 1) for n in range(4)), tuple("abcd"))}, image=(8,))
    with pytest.raises(ValueError, match="makes up to 256 supernets by split exhaustive; it must be at most 64"):
        each = checked_split({"split": "exhaustive", "splits": 4}, 8)
        check_splits(each, wide, darts(), {"g": wide.groups["g"].allowed}, **LENGTH)
    warm, fresh = darts(arch_warmup=3), checked_split({"split": "gm", "split_epochs": [5], "split_weights": "fresh"}, 8)
    with pytest.raises(ValueError, match="arch_warmup 3 leaves none of 3 epochs"):
        check_splits(fresh, space, warm, allowed, **LENGTH)
