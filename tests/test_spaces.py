"""What every search space must do: one network for the mixture and for the discrete choice."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.types import REMOVED, Choice, Genotype, Group
from search_spaces.darts import darts
from search_spaces.nasbench201 import EDGES, OPS, Cell, nasbench201
from search_spaces.repeated import Repeated, stack_cells, unstack_cells
from search_spaces.robust_darts import s1, s4
from tests.toy_seams import toy_nnx, toy_pure
from tests.toy_space import toy

PUBLISHED = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
IMAGE = (8, 8, 2)
MAKERS = {
    "nasbench201": lambda: nasbench201(IMAGE, 3, channels=2, cells=1),
    "nasbench201, scanned": lambda: nasbench201(IMAGE, 3, channels=2, cells=2, scan="on"),
    "darts": lambda: darts(IMAGE, 3, channels=2, cells=3, scan="off"),
    "s1": lambda: s1(IMAGE, 3, channels=2, cells=3),
    "s4": lambda: s4(IMAGE, 3, channels=2, cells=3, scan="off"),
    "toy": lambda: toy(IMAGE, 3),
    "toy, nnx": lambda: toy_nnx(IMAGE, 3),
    "toy, pure": lambda: toy_pure(IMAGE, 3),
}


@pytest.fixture(params=MAKERS, ids=str, scope="module")
def space(request):
    return MAKERS[request.param]()


@pytest.fixture(scope="module")
def started(space):
    """Weights, stats and four images, in float64 for use under `jax.enable_x64`."""
    images = np.random.default_rng(0).normal(size=(4, *IMAGE))
    return (*map(double, space.init(jax.random.key(0), images)), images)


def compiled(space, function):
    """`function` under jit where it holds a scan, which an eager call compiles anew every time; elsewhere as it is, so
    that its operations are compiled once for all tests."""
    return jax.jit(function) if space.options.get("scan") == "on" else function


def genotypes(space, count=2, seed=0):
    """Random genotypes, then one with an edge removed."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        rows = {g: rng.integers(0, group.shape[1], group.shape[0]) for g, group in space.groups.items()}
        if i == count - 1:
            rows[next(iter(rows))][0] = REMOVED
        yield Genotype.from_decisions(space, rows)


def double(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def leaves(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def test_one_hot_gates_are_the_discrete_network(space, started):
    weights, stats, images = started
    with jax.enable_x64(True):
        stats = jax.tree.map(lambda leaf: leaf + np.random.default_rng(1).uniform(0.1, 0.5, leaf.shape), stats)
        for train in True, False:
            supernet = compiled(space, partial(space.apply, train=train))
            for genotype in genotypes(space):
                parts = space.inherit(weights, genotype), space.inherit(stats, genotype)
                mixed, after = supernet(weights, stats, genotype.gates(space.groups), images)
                single, after_single = space.apply(*parts, genotype, images, train=train)
                assert mixed.dtype == single.dtype == jnp.float64
                np.testing.assert_allclose(single, mixed, rtol=1e-12, atol=1e-13)
                after, after_single = leaves(after), leaves(after_single)
                assert after_single.keys() == leaves(parts[1]).keys()
                for path, leaf in after_single.items():
                    np.testing.assert_allclose(leaf, after[path], rtol=1e-12, atol=1e-13)


def test_inherited_paths_are_those_that_the_discrete_network_initialises(space, started):
    weights, stats, images = started
    images = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    for genotype in genotypes(space):
        own = jax.eval_shape(lambda key, g=genotype: space.init(key, images, g), jax.random.key(1))
        for whole, part in zip((weights, stats), own):
            inherited = leaves(space.inherit(whole, genotype))
            assert inherited.keys() == leaves(part).keys() < leaves(whole).keys()
            assert all(inherited[path] is leaves(whole)[path] for path in inherited)


def test_gradient_reaches_every_gate(space, started):
    """Of a sum that batch norm does not make constant, and by more than rounding errors."""
    weights, stats, images = started
    sides = np.random.default_rng(2).normal(size=(len(images), 3))
    with jax.enable_x64(True):
        gates = {g: jnp.full(group.shape, 1 / group.shape[1]) for g, group in space.groups.items()}
        grads = compiled(space, jax.grad(lambda gates: jnp.sum(
            space.apply(weights, stats, gates, images, train=True)[0] * sides)))(gates)
    for g, group in space.groups.items():
        real = [[op != "none" for op in group.edge_ops(e)] for e in range(group.shape[0])]
        assert ((np.abs(grads[g]) > 1e-6) == np.array(real)).all()
        assert (np.asarray(grads[g])[~np.array(real)] == 0).all()


def test_statistics_move_only_while_training(space, started):
    weights, stats, images = started
    genotype = next(genotypes(space))
    with jax.enable_x64(True):
        _, same = space.apply(weights, stats, genotype, images, train=False)
        _, moved = space.apply(weights, stats, genotype, images, train=True)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(same)))
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(moved)))


def test_genotype_file_round_trips(space):
    for genotype in genotypes(space):
        again = Genotype.from_json(genotype.to_json())
        assert again == genotype and hash(again) == hash(genotype)
        assert again.options == space.options
        for row, gates in zip(again.decisions(space.groups).values(), again.gates(space.groups).values()):
            assert (gates.sum(-1) == (row != REMOVED)).all()


