"""What holds for every method and step: terms, masks, numbers as data, fine-tuning, a start from another search."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas.algorithms.bilevel import bilevel
from dnas.algorithms.hypergradients import unrolled
from dnas.algorithms.players import started_from
from dnas.algorithms.rarts import rarts
from dnas.algorithms.relaxations import edge_normalised, softmax
from dnas.algorithms.schedules import ENGINE
from dnas.algorithms.single_level import single_level
from dnas.engine import programs
from dnas.engine.search import search
from dnas.methods import METHODS
from dnas.methods.darts import darts
from dnas.methods.rarts import rarts as rarts_method
from dnas.methods.sd_darts import sd_darts
from dnas.registry import resolve
from dnas.task import classification
from dnas.types import OPEN, Batch
from tests.problems import (
    KEY,
    TRAIN,
    VALID,
    at,
    batches,
    begun,
    identity,
    iterate,
    numbers,
    plain,
    plain_method,
    scalar_method,
    scalar_start,
    space_for,
    tiny,
)
from tests.toy_space import toy

TASK = classification()
ALGORITHMS = {"bilevel": bilevel(), "second order": bilevel(lambda hyper: unrolled()), "frozen": bilevel(None),
              "single-level": single_level(), "rarts": rarts(), "rarts, exact": rarts(merged=False)}
COUPLED = {"coupling": 1.0, "weight": 1.0}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def some(i, dtype=np.float64):
    """The batches of step i for the space `plain`."""
    return [at(pair, i) for pair in batches(3, dtype=dtype)]


def method_of(name):
    return resolve(name, "method")(**({"arch_warmup": 1} if name == "pc-darts" else {}))


# The single-level step, on the scalar problem: both descend on (w - a)^2.


def test_single_level(float64):
    """At once, from the same point; the validation loss is reported."""
    found, (a, w) = iterate(scalar_method(single_level()), 3), (2.0, -2.0)
    for step in range(3):
        a, w = a + 0.2 * (w - a), w - 0.2 * (w - a)
        np.testing.assert_allclose(found[step], [a, w], rtol=1e-12)
    bound, hyper, state = scalar_start(scalar_method(single_level()))
    _, info = bound.step(KEY, state, TRAIN, VALID, hyper)
    assert (info["train_loss"], info["valid_loss"]) == (16, -7)


def test_single_level_of_different_players(float64):
    """The architecture sees 3 a and has a term of its own, 5 a^2 / 2."""
    tripled = identity()._replace(gates=lambda key, architecture, hyper, t: {"a": 3 * architecture.logits["a"]})
    term = lambda hyper, t, arch, gates, forward, memory: 2.5 * (arch["a"] ** 2).sum()
    found = iterate(scalar_method(single_level(), arch={"relaxation": tripled, "terms": {"decay": term}}), 2)
    a, w = 2.0, -2.0
    for step in range(2):
        a, w = a - 0.1 * (-6 * (w - 3 * a) + 5 * a), w - 0.2 * (w - a)
        np.testing.assert_allclose(found[step], [a, w], rtol=1e-12)


# All steps.


@pytest.mark.parametrize("which", ALGORITHMS)
def test_every_step_reports_the_terms_of_both_players(which, float64):
    """Each beside the loss, under its own name."""
    term = lambda scale: lambda hyper, t, arch, gates, forward, memory: scale * forward.outputs[0, 0]
    method = scalar_method(ALGORITHMS[which], hyper=COUPLED, terms={"both": term(1.0)},
                           weights={"terms": {"ours": term(2.0)}}, arch={"terms": {"theirs": term(3.0)}})
    bound, hyper, state = scalar_start(method)
    _, info = bound.step(KEY, state, TRAIN, VALID, hyper)
    assert info.keys() == {f"{split}_{name}" for split, own in (("train", "ours"), ("valid", "theirs"))
                           for name in ("loss", "weight", "both", own)}
    w = info["valid_weight"]
    assert (info["train_both"], info["train_ours"]) == (-2, -4) and (info["valid_both"], info["valid_theirs"]) == (w, 3 * w)


@pytest.mark.parametrize("which", [name for name in ALGORITHMS if name != "frozen"])
def test_operations_out_of_the_race_and_decided_edges_rest_in_every_step(which):
    """No gate, and not the least gradient to the logits or to the weights of the operation."""
    mask = np.array([[True, True, False], [False, True, True], [True, True, True]])
    method = plain_method(ALGORITHMS[which], hyper=COUPLED)
    bound, hyper = method.bind(plain(), TASK), method.numbers_of(epochs=2, steps=2)
    state = begun(bound, hyper)._replace(mask={"cell": jnp.array(mask)}, decisions={"cell": jnp.array([OPEN, OPEN, 1])})
    np.testing.assert_array_equal(np.asarray(bound.gates(state, hyper)["cell"])[~mask], 0)
    after, _ = jax.jit(bound.step)(KEY, state, *some(0, np.float32), hyper)
    moved = np.abs(np.asarray(after.arch["cell"] - state.arch["cell"]))
    resting = ~mask | (np.arange(3)[:, None] == 2)
    np.testing.assert_array_equal(moved[resting], 0)
    assert moved[~resting].min() > 0
    change = np.abs(after.weights["edges"] - state.weights["edges"]).max((1, 2))
    assert change[0] > 0 and change[1] == change[2] == 0
    chex.assert_trees_all_equal((after.mask, after.decisions), (state.mask, state.decisions))


def test_weights_of_examples_count_in_both_losses(float64):
    bound, hyper, state = scalar_start(scalar_method())
    heavy = lambda batch: Batch(np.zeros(2), np.repeat(batch.targets, 2), np.array([3.0, 0.0]))
    _, info = bound.step(KEY, state, heavy(TRAIN), heavy(VALID), hyper)
    assert (info["train_loss"], info["valid_loss"]) == ((2 + 2.4 * 1 + 0) ** 2 * 0 + 1.5 * (-2 - 2.6) ** 2, -7 * 1.5)


@pytest.mark.parametrize("who", ["weights", "arch"])
def test_logits_of_one_players_relaxation_alone_are_there(who):
    """Though the other's knows nothing of them."""
    method = darts().extend(**{who: {"relaxation": edge_normalised(softmax())}})
    bound, hyper = method.bind(plain(), TASK), method.numbers_of(epochs=2, steps=2)
    state = bound.init(KEY, None, hyper)
    assert state.arch.keys() == {"cell", "cell/edges"}
    after, info = jax.jit(bound.step)(KEY, state, *some(0, np.float32), hyper)
    moved = np.abs(after.arch_opt[1].mu["cell/edges"][1:]).max()
    assert np.isfinite(info["train_loss"]) and (moved > 1e-5) == (who == "arch")


