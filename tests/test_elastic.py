"""One network whose sub-networks all work: masks, the networks of a step, what each of them adds, phases, and refusals."""

import functools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas.algorithms.budget import Budget, budgeted
from dnas.algorithms.elastic import (
    Networks,
    Training,
    costs_in_order,
    draws,
    elastic_method,
    joined,
    largest,
    smallest,
    stacked,
)
from dnas.algorithms.relaxations import Architecture
from dnas.algorithms.schedules import Time
from dnas.data import from_arrays
from dnas.data.augmentation import normalise
from dnas.engine.compile import on_device, recalibrate_batch_norm
from dnas.engine.search import search
from dnas.methods.darts import weights_sgd
from dnas.methods.deps import beta, deps
from dnas.methods.instatune import instatune
from dnas.methods.ofa import ofa, phases_of, place, uppermost
from dnas.methods.sandwich import ends, sandwich
from dnas.methods.spos import spos
from dnas.registry import resolve
from dnas.runs.directory import open_run
from dnas.task import classification
from launch.main import main
from search_spaces.conv_macro import conv_macro
from search_spaces.mobilenet import mobilenet
from search_spaces.nasbench201 import nasbench201
from search_spaces.vit import vit
from tests.problems import KEY, at, batches, numbers, plain
from tests.test_ends import QUICK, TOY
from tests.test_search import contents, interrupted, same, tiny
from tests.toy_space import toy

IMAGE, CLASSES, TASK = (8, 8, 1), 3, classification()
SPACES = {
    "conv-macro": partial(conv_macro, IMAGE, CLASSES, channels=1),
    "mobilenet": partial(mobilenet, IMAGE, CLASSES, channels=2, stages=1, layers=2),
    "vit": partial(vit, IMAGE, CLASSES, patch=4, embeds=(4, 6), depths=(1, 2), heads=(1, 2), ratios=(1, 2), head_width=3),
}
PURE = {"lr": 1.0, "lr_min": 0.5, "momentum": 0.0, "decay": 0.0, "clip": 1e9}
"""Numbers with which the first step is the gradient."""


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def architecture_of(space, mask=None):
    ranks = {name: jnp.asarray(rows) for name, rows in costs_in_order(space).items()}
    allowed = {name: jnp.asarray(group.allowed) for name, group in space.groups.items()}
    return Architecture(ranks, allowed | (mask or {}), space.groups)


def ops(space, gates):
    """Names of the operations of one-hot gates, edge by edge, of each group."""
    return {name: [group.edge_ops(e)[int(k)] for e, k in enumerate(np.argmax(gates[name], -1))]
            for name, group in space.groups.items()}


# Masks are the small networks.


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.heavy if name != "conv-macro" else ())
                                  for name in SPACES])
def test_a_masked_network_is_the_extracted_one_after_recalibration(name):
    """By the statistics of a batch, and those that are computed anew from it; outside it every gradient is exactly zero."""
    space, draw = SPACES[name](), np.random.default_rng(0)
    data = from_arrays("tiny", draw.integers(0, 256, (60, *IMAGE), np.uint8), np.arange(60) % CLASSES, pad=1, flip=False)
    weights, stats = space.init(jax.random.key(0), jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32))
    rows = np.arange(20)
    inputs, targets = normalise(data.inputs[rows], data.mean, data.std), data.targets[rows]

    @jax.jit
    def masked(weights, gates):
        def loss(weights):
            outputs = space.apply(weights, stats, gates, inputs, train=True, key=KEY)[0]
            return TASK.losses(outputs, targets).mean(), outputs

        return jax.grad(loss, has_aux=True)(weights)

    genotype = space.draw(draw)
    assert 0 < space.cost(genotype)["params"] < space.cost(None)["params"]
    grads, outputs = masked(weights, genotype.gates(space.groups))
    small, network = (space.inherit(weights, genotype), space.inherit(stats, genotype)), space.inherited.network(genotype)
    averages = recalibrate_batch_norm(network, data, on_device(data, None), *small, rows[None])
    alone = jax.jit(partial(network.apply, train=False))(small[0], averages, inputs)[0]
    np.testing.assert_allclose(alone, outputs, atol=1e-5)
    places = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape), weights)
    inside = {jax.tree_util.keystr(path): leaf for path, leaf in
              jax.tree_util.tree_leaves_with_path(space.inherit(places, genotype))}
    outside = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        rest = np.setdiff1d(np.arange(leaf.size), inside.get(jax.tree_util.keystr(path), []))
        assert not np.asarray(leaf).ravel()[rest].any()
        outside += len(rest)
    assert outside == space.cost(None)["params"] - space.cost(genotype)["params"]


