"""What methods are made of is enough for new ones: toy methods of at most 25 lines, of public names, each at work."""

import inspect
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dnas import load_genotype
from dnas.algorithms.bilevel import bilevel
from dnas.algorithms.decisions import Stop
from dnas.algorithms.method import Steps
from dnas.algorithms.relaxations import gumbel, softmax
from dnas.algorithms.schedules import constant, cosine_by_epoch, exponential, linear
from dnas.algorithms.single_level import single_level
from dnas.engine.search import search
from dnas.methods.darts import darts
from dnas.runs.directory import open_run
from dnas.task import classification
from dnas.types import OPEN, Group
from search_spaces.pure_space import mix, pure_space
from tests.problems import KEY, TRAIN, VALID, at, batches, iterate, plain, scalar_method, scalar_start, tiny
from tests.toy_space import toy

# The toys.


def annealed_gumbel(*, tau_max: float = 10.0, tau_min: float = 0.1):
    """(a) One operation drawn per edge, straight through, by both players; its temperature falls."""
    return darts().extend(relaxation=gumbel(tau=exponential("tau_max", "tau_min"), hard=True),
                          hyper={"tau_max": tau_max, "tau_min": tau_min})


def sampled_weights(*, tau: float = 1.0):
    """(b) The weights are trained by single operations, the architecture by the mixture."""
    return darts().extend(weights={"relaxation": gumbel(tau=constant("tau"), hard=True)}, hyper={"tau": tau})


def beta_decay(*, beta: float = 0.5):
    """(c) beta-DARTS: log sum exp of the logits, a growing part of what the architecture descends on."""
    ramp = linear("beta_first", "beta")

    def term(hyper, t, arch, gates, forward, memory):
        return ramp(hyper, t) * sum(jax.nn.logsumexp(rows, -1).mean() for rows in arch.values())

    return darts().extend(arch={"terms": {"beta": term}}, hyper={"beta_first": 0.0, "beta": beta})


def noisy_gates(*, radius: float = 0.1):
    """(d) SDARTS-RS: the weights are trained under random noise on the gates."""
    def noise(key, loss, gates, architecture, hyper, t):
        keys = dict(zip(gates, jax.random.split(key, len(gates))))
        return {name: rows + hyper["radius"] * jax.random.uniform(keys[name], rows.shape, minval=-1)
                for name, rows in gates.items()}

    return darts().extend(weights={"perturbation": noise}, hyper={"radius": radius})


def auxiliary_skip(*, skip: float = 1.0):
    """(e) DARTS-: a skip beside the mixture, whose weight the space reads as `auxiliary`, falls to 0."""
    ramp = linear("skip", "skip_last")

    def gates(key, architecture, hyper, t):
        return {**softmax().gates(key, architecture, hyper, t), "auxiliary": ramp(hyper, t)}

    return darts().extend(relaxation=softmax()._replace(gates=gates), hyper={"skip": skip, "skip_last": 0.0})


def shrinking(*, least: int = 2):
    """(f) After each epoch every edge loses the operation with the smallest logit."""
    def decide(space, state, record):
        mask = {}
        for name, rows in state.mask.items():
            mask[name], logits = np.array(rows), np.where(rows, state.arch[name], np.inf)
            for e in np.flatnonzero(rows.sum(-1) > least):
                mask[name][e, logits[e].argmin()] = False
        return state._replace(mask=mask)

    return darts().extend(decide=decide)


def greedy():
    """(g) SGAS: after each epoch the edge that is most certain is decided."""
    def decide(space, state, record):
        decisions = {name: np.array(rows) for name, rows in state.decisions.items()}
        certain = [(state.arch[name][e].max() - np.median(state.arch[name][e]), name, e)
                   for name, rows in decisions.items() for e in np.flatnonzero(rows == OPEN)]
        if certain:
            _, name, e = max(certain)
            decisions[name][e] = state.arch[name][e].argmax()
        return state._replace(decisions=decisions)

    return darts().extend(decide=decide)


def until_certain(*, pull: float = 1.0, entropy: float = 0.5):
    """(h) Draws every edge to its last operation, and stops when that is certain, with what was chosen an epoch ago."""
    def term(hyper, t, arch, gates, forward, memory):
        return -hyper["pull"] * arch["chain"][:, -1].sum()

    def stop(records):
        if records[-1]["entropy"]["chain"] < entropy:
            return Stop("the architecture is certain", records[-1]["epoch"] - 1)

    return darts().extend(arch={"terms": {"pull": term}, "optimizer": lambda hyper, t: optax.sgd(1.0)}, stop=stop,
                          hyper={"pull": pull})