# A method as a value.


def test_replace_and_extend():
    method = darts()
    other = method.replace(lr=0.1)
    assert other.hyper == method.hyper | {"lr": 0.1} and method.hyper["lr"] == 0.025
    assert all(getattr(other, part) is getattr(method, part) for part in ("arch", "weights", "algorithm"))
    with pytest.raises(ValueError, match="the method has no number 'arch_le'; did you mean 'arch_lr'?"):
        method.replace(arch_le=0.1)

    def positive(hyper):
        if not hyper["strength"] > 0:
            raise ValueError(f"strength is {hyper['strength']}")

    term = lambda hyper, t, arch, gates, forward, memory: hyper["strength"]
    extended = sd_darts().extend(terms={"mine": term}, arch={"terms": {"yours": term}}, hyper={"strength": 1.0},
                                 check=positive)
    assert set(extended.weights.terms) == {"distillation", "mine"} and set(extended.arch.terms) == {"mine", "yours"}
    with pytest.raises(ValueError, match="strength is -1"):
        extended.replace(strength=-1)
    with pytest.raises(ValueError, match="lr is -1"):
        extended.replace(lr=-1)  # what had to hold before has to hold still
    for name in "loss", "entropy":
        with pytest.raises(ValueError, match=f"a term cannot be called '{name}'"):
            method.extend(terms={name: term})
    for name in ENGINE:
        with pytest.raises(ValueError, match=f"a method's number cannot be called '{name}'"):
            method.extend(hyper={name: 1})


