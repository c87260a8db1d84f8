"""Transformers whose sizes are searched: attention against the small one, no look ahead, costs, and genotypes."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.algorithms.budget import Budget, likelihood, met, within
from dnas.shared_options import SharedOptions, shared_options
from dnas.types import REMOVED, Genotype
from launch.main import main
from search_spaces.gpt import gpt
from search_spaces.layers.attention import MLP, Attention
from search_spaces.layers.entangled import Size, fixed
from search_spaces.transformer import Choices
from search_spaces.vit import vit

TINY = {"embeds": (4, 6), "depths": (1, 2), "heads": (1, 2), "ratios": (1, 2), "head_width": 3}
SPACES = {"gpt": partial(gpt, (5,), 7, **TINY), "vit": partial(vit, (4, 4, 1), 3, patch=2, **TINY)}
MAKES = {f"{name} {form}": partial(make, form=form) for name, make in SPACES.items() for form in ("entangled", "separate")}
RNG = np.random.default_rng(0)
INPUTS = {"gpt": RNG.integers(0, 7, (3, 5), np.int32), "vit": RNG.normal(size=(3, 4, 4, 1))}


def shares(space, seed=0):
    """Random gates of which each row sums to 1."""
    draw = np.random.default_rng(seed)
    drawn = {name: group.allowed * draw.uniform(0.2, 1, group.shape) for name, group in space.groups.items()}
    return {name: rows / rows.sum(-1, keepdims=True) for name, rows in drawn.items()}


def every_genotype(space):
    rows = [(name, e, len(group.edge_ops(e))) for name, group in space.groups.items() for e in range(group.shape[0])]
    for picks in itertools.product(*(range(ops) for _, _, ops in rows)):
        decisions = {name: np.zeros(group.shape[0], int) for name, group in space.groups.items()}
        for (name, e, _), pick in zip(rows, picks):
            decisions[name][e] = pick
        yield decisions


def variables_of(module, x):
    """Weights of a module, in float64."""
    return jax.tree.map(np.float64, module.init(jax.random.key(0), x.astype(np.float32)))


def test_attention_is_what_its_equation_says():
    x = RNG.normal(size=(2, 5, 4))
    with jax.enable_x64(True):
        module = Attention(fixed(4), fixed(2), fixed(3), True)
        variables = variables_of(module, x)
        query, key, value, out = (variables["params"][name] for name in ("query", "key", "value", "out"))
        by_hand = np.zeros((2, 5, 4))
        for b, h, t in np.ndindex(2, 2, 5):
            scores = np.array([x[b, t] @ query[:, h] @ (x[b, s] @ key[:, h]) for s in range(t + 1)]) / np.sqrt(3)
            weights = np.exp(scores) / np.exp(scores).sum()
            by_hand[b, t] += sum(w * x[b, s] @ value[:, h] for s, w in enumerate(weights)) @ out[h]
        np.testing.assert_allclose(module.apply(variables, x), by_hand, rtol=1e-9)


@pytest.mark.parametrize("picks", [(0, 0, 0), (1, 0, 1), (0, 1, 0)])
def test_attention_at_one_hot_gates_is_the_small_one(picks):
    """Embedding, heads and head width; the entries that the small one lacks change nothing, whatever they hold."""
    choices, large = ((2, 4), (1, 3), (2, 3)), (4, 3, 3)
    embed, heads, width = (row[pick] for row, pick in zip(choices, picks))
    with jax.enable_x64(True):
        x = RNG.normal(size=(2, 5, 4))
        variables = variables_of(Attention(*map(fixed, large)), x)
        gates = [Size(row, np.eye(len(row))[pick]) for row, pick in zip(choices, picks)]
        part = {name: leaf[:heads, :width, :embed] if name == "out" else leaf[:embed, :heads, :width]
                for name, leaf in variables["params"].items()}
        small = Attention(*map(fixed, (embed, heads, width))).apply({"params": part}, x[..., :embed])
        mixed = Attention(*gates).apply(variables, x)
        np.testing.assert_allclose(mixed, np.pad(small, [(0, 0), (0, 0), (0, 4 - embed)]), rtol=1e-9, atol=1e-12)


def test_mixed_attention_is_that_of_the_mean_of_the_padded_weights():
    """Also where the embedding is both what it reads and what it puts out, and the heads' outer product is one mask."""
    with jax.enable_x64(True):
        x, rows, gates = RNG.normal(size=(2, 3, 4)), ((2, 4), (1, 2), (1, 2)), ([0.3, 0.7], [0.4, 0.6], [0.1, 0.9])
        sizes = [Size(row, np.array(gate)) for row, gate in zip(rows, gates)]
        variables = variables_of(Attention(fixed(4), fixed(2), fixed(2)), x)
        mean = {name: np.zeros_like(leaf) for name, leaf in variables["params"].items()}
        for picks in np.ndindex(2, 2, 2):
            e, h, w = (row[pick] for row, pick in zip(rows, picks))
            probability = np.prod([gate[pick] for gate, pick in zip(gates, picks)])
            for name, leaf in variables["params"].items():
                part = np.s_[:h, :w, :e] if name == "out" else np.s_[:e, :h, :w]
                mean[name][part] += probability * leaf[part]
        scale = (0.1 * 1 + 0.9 / np.sqrt(2)) * np.sqrt(2)  # of the queries, relative to those of the widest heads
        mean["query"] *= scale
        plain = Attention(fixed(4), fixed(2), fixed(2)).apply({"params": mean}, x)
        np.testing.assert_allclose(Attention(*sizes).apply(variables, x), plain, rtol=1e-9)