def with_adamw():
    """(i) AdamW for the weights, along the same cosine."""
    def optimizer(hyper, t):
        return optax.adamw(cosine_by_epoch("lr", "lr_min")(hyper, t), weight_decay=hyper["decay"])

    return darts(lr=1e-2, decay=0.1).extend(weights={"optimizer": optimizer})


def at_one_level():
    """(j) Both players descend on the training data, in the same step."""
    return darts().extend(algorithm=single_level())


def seldom(*, every: int = 3):
    """(k) Several steps of the weights, each on its own batch, to one of the architecture."""
    return darts(arch_every=every)


def replayed(*, times: int = 2):
    """(k, otherwise) After each step, more of the weights' steps on the same batch: a step made of two others."""
    def algorithm(problem):
        both, weights_only = bilevel()(problem), bilevel(None)(problem)

        def step(key, state, train, valid, hyper):
            count = state.step
            state, info = both.step(key, state, train, valid, hyper)
            for i in range(times):
                state, _ = weights_only.step(jax.random.fold_in(key, i), state, train, valid, hyper)
            return state._replace(step=count + 1), info

        return Steps(both.init, step)

    return darts().extend(algorithm=algorithm)


TOYS = [annealed_gumbel, sampled_weights, beta_decay, noisy_gates, auxiliary_skip, shrinking, greedy, until_certain,
        with_adamw, at_one_level, seldom, replayed]


@pytest.mark.parametrize("method", TOYS)
def test_they_are_short_and_of_public_names(method):
    source = inspect.getsource(method)
    assert len(source.rstrip().splitlines()) <= 25
    assert not re.search(r"(?<!\w)_\w", source.replace("._replace(", "")) and "launch" not in source
    method().numbers_of(epochs=1, steps=1)


# At work.


def steps_of(method, count=3, *, seed=0, epochs=4, **extension):
    """States and infos of steps on `plain`, in epochs of one step; what the first edge's gates were is reported."""
    method = method.extend(**extension) if extension else method
    algorithm, hyper = method.bind(plain(), classification()), method.numbers_of(epochs=epochs, steps=1)
    step, (train, valid), states, infos = jax.jit(algorithm.step), batches(count, dtype=np.float32), [], []
    states.append(algorithm.init(jax.random.key(seed), None, hyper))
    for i in range(count):
        state, info = step(jax.random.fold_in(KEY, i), states[-1], at(train, i), at(valid, i), hyper)
        states, infos = [*states, state], [*infos, jax.device_get(info)]
    return states, infos


def largest(hyper, t, arch, gates, forward, memory):
    """A term that changes nothing but its own report: the largest gate of the least certain edge."""
    return jax.lax.stop_gradient(gates["cell"].max(-1).min())


def reported(infos, name):
    return np.array([info[name] for info in infos])


def test_both_players_draw():
    states, infos = steps_of(annealed_gumbel(), terms={"largest": largest})
    for split in "train", "valid":
        np.testing.assert_allclose(reported(infos, f"{split}_largest"), 1, atol=1e-6)
    flat, sharp = (steps_of(annealed_gumbel(tau_max=tau), 1)[0][1] for tau in (10.0, 1.0))
    slope = lambda state: np.abs(state.arch_opt[1].mu["cell"]).max()
    assert slope(sharp) > 2 * slope(flat) > 0  # a straight-through gradient goes with one over the temperature
    assert np.abs(flat.weights["stem"] - sharp.weights["stem"]).max() < 1e-6


def test_each_player_has_its_relaxation():
    _, infos = steps_of(sampled_weights(), terms={"largest": largest})
    np.testing.assert_allclose(reported(infos, "train_largest"), 1, atol=1e-6)
    assert (reported(infos, "valid_largest") < 0.4).all()


