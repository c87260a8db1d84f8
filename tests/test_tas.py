"""Searched widths and depths: TAS's interpolation, draw, budget and supernet; NATS-Bench's five widths."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.algorithms.budget import BAND, Budget, bounds, budgeted, met, within
from dnas.algorithms.players import Forward
from dnas.algorithms.relaxations import Architecture
from dnas.algorithms.schedules import Time, constant, cosine_by_epoch
from dnas.methods.tas import draw, tas, two_of
from dnas.shared_options import SharedOptions, shared_options
from dnas.task import classification
from dnas.types import Genotype
from launch.main import main
from search_spaces.check import check
from search_spaces.layers.interpolation import interpolation
from search_spaces.nats_size import nats_size
from search_spaces.tas import SearchedConv, depths
from search_spaces.tas import tas as tas_space

IMAGE = (8, 8, 1)
QUICK = ["--limit", "200", "--epochs", "2", "--cache", "off", "--no-progress"]
EXAMPLE = "2 | 1-3 4-2 | 8-4"


def small(**options):
    return tas_space(IMAGE, 3, **{"channels": 4, "stages": 2, "blocks": 2} | options)


def one_hot(space, genotype):
    return {name: rows.astype(np.float64) for name, rows in genotype.gates(space.groups).items()}


def drawn(space, count, seed=0):
    """Random genotypes."""
    draws, lasts = np.random.default_rng(seed), {name: group.allowed.sum(-1) for name, group in space.groups.items()}
    return [Genotype.from_decisions(space, {name: draws.integers(last) for name, last in lasts.items()})
            for _ in range(count)]


# Interpolation

@pytest.mark.parametrize("channels, stretched", [((1, 2, 4), (1, 1.5, 2, 3, 4)), ((1, 2, 4, 8), (1, 1.5, 2, 4, 6, 8)),
                                                 ((3, 1), (3, 1)), ((5,), (5, 5))])
def test_channel_wise_interpolation(channels, stretched):
    matrix = interpolation(len(channels), len(stretched), len(channels), len(stretched))
    np.testing.assert_allclose(np.array(channels) @ matrix, stretched)
    wide = jax.jit(lambda c, d: interpolation(c, d, 9, 9))(len(channels), len(stretched))
    np.testing.assert_allclose(wide[:len(channels), :len(stretched)], matrix)
    assert not wide[len(channels):].any() and not wide[:, len(stretched):].any()


def test_a_layer_mixes_its_widths_as_written():
    """For every set of widths whose gates are not zero, against the definition, one width after another."""
    with jax.enable_x64(True):
        draws, sizes = np.random.default_rng(0), (2, 3, 5)
        x, module = draws.normal(size=(3, 4, 4, 2)), SearchedConv((2, 3, 5))
        variables = module.init(jax.random.key(0), x, jnp.ones(3), True)
        weights = jax.tree.map(lambda leaf: draws.normal(size=leaf.shape), variables["params"])
        run = lambda weights, gate: module.apply({"params": weights}, x, gate, True, mutable=["batch_stats"])[0]
        single = []
        for k, size in enumerate(sizes):
            own = {"conv": {"kernel": weights["conv"]["kernel"][..., :size]}} | {
                f"{name}_{k}": weights[f"{name}_{k}"] for name in ("scale", "bias")}
            y, channels = run(own, k)
            assert channels == size == y.shape[-1]
            single.append(y)
        for active in itertools.chain([(0,), (1,), (2,)], itertools.combinations(range(3), 2), [(0, 1, 2)]):
            gate = np.zeros(3)
            gate[list(active)] = draws.dirichlet(np.ones(len(active)))
            y, channels = run(weights, gate)
            assert channels == sizes[active[-1]] and not y[..., sizes[active[-1]]:].any()
            hand = sum(gate[k] * single[k] @ interpolation(sizes[k], sizes[active[-1]], sizes[k], sizes[active[-1]])
                       for k in active)
            np.testing.assert_allclose(y[..., :sizes[active[-1]]], hand, rtol=1e-9, atol=1e-9)


def test_the_gradient_of_a_width_does_not_vanish_behind_normalisation():
    x, module = np.random.default_rng(0).normal(size=(8, 4, 4, 3)).astype(np.float32), SearchedConv((2, 4))
    variables = module.init(jax.random.key(0), x, jnp.ones(2), True)
    value = lambda gate: (module.apply(variables, x, gate, True, mutable=["batch_stats"])[0][0] ** 2).sum()
    assert np.abs(jax.grad(value)(jnp.array([0.6, 0.4]))).min() > 1


# The space

def test_depths_and_notation():
    assert depths(9) == (1, 3, 5, 7, 9) and depths(2) == (1, 2) and depths(1) == (1,)
    space = small()
    genotype = space.parse(EXAMPLE)
    assert space.format(genotype) == EXAMPLE and [len(genotype.choices[name]) for name in ("width", "depth")] == [7, 2]
    for text in ("", "2 | 1-3 4-2", EXAMPLE + " 8-8 8-8", "2 | 1-3 4 | 8-4", "2 | 1-3-4 | 8-4", "5 | 1-3 | 8-4",
                 "2 2 | 1-3 | 8-4"):
        with pytest.raises(ValueError, match="not a network of tas"):
            space.parse(text)
    assert space.format(space.parse("2 | 1-3 | 8-4")) != EXAMPLE


def test_layers_beyond_the_depth_are_no_part_of_a_genotype():
    space = small()
    rows = {name: np.zeros(len(group.edges), int) for name, group in space.groups.items()}
    first, second = (Genotype.from_decisions(space, rows | {"width": np.eye(9, dtype=int)[layer]}) for layer in (3, 8))
    assert first == second == Genotype.from_decisions(space, rows)
    assert [choice.source for choice in first.choices["width"]] == [0, 1, 2, 5, 6]


def test_what_a_network_costs_on_average():
    """At one-hot gates what is counted; else the mean over all networks; with the depths' shares 0.2, 0.3, 0.5 the blocks
    are there with probability 1, 0.8, 0.5."""
    space = small()
    for genotype in drawn(space, 6):
        assert space.expected(one_hot(space, genotype)) == space.cost(genotype)
    tiny, draws = small(channels=2, stages=1), np.random.default_rng(0)
    shares = {name: draws.dirichlet(np.ones(group.shape[1]), len(group.edges)) for name, group in tiny.groups.items()}
    mean = {"params": 0.0, "macs": 0.0}
    for picks in itertools.product(range(2), repeat=6):
        rows = {"width": picks[:5], "depth": picks[5:]}
        likely = np.prod([shares[name][e, k] for name, row in rows.items() for e, k in enumerate(row)])
        cost = tiny.expected({name: np.eye(2)[list(row)] for name, row in rows.items()})
        mean = {name: mean[name] + likely * cost[name] for name in mean}
    assert tiny.expected(shares) == pytest.approx(mean, rel=1e-12)
    deep = small(stages=1, blocks=4, channels=2)
    assert [op for op in deep.groups["depth"].ops[0]] == ["1", "3", "4"]
    widest = {"width": np.eye(2)[[1] * 9], "depth": np.array([[0.2, 0.3, 0.5]])}
    block, base = 2 * (9 * 2 * 2 + 2 * 2), 9 * 2 + 2 * 2 + 2 * 3 + 3
    assert deep.expected(widest)["params"] == pytest.approx(base + block * (1 + 0.8 + 0.8 + 0.5))


@pytest.mark.parametrize("share, sign", [(0.5, 1), (1.4, -1), (1 + BAND / 3, 0)], ids=["above", "below", "in the band"])
@pytest.mark.heavy
def test_the_budget_pulls_every_choice_towards_it_and_rests_inside_its_band(share, sign):
    """Above it weight / E[cost] times the gradient of the cost, below it the opposite, inside the band exactly zero."""
    with jax.enable_x64(True):
        space = small(stages=1)
        logits = {name: jnp.zeros(group.shape, float) for name, group in space.groups.items()}
        average = averages(space, two_of(constant("tau")))
        macs = float(space.expected(average(logits))["macs"])
        assert bounds(space)[0]["macs"] < macs * share < bounds(space)[1]["macs"]
        slopes = jax.grad(penalty(budgeted(tas(), space, Budget(macs=macs * share)), average))(logits)
        costs = jax.grad(lambda arch: space.expected(average(arch))["macs"])(logits)
        slopes, costs = jax.device_get((slopes, costs))
    for name, rows in costs.items():
        assert (rows[:, 0] < 0).all() and (rows[:, -1] > 0).all()
        if sign:
            np.testing.assert_allclose(slopes[name], sign * 2 / macs * rows, rtol=1e-9, atol=1e-12)
        else:
            assert not slopes[name].any()


def test_networks_within_a_budget():
    space = small()
    for genotype, seed in zip(drawn(space, 3, seed=1), range(3)):
        gates = {name: np.random.default_rng(seed).dirichlet(np.ones(group.shape[1]), len(group.edges)) * group.allowed
                 for name, group in space.groups.items()}
        budget = Budget(macs=1.02 * space.cost(genotype)["macs"])
        assert met(space, budget, within(space, budget, gates, space.genotype(gates)))["ok"]


@pytest.mark.parametrize("arguments, message", [
    (dict(channels=0), "blocks and classes >= 1"), (dict(blocks=0), "and classes >= 1"), (dict(channels=1), "one width"),
    (dict(stages=5), "too small for 5 stages"), (dict(blocks=101), "at most 100")])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


@pytest.mark.parametrize("factory", [tas_space, nats_size])
def test_partial_channels_are_refused(factory):
    with shared_options(SharedOptions(partial_channels=2)), pytest.raises(ValueError, match="partial_channels is 2"):
        factory(IMAGE)


# The method

def averages(space, relaxation):
    """The average gates as a function of the logits."""
    mask = {name: group.allowed for name, group in space.groups.items()}
    return lambda arch: relaxation.gates(None, Architecture(arch, mask, space.groups), {}, None)


def penalty(method, average):
    """The term of the budget as a function of the logits."""
    through = lambda arch: Forward(*[None] * 5, lambda: average(arch))
    return lambda arch: method.arch.terms["budget"](method.hyper, None, arch, {}, through(arch), ())


def gates_of(logits, tau, keys, count=2):
    return np.array(jax.vmap(lambda key: draw(key, logits, tau, count))(jax.random.split(jax.random.key(0), keys)))


def test_two_widths_are_drawn_and_share_the_gate():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.2], [1.0, 1.0, 0.0]]))
    gates = gates_of(logits, 5.0, 2000)
    assert ((gates > 0).sum(-1) == 2).all() and (gates[:, 1, 2] == 0).all()
    np.testing.assert_allclose(gates.sum(-1), 1, rtol=1e-5)
    assert ((gates_of(logits, 5.0, 50, count=3)[:, 0] > 0).sum(-1) == 3).all()
    alone = gates_of(jnp.array([[0.0, -jnp.inf, -jnp.inf]]), 5.0, 20)
    assert (alone == [1, 0, 0]).all()


def test_the_gates_of_a_draw_are_the_softmax_of_its_perturbed_logits():
    """Their ratio is that of the depths' gates with the same noise, which mix all."""
    logits, key = jnp.array([[0.3, -0.2, 0.1, 0.9]]), jax.random.key(3)
    two, every = (np.array(draw(key, logits, 0.7, count)[0]) for count in (2, 4))
    chosen = np.flatnonzero(two)
    np.testing.assert_allclose(two[chosen], every[chosen] / every[chosen].sum(), rtol=1e-5)