# Which networks there are.


def test_the_smallest_connects_and_the_largest_costs_most():
    """Of the operations that a mask leaves in the race, as in a split supernet."""
    space = toy(IMAGE, CLASSES)
    found = architecture_of(space)
    assert ops(space, largest(found))["chain"] == ["conv", "conv"]
    assert ops(space, smallest(found))["chain"] == ["skip", "skip"]
    few = jnp.array([[True, False, False, False], [True, False, False, True]])
    found = architecture_of(space, {"chain": few})
    assert ops(space, largest(found))["chain"] == ["none", "pool"] == ops(space, smallest(found))["chain"]
    drawn = draws(KEY, found, 50)["chain"]
    assert drawn.shape == (50, 2, 4) and (drawn.sum(-1) == 1).all() and not (drawn * ~few).any()
    assert {ops(space, {"chain": gates})["chain"][1] for gates in drawn} == {"none", "pool"}


@pytest.mark.heavy
def test_the_smallest_and_the_largest_of_nasbench201():
    space = nasbench201(IMAGE, CLASSES, channels=2, cells=1)
    assert ops(space, largest(architecture_of(space)))["cell"] == 6 * ["nor_conv_3x3"]
    assert ops(space, smallest(architecture_of(space)))["cell"] == 6 * ["skip_connect"]


@pytest.mark.parametrize("name", SPACES)
def test_sizes_are_in_their_order(name):
    space = SPACES[name]()
    found = architecture_of(space)
    for group, rows in found.logits.items():
        np.testing.assert_array_equal(rows, np.broadcast_to(np.arange(rows.shape[1]), rows.shape), group)
    assert ops(space, largest(found)) == {group: [rows.edge_ops(e)[-1] for e in range(len(rows.edges))]
                                          for group, rows in space.groups.items()}


# What the networks of a step add up to, in float64 and by hand.


def flipped():
    """`plain`, whose channels can be put in another order, not that of their importance."""
    def reorder(weights, trees, trained=None):
        return [jax.tree.map(lambda leaf: leaf[::-1], tree) for tree in trees]

    return plain()._replace(reorder=reorder)


@functools.cache
def compiled(factory, space=plain, **structure):
    """A method with a first state in the space that `space` makes, a batch, and its step as one program for all numbers."""
    method = factory(**structure)
    bound = method.bind(space(), TASK)
    train, valid = (at(batch, 0) for batch in batches(1))
    first = bound.init(KEY, None, numbers(method))
    doubled = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float64), tree)
    first = first._replace(weights=doubled(first.weights), extra=doubled(first.extra))
    step = jax.jit(lambda state, hyper: bound.step(KEY, state, train, valid, hyper))
    return method, first, train, step


def stepped(factory, at_step=0, space=plain, structure=(), state=None, **options):
    """The state before and after a step of 100, its batch, and what it reports. state: parts to replace."""
    method, first, train, step = compiled(factory, space, **dict(structure))
    before = first._replace(step=jnp.int32(at_step), **(state or {}))
    after, info = step(before, numbers(method, epochs=20, steps=5, **PURE | options))
    return before, after, train, info


def gradient(before, after, rate=1.0):
    return jax.tree.map(lambda old, new: (old - new) / rate, before.weights, after.weights)


def slope(loss, weights):
    return jax.jit(jax.grad(loss))(weights)


def run(weights, gates, batch):
    return plain().apply(weights, {"mean": jnp.zeros(6)}, {"cell": gates}, batch.inputs, train=True)[0]


