"""Methods against collapse: closed forms in float64, their identities with DARTS, and each once by the command."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.decisions import Stop, full_mask, undecided
from dnas.algorithms.hypergradients import first_order, flat, unrolled
from dnas.algorithms.perturbations import adversarial, clip, random
from dnas.algorithms.players import SearchState
from dnas.algorithms.relaxations import Architecture
from dnas.algorithms.schedules import Time, constant
from dnas.engine.search import search
from dnas.methods.a2m import a2m
from dnas.methods.darts import darts
from dnas.methods.darts_es import darts_es
from dnas.methods.darts_minus import darts_minus, skips
from dnas.methods.idarts import idarts
from dnas.methods.pc_darts import pc_darts
from dnas.methods.r_darts import r_darts
from dnas.methods.sdarts_adv import sdarts_adv
from dnas.methods.sdarts_rs import RADIUS, sdarts_rs
from dnas.methods.sgas import criterion, limits_of, remove_full, sgas, to_decide
from dnas.registry import extends, variant
from dnas.task import classification
from dnas.types import OPEN, REMOVED, Group
from launch.main import main
from search_spaces import darts as darts_space
from search_spaces.nasbench201 import nasbench201
from tests.problems import KEY, at, batches, numbers, plain, tiny
from tests.test_ends import QUICK, TOY
from tests.toy_space import toy


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@functools.cache
def end(factory, *settings):
    """Weights and logits after two steps of one epoch each, of ten."""
    method, (train, valid) = factory(**dict(settings)), batches(2)
    algorithm, hyper = method.bind(plain(), classification()), numbers(method, epochs=10, steps=1)
    state, step = algorithm.init(KEY, None, hyper), jax.jit(algorithm.step)
    for i in range(2):
        state, _ = step(jax.random.fold_in(KEY, i), state, at(train, i), at(valid, i), hyper)
    return jax.device_get((state.weights, state.arch))


def assert_same(factory, settings, expected=darts, **others):
    """Both methods take the same steps, to rounding."""
    one, other = end(factory, *(settings | others).items()), end(expected, *others.items())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), one, other)


# SmoothDARTS.

EDGES = Group(((0, 1), (0, 2)), ("a", "b", "c"))
P = jnp.array([[.5, .3, .2], [.2, .2, .6]])


def perturbed(perturbation, loss=None, gates=None, mask=None, epsilon=0.1):
    """The gates of one group after a perturbation."""
    gates = {"cell": P} if gates is None else gates
    mask = {"cell": np.ones((2, 3), bool) if mask is None else mask}
    architecture = Architecture({"cell": jnp.log(P)}, mask, {"cell": EDGES})
    return perturbation(KEY, loss, gates, architecture, {"epsilon": epsilon}, Time(0, 1, 1))


def test_clip():
    rows = jnp.array([[.5, .4, -.1], [-.2, -.1, -.3], [1.2, .1, .1]])
    np.testing.assert_allclose(clip(rows), [[.555556, .444444, 0], [0, 1, 0], [.833333, .083333, .083333]], atol=1e-6)


def test_the_radius_grows_by_whole_epochs():
    hyper = sdarts_rs().hyper
    assert float(RADIUS(hyper, Time(50, 50, 2))) == float(RADIUS(hyper, Time(51, 50, 2))) == pytest.approx(.165)


def test_noise_stays_in_the_ball_and_on_the_simplex():
    moved = perturbed(random(epsilon=constant("epsilon")), epsilon=.05)["cell"]
    np.testing.assert_allclose(moved.sum(-1), 1)
    assert 0 < np.abs(moved - P).max() < .05 + .1  # the ball, and what the division by the sum adds


def test_a_linear_loss_is_attacked_by_the_signs_of_its_slopes():
    """As many rise as fall here, so that clip changes nothing in the end."""
    row, c, group = jnp.array([[.4, .3, .2, .1]]), jnp.array([[1.0, -2, 3, -.1]]), Group(((0, 1),), tuple("abcd"))
    architecture = Architecture({"cell": row}, {"cell": np.ones((1, 4), bool)}, {"cell": group})
    attack = adversarial(epsilon=constant("epsilon"))
    linear = lambda gates: (c * gates["cell"]).sum()
    moved = attack(KEY, linear, {"cell": row}, architecture, {"epsilon": .05}, Time(0, 1, 1))
    np.testing.assert_allclose(moved["cell"], row + .05 * jnp.sign(c), atol=2e-3)


def test_an_attack_that_does_not_raise_the_loss_is_dropped():
    """At a maximum of the loss every change lowers it."""
    loss = lambda gates: -((gates["cell"] - P) ** 2).sum()
    np.testing.assert_array_equal(perturbed(adversarial(epsilon=constant("epsilon")), loss)["cell"], P)


@pytest.mark.parametrize("perturbation", [random(epsilon=constant("epsilon")),
                                          adversarial(epsilon=constant("epsilon"), steps=2)])
def test_operations_out_of_the_race_and_other_entries_stay_and_rows_keep_their_sums(perturbation):
    mask = np.array([[True, True, False], [True, True, True]])
    gates = {"cell": jnp.array([[.3, .2, 0], [.1, .1, .3]]), "auxiliary": jnp.float64(7)}
    moved = perturbed(perturbation, lambda gates: gates["cell"][:, 0].sum() * gates["auxiliary"], gates, mask)
    assert moved["cell"][0, 2] == 0 and moved["auxiliary"] == 7 and moved.keys() == gates.keys()
    np.testing.assert_allclose(moved["cell"].sum(-1), .5)
    assert (np.abs(moved["cell"] - gates["cell"]).max(-1) > 1e-3).all()


NO_RADIUS = {"epsilon": 0.0, "epsilon_first": 0.0}


def test_without_a_radius_noise_is_darts():
    assert_same(sdarts_rs, NO_RADIUS)
    with pytest.raises(AssertionError):
        assert_same(sdarts_rs, {})


def test_without_a_radius_an_attack_is_darts_and_a_hypergradient_sees_it_as_constant():
    assert_same(variant(sdarts_adv, attack_steps=1), NO_RADIUS, hypergradient="unrolled")


def test_partial_channels_can_be_smoothed():
    assert_same(extends(pc_darts)(sdarts_rs.change), NO_RADIUS, pc_darts, arch_warmup=1)


@pytest.mark.parametrize("factory, settings, message", [
    (sdarts_rs, {"epsilon": -0.1}, "epsilon is -0.1"), (sdarts_adv, {"attack_steps": 0}, "steps is 0; it must be 1 to 50"),
    (sdarts_adv, {"epsilon_first": float("nan")}, "epsilon_first is nan"),
])
def test_settings_out_of_range_are_refused(factory, settings, message):
    with pytest.raises(ValueError, match=message):
        factory(**settings)


# DARTS-.


def test_the_auxiliary_skip_fades_by_whole_epochs_and_is_not_evaluated():
    gates = darts_minus().weights.relaxation.gates
    group = Group(((0, 1), (0, 2), (1, 2)), (("skip_connect", "conv"), ("conv", "noise", "identity"), ("conv", "max_pool")))
    np.testing.assert_array_equal(skips(group), [[True, False, False], [False, False, True], [False] * 3])
    architecture = Architecture({"cell": jnp.arange(9.0).reshape(3, 3)}, {"cell": group.allowed}, {"cell": group})
    plain = gates(None, architecture, darts_minus().hyper, Time(0, 50, 2))["cell"]
    np.testing.assert_allclose(plain.sum(-1), 1)
    for step, beta in (0, 1), (1, 1), (49, .52), (98, .02), (100, 0):
        found = gates(KEY, architecture, darts_minus().hyper, Time(step, 50, 2))["cell"]
        np.testing.assert_allclose(found - plain, beta * skips(group), atol=1e-12)


def test_without_an_auxiliary_skip_it_is_darts():
    assert_same(darts_minus, {"auxiliary": 0.0})
    with pytest.raises(AssertionError):
        assert_same(darts_minus, {})


def test_a_space_without_a_skip_is_refused():
    space = plain()._replace(groups={"cell": Group(((0, 1),), ("conv", "pool"))})
    algorithm = darts_minus().bind(space, classification())
    with pytest.raises(ValueError, match="darts-minus needs .* skip or identity, this one has conv, pool"):
        algorithm.init(KEY, None, numbers(darts_minus()))


# A2M.


def test_flat_minima_on_a_quadratic_and_a_cubic():
    """L = a.Qa / 2: grad = (I + rho Q)^2 Q a. L = a^3: arch' = a + 3 rho a^2, v = 3 arch'^2, H = 6 arch'."""
    Q, a, rho = jnp.array([[2.0, 1], [1, -3]]), jnp.array([.5, -1]), .1
    (value, aux), grad = flat(first_order(), rho)(None, lambda w, a: (a @ Q @ a / 2, w), 7, a, None)
    uphill = np.eye(2) + rho * Q
    np.testing.assert_allclose(grad, uphill @ uphill @ Q @ a)
    assert value == a @ Q @ a / 2 and aux == 7
    _, grad = flat(first_order(), rho)(None, lambda w, a: (a ** 3, ()), (), jnp.float64(2), None)
    there = 2 + 3 * rho * 4
    assert float(grad) == pytest.approx(3 * there ** 2 * (1 + rho * 6 * there))