def test_gates_are_noisy_for_the_weights_alone():
    (_, noisy), infos = steps_of(noisy_gates(), 1, terms={"largest": largest})
    (_, clean), expected = steps_of(darts(), 1, terms={"largest": largest})
    for quantity in "loss", "largest":
        assert infos[0][f"valid_{quantity}"] == expected[0][f"valid_{quantity}"]
        assert infos[0][f"train_{quantity}"] != expected[0][f"train_{quantity}"]
    np.testing.assert_array_equal(noisy.arch["cell"], clean.arch["cell"])
    assert np.abs(noisy.weights["edges"] - clean.weights["edges"]).max() > 1e-5


def test_another_optimizer():
    """Adam's first step is the rate for every weight, beside the decay."""
    (before, after), _ = steps_of(with_adamw(), 1)
    for name in "stem", "head":
        moved = after.weights[name] - (1 - 1e-2 * 0.1) * before.weights[name]
        np.testing.assert_allclose(np.abs(moved), 1e-2, rtol=1e-3)


def test_adamw_fine_tunes_at_a_share_of_the_first_rate():
    with jax.enable_x64(True):
        algorithm = with_adamw().bind(plain(), classification())
        hyper = {**with_adamw().hyper, "arch_lr": 0.0, "epochs": 4, "steps": 2}
        step, (train, valid) = jax.jit(algorithm.step), [at(batch, 0) for batch in batches(1)]
        state = algorithm.init(KEY, None, hyper | {"fine_tuning": 0.0})

        def moved(count, tuning):
            before = state._replace(step=jnp.int32(count))
            after, _ = step(KEY, before, train, valid, hyper | {"fine_tuning": tuning})
            return np.asarray(after.weights["head"] - before.weights["head"])

        whole = moved(0, 0.0)
        assert np.abs(whole).max() > 1e-3 and np.abs(moved(7, 0.0)).max() < 0.3 * np.abs(whole).max()
        for count in 0, 7, 100:
            np.testing.assert_allclose(moved(count, 0.1), 0.1 * whole, rtol=1e-9)


def test_one_level_learns_nothing_of_the_validation_data():
    (train, valid), method = batches(1, dtype=np.float32), at_one_level()
    algorithm, hyper = method.bind(plain(), classification()), method.numbers_of(epochs=4, steps=1)
    state, step = algorithm.init(KEY, None, hyper), jax.jit(algorithm.step)
    one, info = step(KEY, state, at(train, 0), at(valid, 0), hyper)
    other, expected = step(KEY, state, at(train, 0), at(train, 0), hyper)
    for name in "weights", "arch", "stats":
        jax.tree.map(np.testing.assert_array_equal, getattr(one, name), getattr(other, name))
    assert info["train_loss"] == expected["train_loss"] == pytest.approx(float(expected["valid_loss"]), rel=1e-6)
    assert info["valid_loss"] != expected["valid_loss"]
    assert np.abs(one.arch["cell"] - state.arch["cell"])[1:].min() > 0


def test_several_steps_of_the_weights():
    states, _ = steps_of(seldom(), 7, epochs=10)
    moved = [bool((new.arch["cell"] != old.arch["cell"]).any()) for old, new in zip(states, states[1:])]
    assert moved == [False, False, True, False, False, True, False]
    assert all((new.weights["head"] != old.weights["head"]).any() for old, new in zip(states, states[1:]))


def test_a_step_made_of_steps():
    """On the scalar problem: one step of a, three of w."""
    with jax.enable_x64(True):
        found = iterate(scalar_method(replayed(times=2).algorithm), 3)
        a, w = 2.0, -2.0
        for step in range(3):
            a -= 0.1 * (w - 2)
            for _ in range(3):
                w -= 0.2 * (w - a)
            np.testing.assert_allclose(found[step], [a, w], rtol=1e-12)
        bound, hyper, state = scalar_start(scalar_method(replayed().algorithm))
        assert int(bound.step(KEY, state, TRAIN, VALID, hyper)[0].step) == 1


# In a search.


@pytest.fixture(scope="module")
def data():
    return tiny(80, size=4)


def searched(data, method, *, epochs=2, run=None):
    """The space, and what a search of it ends with."""
    space = toy(data.image, data.classes, channels=2)
    return space, search(space, method, data, epochs=epochs, batch=8, run=run, progress=False)