def test_the_best_of_every_edge_wins_and_ties_go_to_the_lower_index():
    space = toy()
    scores = {"chain": np.array([[0.1, 0.4, 0.4, 0.1], [0.2, 0.2, 0.2, 0.2]])}
    assert [c.op for c in space.genotype(scores).choices["chain"]] == ["skip", "none"]
    nb = MAKERS["nasbench201"]()
    assert {c.op for c in nb.genotype({"cell": np.zeros((6, 5))}).choices["cell"]} == {"none"}


def test_edges_with_operations_of_their_own_never_choose_the_padding():
    group = Group(((0, 1), (1, 2)), (("a", "b", "c"), ("d",)))
    assert group.shape == (2, 3) and group.edge_ops(1) == ("d",)
    space = toy()._replace(groups={"g": group})
    from search_spaces.seam import argmax
    assert [int(k) for k in argmax(space.groups, {"g": np.array([[0, 1, 2], [-9, 5, 7]])})["g"]] == [2, 0]


@pytest.mark.parametrize("bad, message", [
    (lambda: Group(((0, 1), (0, 1)), ("a",)), "names an edge twice"),
    (lambda: Group(((0, 1),), ()), "at least one"),
    (lambda: Group(((0, 1),), ("a", "a")), "different names"),
    (lambda: Group(((0, 1), (1, 2)), (("a", "b"),)), "2 edges but operations for 1"),
])
def test_groups_that_make_no_sense_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()


@pytest.mark.parametrize("choices, message", [
    ({"cell": ()}, "groups"),
    ({"chain": (Choice(0, 1, "teleport"),)}, "'teleport'"),
    ({"chain": (Choice(0, 2, "skip"),)}, "0->2"),
    ({"chain": (Choice(0, 1, "skip"), Choice(0, 1, "conv"))}, "twice"),
])
def test_genotypes_of_another_space_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        Genotype("toy", {}, choices).decisions(toy().groups)


# NAS-Bench-201: published counts (arXiv 2001.00326 and its code)

@pytest.mark.parametrize("scan", ["on", "off"])
def test_published_supernet_count(scan):
    assert nasbench201(channels=16, cells=5, scan=scan).cost(None)["params"] == 1_686_106


def test_published_counts_of_stand_alone_networks():
    space = nasbench201(channels=16, cells=5)
    texts = [PUBLISHED, "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|",
             re.sub("avg_pool_3x3|skip_connect", "nor_conv_1x1", PUBLISHED)]
    for text in texts:
        n3, n1 = text.count("nor_conv_3x3"), text.count("nor_conv_1x1")
        cost = space.cost(space.parse(text))
        assert cost["params"] == 73_306 + 243_040 * n3 + 28_000 * n1
        assert cost["macs"] == 7_783_050 - 10 + 35_389_440 * n3 + 3_932_160 * n1  # the published one adds the biases


def test_every_published_string_round_trips():
    space = nasbench201()
    seen = set()
    for ops in itertools.product(OPS, repeat=6):
        text = "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*ops)
        genotype = space.parse(text)
        assert [c.op for c in genotype.choices["cell"]] == list(ops)
        assert [(c.source, c.target) for c in genotype.choices["cell"]] == list(EDGES)
        assert space.format(genotype) == text
        seen.add(text)
    assert len(seen) == 15_625


@pytest.mark.parametrize("text", ["", "|a~0|", PUBLISHED[:-1], PUBLISHED.replace("~2", "~1"), PUBLISHED + "+",
                                  PUBLISHED.replace("avg_pool_3x3", "max_pool_3x3"), "|" * 100_000])
def test_other_strings_are_refused_in_one_line(text):
    with pytest.raises(ValueError) as caught:
        nasbench201().parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("arguments", [dict(image=(3, 8, 1)), dict(classes=1), dict(channels=0), dict(cells=0),
                                       dict(scan="maybe")])
def test_options_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError):
        nasbench201(**arguments)


def test_scanned_and_unrolled_cells_are_the_same_function():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2))
    gates = jax.nn.softmax(jnp.asarray(np.random.default_rng(1).normal(size=(6, 5))))
    on, off = (Repeated(partial(Cell, loop_safe=scan), 2, scan) for scan in (True, False))

    def build(cells):
        return jax.jit(lambda key: cells.init(key, x, gates, True))(jax.random.key(0))

    variables = build(off)
    stacked = stack_cells(variables["params"]), stack_cells(variables["batch_stats"])
    assert jax.tree.structure(stacked[0]) == jax.tree.structure(jax.eval_shape(lambda: build(on))["params"])
    assert all(np.array_equal(leaf, leaves(variables["params"])[path])
               for path, leaf in leaves(unstack_cells(stacked[0])).items())

    def loss(cells):
        def of(weights, gates, stats):
            y, after = cells.apply({"params": weights, "batch_stats": stats}, x, gates, True, mutable="batch_stats")
            return (y ** 2).sum(), after["batch_stats"]
        return jax.jit(jax.value_and_grad(of, argnums=(0, 1), has_aux=True))

    with jax.enable_x64(True):
        (value, after), (to_weights, to_gates) = loss(off)(
            double(variables["params"]), double(gates), double(variables["batch_stats"]))
        (value_on, after_on), (to_stacked, to_gates_on) = loss(on)(double(stacked[0]), double(gates), double(stacked[1]))
        np.testing.assert_allclose(value_on, value, rtol=1e-12)
        np.testing.assert_allclose(to_gates_on, to_gates, rtol=1e-9, atol=1e-12)
        for tree, other in (to_weights, unstack_cells(to_stacked)), (after, unstack_cells(after_on)):
            for path, leaf in leaves(tree).items():
                np.testing.assert_allclose(leaves(other)[path], leaf, rtol=1e-9, atol=1e-12)