def test_flat_minima_of_another_estimator():
    """w' = w - (w - a) / 2, L_valid = a w'^2: the second order's gradient is w'^2 + a w'."""
    gradient = lambda a: ((w + a) / 2) ** 2 + a * (w + a) / 2
    w, a, rho = jnp.float64(3), jnp.float64(2), .05
    inner, outer = lambda w, a: ((w - a) ** 2 / 2, ()), lambda w, a: (a * w ** 2, ())
    _, grad = flat(unrolled(), rho)(inner, outer, w, a, lambda g: w - g / 2)
    there = a + rho * gradient(a)
    assert float(grad) == pytest.approx(float(gradient(there) * (1 + rho * jax.grad(gradient)(there))))


def test_without_a_step_uphill_it_is_darts():
    assert_same(lambda **options: a2m().replace(flat=0.0), {})
    assert end(a2m)[1]["cell"].tolist() != end(darts)[1]["cell"].tolist()
    assert "flat" not in a2m(flat=0.0).hyper
    for factory in a2m, darts:
        with pytest.raises(ValueError, match="flat is -1"):
            factory(flat=-1)


# SGAS.

ROWS = np.array([[.1, .6, .1, .1, .1], [.4, .15, .15, .15, .15], [.1, .25, .25, .2, .2]])
FIVE = Group(((0, 1), (0, 2), (1, 2)), ("none", "a", "b", "c", "d"))
ALL = np.ones((3, 5), bool)