def test_a_term_is_recorded_under_its_name(data, tmp_path):
    with open_run(tmp_path / "run", {"name": "toy"}) as run:
        _, result = searched(data, beta_decay().replace(arch_lr=0.0, arch_decay=0.0), run=run)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    logits = np.asarray(result.state.arch["chain"])
    whole = 0.5 * np.log(np.exp(logits).sum(-1)).mean()
    steps = records[0]["step"]
    shares = [np.mean(np.arange(steps) / (2 * steps)) + e / 2 for e in range(2)]
    for record, share in zip(records, shares):
        assert record["beta"] == {"valid": pytest.approx(share * whole, rel=1e-4)}


def test_operations_leave_the_race(data):
    space, result = searched(data, shrinking(), epochs=3)
    assert [(record["operations"], record["decided"]) for record in result.records] == [(6, 0), (4, 0), (4, 0)]
    mask = np.asarray(result.state.mask["chain"])
    assert (mask.sum(-1) == 2).all()
    np.testing.assert_array_equal(np.asarray(result.gates["chain"]) > 0, mask)
    np.testing.assert_allclose(result.gates["chain"].sum(-1), 1, rtol=1e-6)
    assert all(mask[e, space.groups["chain"].ops.index(c.op)] for e, c in enumerate(result.genotype.choices["chain"]))


def test_edges_are_decided_one_by_one(data):
    space, result = searched(data, greedy(), epochs=3)
    assert [(record["decided"], record["operations"]) for record in result.records] == [(1, 4), (2, 0), (2, 0)]
    assert result.records[2]["entropy"] == {"chain": 0.0}
    decisions = np.asarray(result.state.decisions["chain"])
    np.testing.assert_array_equal(result.gates["chain"], np.eye(4)[decisions])
    np.testing.assert_array_equal(result.genotype.decisions(space.groups)["chain"], decisions)


def test_it_stops_between_epochs(data, tmp_path):
    with open_run(tmp_path / "run", {"name": "toy"}) as run:
        space, result = searched(data, until_certain(pull=3.0), epochs=5, run=run)
        trajectory = run.load_arch()["chain"]
    assert result.stopped == Stop("the architecture is certain", 0) and len(result.records) == 1 == len(trajectory) - 1
    assert space.genotype({"chain": np.asarray(result.state.arch["chain"])}) == space.genotype({"chain": trajectory[1]})
    assert [choice.op for choice in space.genotype({"chain": trajectory[1]}).choices["chain"]] == ["pool", "pool"]
    assert result.genotype == space.genotype({"chain": trajectory[0]}) == load_genotype(run.folder)
    assert result.genotype != space.genotype({"chain": trajectory[1]})


def space_with_an_auxiliary_skip(data):
    """One mixture of three operations on the features of an image, and a skip past it."""
    def init(key, images):
        pixels = int(np.prod(images.shape[1:]))
        return {"stem": jax.random.normal(key, (pixels, 4)) / 4, "head": jax.random.normal(key, (4, data.classes))}, {}

    def apply(weights, stats, gates, images, train, key):
        x = images.reshape(len(images), -1) @ weights["stem"]
        y = mix(gates["chain"][0], (lambda: 0 * x, lambda: jax.nn.relu(x), lambda: jnp.tanh(x)))
        return (y + gates.get("auxiliary", 0.0) * x) @ weights["head"], stats

    groups = {"chain": Group(((0, 1),), ("none", "relu", "tanh"))}
    return pure_space("auxiliary", init, apply, groups, image=data.image)


def test_a_number_reaches_the_space_beside_its_gates(data):
    space, method = space_with_an_auxiliary_skip(data), auxiliary_skip()
    result = search(space, method, data, epochs=2, batch=8, progress=False, diagnose=1)
    assert result.gates.keys() == {"chain", "auxiliary"} and result.gates["auxiliary"] == 0
    assert result.records[0]["entropy"].keys() == {"chain"} and set(result.genotype.choices) == {"chain"}
    assert np.isfinite(result.records[1]["gap"])
    other = search(space, method.replace(skip=0.0), data, epochs=2, batch=8, progress=False)
    assert abs(result.records[0]["loss"]["train"] - other.records[0]["loss"]["train"]) > 1e-3
    algorithm, hyper = method.bind(space, classification()), method.numbers_of(epochs=2, steps=4)
    shares = [float(algorithm.gates(result.state._replace(step=jnp.int32(step)), hyper)["auxiliary"]) for step in (0, 2, 8)]
    np.testing.assert_allclose(shares, [1, 0.75, 0])