def ce(outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(outputs, batch.targets).mean()


def kl(taught, outputs, temperature=1.0):
    soft = jax.nn.softmax(taught / temperature)
    logs = jax.nn.log_softmax(taught / temperature) - jax.nn.log_softmax(outputs / temperature)
    return temperature**2 * (soft * logs).sum(-1).mean()


def draw_key():
    return jax.random.split(KEY, 4)[0]


def test_sandwich_by_hand(float64):
    """The labels teach the largest, which teaches the others; nothing flows back to it."""
    before, after, batch, info = stepped(sandwich, structure=(("networks", 3),), distill_temperature=2.0)
    gates = ends(draw_key(), architecture_of(plain()), 3)["cell"]
    assert gates.shape == (5, 3, 3) and len({str(rows) for rows in gates[2:]}) > 1

    def loss(weights):
        taught = run(weights, gates[0], batch)
        others = [kl(jax.lax.stop_gradient(taught), run(weights, rows, batch), 2.0) for rows in gates[1:]]
        return ce(taught, batch) + sum(others)

    chex.assert_trees_all_close(gradient(before, after), slope(loss, before.weights), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(info["train_loss"], ce(run(before.weights, gates[0], batch), batch), rtol=1e-6)


def test_deps_multiplies_what_the_others_add(float64):
    method, options = deps(), {"delay": 0.5, "ramp": 0.2}
    gates = ends(draw_key(), architecture_of(plain()), 2)["cell"]
    for at_step, weight in (29, 0.0), (40, None), (50, 1.0):
        before, after, batch, _ = stepped(deps, at_step, **options)
        found = float(beta(numbers(method, **PURE | options), Time(at_step, 20, 5)))
        assert found == weight or weight is None and 0.4 < found < 0.5

        def loss(weights, weight=found, batch=batch):
            taught = run(weights, gates[0], batch)
            return ce(taught, batch) + weight * sum(kl(jax.lax.stop_gradient(taught), run(weights, rows, batch))
                                                    for rows in gates[1:])

        rate = 0.5 + 0.25 * (1 + np.cos(np.pi * at_step / 100))
        chex.assert_trees_all_close(gradient(before, after, rate), slope(loss, before.weights), rtol=1e-6, atol=1e-9)


def test_the_ramp_of_deps(float64):
    """Known values: 270 epochs, others from 145 on, fully from 150, along a cosine to 0."""
    assert (deps().hyper["delay"], deps().hyper["ramp"]) == pytest.approx((150 / 270, 5 / 270), rel=1e-4)
    hyper = {"lr": 0.1625, "lr_min": 0.0, "delay": 150 / 270, "ramp": 5 / 270}
    values = [float(beta(hyper, Time(round(epoch * 1000), 270, 1000))) for epoch in (0, 144, 145, 147.5, 149.9, 150, 269)]
    np.testing.assert_allclose(values, [0, 0, 0, 0.483208, 0.978643, 1, 1], atol=1e-6)


def test_networks_of_no_weight_are_not_computed(float64):
    """Nor is a teacher without pupils: their outputs would be NaN. Norms are of each network's own gradient."""
    space = plain()

    def apply(weights, stats, gates, images, *, train, key=None):
        outputs, stats = space.apply(weights, stats, gates, images, train=train, key=key)
        return outputs / jnp.where(gates["cell"][2, 0] > 0, 0.0, 1.0) * weights["scale"], stats

    def init(key, images):
        weights, stats = space.init(key, images)
        return weights | {"scale": jnp.float64(1)}, stats

    def networks(key, architecture, extra, hyper, t):
        whole = largest(architecture)
        broken = {"cell": whole["cell"].at[2].set(jnp.array([1.0, 0, 0]))}
        weights = jnp.where(t.step == 0, jnp.array([1.0, 0, 0.5]), jnp.array([1.0, 1, 0.5]))
        return Networks(stacked(whole, broken, whole), weights, teacher=jnp.zeros(3))

    training = Training(networks, init=lambda state: (jnp.zeros(3), state.weights),
                        teacher=lambda extra: extra[1] | {"scale": jnp.float64(jnp.nan)},
                        after=lambda key, networks, gradients, extra, hyper, t: (gradients.norms, extra[1]))
    method = lambda: elastic_method({**PURE, "distill_temperature": 1.0}, weights_sgd, lambda space: training,
                                    check=lambda hyper: None)
    odd = space._replace(init=init, apply=apply)
    steps = [stepped(method, at_step, lambda: odd)[1] for at_step in (0, 1)]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(steps[0].weights))
    norms = np.asarray(steps[0].extra[0])
    assert norms[0] > 0 and norms[1] == 0 and norms[2] == pytest.approx(0.5 * norms[0])
    assert np.isnan(steps[1].weights["head"]).any()


# Progressive shrinking.


def test_the_phases_of_ofa():
    """Kernels at once, depths and then ratios one by one, whatever the order of the groups; and how long each goes on."""
    space = mobilenet(IMAGE, CLASSES, channels=2, stages=1, layers=3)
    phases = phases_of(space)
    assert {name: counts.tolist() for name, counts in phases.open.items()} == {
        "kernel": [1, 3, 3, 3, 3, 3], "depth": [1, 1, 2, 3, 3, 3], "ratio": [1, 1, 1, 1, 2, 3]}
    assert phases.networks.tolist() == [1, 1, 2, 2, 4, 4] and phases.sort == 4
    np.testing.assert_allclose(phases.rates, [1, 1, 1 / 12, 1 / 4, 1 / 12, 1 / 4])
    ends_of, whole = 0.3 + 0.7 * np.cumsum([0, 120, 25, 120, 25, 120]) / 410, 10**6
    for phase, end in enumerate(ends_of[:-1]):
        early, late = (place(phases, {"teacher_share": 0.3}, Time(int(end * whole) + d, 1, whole)) for d in (-9, 9))
        assert (int(early[0]), int(late[0])) == (phase, phase + 1)
        assert float(early[1]) == pytest.approx(1, abs=1e-3) and float(late[1]) == pytest.approx(0, abs=1e-3)
    assert [int(place(phases, {"teacher_share": 0.3}, Time(step, 1, 10))[0]) for step in (0, 9, 10, 12)] == [0, 5, 5, 5]


def test_ofa_teaches_by_the_weights_of_its_first_phase_and_compiles_once(float64):
    """A teacher is frozen when the second phase begins; channels are sorted when a phase begins, momentum with them."""
    method, first, train, step = compiled(ofa, flipped)
    trace, turned = lambda state: state.weights_opt[2].trace, lambda tree: jax.tree.map(lambda leaf: leaf[::-1], tree)
    momentum = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1.0).at[0].set(2.0), first.weights)
    opt = (*first.weights_opt[:2], first.weights_opt[2]._replace(trace=momentum), *first.weights_opt[3:])
    parts = {"extra": jax.tree.map(jnp.zeros_like, first.extra), "weights_opt": opt}
    for number, phase in (0, 0), (29, 0), (30, 1), (31, 1), (43, 2), (99, 2):
        before, after, _, _ = stepped(ofa, number, flipped, state=parts, lr=0.0, lr_min=0.0, momentum=0.9)
        turn = turned if number in (30, 43) else lambda tree: tree
        chex.assert_trees_all_equal(after.weights, turn(before.weights))
        chex.assert_trees_all_equal(after.extra, before.weights if number == 30 else before.extra)
        moved = jax.tree.map(lambda new, old: new - 0.9 * old, trace(after), turn(momentum))
        found, whole = architecture_of(plain()), largest(architecture_of(plain()))
        gates = stacked(whole) if phase == 0 else draws(
            draw_key(), found._replace(mask={"cell": uppermost(found.masked()["cell"], phase + 1)}), 4)

        def loss(weights, gates=gates["cell"], phase=phase, teacher=after.extra, full=whole):
            taught = run(teacher, full["cell"], train)
            return sum(ce(outputs := run(weights, rows, train), train) + (phase > 0) * kl(taught, outputs)
                       for rows in gates)

        chex.assert_trees_all_close(moved, slope(loss, after.weights), rtol=1e-6, atol=1e-9)
    assert step._cache_size() == 1


