"""The DARTS space and its relatives: published counts, the rule, the notation, loops over edges, what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.shared_options import SharedOptions, shared_options
from dnas.types import Choice, Genotype, Group
from search_spaces import robust_darts
from search_spaces.darts import EDGES, GROUPS, OPS, Cell, darts, top_two
from search_spaces.genotypes import GENOTYPES, genotype
from search_spaces.nasbench201 import nasbench201
from search_spaces.robust_darts import s1, s2, s3, s4

SPACES = {"darts": darts, "s1": s1, "s2": s2, "s3": s3, "s4": s4}
IMAGE = (8, 8, 3)


def params(space, found=None):
    return space.cost(found)["params"]


# Published counts (arXiv 1806.09055 and 1907.05737, and their code)


@pytest.mark.parametrize("parts, count", [(1, 1_930_618), pytest.param(4, 299_578, marks=pytest.mark.heavy)])
def test_supernet_counts(parts, count):
    with shared_options(SharedOptions(partial_channels=parts)):
        assert params(darts()) == count


@pytest.mark.parametrize("name, classes, count", [
    ("darts-v1", 10, 3_169_414), ("darts-v2", 10, 3_349_342), ("pc-darts-cifar", 10, 3_634_678),
    pytest.param("pc-darts-image", 10, 3_721_510, marks=pytest.mark.heavy),
    pytest.param("darts-v1", 100, 3_221_344, marks=pytest.mark.heavy),
    pytest.param("darts-v2", 100, 3_401_272, marks=pytest.mark.heavy)])
def test_evaluation_network_counts(name, classes, count):
    assert params(darts(classes=classes, channels=36, cells=20), genotype(name)) == count


def test_the_auxiliary_head_is_counted_apart_and_speaks_while_training():
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    space, found = darts(channels=36, cells=3), genotype("darts-v2")
    network = space.network(found, auxiliary=True)
    weights, stats = jax.eval_shape(lambda key: network.init(key, images), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(weights))
    assert count - params(space, found) == 476_426
    pair, after = jax.eval_shape(partial(network.apply, train=True), weights, stats, images)
    assert [logits.shape for logits in pair] == [(2, 10), (2, 10)]
    assert jax.tree.structure(after) == jax.tree.structure(stats)
    assert jax.eval_shape(partial(network.apply, train=False), weights, stats, images)[0].shape == (2, 10)
    small = darts((28, 28, 1), channels=4, cells=3).network(found, auxiliary=True)
    with pytest.raises(ValueError, match="7x7 pixels, it needs 8x8"):
        jax.eval_shape(lambda key: small.init(key, jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)), jax.random.key(0))
    with pytest.raises(ValueError, match="no auxiliary head"):
        nasbench201().network(nasbench201().genotype({"cell": np.zeros((6, 5))}), auxiliary=True)


def test_partial_channels_are_the_supernets_only():
    found = darts().parse(GENOTYPES["darts-v2"])
    expected = darts(IMAGE, cells=3).cost(found)
    with shared_options(SharedOptions(partial_channels=4)):
        assert darts(IMAGE, cells=3).cost(found) == expected


# Groups


def test_edges_come_node_by_node_in_every_group():
    assert EDGES[:5] == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)) and EDGES[9:] == tuple((s, 5) for s in range(5))
    for name, factory in SPACES.items():
        for group in factory(IMAGE, cells=3).groups.values():
            assert group.edges == EDGES and len(EDGES) == 14
            assert group.shape == (14, {"darts": 8, "s3": 3}.get(name, 2)) and group.allowed.all()


def test_robust_spaces_leave_the_published_operations():
    normal, reduce = (robust_darts.GROUPS["s1"][name] for name in ("normal", "reduce"))
    short = {"skip": "skip_connect", "max": "max_pool_3x3", "avg": "avg_pool_3x3", "sep3": "sep_conv_3x3",
             "dil3": "dil_conv_3x3", "dil5": "dil_conv_5x5"}
    for group, text in (
            (normal, "skip dil3|skip dil5|skip dil5|skip sep3|skip dil3|max skip|skip sep3|skip sep3|skip dil3|skip sep3|"
                     "max skip|skip dil3|dil3 dil5|dil3 dil5"),
            (reduce, "max avg|max dil3|max avg|max avg|skip dil5|max avg|max sep3|skip dil3|skip dil5|max avg|max avg|"
                     "skip dil5|skip dil5|skip dil5")):
        assert [group.edge_ops(e) for e in range(14)] == [
            tuple(short[op] for op in edge.split()) for edge in text.split("|")]
    assert [robust_darts.GROUPS[name]["reduce"].ops for name in ("s2", "s3", "s4")] == [
        ("skip_connect", "sep_conv_3x3"), ("none", "skip_connect", "sep_conv_3x3"), ("noise", "sep_conv_3x3")]


# The rule


def one_node(rows, ops=OPS):
    """The choices for a node with three edges, from the best scores of each: {operation: score}."""
    scores = np.zeros((3, len(ops)))
    for e, row in enumerate(rows):
        for op, score in row.items():
            scores[e, ops.index(op)] = score
    group = Group(((0, 3), (1, 3), (2, 3)), ops)
    return [(c.source, c.op) for c in top_two({"g": group}, {"g": scores})["g"]]


def test_rule_ranks_by_the_best_operation_that_is_not_none():
    rows = [{"none": 0.6, "sep_conv_3x3": 0.3}, {"skip_connect": 0.4}, {"dil_conv_3x3": 0.35}]
    assert one_node(rows) == [(1, "skip_connect"), (2, "dil_conv_3x3")]
    rows[2] = {"dil_conv_3x3": 0.3}
    assert one_node(rows) == [(1, "skip_connect"), (0, "sep_conv_3x3")]


def test_rule_breaks_ties_by_source_and_by_operation():
    assert one_node([dict.fromkeys(OPS, 1 / 8)] * 3) == [(0, "max_pool_3x3"), (1, "max_pool_3x3")]
    assert one_node([{}, {}, {"none": 0.9, "dil_conv_5x5": 0.5, "avg_pool_3x3": 0.5}]) == [
        (2, "avg_pool_3x3"), (0, "max_pool_3x3")]


def test_rule_leaves_out_none_only_where_there_is_one():
    assert one_node([{}, {"noise": 0.9}, {"sep_conv_3x3": 0.8}], ("noise", "sep_conv_3x3")) == [
        (1, "noise"), (2, "sep_conv_3x3")]
    assert {c.op for c in s3(IMAGE).genotype({g: np.zeros((14, 3)) for g in GROUPS}).choices["normal"]} == {"skip_connect"}


@pytest.mark.parametrize("name", SPACES)
def test_rule_keeps_two_edges_of_each_node_strongest_first(name):
    space = SPACES[name](IMAGE)
    scores = {g: np.random.default_rng(0).random(group.shape) for g, group in space.groups.items()}
    found = space.genotype(scores)
    for g, group in space.groups.items():
        assert [c.target for c in found.choices[g]] == [2, 2, 3, 3, 4, 4, 5, 5]
        real = np.array([[op != "none" for op in group.edge_ops(e)] for e in range(14)])
        best = {edge: row for edge, row in zip(EDGES, np.where(real, scores[g], -1).max(1))}
        strength = [best[c.source, c.target] for c in found.choices[g]]
        assert strength[::2] > strength[1::2] and all(a >= b for a, b in zip(strength[::2], strength[1::2]))
        dropped = [max([best[e] for e in EDGES if e[1] == t and e not in {c[:2] for c in found.choices[g]}], default=0)
                   for t in (2, 3, 4, 5)]
        assert all(weaker >= other for weaker, other in zip(strength[1::2], dropped))
    assert found.space == name and space.parse(space.format(found)) == found
    assert Genotype.from_json(found.to_json()) == found


# The notation


@pytest.mark.parametrize("name", GENOTYPES)
def test_published_genotypes_round_trip(name):
    found = genotype(name)
    assert found.space == "darts" and darts().format(found) == GENOTYPES[name]
    assert all(len(choices) == 8 for choices in found.choices.values())


def test_first_published_genotype_in_full():
    assert genotype("darts-v1").choices["normal"] == tuple(Choice(*c) for c in (
        (1, 2, "sep_conv_3x3"), (0, 2, "sep_conv_3x3"), (0, 3, "skip_connect"), (1, 3, "sep_conv_3x3"),
        (0, 4, "skip_connect"), (1, 4, "sep_conv_3x3"), (0, 5, "sep_conv_3x3"), (2, 5, "skip_connect")))


def test_notation_holds_any_choice_of_edges():
    space = darts()
    choices = {"normal": tuple(Choice(s, t, "none") for s, t in EDGES), "reduce": (Choice(0, 3, "skip_connect"),)}
    text = space.format(Genotype("darts", {}, choices))
    assert text.endswith("; reduce - | skip_connect:0 | - | -") and space.parse(text).choices == choices


V1 = GENOTYPES["darts-v1"]


@pytest.mark.parametrize("text, message", [
    ("", "one looks like normal sep_conv_3x3:1, skip_connect:0 |"), (V1.replace("reduce", "normal"), "not a genotype"),
    (V1.split(";")[0], "not a genotype"), (V1 + "; other -", "not a genotype"), (V1 + " | -", "not a genotype"),
    (V1[:-3], "not a genotype"), (V1 + ";", "not a genotype"), (V1.replace("|", ",", 1), "not a genotype"),
    (V1.replace(", ", " "), "not a genotype"), ("|" * 100_000, "not a genotype"), ("x" * 100_000, "not a genotype"),
    (V1.replace("sep_conv_3x3:1", "sep_conv_3x3:2", 1), "edge 2->2"),
    (V1.replace("sep_conv_3x3:1", "sep_conv_3x3:0", 1), "edge 0->2 of group 'normal' twice"),
    (V1.replace("sep_conv_3x3", "sep_conv_7x7", 1), "'sep_conv_7x7' on edge 1->2 of group 'normal'")])
def test_other_texts_are_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message.replace("|", "\\|")) as caught:
        darts().parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_text_of_another_space_is_refused():
    with pytest.raises(ValueError, match="'max_pool_3x3' on edge 0->2 of group 'reduce'; the operations there are noise"):
        s4().parse(V1.replace("skip_connect", "noise"))


def test_names_of_no_published_genotype_are_refused():
    with pytest.raises(ValueError, match="no published genotype 'darts-v3'; did you mean 'darts-v2'"):
        genotype("darts-v3")


# Options


@pytest.mark.parametrize("arguments, message", [
    (dict(image=(3, 8, 1)), "images of 3x8 are too small for darts, which halves them twice: 4x4 is the least"),
    (dict(classes=0), "classes >= 1"), (dict(channels=0), "channels >= 1"), (dict(cells=2), "two of them reduce")])
def test_options_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        darts(**arguments)


def test_partial_channels_refuse_what_they_cannot_halve():
    with shared_options(SharedOptions(partial_channels=2)):
        darts((8, 12, 1))
        with pytest.raises(ValueError, match="multiples of 4, got 8x10"):
            darts((8, 10, 1))


@pytest.mark.parametrize("image", [pytest.param((4, 4, 1), marks=pytest.mark.heavy), (5, 7, 3)])
def test_sides_of_any_length_are_rounded_up(image):
    space = darts(image, 3, channels=2, cells=3)
    images = jax.ShapeDtypeStruct((2, *image), jnp.float32)
    weights, stats = jax.eval_shape(lambda: space.init(jax.random.key(0), images))
    gates = {g: jnp.zeros(group.shape) for g, group in space.groups.items()}

    def shape(gates, weights, stats):
        return jax.eval_shape(lambda *args: space.apply(*args, gates, images, train=True)[0], weights, stats).shape

    assert shape(gates, weights, stats) == (2, 3)
    found = space.genotype({g: np.random.default_rng(0).random((14, 8)) for g in space.groups})
    inherited = jax.eval_shape(lambda *trees: [space.inherit(tree, found) for tree in trees], weights, stats)
    assert shape(found, *inherited) == (2, 3)


# Noise


@pytest.mark.parametrize("train", [True, False])
def test_every_edge_has_a_noise_of_its_own(train):
    """A node is the sum of its edges, whose variances add up."""
    cell = Cell(("noise",), 1, False, False, False, name="cell_1")
    x, gates = jnp.zeros((64, 8, 8, 1)), jnp.ones((14, 1))
    variables = cell.init(jax.random.key(0), x, x, gates, True)
    rngs = {"dropout": jax.random.key(1)} if train else {}
    y = cell.apply(variables, x, x, gates, train, mutable=["batch_stats"], rngs=rngs)
    assert np.allclose(np.var(y[0], (0, 1, 2)), (2, 3, 4, 5), rtol=0.1)


def test_noise_is_new_in_every_training_step_and_fixed_in_evaluation():
    space = s4(IMAGE, 3, channels=1, cells=3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, *IMAGE)), jnp.float32)
    found = space.parse("normal noise:0 | noise:1 | - | -; reduce noise:0 | - | noise:1 | -")
    weights, stats = space.init(jax.random.key(0), images, found)

    def logits(train, seed):
        key = None if seed is None else jax.random.key(seed)
        return np.asarray(space.apply(weights, stats, found, images, train=train, key=key)[0])

    assert np.array_equal(logits(True, 1), logits(True, 1)) and not np.array_equal(logits(True, 1), logits(True, 2))
    for seed in 1, 2:
        assert np.array_equal(logits(False, seed), logits(False, None))


@pytest.mark.heavy
def test_expected_cost_of_a_skip_connection_is_that_of_its_own_edge():
    """From the cell's input it halves the image, and has weights; between nodes of a reduction cell it has none."""
    space = darts((8, 8, 3), 10, channels=4, cells=3)
    for edge in (2, 3), (0, 2):
        genotype = Genotype("darts", space.options, {"normal": (), "reduce": (Choice(*edge, "skip_connect"),)})
        gates = {name: rows.astype(float) for name, rows in genotype.gates(space.groups).items()}
        assert {name: float(value) for name, value in space.expected(gates).items()} == space.cost(genotype)