@pytest.mark.parametrize("which", METHODS)
def test_numbers_are_arguments_and_no_part_of_the_program(which):
    """Every number of every method, and those of the search: other values are the very same program."""
    method = method_of(which)
    other = method.replace(**{name: value * 0.5 if isinstance(value, float) else value + 1
                              for name, value in method.hyper.items()} | ({"tau": 2.0} if which == "reinmax" else {}))
    algorithm, texts = method.bind(space_for(which), TASK), []
    for one, sizes in (method, {"epochs": 20, "steps": 2}), (other, {"epochs": 50, "steps": 7, "fine_tuning": 0.1}):
        hyper = one.numbers_of(**sizes)
        state = jax.eval_shape(algorithm.init, KEY, None, hyper)
        step = one.bind(space_for(which), TASK).step
        texts.append(str(jax.make_jaxpr(step)(KEY, state, *some(0, np.float32), hyper)))
    assert texts[0] == texts[1] and len(texts[0]) > 1000


CONSTANT = {"darts-minus": {"auxiliary": 0.0}, "deps": {"delay": 0.0, "ramp": 0.0}, "lambda-darts": {"strength": 0.0},
            "ofa": {"teacher_share": 0.99}, "sdarts-adv": {"epsilon_first": 0.3}, "sdarts-rs": {"epsilon_first": 0.3},
            "snas": {"tau_min": 1.0}, "tas": {"tau_min": 5.0}}
"""Numbers with which what a method trains does not depend on how late it is."""


@pytest.mark.parametrize("which", METHODS)
def test_fine_tuning_moves_the_weights_by_a_share_of_the_first_rate(which, float64):
    """Whatever the optimiser: in the first step exactly that share, late in the search that of the first epoch's rate."""
    method = method_of(which).replace(**CONSTANT.get(which, {}))
    algorithm, (train, valid) = method.bind(space_for(which), TASK), some(0)
    state, step = algorithm.init(KEY, None, numbers(method)), jax.jit(algorithm.step)

    def moved(state, **options):
        after, _ = step(KEY, state, train, valid, numbers(method, epochs=4, steps=2, **options))
        copies = lambda state: (state.weights, state.extra.weights if which == "rarts" else ())
        return jax.tree.map(lambda new, old: np.asarray(new - old), copies(after), copies(state))

    whole = moved(state, fine_tuning=0.0)
    drawn = which == "rsps"  # so that some weights take no part
    assert (max if drawn else min)(np.abs(leaf).max() for leaf in jax.tree.leaves(whole)) > 1e-6
    tenth = lambda tree: jax.tree.map(lambda leaf: 0.1 * leaf, tree)
    if which != "rarts":  # whose second network is pulled by where the first one went
        chex.assert_trees_all_close(moved(state, fine_tuning=0.1), tenth(whole), rtol=1e-9, atol=1e-16)
    chex.assert_trees_all_close(moved(state, fine_tuning=0.1)[0], tenth(whole[0]), rtol=1e-9, atol=1e-16)
    # Late: with arch_lr 0 the two differ in nothing but the weights' rate, which has fallen.
    method = method.replace(**{name: 0.0 for name in method.hyper if name == "arch_lr"})
    late = state._replace(step=jnp.int32(7))
    np.testing.assert_allclose(moved(late, fine_tuning=0.1)[0]["head"], 0.1 * moved(state, fine_tuning=0.0)[0]["head"],
                               rtol=1e-9)
    assert np.abs(moved(late, fine_tuning=0.0)[0]["head"]).max() < 0.5 * np.abs(whole[0]["head"]).max()


def test_a_term_may_not_hide_a_metric_of_the_task():
    method = darts().extend(terms={"accuracy": lambda *_: 0.0})
    with pytest.raises(ValueError, match="a term cannot be called 'accuracy': the task classification has that metric"):
        method.bind(plain(), TASK)