def test_pairs_are_drawn_without_replacement_by_the_perturbed_probabilities():
    """At a high temperature all are equally likely, whatever the logits; at a low one the likeliest is of the pair."""
    logits = jnp.array([[2.0, 0.0, -2.0]])
    high, low = (gates_of(logits, tau, 3000)[:, 0] > 0 for tau in (1e4, 0.05))
    np.testing.assert_allclose(high.mean(0), 2 / 3, atol=0.03)
    perturbed = gates_of(logits, 0.05, 3000, count=3)[:, 0]
    assert low[np.arange(3000), perturbed.argmax(-1)].mean() > 0.99


def test_the_gradient_passes_through_the_gates_of_the_pair_alone():
    logits = jnp.array([[0.3, -0.2, 0.1, 0.9]])
    chosen = np.array(draw(jax.random.key(3), logits, 0.7, 2)[0] > 0)
    slopes = np.array(jax.jacobian(lambda rows: draw(jax.random.key(3), rows, 0.7, 2)[0])(logits)[:, 0])
    assert (slopes[np.ix_(chosen, chosen)] != 0).all() and not slopes[~chosen].any() and not slopes[:, ~chosen].any()


def test_depths_are_all_mixed_and_the_temperature_falls():
    space, method = small(), tas()
    relaxation = method.arch.relaxation
    arch = relaxation.init(jax.random.key(0), space.groups)
    assert np.std(arch["width"]) == pytest.approx(0.01, rel=0.3)
    mask = {name: group.allowed for name, group in space.groups.items()}
    gates = relaxation.gates(jax.random.key(1), Architecture(arch, mask, space.groups), method.hyper, Time(0, 10, 10))
    assert ((gates["width"] > 0).sum(-1) == 2).all() and (gates["depth"] > 0).all()
    average = relaxation.gates(None, Architecture(arch, mask, space.groups), method.hyper, Time(0, 10, 10))
    np.testing.assert_allclose(average["depth"], jax.nn.softmax(arch["depth"]))
    tau = [float(cosine_by_epoch("tau_max", "tau_min")(method.hyper, Time(epoch, 10, 1))) for epoch in (0, 5, 10)]
    assert tau == pytest.approx([5, 2.55, 0.1])
    with pytest.raises(ValueError, match="tau_min is 0"):
        tas(tau_min=0)