def test_phases_respect_a_mask(float64):
    """That of a split supernet, in which the largest operations of some edges are out of the race."""
    rows = jnp.array([[0.0, 1, 2, 3], [0, -jnp.inf, 2, -jnp.inf], [-1, 0, 1, -jnp.inf]])
    np.testing.assert_array_equal(uppermost(rows, 2), [[0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0]])
    np.testing.assert_array_equal(uppermost(rows, 1), [[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 1, 0]])
    mask = {"cell": jnp.array([[True, False, False], [False, False, True], [True, True, True]])}
    before, after, _, _ = stepped(ofa, 40, flipped, state={"mask": mask})
    changed = np.abs(after.weights["edges"] - before.weights["edges"]).max((1, 2))
    assert changed[0] > 0 and changed[1] == 0


def test_deps_sorts_when_the_others_begin(float64):
    for number in 29, 30, 31, 50:
        before, after, _, _ = stepped(deps, number, flipped, delay=0.5, ramp=0.2, lr=1e-30, lr_min=1e-30)
        turned = jax.tree.map(lambda leaf: leaf[::-1], before.weights)
        chex.assert_trees_all_close(after.weights, turned if number == 30 else before.weights, rtol=1e-12)


# InstaTune.


def tuned(at_step=0, teacher=None, **options):
    state = {} if teacher is None else {"extra": teacher}
    return stepped(instatune, at_step, structure=(("networks", 2),), state=state | options.pop("state", {}), **options)


