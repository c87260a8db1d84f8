"""What every search space must do: one network for the mixture and for the discrete choice."""

import itertools
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.shared_options import SharedOptions, shared_options
from dnas.types import REMOVED, Choice, Genotype, Group
from search_spaces.darts import darts
from search_spaces.flax_space import flax_space
from search_spaces.layers.bundle import unstack_edges
from search_spaces.layers.mixed import MixedOp, drop_path
from search_spaces.layers.primitives import Identity, ReLUConvBN
from search_spaces.nasbench201 import EDGES, OPS, Cell, nasbench201
from search_spaces.repeated import Repeated, stack_cells, unstack_cells
from search_spaces.robust_darts import s1, s4
from tests.toy_frameworks import toy_nnx, toy_pure
from tests.toy_space import toy

PUBLISHED = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
IMAGE = (8, 8, 2)
MAKERS = {
    "nasbench201": lambda: nasbench201(IMAGE, 3, channels=2, cells=1),
    "nasbench201, scanned": lambda: nasbench201(IMAGE, 3, channels=2, cells=2, scan="on"),
    "darts": lambda: darts(IMAGE, 3, channels=2, cells=3),
    "s1": lambda: s1(IMAGE, 3, channels=2, cells=3),
    "s4": lambda: s4(IMAGE, 3, channels=2, cells=3),
    "toy": lambda: toy(IMAGE, 3),
    "toy, nnx": lambda: toy_nnx(IMAGE, 3),
    "toy, pure": lambda: toy_pure(IMAGE, 3),
}


LIGHT = ("nasbench201", "toy")


@pytest.fixture(params=[name if name in LIGHT else pytest.param(name, marks=pytest.mark.heavy) for name in MAKERS],
                ids=str, scope="module")
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
                after, after_single = leaves(unstack_edges(after)), leaves(after_single)
                assert after_single.keys() == leaves(parts[1]).keys()
                for path, leaf in after_single.items():
                    np.testing.assert_allclose(leaf, after[path], rtol=1e-12, atol=1e-13)


def test_inherited_paths_are_those_that_the_discrete_network_initialises(space, started):
    weights, stats, images = started
    images = jax.ShapeDtypeStruct(images.shape, jnp.float32)
    for genotype in genotypes(space):
        own = jax.eval_shape(lambda key, g=genotype: space.init(key, images, g), jax.random.key(1))
        for whole, part in zip((weights, stats), own):
            inherited, whole = leaves(space.inherit(whole, genotype)), leaves(unstack_edges(whole))
            assert inherited.keys() == leaves(part).keys() < whole.keys()
            assert all(np.array_equal(inherited[path], whole[path]) for path in inherited)


@pytest.mark.parametrize("name", ["nasbench201, scanned", "darts", "toy"])
def test_the_stand_alone_network_is_what_is_counted(name):
    space, images = MAKERS[name](), jax.ShapeDtypeStruct((4, *IMAGE), jnp.float32)
    genotype = next(genotypes(space))
    network = space.network(genotype)
    weights, stats = jax.eval_shape(lambda key: network.init(key, images), jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(weights)) == space.cost(genotype)["params"]
    for train in True, False:
        logits, after = jax.eval_shape(partial(network.apply, train=train), weights, stats, images)
        assert logits.shape == (4, 3) and leaves(after) == leaves(stats)


def test_dropped_outputs_keep_their_mean_and_identities_are_not_dropped():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    edge = MixedOp({"skip": Identity, "conv": partial(ReLUConvBN, affine=True)})
    variables = edge.init(jax.random.key(1), x, 1, True)

    @partial(jax.jit, static_argnums=0)
    def many(op, probability):
        def one(key):
            with drop_path(probability):
                return edge.apply(variables, x, op, True, rngs={"dropout": key}, mutable=["batch_stats"])[0]

        return jax.vmap(one)(jax.random.split(jax.random.key(2), 4096))

    whole = edge.apply(variables, x, 1, True, mutable=["batch_stats"])[0]
    found = many(1, 0.3)
    np.testing.assert_allclose(found.mean(0), whole, atol=0.05)
    zeros = (found == 0).all((2, 3, 4))
    assert zeros.mean(0) == pytest.approx([0.3, 0.3], abs=0.03) and abs(np.corrcoef(zeros.T)[0, 1]) < 0.05
    np.testing.assert_allclose(found[~zeros], np.broadcast_to(whole / 0.7, found.shape)[~zeros], rtol=1e-5, atol=1e-6)
    assert (many(0, 0.3) == x).all()


