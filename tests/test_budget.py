"""What gates make one expect to cost, the penalty on it, and networks that keep to a budget; and the width space."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.algorithms.bilevel import bilevel
from dnas.algorithms.budget import Budget, bounds, budgeted, met, within
from dnas.algorithms.hypergradients import HYPERGRADIENTS
from dnas.algorithms.players import Forward
from dnas.algorithms.relaxations import Architecture, softmax
from dnas.api.search_plan import plan_search
from dnas.data import load
from dnas.methods.darts import darts
from dnas.task import classification
from dnas.types import REMOVED
from launch.main import main
from launch.search_options import read_search
from search_spaces.adapter import linear_cost
from search_spaces.darts import top_two
from search_spaces.nasbench201 import nasbench201
from search_spaces.width import mask, width, widths
from tests.problems import KEY, at, batches, begun, numbers, plain, plain_method
from tests.toy_space import toy

IMAGE = (8, 8, 2)


def small(channels=10, **options):
    return width(IMAGE, 3, channels=channels, **{"stages": 2, "layers": 1} | options)


def drawn(space, seed):
    rng = np.random.default_rng(seed)
    return dnas.Genotype.from_decisions(space, {g: rng.integers(0, group.allowed.sum(-1))
                                                for g, group in space.groups.items()})


def random_gates(space, seed=0):
    rng = np.random.default_rng(seed)
    rows = {g: rng.random(group.shape) * group.allowed for g, group in space.groups.items()}
    return {g: row / row.sum(-1, keepdims=True) for g, row in rows.items()}


def double(gates):
    return {g: np.asarray(row, np.float64) for g, row in gates.items()}


@pytest.mark.parametrize("channels, expected", [
    (16, (4, 6, 8, 9, 11, 12, 14, 16)), (32, (9, 12, 16, 19, 22, 25, 28, 32)), (64, (19, 25, 32, 38, 44, 51, 57, 64))])
def test_published_widths(channels, expected):
    assert widths(channels) == expected


@pytest.mark.parametrize("make", [small, lambda: nasbench201(IMAGE, 3, channels=2)], ids=["width", "nasbench201"])
def test_one_hot_gates_cost_what_the_network_does(make):
    space = make()
    for seed in range(4):
        genotype = drawn(space, seed)
        assert space.expected(double(genotype.gates(space.groups))) == space.cost(genotype)
    lowest, highest = bounds(space)
    assert all(lowest[name] <= space.cost(genotype)[name] <= highest[name] for name in lowest)


def test_expected_cost_is_the_mean_over_all_networks():
    """Of widths drawn layer by layer."""
    space = small(channels=4)
    gates = random_gates(space)
    means = {"params": 0.0, "macs": 0.0}
    for i in range(space.groups["width"].shape[1]):
        for j in range(len(space.groups["width"].edge_ops(1))):
            if i < len(space.groups["width"].edge_ops(0)):
                cost = space.cost(dnas.Genotype.from_decisions(space, {"width": [i, j]}))
                for name in means:
                    means[name] += gates["width"][0, i] * gates["width"][1, j] * cost[name]
    found = space.expected(gates)
    assert found == pytest.approx(means, rel=1e-12)


def test_bounds_are_the_extremes_of_all_networks():
    space = toy(IMAGE, 3)
    costs = [space.cost(dnas.Genotype.from_decisions(space, {"chain": [i, j]})) for i in range(4) for j in range(4)]
    assert bounds(space) == tuple({name: pick(c[name] for c in costs) for name in costs[0]} for pick in (min, max))


def test_edges_that_only_seem_alike_are_counted_one_by_one():
    space = toy(IMAGE, 3)
    counted = []

    def cost(genotype):
        counted.append(genotype)
        chosen = {(c.source, c.op) for c in genotype.choices["chain"]}
        return {"params": 7 * ((0, "conv") in chosen) + 9 * ((1, "conv") in chosen), "macs": 3 * ((0, "pool") in chosen)}

    expected = linear_cost(space._replace(cost=cost))
    assert expected({"chain": np.eye(4)[[2, 2]]}) == {"params": 16, "macs": 0}
    assert len(counted) > 8
    with pytest.raises(ValueError, match="cost more or less than the sum"):
        linear_cost(space._replace(cost=lambda genotype: {"params": len(genotype.choices["chain"]) ** 2, "macs": 0}))


def test_masks_come_after_batch_norm():
    """Before it the gradient would be that of its epsilon: arXiv 1905.09717's widths each have a norm of their own."""
    assert mask(np.array([0.2, 0.3, 0.5, 0.0]), (1, 2, 4)).tolist() == [1.0, 0.8, 0.5, 0.5]
    space = small()
    images = np.random.default_rng(0).normal(size=(4, *IMAGE)).astype(np.float32)
    weights, stats = space.init(jax.random.key(0), images)
    sides = np.random.default_rng(1).normal(size=(4, 3))
    grads = jax.grad(lambda gates: jnp.sum(sides * space.apply(weights, stats, gates, images, train=True)[0]))(
        {"width": jnp.asarray(random_gates(space)["width"], jnp.float32)})["width"]
    assert (np.abs(grads) > 1e-3).all()