def test_the_mlp_shares_one_choice_between_its_input_and_its_width():
    with jax.enable_x64(True):
        x, embeds, ratios = RNG.normal(size=(2, 4)), (2, 4), (1, 2)
        variables = variables_of(MLP(fixed(4), fixed(2)), x)
        for i, j in np.ndindex(2, 2):
            embed, hidden = embeds[i], embeds[i] * ratios[j]
            part = {"widen": {"kernel": variables["params"]["widen"]["kernel"][:embed, :hidden],
                              "bias": variables["params"]["widen"]["bias"][:hidden]},
                    "narrow": {"kernel": variables["params"]["narrow"]["kernel"][:hidden, :embed],
                               "bias": variables["params"]["narrow"]["bias"][:embed]}}
            small = MLP(fixed(embed), fixed(ratios[j])).apply({"params": part}, x[:, :embed])
            mixed = MLP(Size(embeds, np.eye(2)[i]), Size(ratios, np.eye(2)[j])).apply(variables, x)
            np.testing.assert_allclose(mixed, np.pad(small, ((0, 0), (0, 4 - embed))), rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module", params=MAKES)
def case(request):
    """A tiny space, its inputs, and its weights in float64 with norms that do something."""
    space, inputs, draw = MAKES[request.param](), INPUTS[request.param.split()[0]], np.random.default_rng(1)
    with jax.enable_x64(True):
        weights, _ = space.init(jax.random.key(0), inputs.astype(space.input_dtype))
        moved = lambda leaf: np.asarray(leaf, np.float64) + draw.uniform(0, 0.5, leaf.shape)
        return space, inputs, jax.tree.map(moved, weights)


def test_one_hot_gates_are_the_small_network(case):
    """Also without the rows of the block that its depth skips."""
    space, inputs, weights = case
    with jax.enable_x64(True):
        mixed = jax.jit(lambda gates: space.apply(weights, {}, gates, inputs, train=True)[0])
        for picks in ({"embed": [0], "depth": [0], "heads": [1, 0], "ratio": [0, 1]},
                      {"embed": [1], "depth": [1], "heads": [0, 1], "ratio": [1, 0]}):
            genotype = Genotype.from_decisions(space, picks)
            assert len(genotype.choices["heads"]) == len(genotype.choices["ratio"]) == picks["depth"][0] + 1
            own = jax.jit(lambda g=genotype: space.apply(space.inherit(weights, g), {}, g, inputs, train=True)[0])()
            one_hot = {name: rows.astype(np.float64) for name, rows in genotype.gates(space.groups).items()}
            np.testing.assert_allclose(mixed(one_hot), own, rtol=1e-9, atol=1e-9)


def test_every_row_of_gates_has_a_gradient(case):
    space, inputs, weights = case
    with jax.enable_x64(True):
        gates = jax.tree.map(jnp.asarray, shares(space))
        outputs = lambda gates: space.apply(weights, {}, gates, inputs, train=True)[0]
        direction = RNG.normal(size=jax.eval_shape(outputs, gates).shape)
        slopes = jax.jit(jax.grad(lambda gates: (direction * outputs(gates)).sum()))(gates)
        for name, rows in slopes.items():
            along = rows - rows.mean(-1, keepdims=True)  # what a softmax passes on
            assert (np.abs(along).max(-1) > 1e-6).all(), name


@pytest.mark.parametrize("name", ["gpt entangled", "gpt separate"])
def test_a_later_token_changes_no_earlier_output(name):
    space, tokens = MAKES[name](), INPUTS["gpt"]
    weights, _ = space.init(jax.random.key(0), tokens)
    gates = jax.tree.map(np.float32, shares(space))
    run = jax.jit(lambda tokens: space.apply(weights, {}, gates, tokens, train=True)[0])
    for place in (1, 4):
        later = tokens.copy()
        later[:, place] = (later[:, place] + 1) % 7
        moved = np.abs(run(later) - run(tokens)).max((0, 2)) > 0
        assert moved.tolist() == [t >= place for t in range(5)]


def test_pictures_are_seen_from_both_sides():
    """Each patch reaches the outputs, and the order of the patches matters."""
    space, images = SPACES["vit"](), np.float32(INPUTS["vit"])
    weights, _ = space.init(jax.random.key(0), images)
    gates = jax.tree.map(np.float32, shares(space))
    run = jax.jit(lambda images: space.apply(weights, {}, gates, images, train=True)[0])
    for row, column in np.ndindex(2, 2):
        other = images.copy()
        other[:, 2 * row, 2 * column + 1] += 1
        assert (np.abs(run(other) - run(images)).max(1) > 0).all()
    assert np.abs(run(images[:, ::-1]) - run(images)).max() > 1e-4


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.heavy
def test_what_a_network_costs_on_average(name):
    """The sum over all networks of cost times probability, in one program for both forms; exact at one-hot gates."""
    space, apart = SPACES[name](), MAKES[f"{name} separate"]()
    gates = shares(space)
    counted, mean = {}, {"params": 0.0, "macs": 0.0}
    for decisions in every_genotype(space):
        genotype = Genotype.from_decisions(space, decisions)
        if genotype not in counted:
            one_hot = {group: np.float64(rows) for group, rows in genotype.gates(space.groups).items()}
            counted[genotype] = space.expected(one_hot)
        probability = np.prod([gates[group][np.arange(len(row)), row].prod() for group, row in decisions.items()])
        mean = {what: mean[what] + probability * counted[genotype][what] for what in mean}
    assert len(counted) == 2 * (2 * 2 + (2 * 2)**2)  # embeddings times the blocks of both depths
    assert space.expected(gates) == pytest.approx(mean, rel=1e-12) == apart.expected(gates)
    for genotype in list(counted)[::8]:
        assert counted[genotype] == space.cost(genotype)
        assert apart.cost(Genotype(apart.name, apart.options, genotype.choices)) == space.cost(genotype)


def test_the_cost_of_a_gpt_by_hand():
    space = SPACES["gpt"]()
    embed, hidden, inner, tokens, vocabulary = 6, 12, 3, 5, 7
    params = ((vocabulary + tokens) * embed + 2 * embed + embed * vocabulary + vocabulary  # embedding, last norm, head
              + 4 * embed + 4 * embed * inner + 2 * embed * hidden + hidden + embed)
    macs = tokens * (embed * vocabulary + 4 * embed * inner + 2 * tokens * inner + 2 * embed * hidden)
    assert space.cost(space.parse("embed 6 | heads 1 ratio 2")) == {"params": params, "macs": macs}


@pytest.mark.parametrize("name", MAKES)
def test_equal_networks_are_equal_genotypes_and_read_back(name):
    space = MAKES[name]()
    text = "embed 6 | heads 2 ratio 1"
    genotype = space.parse(text)
    assert space.format(genotype) == text and genotype.decisions(space.groups)["heads"].tolist() == [1, REMOVED]
    scores = {group: np.zeros(rows.shape) for group, rows in space.groups.items()}
    scores |= {"embed": np.array([[0, 1]]), "depth": np.array([[1, 0]])}
    for last in ([0, 1], [1, 0]):  # of a block that is not there
        assert space.genotype(scores | {"heads": np.array([[0, 1], last])}) == genotype
    assert dnas.Genotype.from_json(genotype.to_json()) == genotype
    for wrong in ("", "embed 6", "embed 5 | heads 2 ratio 1", "embed 6 | heads 2", "embed 6 | ratio 1 heads 2",
                  text + " | heads 3 ratio 1", text + 2 * " | heads 1 ratio 1", "embed 6 7 | heads 2 ratio 1"):
        with pytest.raises(ValueError, match="not a transformer of 1, 2 blocks"):
            space.parse(wrong)


@pytest.mark.parametrize("name, options", [("gpt entangled", {"dtype": "bfloat16"}), ("vit separate", {"dtype": "bfloat16"}),
                                           ("gpt separate", {"partial_channels": 2})])
def test_shared_options(name, options):
    with shared_options(SharedOptions(**options)):
        space = MAKES[name]()
    inputs = INPUTS[name.split()[0]].astype(space.input_dtype)
    weights, _ = space.init(jax.random.key(0), inputs)
    run = jax.jit(lambda gates: space.apply(weights, {}, gates, inputs, train=True)[0])
    outputs = run(jax.tree.map(np.float32, shares(space)))
    assert outputs.dtype == jnp.float32 and np.isfinite(outputs).all()
    sizes = {leaf.shape for path, leaf in jax.tree.leaves_with_path(weights) if "query" in str(path)}
    widths = (6,) if "entangled" in name else (4, 6) if "vit" in name else (2, 3)  # half of the channels pass by
    assert {embed for embed, *_ in sizes} == set(widths)
    with shared_options(SharedOptions(partial_channels=2)), pytest.raises(ValueError, match="partial_channels is 2; it"):
        SPACES["vit"](form="entangled")


@pytest.mark.parametrize("go, message", [
    (lambda: gpt((4, 4, 1), 3), r"has the shape \(4, 4, 1\); for images there is --space vit"),
    (lambda: vit((10,), 3), r"has the shape \(10,\); for rows of numbers"),
    (lambda: vit((28, 30, 1), 3), "patch is 4; it must be a whole number that divides the sides of images of 28x30"),
    (lambda: gpt(embeds=(64, 32)), r"embeds are \[64, 32\]; they must be whole numbers, ascending, 1 to 16,384"),
    (lambda: gpt(depths=()), r"depths are \[\]"), (lambda: gpt(depths=(0, 1)), r"depths are \[0, 1\]"),
    (lambda: gpt(heads=(2, 2)), r"heads are \[2, 2\]"), (lambda: vit(ratios=(1.5, 2)), r"ratios are \[1.5, 2\]"),
    (lambda: gpt(depths=(1, 101)), "1 to 100"), (lambda: gpt(head_width=0), "head_width >= 1"),
    (lambda: gpt(head_width=2**20), "at most 1,024"), (lambda: gpt(form="both"), "form is 'both'; it must be one of"),
    (lambda: gpt(classes=0), "classes >= 1")])
def test_what_cannot_be_is_refused_in_one_line(go, message):
    with pytest.raises(ValueError, match=message) as caught:
        go()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("likeliest, most, blocks", [
    (1, 7900, 1), (1, 15_300, 2), (1, 22_500, 3), (3, 15_300, 2), (3, 7900, 1)])
def test_a_budget_moves_the_depth_too(likeliest, most, blocks):
    """From the network of the largest gates, with the largest blocks, to one with as many of these as the budget is for."""
    space, budget = gpt((8,), 9, embeds=(8,), depths=(1, 2, 3), heads=(1, 2), ratios=(2, 4), head_width=4), Budget(macs=most)
    genotype = space.parse("embed 8" + 3 * " | heads 2 ratio 4")
    gates = {name: 0.2 + rows.astype(np.float64) for name, rows in genotype.gates(space.groups).items()}
    gates["depth"] = 0.2 + np.eye(3)[[likeliest - 1]]
    genotype = within(space, budget, gates, space.genotype(gates))
    assert met(space, budget, genotype)["ok"] and len(genotype.choices["heads"]) == blocks
    even = likelihood(space)({name: np.ones(group.shape) for name, group in space.groups.items()})
    assert all(np.allclose(rows.sum(-1), 1) for rows in even.values())  # of blocks that a depth skips, too


SIZES = ["--space.embeds", "4", "8", "--space.depths", "1", "2", "--space.head-width", "4"]


@pytest.mark.heavy
@pytest.mark.parametrize("space, form, method", [("gpt", "entangled", "drnas"), ("vit", "separate", "pc-darts")])
def test_the_commands(tmp_path, capsys, space, form, method):
    """A search under a budget that ends in its limits, a selection, and a training that begins with the weights."""
    (tmp_path / "play.txt").write_text("".join(RNG.choice(list("to be or not"), 4000)))
    data = ["--data", tmp_path / "play.txt", "--window", "8"] if space == "gpt" else ["--data", "digits", "--limit", "200"]
    own = [] if space == "gpt" else ["--space.patch", "2"]
    rate = ["--space.partial-channels", "2", "--method.arch-warmup", "0"] if method == "pc-darts" else []
    run, quiet = tmp_path / "run", ["--no-progress", "--cache", "off"]
    most = {"gpt": 20_000, "vit": 22_000}[space]
    argv = ["search", *data, "--space", space, "--space.form", form, *SIZES, *own, *rate, "--method", method, "--epochs", 1,
            "--batch", "16", "--budget.macs", most, "--run", run, *quiet]
    assert main(list(map(str, argv))) == 0
    genotype = dnas.open(run).genotype
    image, classes = (genotype.options[option] for option in ("image", "classes"))
    options = {name: value for name, value in genotype.options.items() if name in ("patch", *Choices._fields)}
    costs = {"gpt": gpt, "vit": vit}[space](tuple(image), classes, **options)
    assert 0.95 * most <= costs.cost(genotype)["macs"] <= most
    assert main(list(map(str, ["select", run, "--selection", "perturbation", "--cache", "off"]))) == 0
    assert main(list(map(str, ["train", run, "--selection", "perturbation", "--inherit", "--epochs", "1", "--run",
                               tmp_path / "net", *quiet]))) == 0
    assert ("bits" if space == "gpt" else "accuracy") in capsys.readouterr().out