def test_other_numbers_compile_nothing_in_a_search(monkeypatch):
    """Of two searches in a process, the second with other rates, warm-up and epochs, all programs are there already."""
    data, compiled, real = tiny(80, size=4), [], programs._compile
    monkeypatch.setattr(programs, "_compile", lambda *args: compiled.append(args) or real(*args))
    counts = []
    for method, epochs in (darts(), 1), (darts(lr=0.1, arch_lr=0.01, arch_warmup=1, clip=1.0), 2):
        compiled.clear()
        search(toy(data.image, data.classes, channels=3), method, data, epochs=epochs, batch=8, progress=False)
        counts.append(len(compiled))
    assert counts == [2, 0]


# A start from another search.


def started(method, state):
    bound, hyper = method.bind(plain(), TASK), method.numbers_of(epochs=2, steps=2)
    first = bound.init(jax.random.key(7), None, hyper)
    return bound, hyper, first, bound.begin(started_from(first, state))


@pytest.mark.parametrize("method", [darts(), sd_darts(), rarts_method()], ids=["darts", "sd-darts", "rarts"])
def test_a_search_starts_from_the_state_of_another(method):
    """Weights, averages, logits, decisions and mask are those; time, optimisers and memory are new. RARTS's second network
    begins as the first."""
    other = darts(edge_normalisation=False)
    bound, hyper = other.bind(plain(), TASK), other.numbers_of(epochs=2, steps=2)
    state, _ = jax.jit(bound.step)(KEY, begun(bound, hyper), *some(0, np.float32), hyper)
    state = state._replace(decisions={"cell": jnp.array([1, OPEN, OPEN], jnp.int32)},
                           mask={"cell": state.mask["cell"].at[1, 0].set(False)})
    bound, hyper, first, start = started(method, state)
    for part in "weights", "stats", "arch", "decisions", "mask":
        chex.assert_trees_all_equal(getattr(start, part), getattr(state, part))
    chex.assert_trees_all_equal((start.step, start.weights_opt, start.arch_opt, start.memory),
                                (first.step, first.weights_opt, first.arch_opt, first.memory))
    chex.assert_trees_all_equal_shapes_and_dtypes(start, first)
    if start.extra:
        chex.assert_trees_all_equal((start.extra.weights, start.extra.stats), (state.weights, state.stats))
    after, _ = jax.jit(bound.step)(KEY, start, *some(1, np.float32), hyper)
    np.testing.assert_array_equal(bound.gates(after, hyper)["cell"][0], [0, 1, 0])
    assert bound.gates(after, hyper)["cell"][1, 0] == 0
    assert np.abs(after.weights["head"] - state.weights["head"]).max() < 0.2


@pytest.mark.parametrize("change, part", [
    (lambda state: state._replace(mask={"cell": jnp.ones((3, 4), bool)}), "mask"),
    (lambda state: state._replace(arch={"cell": jnp.zeros((3, 4))}), "arch"),
    (lambda state: state._replace(arch=state.arch | {"cell/edges": jnp.zeros(3)}), "arch")])
def test_a_start_that_does_not_fit_is_refused(change, part):
    bound = darts().bind(plain(), TASK)
    state = bound.init(KEY, None, darts().numbers_of(epochs=1, steps=1))
    with pytest.raises(ValueError, match=f"the search to start from has other {part} than this one"):
        started_from(state, change(state))


def test_weights_of_another_network_begin_anew():
    """And the running averages with them; logits, decisions and mask are handed on."""
    bound = darts().bind(plain(), TASK)
    hyper = darts().numbers_of(epochs=1, steps=1)
    first, other = (bound.init(jax.random.key(seed), None, hyper) for seed in (0, 1))
    other = other._replace(weights=other.weights | {"head": jnp.zeros((6, 4))}, stats={"mean": jnp.ones(6)},
                           mask={"cell": other.mask["cell"].at[1, 0].set(False)})
    start = started_from(first, other)
    chex.assert_trees_all_equal((start.weights, start.stats), (first.weights, first.stats))
    chex.assert_trees_all_equal((start.arch, start.mask), (other.arch, other.mask))