def other():
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64), plain().init(jax.random.key(5), None)[0])


def test_instatune_by_hand(float64):
    """First the given weights teach all, then the largest the others; no gradient passes to what teaches."""
    gates = joined(stacked(largest(architecture_of(plain()))), draws(draw_key(), architecture_of(plain()), 2))["cell"]
    for at_step, strong in (49, True), (50, False):
        before, after, batch, _ = tuned(at_step, other(), strong=0.5, distill_temperature=3.0)

        def loss(weights, stop=jax.lax.stop_gradient, strong=strong, given=before.extra, batch=batch):
            outputs = [run(weights, rows, batch) for rows in gates]
            taught = sum(kl(run(given, gates[0], batch), each, 3.0) for each in outputs) if strong else \
                sum(kl(stop(outputs[0]), each, 3.0) for each in outputs[1:])
            return 0.3 * sum(ce(each, batch) for each in outputs) + 0.7 * taught

        rate = 0.5 + 0.25 * (1 + np.cos(np.pi * (at_step // 5) / 20))
        expected = slope(loss, before.weights)
        chex.assert_trees_all_close(gradient(before, after, rate), expected, rtol=1e-6, atol=1e-9)
        if not strong:
            flows = slope(lambda weights: loss(weights, lambda outputs: outputs), before.weights)
            assert np.abs(flows["head"] - expected["head"]).max() > 1e-4


def test_without_a_strong_teacher_the_given_weights_do_not_matter(float64):
    one, two = (tuned(teacher=teacher)[1].weights for teacher in (None, other()))
    chex.assert_trees_all_equal(one, two)
    assert np.abs(tuned(teacher=other(), strong=1.0)[1].weights["head"] - one["head"]).max() > 1e-4


def test_where_all_are_one_network_the_labels_alone_teach(float64):
    """S_i = S = T: 1 + n times the share of the cross-entropy, whoever teaches."""
    whole = largest(architecture_of(plain()))["cell"]
    for strong in 0.0, 1.0:
        before, after, batch, _ = tuned(state={"mask": {"cell": whole > 0}}, strong=strong)
        expected = slope(lambda weights, batch=batch: 0.9 * ce(run(weights, whole, batch), batch), before.weights)
        chex.assert_trees_all_close(gradient(before, after), expected, rtol=1e-6, atol=1e-9)


def test_instatune_begins_with_the_weights_it_is_given(float64):
    bound, hyper = instatune().bind(plain(), TASK), numbers(instatune())
    state = bound.begin(bound.init(KEY, None, hyper)._replace(weights=other()))
    chex.assert_trees_all_equal(state.extra, other())
    with pytest.raises(ValueError, match="instatune tunes given weights: name a run .* with --start"):
        instatune().check_search(plain(), {"weights": False})


# Refusals, and runs.


@pytest.mark.parametrize("name, message", [
    ("sandwich+beta-darts", "acts on the moves of the architecture, and that of sandwich never moves"),
    ("darts+sandwich", "darts.sandwich cannot be joined"),
    ("rsps+sandwich", "cannot extend a method with an architecture of its own: name it alone"),
    ("sandwich+oles", "oles replaces the descent, which sandwich has set"),
    ("spos+gdas", "gdas replaces the relaxation, which spos has set"),
    ("spos+sdarts-rs", "leave out what is joined to it"), ("spos+p-darts", "leave out what is joined to it"),
    ("spos+ofa", "ofa replaces the descent, which spos has set")])
def test_joins_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        resolve(name, "method")().bind(plain(), TASK)


def test_a_budget_and_a_task_without_divergence_are_refused():
    space = SPACES["conv-macro"]()
    limited = budgeted(sandwich(), space, Budget(macs=0.5 * space.cost(None)["macs"]))
    with pytest.raises(ValueError, match="choose within one by --selection evolution --selection.limit"):
        limited.bind(space, TASK)
    plainest = TASK._replace(name="mine", soften=None, divergence=None)
    spos().bind(plain(), plainest).init(KEY, None, numbers(spos()))
    for method in sandwich(), deps(), ofa(), instatune():
        with pytest.raises(ValueError, match="the task mine has no divergence to distil by, which this method needs"):
            method.bind(plain(), plainest).init(KEY, None, numbers(method))


@pytest.mark.parametrize("factory, options, message", [
    (sandwich, {"networks": -1}, "networks is -1, it must be 0 to 64"),
    (sandwich, {"distill_temperature": 0.0}, "distill_temperature is 0, it must be above 0"),
    (deps, {"delay": 0.1, "ramp": 0.2}, "the ramp at most the delay"), (deps, {"delay": 1.0}, "the delay below 1"),
    (ofa, {"teacher_share": 0.0}, "teacher_share is 0"), (instatune, {"networks": 0}, "networks is 0, it must be 1 to 64"),
    (instatune, {"strong": 1.5}, "strong is 1.5, it must be 0 to 1"), (instatune, {"label_share": -0.1}, "label_share is"),
    (spos, {"lr": -1.0}, "lr is -1"), (spos, {"lr": np.inf}, "lr is inf, it must be 0 or more, and finite"),
    (ofa, {"distill_temperature": np.inf}, "distill_temperature is inf, it must be above 0, and finite")])
def test_numbers_out_of_range(factory, options, message):
    with pytest.raises(ValueError, match=message):
        factory(**options)


def test_the_command_refuses_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, message in (
            (["--method", "instatune", "--selection", "own"], "instatune tunes given weights: name a run of the same"),
            (["--method", "spos"], "evaluations must be at most 16: space toy has no more networks; choose another"),
            (["--method", "spos", "--selection", "own", "--budget.macs", "2344"], "choose within one by --selection evol")):
        assert main(["search", "--space", TOY, *words, "--epochs", "1", "--batch", "16", "--limit", "100", "--run", "run",
                     *QUICK]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


@pytest.mark.heavy
def test_the_command_and_the_page_say_that_no_architecture_is_learned(tmp_path, capsys):
    assert main(["search", "--space", TOY, "--method", "spos", "--selection", "own", "--epochs", "1", "--batch", "16",
                 "--limit", "100", "--run", str(tmp_path / "run"), *QUICK]) == 0
    out = capsys.readouterr().out
    assert "largest   this is the largest network: no architecture is learned here" in out and "margin" not in out
    assert f"next\n  dnas select {tmp_path / 'run'} --selection pareto\n  dnas train" in out
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No architecture is learned here" in page and "How the logits went" not in page and ">margin<" not in page


@pytest.mark.heavy
def test_a_killed_run_goes_on_with_the_same_bits(tmp_path):
    data, space, method = tiny(), toy(IMAGE, 2), deps(delay=0.5, ramp=0.3)
    go = lambda method, run=None: search(space, method, data, epochs=3, batch=16, run=run, progress=False)
    with open_run(tmp_path / "whole", {}) as folder:
        whole = go(method, folder)
    with open_run(tmp_path / "part", {}) as folder, pytest.raises(KeyboardInterrupt):
        go(interrupted(method, 1), folder)
    with open_run(tmp_path / "part", {}) as folder:
        again = go(method, folder)
    assert same(again.state, whole.state) and contents(tmp_path / "part") == contents(tmp_path / "whole")
    assert same(go(method).state, whole.state)