def test_the_teacher_s_share_of_a_loss():
    """As TAS weighs it: (1 - 0.9) CE + 0.9 * T^2 KL at T = 4."""
    task, student, teacher = classification(), jnp.array([[1.0, 0, -1]]), jnp.array([[2.0, 0, -2]])
    loss, apart = task.losses(student, jnp.array([0]))[0], task.divergence(task.soften(teacher, 4.0), student, 4.0)[0]
    assert float(loss) == pytest.approx(0.407606, abs=1e-6) and float(apart) == pytest.approx(16 * 0.019108, abs=2e-5)
    assert float(0.1 * loss + 0.9 * apart) == pytest.approx(0.315910, abs=1e-5)


@pytest.mark.heavy
def test_it_does_what_a_space_must():
    images = np.random.default_rng(0).normal(size=(4, *IMAGE))
    assert not [finding for finding in check(small(blocks=3), images, 3) if finding.wrong]


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["tas", "drnas"])
def test_it_is_searched_under_a_budget_and_trained_by_the_supernet(method, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sizes = ["--space.channels", "4", "--space.stages", "2", "--space.blocks", "2"]
    assert main(["search", "--space", "tas", *sizes, "--method", method, "--budget.macs", "40e3", *QUICK, "--run",
                 "run"]) == 0
    genotype = dnas.load_genotype("run")
    space = dnas.space("tas", dnas.data.load("digits"), channels=4, stages=2, blocks=2)
    assert 0.95 * 40e3 <= space.cost(genotype)["macs"] <= 40e3
    assert json.loads(Path("run/genotype.json").read_text())["space"] == "tas"
    assert main(["train", "run", *QUICK, "--distill", "0.9", "--distill-temperature", "4", "--run", "net"]) == 0
    assert "temperature 4" in capsys.readouterr().out


@pytest.mark.heavy
def test_a_heavy_budget_alone_brings_the_expected_cost_into_the_band():
    """TAS's end-to-end claim without a table. Without decay, which goes on inside the band."""
    space = nats_size(IMAGE, 3, channels=8)
    limit = 0.6 * space.cost(space.parse("8:8:8:8:8"))["macs"]
    method = budgeted(tas(arch_lr=0.02, arch_decay=0.0), space, Budget(macs=limit, weight=100))
    logits = {"width": jnp.zeros(space.groups["width"].shape)}
    average = averages(space, method.arch.relaxation)
    slope = jax.jit(jax.grad(penalty(method, average)))
    optimizer = method.arch.optimizer(method.hyper, Time(0, 1, 1))
    opt = optimizer.init(logits)
    for _ in range(300):
        updates, opt = optimizer.update(slope(logits), opt, logits)
        logits = jax.tree.map(jnp.add, logits, updates)
    ratio = float(space.expected(average(logits))["macs"]) / limit
    assert 1 - BAND - 0.01 <= ratio <= 1.01


# NATS-Bench's five widths

def test_nats_size():
    space = nats_size((32, 32, 3), channels=64)
    genotype = space.parse("64:32:8:56:16")
    assert space.format(genotype) == "64:32:8:56:16" and space.groups["width"].shape == (5, 8)
    widest = space.cost(space.parse("64:64:64:64:64"))
    cell, residual = 5 * (9 * 64 * 64 + 2 * 64), 2 * (9 * 64 * 64 + 2 * 64) + 64 * 64
    assert widest["params"] == 9 * 3 * 64 + 2 * 64 + 3 * cell + 2 * residual + 2 * 64 + 64 * 10 + 10
    assert space.expected(one_hot(space, genotype)) == space.cost(genotype)
    with pytest.raises(ValueError, match="not the width of each of these 5 layers, joined by :"):
        space.parse("64:64:64:64")


@pytest.mark.parametrize("arguments, message", [
    (dict(channels=12), "a multiple of 8"), (dict(channels=0), "a multiple of 8"),
    (dict(image=(3, 8, 1)), "3x8 are too small")])
def test_bad_arguments_of_nats_size(arguments, message):
    with pytest.raises(ValueError, match=message):
        nats_size(**arguments)


@pytest.mark.heavy
@pytest.mark.parametrize("image", [(8, 8, 3), (7, 9, 1)])
def test_nats_size_does_what_a_space_must(image):
    images = np.random.default_rng(0).normal(size=(4, *image))
    assert not [finding for finding in check(nats_size(image, 3, channels=8), images, 3) if finding.wrong]


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["darts", "drnas", "gdas"])
def test_nats_size_is_searched(method, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", "--space", "nats-size", "--space.channels", "8", "--method", method, *QUICK, "--run", "run"]) == 0
    assert dnas.load_genotype("run").space == "nats-size"