def test_a_narrow_network_is_the_first_channels_of_the_wide_one():
    space = small()
    images = np.random.default_rng(0).normal(size=(4, *IMAGE))
    with jax.enable_x64(True):
        weights, stats = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), space.init(jax.random.key(0), images))
        for seed in range(2):
            genotype = drawn(space, seed)
            parts = space.inherit(weights, genotype), space.inherit(stats, genotype)
            own = jax.eval_shape(lambda key, g=genotype: space.init(key, images, g), jax.random.key(1))
            assert jax.tree.map(jnp.shape, parts) == jax.tree.map(lambda leaf: leaf.shape, own)
            for train in True, False:
                mixed, _ = space.apply(weights, stats, genotype.gates(space.groups), images, train=train)
                single, _ = space.apply(*parts, genotype, images, train=train)
                np.testing.assert_allclose(single, mixed, rtol=1e-11)
        assert space.parse(space.format(genotype)) == genotype
        with pytest.raises(ValueError, match="layer 0 has none"):
            space.apply(weights, stats, dnas.Genotype.from_decisions(space, {"width": [REMOVED, 0]}), images, train=True)
    for text in "", "3", "3-99", "3-3-3":
        with pytest.raises(ValueError, match="not the width of each of these 2 layers"):
            space.parse(text)


@pytest.mark.parametrize("options", [dict(channels=1), dict(stages=0), dict(layers=0), dict(stages=5)])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError):
        small(**options)


@pytest.mark.parametrize("share, sign", [(0.3, 1), (1.6, -1), (1.02, 0)], ids=["above", "below", "in the band"])
def test_penalty_against_finite_differences(share, sign):
    space = small(channels=16, layers=2)
    arch = {"width": np.random.default_rng(0).normal(size=space.groups["width"].shape)}
    mask = {name: group.allowed for name, group in space.groups.items()}
    relax = lambda arch: softmax().gates(None, Architecture(arch, mask, space.groups), {}, None)
    with jax.enable_x64(True):
        macs = float(space.expected(double(relax(arch)))["macs"])
        method = budgeted(darts(), space, Budget(macs=macs * share))
        assert method.hyper == darts().hyper | {"budget_macs": macs * share, "budget_weight": 2.0}
        assert not method.weights.terms
        pass_of = lambda arch: Forward(*[None] * 5, average=lambda: relax(arch))
        of = lambda arch: method.arch.terms["budget"](method.hyper, None, arch, {}, pass_of(arch), ())
        value, grad = jax.value_and_grad(of)(arch)
        assert float(value) == pytest.approx({1: -2 * np.log(share), -1: 2 * np.log(0.95 * share), 0: 0}[sign], abs=1e-9)
        numeric = np.zeros(arch["width"].shape)
        for e, k in np.ndindex(*numeric.shape):
            step = np.zeros(numeric.shape)
            step[e, k] = 1e-5
            numeric[e, k] = (of({"width": arch["width"] + step}) - of({"width": arch["width"] - step})) / 2e-5
    np.testing.assert_allclose(grad["width"], numeric, atol=1e-9)
    assert (np.abs(numeric).max() > 1e-2) == bool(sign)


@pytest.mark.parametrize("name", HYPERGRADIENTS)
def test_every_hypergradient_descends_on_the_penalty_and_reports_the_loss_alone(name):
    """For the penalty knows nothing of the weights, all add the same gradient."""
    with jax.enable_x64(True):
        (train, valid), found = (at(batch, 0) for batch in batches(1)), []
        slopes = np.random.default_rng(0).normal(size=(3, 3)) * plain().groups["cell"].allowed
        method = plain_method(bilevel(lambda hyper: HYPERGRADIENTS[name]()), rate=0.01)
        term = lambda hyper, t, arch, gates, forward, memory: jnp.sum(jnp.log(gates["cell"] + 1e-30) * slopes)
        for version in method, method.extend(arch={"terms": {"budget": term}}):
            bound, hyper = version.bind(plain(), classification()), numbers(version)
            state = begun(bound, hyper)
            after, info = bound.step(KEY, state, train, valid, hyper)
            found.append((info, state.arch["cell"] - after.arch["cell"]))
        gates = jax.nn.softmax(jnp.where(plain().groups["cell"].allowed, state.arch["cell"], -jnp.inf))
    (bare, plainly), (penalised, away) = found
    assert penalised["valid_loss"] == pytest.approx(float(bare["valid_loss"]), rel=1e-12)
    assert penalised["valid_budget"] == pytest.approx(float((np.log(gates + 1e-30) * slopes).sum()), rel=1e-6)
    assert penalised.keys() - bare.keys() == {"valid_budget"}
    np.testing.assert_allclose(away - plainly, slopes - gates * slopes.sum(-1, keepdims=True), rtol=1e-4, atol=1e-5)