def test_criteria():
    score, shares = criterion(FIVE, np.log(ROWS), ALL)
    np.testing.assert_allclose(score, [1, 0, .016126], atol=1e-6)
    np.testing.assert_allclose(shares[0], [0, 2 / 3, 1 / 9, 1 / 9, 1 / 9])
    past = np.log(np.stack([ROWS[[0, 1, 0]], ROWS]))  # the last edge has changed, the others are as they were
    second, _ = criterion(FIVE, np.log(ROWS), ALL, past)
    np.testing.assert_allclose(second, [1, 0, 0], atol=1e-12)
    assert (criterion(FIVE, np.log(ROWS), ALL, past[:0])[0] == 0).all()


def test_operations_out_of_the_race_have_no_share():
    mask = ALL.copy()
    mask[0, 1] = False
    assert criterion(FIVE, np.log(ROWS), mask)[1][0].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 3])


def test_full_nodes_lose_their_other_edges():
    group = Group(((0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), ("none", "a"))
    limits = {2: 2, 3: 2}
    assert to_decide(group, np.full(5, OPEN), limits) == 4
    row = np.array([OPEN, 1, OPEN, 1, 1])
    np.testing.assert_array_equal(remove_full(group, row, limits), [OPEN, 1, REMOVED, 1, 1])
    assert to_decide(group, np.array([OPEN, 1, REMOVED, 1, 1]), limits) == 1


def test_nodes_keep_as_many_edges_as_genotypes_have():
    space = darts_space.darts((8, 8, 3), 10, channels=4, cells=3)
    assert limits_of(space, "normal", 0) == {2: 2, 3: 2, 4: 2, 5: 2}
    assert limits_of(nasbench201((8, 8, 3), 10, channels=4, cells=1), "cell", 0) == {1: 1, 2: 2, 3: 3}
    assert limits_of(plain(), "cell", 1) == {1: 1, 2: 1}


def decide_all(space, method, epochs):
    """Numbers of decided edges in the first group after each epoch, and the last decisions."""
    (name, *_), counts, draw = space.groups, [], np.random.default_rng(0)
    state = SearchState(*[()] * 8)._replace(decisions=jax.device_get(undecided(space.groups)),
                                            mask=jax.device_get(full_mask(space.groups)))
    logits = draw.normal(size=(epochs + 1, *space.groups[name].shape))
    for epoch in range(1, epochs + 1):
        state = state._replace(arch={group: logits[epoch] for group in space.groups})
        record = {"epoch": epoch, "epochs": epochs, "trajectory": {group: logits[:epoch] for group in space.groups}}
        state = method.decide(space, state, record)
        counts.append(int((state.decisions[name] >= 0).sum()))
    return counts, state.decisions[name]


def test_fifty_epochs_decide_the_eight_edges_of_a_darts_cell():
    space = darts_space.darts((8, 8, 3), 10, channels=4, cells=3)
    for stability in False, True:
        counts, decisions = decide_all(space, sgas(stability=stability), 50)
        assert counts == [max(0, min((epoch - 9) // 5 + 1, 8)) for epoch in range(1, 51)]
        assert (decisions == REMOVED).sum() == 6 and (decisions == 0).sum() == 0  # none is never chosen
    search = {"epochs": 43, "diagnose": 0, "decisions": undecided(space.groups)}
    with pytest.raises(ValueError, match="8 edges of a group to decide, the last of them after epoch 44, and the search "
                                         "has 43 epochs; use 44 or more"):
        sgas().check_search(space, search)
    sgas().check_search(space, {**search, "epochs": 44})
    sgas().check_search(space, {**search, "epochs": 1, "decisions": {name: decisions for name in space.groups}})


def test_a_search_by_sgas_ends_decided():
    with jax.enable_x64(False):
        data = tiny(80, size=4)
        space = toy(data.image, data.classes, channels=2)
        result = search(space, sgas(decide_after=1, decide_every=1, stability=True), data, epochs=2, batch=8, progress=False)
    assert [record["decided"] for record in result.records] == [1, 2]
    np.testing.assert_array_equal(result.genotype.decisions(space.groups)["chain"], result.state.decisions["chain"])


def test_sgas_refuses():
    with pytest.raises(ValueError, match="decide_every is 0, it must be 1 or more"):
        sgas(decide_every=0)


# DARTS-ES, R-DARTS and iDARTS.


def records_of(eigenvalues, every=2):
    """Records of a search measured every `every` epochs, the first at that one."""
    return [{"epoch": e} | ({"eigenvalue": eigenvalues(e)} if e % every == 0 else {}) for e in range(1, 51)]


def first_stop(method, records):
    stops = (method.stop(records[:n]) for n in range(1, len(records) + 1))
    return next(filter(None, stops), None)


def test_darts_es_stops_where_the_curvature_grows():
    """Measured from epoch 2 on, a jump from 0.1 to 0.2 at epoch 20 shows in the means of epochs 18 and 10 by epoch 22."""
    stop = first_stop(darts_es(), records_of(lambda e: .1 if e < 20 else .2))
    assert stop.epoch == 10 and "by epoch 22" in stop.reason and "more than 1.3 times" in stop.reason
    assert first_stop(darts_es(), records_of(lambda e: 1.03 ** (e // 2))) is None
    assert first_stop(darts_es(), records_of(lambda e: 1.07 ** (e // 2))).epoch == 10


def test_darts_es_joins_the_rule_of_another_method():
    early = darts().extend(stop=lambda records: Stop("early") if len(records) == 3 else None)
    assert first_stop(darts_es.change(early), records_of(lambda e: 1.0)) == Stop("early")


def test_darts_es_refuses_a_search_that_does_not_measure():
    for diagnose in 0, 3:
        with pytest.raises(ValueError, match="does not record often enough; use --diagnose 2"):
            darts_es().check_search(plain(), {"diagnose": diagnose})
    darts_es().check_search(plain(), {"diagnose": 1})


def test_variants_differ_from_darts_in_numbers_and_estimator_only():
    different = lambda one, other: {name for name, value in one.hyper.items() if other.hyper[name] != value}
    assert different(r_darts(), darts()) == {"decay"} and different(idarts(), darts()) == {"arch_every"}


# By the command.


@pytest.mark.parametrize("name, options", [
    ("sdarts-rs+darts-minus+sgas", ["--method.decide-after", "1", "--method.decide-every", "1", "--method.flat", "0.1"]),
    ("sdarts-adv+darts-es", ["--method.attack-steps", "1", "--diagnose", "1"]),
])
def test_they_are_searched_by_the_command_and_joined(name, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["search", "--space", TOY, "--method", name, "--epochs", "2", "--batch", "16", "--limit", "200",
            "--run", "run", *QUICK, *options]
    with jax.enable_x64(False):
        assert main(argv) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name, message", [
    ("sgas", "the last of them after epoch 14, and the search has 2 epochs; use 14 or more, or a smaller"),
    ("darts-es", "use --diagnose 2")])
def test_a_search_that_cannot_end_is_refused_before_it_begins(name, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["search", "--space", TOY, "--method", name, "--epochs", "2", "--batch", "16", "--limit", "200", *QUICK]
    with jax.enable_x64(False):
        assert main([*argv, "--run", "run"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()
