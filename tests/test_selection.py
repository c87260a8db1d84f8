"""Selections: the one-edge problem where magnitude is wrong, masks, ties, races, and a real run killed on its way."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.decisions import decided, full_mask, undecided
from dnas.algorithms.players import SearchState
from dnas.data import epoch_indices, from_arrays, steps_per_epoch
from dnas.engine.compile import compile_search, epoch_of, on_device, start_scores
from dnas.engine.search import search
from dnas.selection import SELECTIONS
from dnas.selection.magnitude import magnitude, magnitude_edge
from dnas.selection.perturbation import _missed, perturbation, race, rounds, schedule
from dnas.selection.sampling import random, sampled
from dnas.selection.select import load_selected, select, selection_context
from dnas.selection.shapley import shapley
from dnas.selection.types import Context, Unsuitable
from dnas.selection.zero_cost import zero_cost, zero_cost_gates
from dnas.task import classification
from dnas.types import Batch, Genotype, Group, SearchSpace
from search_spaces.nasbench201 import nasbench201
from tests.test_search import BATCH, EPOCHS, around, parts, tiny


def undecided_state(space, arch):
    """A state of a supernet without weights."""
    return SearchState(jnp.int32(0), {}, {}, arch, undecided(space.groups), full_mask(space.groups), (), ())


def softmax_gates(state):
    return decided({"g": jax.nn.softmax(state.arch["g"])}, state.decisions, state.mask)


def one_edge():
    """f = p1 * 1 + p2 * 4x with p = (0.6, 0.4), x = -1 or 1, target sign(x): magnitude keeps the constant."""
    space = SearchSpace("one", {}, {"g": Group(((0, 1),), ("constant", "linear"))}, None, None,
                        lambda scores: Genotype.from_decisions(space, {"g": np.argmax(scores["g"], -1)}),
                        None, None, None, None, None)
    state = undecided_state(space, {"g": jnp.log(jnp.array([[0.6, 0.4]]))})
    x = np.array([-1.0, 1.0])
    masks = []

    def score(state, tried, first=0, last=2):
        masks.extend(np.asarray(mask["g"]) for mask in tried)
        logits = np.array([np.asarray(mask["g"])[0, 0] + np.asarray(mask["g"])[0, 1] * 4 * x for mask in tried])
        return {"loss": np.log1p(np.exp(-x * logits))[:, first:last],
                "accuracy": ((logits > 0) == (x > 0)).astype(float)[:, first:last]}

    return Context(space, classification(), softmax_gates, state, score, lambda state, epoch: state, 2, 8), masks


def test_magnitude_and_perturbation_disagree_where_they_must():
    on, masks = one_edge()
    assert select(magnitude(), on).genotype.choices["g"][0].op == "constant"
    for criterion, scores in ("metric", [-1.0, -0.5]), ("loss", [0.183901, 0.737488]):
        found = select(perturbation(criterion=criterion), on)
        assert found.genotype.choices["g"][0].op == "linear"
        np.testing.assert_allclose(found.scores["g"], [scores], atol=1e-6)  # 0.018150 if the row were renormalised
    np.testing.assert_allclose(masks[:2], [[[0, 0.4]], [[0.6, 0]]], rtol=1e-6)


def test_perturbation_chooses_no_operation_out_of_the_race():
    """Though none misses it, and the others are missed less than nothing."""
    space = SearchSpace("one", {}, {"g": Group(((0, 1),), ("a", "b", "c"))}, None, None,
                        lambda scores: Genotype.from_decisions(space, {"g": np.argmax(scores["g"], -1)}),
                        None, None, None, None, None)
    state = undecided_state(space, {"g": jnp.zeros((1, 3))})._replace(mask={"g": jnp.array([[True, False, True]])})

    def score(state, masks, first=0, last=2):
        hits = 1.0 - np.array([np.asarray(mask["g"])[0] @ [0.4, 0, 0.6] for mask in masks])
        return {"loss": np.zeros((len(masks), 2)), "accuracy": np.repeat(hits[:, None], 2, 1)}

    on = Context(space, classification(), softmax_gates, state, score, lambda state, epoch: state, 2, 8)
    found = select(perturbation(), on)
    assert found.genotype.choices["g"][0].op == "a" and found.scores["g"][0, 1] == -np.inf


def test_images_that_come_class_by_class_are_judged_among_those_of_other_classes():
    """A network that knows bright from dark only by the mean of the batch."""
    labels = np.repeat([0, 1], 320)
    data = from_arrays("sorted", np.full((640, 4, 4, 1), 50, np.uint8) + 150 * labels[:, None, None, None].astype(np.uint8),
                       labels)
    assert (np.diff(data.targets[data.splits["valid"]]) >= 0).all()

    def apply(weights, stats, gates, images, *, train, key):
        above = images.mean((1, 2, 3)) - images.mean()
        return jnp.stack([-above, above], -1), stats

    space, state = SearchSpace("mean", {}, {}, *[None] * 8)._replace(apply=apply), one_edge()[0].state
    score = start_scores(space, classification(), data, on_device(data), state, {}, 16, 1)()
    assert score(state, [{}])["accuracy"].mean() == 1


def test_the_first_of_equal_operations_is_taken():
    on, _ = one_edge()
    ones = lambda state, masks, first=0, last=2: dict.fromkeys(("loss", "accuracy"), np.ones((len(masks), 2)))
    flat = on._replace(score=ones)
    assert select(perturbation(), flat).genotype.choices["g"][0].op == "constant"


def game(worth):
    """A supernet whose accuracy is `worth` of the set of its operations, (edge, operation), on two edges of two each."""
    space = SearchSpace("game", {}, {"g": Group(((0, 1), (0, 2)), ("a", "b"))}, None, None,
                        lambda scores: Genotype.from_decisions(space, {"g": np.argmax(scores["g"], -1)}),
                        None, None, None, None, None)

    def score(state, masks, first=0, last=2):
        sets = [frozenset(map(tuple, np.argwhere(np.asarray(mask["g"])).tolist())) for mask in masks]
        return {"accuracy": np.array([[worth(left)] * (last - first) for left in sets])}

    state = undecided_state(space, {"g": jnp.zeros((2, 2))})
    return Context(space, classification(), softmax_gates, state, score, None, 2, 3)


def test_shapley_values_of_operations_that_add_up_are_what_they_add():
    adds = {(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.25, (1, 1): 0.05}
    found = select(shapley(orders=3, floor=0), game(lambda left: sum(adds[place] for place in left)))
    np.testing.assert_allclose(found.scores["g"], [[0.1, 0.3], [0.25, 0.05]], atol=1e-7)
    assert [choice.op for choice in found.genotype.choices["g"]] == ["b", "a"] and found.cost["evaluations"] == 3 * 5 * 2


def test_shapley_values_share_what_operations_do_for_one_another():
    """One of two is enough: each is worth half. Both of two are needed: each is worth half. Sums are the whole."""
    either = select(shapley(orders=400, floor=0), game(lambda left: 0.8 * bool({(0, 0), (1, 0)} & left)))
    both = select(shapley(orders=400, floor=0), game(lambda left: 0.8 * ({(0, 0), (1, 0)} <= left)))
    for found in either, both:
        np.testing.assert_allclose(found.scores["g"], [[0.4, 0], [0.4, 0]], atol=0.05)
        assert found.scores["g"].sum() == pytest.approx(0.8, abs=1e-6)


def test_an_order_of_removals_ends_below_the_floor():
    counted = select(shapley(orders=1, floor=0.5), game(lambda left: len(left) / 4))
    assert sorted(counted.scores["g"].ravel()) == pytest.approx([0, 0.25, 0.25, 0.25]), "1, 0.75, 0.5, and 0.25 is below"
    assert counted.cost["evaluations"] == 4 * 2


def test_edges_of_a_node_go_by_how_little_they_are_missed():
    """Two of four edges into node 4 are kept; removals are scored one by one, with the siblings in place."""
    group = Group(tuple((s, 4) for s in range(4)), ("a", "b"))
    importance = np.array([0.1, 0.4, 0.4, 0.2])

    def rule(scores):
        rows = np.full(4, -2)
        rows[:2] = 0
        return Genotype.from_decisions(space, {"g": rows})

    space = SearchSpace("node", {}, {"g": group}, None, None, rule, None, None, None, None, None)
    state, seen = undecided_state(space, {"g": jnp.zeros((4, 2))}), []

    def score(state, masks, first=0, last=4):
        present = np.array([np.asarray(mask["g"]).sum(-1) for mask in masks])
        seen.append(present)
        return {"loss": np.zeros((len(masks), 4)), "accuracy": np.repeat((present @ importance)[:, None], 4, 1)}

    on = Context(space, classification(), softmax_gates, state, score, lambda state, epoch: state, 4, 8)
    found = select(perturbation(interval=0), on)
    assert [(c.source, c.target) for c in found.genotype.choices["g"]] == [(1, 4), (2, 4)]
    np.testing.assert_allclose(seen[-1], 1 - np.eye(4))
    # equal edges: the later one goes first
    importance[:] = 0.3
    assert [c.source for c in select(perturbation(interval=0), on).genotype.choices["g"]] == [0, 1]


def test_schedule_and_plan():
    space = nasbench201()
    events = schedule(space, 3)
    assert [e.kind for e in events] == ["edge"] * 6 and {e.chosen["cell"] for e in events} == set(range(6))
    assert [e.chosen for e in events] != [e.chosen for e in schedule(space, 4)]
    on = one_edge()[0]._replace(space=space, examples=1000)
    assert perturbation().plan(on) == {"evaluations": 30 * 1000, "epochs": 25}
    assert perturbation(interval=0, images=100).plan(on) == {"evaluations": 3000, "epochs": 0}
    assert perturbation().steps(on) == 31


def test_races_keep_what_may_win_and_drop_what_cannot():
    rng = np.random.default_rng(0)
    truth = np.array([0.5, 0.52, 0.9])
    values = (rng.random((3, 400)) < truth[:, None]).astype(float)
    assert list(race(values, 1000, 0.999, comparisons=20)) == [False, False, True]
    assert list(race(values[:2], 1000, 0.999, comparisons=20)) == [True, True]
    assert race(values[:, :400], 400, 0.999, comparisons=20).sum() == 1  # all seen: nothing is uncertain


def test_a_race_ends_where_masks_are_the_same_network_and_the_first_of_them_wins():
    on, _ = one_edge()
    rng = np.random.default_rng(0)
    losses = np.repeat(rng.random((1, 400)), 3, 0)
    losses[2] -= 0.5 * rng.random(400)
    seen = []

    def score(state, masks, first, last):
        numbers = [int(mask["g"]) for mask in masks]
        seen.append((numbers, first, last))
        return {"loss": losses[numbers, first:last], "accuracy": (losses[numbers, first:last] < 0.5).astype(float)}

    missed, evaluated = _missed(on._replace(score=score, rows=10), None, [{"g": n} for n in range(3)], "loss", 400, 0.99)
    assert missed.argmax() == 0 and list(np.isinf(missed)) == [False, True, True]
    assert seen[0] == ([0, 1, 2], 0, 10) and evaluated == sum(len(n) * (b - a) for n, a, b in seen) < 200
    assert rounds(400, 64)[0] == 64 and rounds(400, 64)[-1] == 400 and rounds(5, 64) == [5]


@pytest.fixture(scope="module")
def trained():
    data = tiny()
    space, method = parts(data)
    return data, space, method, search(space, method, data, epochs=EPOCHS, batch=BATCH, progress=False).state


def opened(trained):
    data, space, method, state = trained
    return selection_context(space, method, data, state, batch=BATCH, epochs=EPOCHS)


def test_masks_at_once_score_as_one_by_one(trained):
    on = opened(trained)
    gates = {"chain": np.asarray(on.gates(on.state)["chain"])}
    masks = [{"chain": gates["chain"] * (1 - np.eye(4)[k])} for k in range(4)]
    scores = on.score(on.state, masks)
    assert set(scores) == {"loss", "accuracy"} and set(np.unique(scores["accuracy"])) <= {0, 1}
    assert {values.shape for values in scores.values()} == {(4, on.examples)}
    for k, mask in enumerate(masks):
        alone = on.score(on.state, [mask])
        assert all(np.array_equal(alone[name][0], values[k]) for name, values in scores.items())
    part = on.score(on.state, masks, 20, 45)
    assert all(np.array_equal(part[name], values[:, 20:45]) for name, values in scores.items())
    assert len(np.unique(scores["loss"])) > 10


@pytest.mark.parametrize("make", [magnitude, random, lambda: sampled(draws=11), lambda: shapley(orders=2),
                                  lambda: zero_cost(draws=3), lambda: zero_cost_gates(draws=5),
                                  lambda: perturbation(interval=1),
                                  lambda: perturbation(interval=0, racing=True, criterion="loss", images=50)])
def test_every_selection_ends_in_a_genotype_of_the_space_and_leaves_the_supernet_alone(trained, tmp_path, make):
    on = opened(trained)
    before = jax.tree.map(np.array, on.state)
    found = select(make(), on, folder=tmp_path / "s")
    assert Genotype.from_json((tmp_path / "s" / "genotype.json").read_text()) == found.genotype
    assert set(found.genotype.decisions(on.space.groups)) == {"chain"}
    assert (found.cost["seconds"] > 0) == (found.cost["evaluations"] > 0 or "untrained" in found.cost)
    assert load_selected(tmp_path / "s").genotype == found.genotype
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(on.state)))
    assert select(make(), opened(trained), folder=tmp_path / "s").genotype == found.genotype


def test_killed_and_started_again_it_chooses_the_same(trained, tmp_path):
    whole = select(perturbation(interval=1), opened(trained), folder=tmp_path / "a")

    def stop(text):
        if text.startswith("step 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        select(perturbation(interval=1), opened(trained), folder=tmp_path / "b", say=stop)
    again = select(perturbation(interval=1), opened(trained), folder=tmp_path / "b")
    assert again.genotype == whole.genotype and np.array_equal(again.scores["chain"], whole.scores["chain"])
    assert (tmp_path / "a" / "scores.npz").read_bytes() == (tmp_path / "b" / "scores.npz").read_bytes()


def test_tuning_compiles_once_and_decided_edges_do_not_move(trained):
    data, space, method, state = trained
    traces = []
    counted = around(method, lambda *after: traces.append(1) or after)
    on = selection_context(space, counted, data, state, batch=BATCH, epochs=EPOCHS)
    fixed = on.state._replace(decisions={"chain": np.array([2, -1], np.int32)})
    grads = jax.grad(lambda arch: on.gates(fixed._replace(arch=arch))["chain"][:, 1].sum())(fixed.arch)
    assert not np.abs(grads["chain"][0]).any() and np.abs(grads["chain"][1]).any()
    select(perturbation(interval=1), on)
    assert len(traces) == 1  # for any number of edges


def test_weights_are_tuned_at_a_tenth_of_the_first_rate_whatever_the_epoch(trained):
    data, space, method, state = trained
    method = method.replace(lr=0.1, lr_min=0.1, momentum=0, decay=0, clip=1e6, arch_warmup=0)
    on, late = (selection_context(space, each, data, state, batch=BATCH, epochs=EPOCHS)
                for each in (method, method.replace(lr_min=0)))
    tuned, examples = on.tune(on.state, 5, 1), on_device(data)
    hyper = method.numbers_of(epochs=EPOCHS, steps=steps_per_epoch(data, BATCH))
    advance = epoch_of(compile_search(method.bind(space, on.task), data, examples, on.state, hyper, 4, BATCH), examples, 4)
    rows = epoch_indices(0, 1_000_005, data.splits["train"], data.splits["valid"], BATCH)
    whole, _ = advance(jax.tree.map(jnp.array, on.state), hyper, jax.random.fold_in(jax.random.key(0), 2), *rows,
                       on_metrics=lambda *seen: None, steps=1)
    for begun, tenth, full in zip(*(jax.tree.leaves(one.weights) for one in (on.state, tuned, whole))):
        np.testing.assert_allclose(tenth - begun, 0.1 * (full - begun), rtol=1e-3, atol=1e-7)
    assert np.array_equal(tuned.arch["chain"], whole.arch["chain"])
    assert not np.array_equal(tuned.arch["chain"], state.arch["chain"])
    for a, b in zip(*(jax.tree.leaves(one.weights) for one in (tuned, late.tune(late.state, 5, 1)))):
        np.testing.assert_array_equal(a, b)


def test_magnitude_leaves_the_edges_weights_out_and_magnitude_edge_takes_them(trained):
    on = opened(trained)
    gates = {"chain": np.array([[0.1, 0.2, 0.1, 0.1], [0.1, 0.15, 0.05, 0.2]])}
    kept = []
    space = on.space._replace(genotype=lambda scores: kept.append(scores["chain"]) or on.space.genotype(scores))
    weighted = on._replace(space=space, gates=lambda state: gates)
    select(magnitude(), weighted)
    select(magnitude_edge(), weighted)
    np.testing.assert_allclose(kept[0], gates["chain"] / 0.5, rtol=1e-6)
    np.testing.assert_allclose(kept[1], gates["chain"], rtol=1e-6)
    with pytest.raises(Unsuitable, match="edge normalisation"):
        select(magnitude_edge(), on)


def test_a_plan_is_timed_by_the_programs_that_it_needs(trained, monkeypatch):
    on, ran = opened(trained), []
    monkeypatch.setattr(sys.modules[select.__module__], "timed", lambda program: ran.append(program()) or 2.0)
    assert on.seconds({"evaluations": 0, "epochs": 0}) == 0 and not ran
    assert on.seconds({"evaluations": 1000, "epochs": 0}) == 1000 * 2 / on.rows and len(ran) == 1
    assert on.seconds({"evaluations": 0, "epochs": 3}) == 3 * (on.examples // BATCH) * 2 and len(ran) == 2
    assert on.seconds({"evaluations": 30, "epochs": 3}) == on.seconds({"evaluations": 0, "epochs": 3}) + 30 * 2 / on.rows


def test_draws_follow_the_seed_of_the_search_unless_given_one(trained):
    on = opened(trained)
    seeded = on._replace(seed=1)
    scores = [select(random(), context).scores["chain"] for context in (on, seeded)]
    assert not np.array_equal(*scores)
    assert np.array_equal(scores[1], select(random(seed=1), on).scores["chain"])
    found = select(sampled(draws=11), on)
    best = found.scores["tried"].argmax()
    assert len(found.scores["tried"]) == 11 and np.isfinite(found.scores["tried"]).all()
    assert np.array_equal(found.genotype.decisions(on.space.groups)["chain"], found.scores["tried/chain"][best])


def product():
    """Outputs x * w_0 * ... of the chosen operations of two edges, each one number w or nothing; classes by two such."""
    space = SearchSpace("product", {}, {"g": Group(((0, 1), (1, 2)), ("scale", "skip"))},
                        lambda key, inputs: ({"w": jnp.array([[3.0, -2.0], [-5.0, 7.0]])}, {}), None,
                        lambda scores: Genotype.from_decisions(space, {"g": np.argmax(scores["g"], -1)}),
                        None, None, None, None, None)

    def apply(weights, stats, gates, inputs, *, train, key):
        x = jnp.repeat(inputs, 2, -1)
        for e in range(2):
            x = gates["g"][e, 0] * x * weights["w"][e] + gates["g"][e, 1] * x
        return x, stats

    space = space._replace(apply=apply)
    state = undecided_state(space, {"g": jnp.zeros((2, 2))})
    return Context(space, classification(), softmax_gates, state, None, None, 2, 3,
                   batch=Batch(jnp.array([[0.5], [-1.0]]), jnp.array([0, 1])))


def closed_form(proxy, edges):
    """The same by hand: logits x * prod of w; dL/dlogit = softmax - target."""
    w, x = np.array([[3.0, -2.0], [-5.0, 7.0]]), np.array([0.5, -1.0])
    if proxy == "synflow":  # R = sum over classes of prod |w|, and w dR/dw is R's part for each chosen weight
        return len(edges) * np.abs(w[edges]).prod(0).sum()
    scale = w[edges].prod(0)
    logits = x[:, None] * scale
    chain = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True) - np.eye(2)) * x[:, None] / 2
    grads = np.array([chain.sum(0) * scale / w[e] if e in edges else [0, 0] for e in range(2)])
    return np.linalg.norm(grads) if proxy == "grad-norm" else np.abs(w * grads).sum()


@pytest.mark.parametrize("proxy", ["grad-norm", "snip", "synflow"])
def test_zero_cost_proxies_are_those_of_the_drawn_networks_alone(proxy):
    found = select(zero_cost(proxy=proxy, draws=12), product())
    chosen = [np.flatnonzero(row == 0) for row in found.scores["tried/g"]]
    assert len(set(map(tuple, chosen))) == 4, "every network is among twelve draws"
    expected = [closed_form(proxy, edges) for edges in chosen]
    np.testing.assert_allclose(found.scores["tried"], expected, rtol=1e-5, atol=1e-6)
    assert found.genotype.decisions(product().space.groups)["g"].tolist() == [0, 0]


def test_gates_have_a_say_beside_a_proxy():
    """z of the logarithms of synflow and of the gates, by hand; and operations that are not drawn."""
    on = product()
    on = on._replace(state=undecided_state(on.space, {"g": jnp.array([[0.0, 4.0], [0.0, 3.0]])}))
    found = select(zero_cost_gates(draws=12, weight=2.0, without=()), on)
    z = lambda values: (values - values.mean()) / values.std()
    chosen = found.scores["tried/g"]
    proxies = np.array([closed_form("synflow", np.flatnonzero(row == 0)) for row in chosen])
    proxies[proxies == 0] = proxies[proxies > 0].min()
    logs = np.log(np.asarray(jax.nn.softmax(on.state.arch["g"])))[[[0, 1]], chosen].mean(-1)
    np.testing.assert_allclose(found.scores["tried"], z(np.log(proxies)) + 2 * z(logs), rtol=1e-4, atol=1e-5)
    alone, both = (select(zero_cost_gates(draws=12, weight=weight, without=()), on).genotype
                   .decisions(on.space.groups)["g"].tolist()
                   for weight in (0.0, 9.0))
    assert alone == [0, 0] and both == [1, 1]
    name = on.space.groups["g"].ops[0]
    without = select(zero_cost(draws=12, without=(name,)), on)
    assert (without.scores["tried/g"] == 1).all()
    np.testing.assert_allclose(without.scores["tried"], without.scores["tried"][0])
    for ops, message in ((on.space.groups["g"].ops, "has no operation left"), (("none,skip",), "without has 'none,skip'")):
        with pytest.raises(ValueError, match=message):
            select(zero_cost(draws=12, without=ops), on)


def test_registry_and_refusals():
    from dnas import registry

    for name in SELECTIONS:
        assert callable(registry.load(SELECTIONS[name]))
    for bad in (lambda: perturbation(interval=-1), lambda: perturbation(criterion="luck"),
                lambda: perturbation(confidence=2), lambda: shapley(orders=0), lambda: shapley(floor=1.0),
                lambda: zero_cost(proxy="luck"), lambda: zero_cost(draws=0), lambda: zero_cost_gates(weight=-1.0),
                lambda: sampled(draws=0), lambda: random(seed=-1)):
        with pytest.raises(ValueError):
            bad()


@pytest.mark.parametrize("make", [perturbation, random, sampled, shapley, zero_cost])
def test_seeds_out_of_range_are_refused(make):
    make(seed=2**32 - 1)
    for seed in -1, 2**32:
        with pytest.raises(ValueError, match=f"seed is {seed}, it must be 0 to 4294967295"):
            make(seed=seed)