def with_options(**options):
    with shared_options(SharedOptions(**options)):
        return toy(IMAGE, 3)


def test_shared_options_compute_the_same_in_less_memory_or_fewer_bits():
    images = jax.random.normal(jax.random.key(0), (4, *IMAGE))
    plain = toy(IMAGE, 3)
    weights, stats = plain.init(jax.random.key(1), images)
    gates = {"chain": jnp.full((2, 4), 0.25)}

    def run(space):
        def of(weights):
            logits, after = space.apply(weights, stats, gates, images, train=True, key=jax.random.key(2))
            return (logits ** 2).sum(), (logits, after)
        return jax.jit(jax.value_and_grad(of, has_aux=True))

    (_, (logits, after)), grads = run(plain)(weights)
    again = run(with_options(remat=True))
    (_, (same, _)), same_grads = again(weights)
    np.testing.assert_allclose(same, logits, rtol=1e-6)
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same_grads)))
    assert "remat" in str(jax.make_jaxpr(again)(weights)) and "remat" not in str(jax.make_jaxpr(run(plain))(weights))
    half = run(with_options(dtype="bfloat16"))
    (_, (rough, rough_after)), rough_grads = half(weights)
    assert rough.dtype == jnp.float32 and "bf16" in str(jax.make_jaxpr(half)(weights))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((rough_after, rough_grads)))
    np.testing.assert_allclose(rough, logits, atol=0.1)
    assert np.abs(rough - logits).max() > 0


def test_paths_of_a_search_are_dropped_in_its_steps_and_nowhere_else():
    images = jax.random.normal(jax.random.key(0), (4, *IMAGE))
    plain, dropping = toy(IMAGE, 3), with_options(drop_path=0.5)
    assert dropping.options["drop_path"] == 0.5
    weights, stats = plain.init(jax.random.key(1), images)
    gates = {"chain": jnp.full((2, 4), 0.25)}
    run = lambda space, **how: jax.jit(lambda: space.apply(weights, stats, gates, images, **how)[0])()
    step = dict(train=True, key=jax.random.key(2))
    assert not np.allclose(run(dropping, **step), run(plain, **step))
    for how in dict(train=True, key=None), dict(train=False, key=None), dict(train=False, key=jax.random.key(2)):
        np.testing.assert_array_equal(run(dropping, **how), run(plain, **how))


@pytest.mark.parametrize("options", [dict(partial_channels=0), dict(drop_path=1.0), dict(drop_path=-0.1),
                                     dict(drop_path=float("nan")), dict(dtype="float16")])
def test_shared_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        with_options(**options)


def test_paths_are_dropped_by_a_probability_that_is_data():
    """In a loop over cells, with one trace for all probabilities."""
    space, traces = MAKERS["nasbench201, scanned"](), []
    network, images = space.network(space.parse(PUBLISHED)), jax.random.normal(jax.random.key(0), (4, *IMAGE))
    weights, stats = network.init(jax.random.key(1), images)

    @jax.jit
    def logits(key, probability):
        traces.append(1)
        return network.apply(weights, stats, images, train=True, key=key, drop_path=probability)[0]

    keys = jax.random.key(2), jax.random.key(3)
    assert np.array_equal(logits(keys[0], 0.0), logits(keys[1], 0.0))
    assert np.abs(logits(keys[0], 0.5) - logits(keys[1], 0.5)).max() > 1e-3 and len(traces) == 1
    with pytest.raises(ValueError, match="needs a key"):
        network.apply(weights, stats, images, train=True, drop_path=0.5)