def test_a_method_with_a_budget_selects_within_it():
    """And another limit is another number of the same program."""
    space = small()
    lowest, highest = bounds(space)
    middle = (lowest["macs"] + highest["macs"]) / 2
    method = budgeted(darts(), space, Budget(macs=middle))
    bound, hyper = method.bind(space, classification()), method.numbers_of(epochs=1, steps=1)
    inputs = jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32)
    state = bound.init(KEY, inputs, hyper)
    state = state._replace(arch={"width": 10.0 * jnp.arange(state.arch["width"].size).reshape(state.arch["width"].shape)})
    assert not met(space, Budget(macs=middle), darts().bind(space, classification()).select(state, hyper))["ok"]
    assert met(space, Budget(macs=middle), bound.select(state, hyper))["ok"]
    assert method.replace(budget_macs=middle * 0.9).arch is method.arch


@pytest.mark.parametrize("share", [0.15, 0.4, 0.8])
def test_a_choice_is_moved_into_the_budget(share):
    space = small(channels=16, layers=2)
    lowest, highest = bounds(space)
    budget = Budget(macs=lowest["macs"] + share * (highest["macs"] - lowest["macs"]))
    gates = random_gates(space)
    own = space.genotype(gates)
    chosen = within(space, budget, gates, own)
    assert met(space, budget, chosen)["ok"]
    assert within(space, budget, gates, chosen) == chosen and within(space, Budget(), gates, own) == own


def test_a_choice_stays_one_that_the_rule_makes():
    """Among them no edge more than two a node, and no `none`."""
    space = toy(IMAGE, 3)
    ruled = space._replace(genotype=lambda scores: dnas.Genotype("toy", {}, top_two(space.groups, scores)))
    gates = {"chain": np.array([[0.1, 0.2, 0.6, 0.1], [0.1, 0.3, 0.5, 0.1]])}
    own = ruled.genotype(gates)
    lowest, _ = bounds(ruled)
    budget = Budget(params=lowest["params"] / 0.99)
    chosen = within(ruled, budget, gates, own)
    assert [c.op for c in own.choices["chain"]] == ["conv", "conv"]
    assert "none" not in [c.op for c in chosen.choices["chain"]] and met(ruled, budget, chosen)["ok"]


def test_budgets_out_of_reach_are_refused():
    space = small()
    lowest, highest = bounds(space)
    for limit in lowest["macs"] - 1, highest["macs"] + 1:
        with pytest.raises(ValueError, match=f"networks of space width have {lowest['macs']:,} to {highest['macs']:,}"):
            budgeted(darts(), space, Budget(macs=limit))
    with pytest.raises(ValueError, match="takes no budget"):
        budgeted(darts(), space._replace(expected=None), Budget(macs=1.0))
    method = darts()
    assert budgeted(method, space, Budget()) is method


@pytest.mark.parametrize("argv, message", [
    (["--budget.macs", "0"], "budget.macs is 0.0; it must be a positive number"),
    (["--budget.params", "nan"], "budget.params is nan; it must be a positive number"),
    (["--budget.weight", "3"], "budget.weight needs budget.params or budget.macs"),
    (["--budget.mac", "3"], "unknown option --budget.mac; did you mean --budget.macs?"),
    (["--space", "width", "--budget.macs", "10"], "a budget of 10 multiply-adds is out of reach")])
def test_bad_command_lines(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main(["search", *argv]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not os.listdir(tmp_path)


def test_config_holds_a_budget_only_if_there_is_one(tmp_path):
    data = load("digits", limit=200)
    plain, config = (plan_search("width", "darts", data, budget=budget).settings[0].config for budget in (
        None, Budget(macs=3e5)))
    assert "budget" not in plain and config == plain | {"budget": {"params": None, "macs": 3e5, "weight": 2.0}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_search("search", "", ["--config", str(tmp_path)])["budget_options"] == config["budget"]
    (tmp_path / "config.json").write_text(json.dumps(plain))
    assert read_search("search", "", ["--config", str(tmp_path)])["budget_options"] == Budget()._asdict()


def test_search_within_a_budget(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DNAS_CACHE", "off")
    argv = ["--space", "width", "--space.channels", "8", "--space.stages", "2", "--limit", "60", "--batch", "8",
            "--epochs", "1", "--budget.macs", "60e3", "--no-progress", "--run", "run"]
    assert main(["search", *argv]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "budget    60,000 multiply-adds: met; this network has " in out
    genotype = dnas.load_genotype("run")
    assert 57e3 <= width((8, 8, 1), 10, channels=8, stages=2).cost(genotype)["macs"] <= 60e3
    assert json.loads((tmp_path / "run" / "config.json").read_text())["budget"]["macs"] == 60e3
    for selection in ("magnitude", "random"):
        assert main(["select", "run", "--selection", selection]) == 0
        assert "budget     60,000 multiply-adds: met; this network has " in capsys.readouterr().out