def test_every_edge_but_identities_is_dropped_while_training():
    space, images = MAKERS["darts"](), jnp.zeros((4, *IMAGE))
    found = space.parse("normal skip_connect:0, sep_conv_3x3:1 | - | - | skip_connect:2, max_pool_3x3:1; "
                        "reduce skip_connect:0, max_pool_3x3:1 | skip_connect:2, skip_connect:1 | - | -")
    network = space.network(found)
    weights, stats = jax.eval_shape(lambda key: network.init(key, images), jax.random.key(0))

    def draws(**given):
        return str(jax.make_jaxpr(partial(network.apply, key=jax.random.key(0), **given))(weights, stats, images)).count(
            "name=_bernoulli")

    assert draws(train=True, drop_path=0.5) - draws(train=True) == 1 * 2 + 2 * 3  # of a normal and two reduction cells
    assert draws(train=False, drop_path=0.5) == draws(train=False)


def test_no_network_of_a_genotype_of_another_space():
    with pytest.raises(ValueError, match="groups"):
        toy().network(darts().genotype({"normal": np.zeros((14, 8)), "reduce": np.zeros((14, 8))}))


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
    weights, stats = (space.inherit(tree, genotype) for tree in (weights, stats))
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
    from search_spaces.adapter import argmax
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


@pytest.mark.parametrize("arguments", [dict(image=(3, 8, 1)), dict(classes=0), dict(channels=0), dict(cells=0),
                                       dict(scan="maybe")])
def test_options_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError):
        nasbench201(**arguments)


@pytest.mark.heavy
def test_scanned_and_unrolled_cells_are_the_same_function():
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 2))
    gates = jax.nn.softmax(jnp.asarray(np.random.default_rng(1).normal(size=(6, 5))))
    on, off = (Repeated(Cell, 2, scan) for scan in (True, False))

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


class Stack(nn.Module):
    """A space whose author says nothing of loops: three equal cells of one edge."""

    @nn.compact
    def __call__(self, images, gates, train):
        x = ReLUConvBN(4, name="stem")(images, train)
        x = Repeated(lambda name: MixedOp({"skip": Identity, "conv": ReLUConvBN}, name=name), 3, name="cells")(
            x, gates["g"][0], train)
        return x.mean((1, 2))


@pytest.mark.parametrize("scan", ["auto", "off"])
def test_equal_cells_are_a_loop_if_the_shared_option_says_so(scan):
    with shared_options(SharedOptions(scan=scan)):
        space = flax_space("stack", Stack(), {"g": Group(((0, 1),), ("skip", "conv"))}, image=IMAGE)
    images = jnp.zeros((2, *IMAGE))
    weights, stats = jax.eval_shape(lambda key: space.init(key, images), jax.random.key(0))
    text = str(jax.make_jaxpr(lambda w, s: space.apply(w, s, {"g": jnp.ones((1, 2)) / 2}, images, train=True, key=None))(
        weights, stats))
    assert ("scan[" in text) == (scan == "auto")
    assert space.options == ({} if scan == "auto" else {"scan": "off"})


def test_gates_keep_their_operations_in_a_loop():
    """Flax sorts the dicts of what it repeats: `conv` would come before `skip`."""
    space = flax_space("stack", Stack(), {"g": Group(((0, 1),), ("skip", "conv"))}, image=IMAGE)
    weights, stats = space.init(jax.random.key(0), jnp.zeros((2, *IMAGE)))
    images, skips = np.random.default_rng(0).normal(size=(2, *IMAGE)), space.genotype({"g": np.array([[1, 0]])})
    alone = ReLUConvBN(4).apply({"params": weights["stem"], "batch_stats": stats["stem"]}, images, False).mean((1, 2))
    for gates in skips.gates(space.groups), skips:
        np.testing.assert_allclose(space.apply(weights, stats, gates, images, train=False)[0], alone, rtol=1e-5)
