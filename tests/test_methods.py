"""One battery over all of METHODS and their combinations, what they cost, and the identities between them."""

import functools
import inspect
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dnas import options
from dnas.algorithms.hypergradients import HYPERGRADIENTS
from dnas.algorithms.players import task_loss
from dnas.engine.passes import count_passes
from dnas.methods import METHODS
from dnas.methods.a2m import a2m
from dnas.methods.beta_darts import beta_darts
from dnas.methods.darts import darts
from dnas.methods.darts_2nd import darts_2nd
from dnas.methods.darts_es import darts_es
from dnas.methods.darts_minus import darts_minus
from dnas.methods.deps import deps
from dnas.methods.drnas import drnas
from dnas.methods.fair_darts import fair_darts
from dnas.methods.gdas import gdas
from dnas.methods.idarts import idarts
from dnas.methods.instatune import instatune
from dnas.methods.lambda_darts import lambda_darts
from dnas.methods.ofa import ofa
from dnas.methods.oles import oles
from dnas.methods.p_darts import p_darts
from dnas.methods.pa_da import pa_da
from dnas.methods.pc_darts import SPACE, pc_darts
from dnas.methods.r_darts import r_darts
from dnas.methods.rarts import rarts
from dnas.methods.reinmax import reinmax
from dnas.methods.rsps import rsps
from dnas.methods.sandwich import sandwich
from dnas.methods.sd_darts import sd_darts
from dnas.methods.sdarts_adv import sdarts_adv
from dnas.methods.sdarts_rs import sdarts_rs
from dnas.methods.sgas import sgas
from dnas.methods.shift_nas import shift_nas
from dnas.methods.snas import snas
from dnas.methods.spos import spos
from dnas.methods.tas import tas
from dnas.registry import load, resolve, variant
from dnas.runs import checkpoint
from dnas.shared_options import SharedOptions, shared_options
from dnas.task import classification
from dnas.types import REMOVED, Batch, Genotype
from launch.arguments import SHARED
from tests.problems import KEY, numbers, plain, space_for
from tests.problems import at as one_of
from tests.problems import batches as plain_batches
from tests.toy_space import toy

EPOCHS, STEPS, TAKEN = 4, 2, 5
"""Of the schedule, in an epoch, and as many as are taken."""
IMAGE, CLASSES, BATCH = (4, 4, 1), 3, 4
TASK = classification()

CASES = {name: (resolve(name, "method"), {}) for name in METHODS} | {
    "pc-darts": (pc_darts, {"arch_warmup": 1}),
    "p-darts": (p_darts, {"arch_warmup": 1}),
    "pc-darts, distilled": (variant(pc_darts, distill=3), {"arch_warmup": 1, "distill_vote": "hard"}),
    "idarts": (idarts, {"arch_every": 2}),
    "frozen": (darts, {"arch_frozen": True, "edge_normalisation": True}),
    "rarts, exact": (rarts, {"merged": False}),
}
ON_TOY = {"darts", "darts-2nd", "p-darts", "pc-darts", "rarts", "sd-darts"}
"""Those tried on the toy space, which has two nodes, batch norm and an operation without weights; the others are tried on
`plain`."""
ELASTIC = [name for name in METHODS if resolve(name, "method")().selection]
MOVES = {**dict.fromkeys(ELASTIC, []), "p-darts": [2, 3, 4], "pc-darts": [2, 3, 4], "pc-darts, distilled": [2, 3, 4],
         "frozen": [], "idarts": [1, 3], "rsps": []}
"""Steps at which the architecture moves, if not at all of them."""
FORMS = {
    "neumann": variant(darts, hypergradient="neumann", terms=3),
    "conjugate-gradient": variant(darts, hypergradient="conjugate-gradient", edge_normalisation=True),
    "second order, distilled": variant(darts_2nd, distill=2, distill_every="step", distill_arch=True, arch_every=3),
    "finite-difference, distilled": variant(sd_darts, hypergradient="finite-difference", edge_normalisation=True),
}
"""More of them, which are traced and not compiled."""


class Case:
    """A method compiled once, and the runs made with it: on the toy space; combinations on the smaller `plain`."""

    def __init__(self, name):
        self.name, (factory, settings) = name, CASES[name]
        self.on_toy = name in ON_TOY
        with shared_options(SharedOptions(**(SPACE if "pc-darts" in name else {}))):
            self.space = toy(IMAGE, CLASSES) if self.on_toy else space_for(name)
        (self.group,) = self.space.groups
        self.method = factory(**settings)
        self.algorithm, self.hyper = self.method.bind(self.space, TASK), self.method.numbers_of(epochs=EPOCHS, steps=STEPS)
        self.traces = 0
        self.step = jax.jit(self.counted)
        self.init = functools.cache(lambda seed: self.algorithm.init(jax.random.key(seed), images(), self.hyper))
        self.run = functools.cache(self.fresh)

    def counted(self, *args):
        self.traces += 1
        return self.algorithm.step(*args)

    def fresh(self, seed=0, state=None, begin=0):
        """States before and after each step, and infos."""
        states, infos = [self.init(seed) if state is None else state], []
        for i in range(begin, TAKEN):
            state, info = self.step(*self.arguments(seed, i, states[-1]))
            states.append(state)
            infos.append(info)
        return states, infos

    def arguments(self, seed, i, state):
        """Of step i of a seed: key, state, train and valid batch, and the numbers."""
        draw, shape = np.random.default_rng((seed, i)), (BATCH, *(IMAGE if self.on_toy else (6,)))
        return jax.random.fold_in(jax.random.key(seed), i), state, *(
            Batch(draw.normal(size=shape).astype(np.float32), draw.integers(0, CLASSES, BATCH))
            for _ in range(2)), self.hyper


def images():
    return jax.ShapeDtypeStruct((1, *IMAGE), jnp.float32)


of = functools.cache(Case)


@pytest.fixture(params=CASES)
def name(request):
    return request.param


@pytest.fixture
def case(name):
    return of(name)


def assert_form(before, after, info):
    """One structure, shapes and types; none is weak, so that a state read back from a file has the same."""
    def specs(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.weak_type), tree)

    assert specs(after) == specs(before) and jax.tree.structure(after) == jax.tree.structure(before)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(before))
    assert all((leaf.shape, leaf.dtype) == ((), jnp.float32) for leaf in info.values())
    assert {"train_loss", "valid_loss", "train_accuracy", "valid_accuracy"} <= info.keys()


def test_the_state_keeps_its_form(case):
    states, infos = case.run()
    for after, info in zip(states[1:], infos):
        assert_form(states[0], after, info)


@pytest.mark.parametrize("which", FORMS)
def test_the_state_of_other_combinations_keeps_its_form(which):
    method = FORMS[which]()
    algorithm, hyper = method.bind(plain(), TASK), method.numbers_of(epochs=EPOCHS, steps=STEPS)
    state = jax.eval_shape(algorithm.init, KEY, None, hyper)
    assert_form(state, *jax.eval_shape(algorithm.step, KEY, state, *some(0, np.float32), hyper))


def test_the_same_key_gives_the_same_bits_and_nothing_retraces(case):
    states, infos = case.run()
    again = case.fresh(state=case.algorithm.init(jax.random.key(0), images(), case.hyper))
    chex.assert_trees_all_equal((states, infos), again)
    case.run(1)
    assert case.traces == 1
    assert int(states[-1].step) == TAKEN
    chex.assert_tree_all_finite((states[-1].weights, infos))
    assert all(0 <= info["train_accuracy"] <= 1 and info["train_loss"] > 0 for info in infos)


def row(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


@pytest.mark.parametrize("name", METHODS)
def test_seeds_can_be_mapped_over(name, case):
    """Two seeds in one program, initialisation included, end where each does alone."""
    seeds = jnp.arange(2)
    states = jax.vmap(lambda seed: case.algorithm.init(jax.random.key(seed), images(), case.hyper))(seeds)
    for seed in 0, 1:
        chex.assert_trees_all_equal(row(states, seed), case.init(seed))
    step = jax.jit(jax.vmap(case.algorithm.step))
    for i in range(3):
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(case.arguments(seed, i, ()) for seed in (0, 1)))
        states, infos = step(both[0], states, *both[2:])
    for seed in 0, 1:
        alone, info = case.run(seed)[0][3], case.run(seed)[1][2]
        chex.assert_trees_all_close(row((states, infos), seed), (alone, info), rtol=1e-3, atol=2e-5)
    assert max(np.abs(leaf[0] - leaf[1]).max() for leaf in jax.tree.leaves(states.weights)) > 0.1


def test_the_architecture_moves_when_it_should(name, case):
    states, _ = case.run()
    due = MOVES.get(name, range(TAKEN))
    for i in range(TAKEN):
        for group, logits in states[i].arch.items():
            moved = np.abs(np.asarray(states[i + 1].arch[group] - logits))
            assert moved.max() > 0 if i in due else moved.max() == 0
        if i not in due:
            chex.assert_trees_all_equal(states[i].arch_opt, states[i + 1].arch_opt)


def test_the_genotype_belongs_to_the_space(case):
    """And the method's gates are a distribution over the operations of every edge that is not decided, or, with fair-darts,
    each its own; the genotype is the space's choice by them, unless the method has a rule of its own."""
    space, state = case.space, case.run()[0][-1]
    genotype, gates = case.algorithm.select(state, case.hyper), case.algorithm.gates(state, case.hyper)
    assert genotype.space == space.name and genotype.options == space.options
    assert all((row >= 0).all() for row in genotype.decisions(space.groups).values())
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert case.method.select or genotype == space.genotype(gates)
    assert gates.keys() == space.groups.keys()
    rows, group = np.asarray(gates[case.group]), space.groups[case.group]
    np.testing.assert_array_equal(rows > 0, rows == 1 if case.name in ELASTIC else group.allowed)
    into = [sum(target == other for _, other in group.edges) for _, target in group.edges]
    shared = any("/" in name for name in state.arch)
    if case.name == "fair-darts":
        assert (rows[group.allowed] > 0.3).all() and (rows < 0.7).all()
    else:
        total = sum(rows.sum(-1) / (1 if shared else into))
        np.testing.assert_allclose(total, len(set(t for _, t in group.edges)), rtol=1e-5)
    decisions = np.full(len(group.edges), REMOVED)
    decisions[0] = 1
    decided = case.algorithm.gates(state._replace(decisions={case.group: jnp.array(decisions)}), case.hyper)
    np.testing.assert_array_equal(decided[case.group], (decisions[:, None] == np.arange(group.shape[1])))


def test_the_state_can_be_saved_and_restored(case, tmp_path):
    """And the search goes on from it to the same bits, by the same program."""
    states, _ = case.run()
    checkpoint.save(tmp_path / "state.safetensors", states[2])
    template = jax.eval_shape(case.algorithm.init, KEY, images(), case.hyper)
    restored, _ = checkpoint.restore(tmp_path / "state.safetensors", template)
    chex.assert_trees_all_equal(restored, jax.device_get(states[2]))
    again, _ = case.fresh(state=jax.tree.map(jnp.asarray, restored), begin=2)
    chex.assert_trees_all_equal(again[-1], states[-1])
    assert case.traces == 1


# How much a step costs, on a space without Flax.


def some(i, dtype=np.float64):
    """The batches of step i for the space `plain`."""
    return [one_of(pair, i) for pair in plain_batches(3, dtype=dtype)]


def passes(method, space):
    """(forward passes, backward passes) of the supernet in one step, of what is needed for its results."""
    numbers_of = method.numbers_of(epochs=EPOCHS, steps=STEPS)
    return count_passes(space, method, TASK, None, some(0, np.float32)[0], numbers_of)


PASSES = {
    "a2m": (a2m, 3, 3),  # and one tangent of a gradient, about two more
    "beta-darts": (beta_darts, 2, 2),
    "darts": (darts, 2, 2),
    "darts-2nd": (darts_2nd, 3, 3),  # and one tangent of a gradient, about two more
    "darts-2nd as published": (variant(darts_2nd, hypergradient="finite-difference"), 5, 5),
    "drnas": (drnas, 2, 2),
    "fair-darts": (fair_darts, 2, 2),
    "gdas": (gdas, 2, 2),
    "darts-es": (darts_es, 2, 2),
    "darts-minus": (darts_minus, 2, 2),
    "idarts": (idarts, 3, 3),
    "neumann": (variant(darts, hypergradient="neumann"), 3, 3),
    "lambda-darts": (lambda_darts, 3, 3),  # and one tangent of a gradient, about two more
    "lambda-darts as published": (variant(lambda_darts, step=1e-4), 4, 4),
    "oles": (oles, 3, 3),
    "p-darts": (variant(p_darts, arch_warmup=1), 2, 2),
    "pc-darts": (variant(pc_darts, arch_warmup=1), 2, 2),
    "r-darts": (r_darts, 3, 3),
    "rarts": (rarts, 2, 2),
    "rarts, exact": (variant(rarts, merged=False), 4, 4),
    "reinmax": (reinmax, 2, 2),
    "rsps": (rsps, 2, 1),
    "sd-darts": (sd_darts, 2 + 3, 2),
    "sd-darts, seven teachers": (variant(sd_darts, distill=7, distill_every="step"), 2 + 7, 2),
    "sd-darts, both steps": (variant(sd_darts, distill_arch=True), 2 + 2 * 3, 2),
    "snas": (snas, 2, 1),
    "spos": (spos, 2, 1),
    "sandwich": (sandwich, 2 + 3, 4),
    "deps": (deps, 2 + 3, 4),
    "ofa": (ofa, 2 + 3 + 1, 4),  # in the last phases
    "pa-da": (pa_da, 2, 1),
    "shift-nas": (shift_nas, 3, 2),  # where it measures the gradient of validation data
    "instatune": (instatune, 2 + 1 + 1, 2),  # the given weights teach at the beginning only, and not by default
    "tas": (tas, 2, 2),
    "sdarts-adv": (sdarts_adv, 2 + 7 + 2, 2 + 7),
    "sdarts-rs": (sdarts_rs, 2, 2),
    "sgas": (sgas, 2, 2),
    "frozen": (variant(darts, arch_frozen=True), 2, 1),
    "rare": (variant(darts, arch_every=5), 2, 2),
}


@pytest.mark.parametrize("which", PASSES)
def test_gradient_evaluations_of_a_step(which):
    factory, forward, backward = PASSES[which]
    assert passes(factory(), space_for(which)) == (forward, backward)


def test_every_method_and_hypergradient_is_tried():
    assert set(METHODS) <= set(PASSES) and set(METHODS) <= set(CASES)
    tried = {inspect.signature(factory).parameters["hypergradient"].default for factory in [
        darts, darts_2nd, *FORMS.values()]}
    assert tried == set(HYPERGRADIENTS)


# Identities, on the same, in float64.


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def bound(factory, **settings):
    """The algorithm of a method, its numbers and its first state."""
    method = factory(**settings)
    algorithm, hyper = method.bind(plain(), TASK), numbers(method, epochs=20, steps=STEPS)
    return algorithm, hyper, algorithm.init(KEY, None, hyper)


def one_step(factory, **settings):
    """Algorithm, numbers, states before and after the first step, and its info. Not compiled: other tests do that."""
    algorithm, hyper, state = bound(factory, **settings)
    state = state._replace(stats=jax.tree.map(jnp.ones_like, state.stats))
    return algorithm, hyper, state, *algorithm.step(KEY, state, *some(0), hyper)


def arch_gradient(after):
    """Of Adam's first step: its first moment is half the gradient."""
    return 2 * after.arch_opt[1].mu["cell"]


def program(factory, **settings):
    algorithm, hyper, state = bound(factory, **settings)
    return jax.jit(algorithm.step).lower(KEY, state, *some(0), hyper).as_text()


def test_equal_settings_are_the_same_program(float64):
    """PC-DARTS without its edges' weights is DARTS at other rates, and so on; not by accident."""
    expected = program(darts)
    for factory, settings in [(darts_2nd, {"hypergradient": "first-order"}), (sd_darts, {"distill": 0}),
                              (pc_darts, {"edge_normalisation": False})]:
        assert program(factory, **settings) == expected
        assert program(factory) != expected
    assert program(pc_darts) == program(darts, edge_normalisation=True) != expected


def test_without_a_learning_rate_the_second_order_is_the_first(float64):
    def gradient(factory, lr, **settings):
        *_, after, info = one_step(factory, lr=lr, lr_min=0.0, **settings)
        return arch_gradient(after), info

    for hypergradient in "unrolled", "finite-difference":
        second = functools.partial(gradient, darts_2nd, hypergradient=hypergradient)
        chex.assert_trees_all_close(second(0.0), gradient(darts, 0.0), rtol=1e-11)
        away, info = jax.tree.map(jnp.subtract, second(0.1), gradient(darts, 0.1))
        assert np.abs(away).max() > 1e-4 < np.abs(info["valid_loss"])


def test_only_the_published_second_order_looks_ahead_without_clipping(float64):
    """A smaller clip shows in the exact look-ahead and not in the other."""
    def gradient(hypergradient, clip):
        return arch_gradient(one_step(darts, hypergradient=hypergradient, clip=clip, lr=0.5)[-2])

    np.testing.assert_array_equal(gradient("finite-difference", 0.01), gradient("finite-difference", 1.0))
    assert np.abs(gradient("unrolled", 0.01) - gradient("unrolled", 1.0)).max() > 1e-4


@pytest.mark.parametrize("factory", [darts, darts_2nd, pc_darts, rarts, sd_darts])
def test_running_averages_are_those_of_the_weights_step(factory, float64):
    """Of the training batch, under the new architecture (RARTS: the old); the validation pass leaves no trace."""
    algorithm, hyper, before, after, info = one_step(factory)
    train, valid = some(0)
    gates = algorithm.gates(before if factory is rarts else before._replace(arch=after.arch), hyper)
    loss, _, stats = task_loss(plain(), TASK)(KEY, before.weights, before.stats, gates, train)
    chex.assert_trees_all_close((after.stats, info["train_loss"]), (stats, loss), rtol=1e-11)
    if factory is rarts:
        *_, stats = task_loss(plain(), TASK)(KEY, before.weights, before.extra.stats, gates, valid)
        chex.assert_trees_all_close(after.extra.stats, stats, rtol=1e-11)
    else:
        trace = one_step(factory, arch_lr=0.0)[-2].stats["mean"] - before.stats["mean"]
        np.testing.assert_allclose(trace, 0.1 * ((train.inputs @ before.weights["stem"]).mean(0) - 1), rtol=1e-11)


def test_edge_weights_are_logits_of_their_own(float64):
    """They move, they are in the gates, and the gates of a node's edges add up to 1."""
    algorithm, hyper, state, after, _ = one_step(darts, edge_normalisation=True)
    moved = np.abs(np.asarray(after.arch["cell/edges"] - state.arch["cell/edges"]))
    assert moved[1:].min() > 0
    gates = np.asarray(algorithm.gates(after, hyper)["cell"])
    np.testing.assert_allclose([gates[0].sum(), gates[1:].sum()], 1)
    more = after._replace(arch=after.arch | {"cell/edges": jnp.array([0.0, 5.0, 0.0])})
    assert algorithm.gates(more, hyper)["cell"][1].sum() > 0.99


@pytest.mark.parametrize("settings, message", [
    ({"lr": -0.1}, "lr is -0.1"), ({"momentum": float("nan")}, "momentum is nan"),
    ({"momentum": 1.0}, "momentum is 1.0, it must be below 1"),
    ({"arch_warmup": -1}, "arch_warmup is -1"), ({"clip": 0.0}, "clip is 0.0"),
    ({"arch_every": 0}, "arch_every is 0"), ({"distill": -1}, "distill is -1"), ({"lr": "fast"}, "lr is 'fast'"),
    ({"hypergradient": "third-order"}, "'third-order' must be one of first-order, unrolled"),
    ({"distill": 10**9}, "distill is 1000000000, it must be 0 to 100"),
    ({"hypergradient": "neumann", "terms": 10**9}, "terms is 1000000000; it must be 0 to 1000"),
    ({"hypergradient": "conjugate-gradient", "terms": 10**9}, "iterations is 1000000000; it must be 1 to 10,000"),
    ({"hypergradient": "neumann", "terms": -1}, "terms is -1"), ({"hypergradient": "neumann", "lr": 0.0}, "lr is 0.0"),
    ({"hypergradient": "conjugate-gradient", "terms": 0}, "iterations is 0"),
])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        darts(**settings)
    if settings.keys() & {"momentum", "clip"}:
        with pytest.raises(ValueError, match=message):
            rarts(**settings)
    if settings.keys() <= darts().hyper.keys():
        with pytest.raises(ValueError, match=message):
            darts().replace(**settings)


def test_a_warm_up_beyond_the_end_is_refused_when_a_search_begins():
    method = darts(arch_warmup=20)
    with pytest.raises(ValueError, match="arch_warmup 20 leaves none of 20 epochs"):
        method.numbers_of(epochs=20, steps=1)
    assert method.numbers_of(epochs=21, steps=1)["arch_warmup"] == 20


# Variants, and what the command line knows of methods.


def test_variant():
    def base(space, epochs, *, one: int = 1, two: float = 2.0):
        """A base."""
        return space, epochs, one, two

    other = variant(base, two=3.0)
    assert other(0, 0) == (0, 0, 1, 3.0) and other(0, epochs=5, one=7) == (0, 5, 7, 3.0)
    assert other(0, 0, two=4.0) == (0, 0, 1, 4.0) and base(0, 0) == (0, 0, 1, 2.0)
    assert other.__doc__ == "A base."
    defaults = {name: p.default for name, p in inspect.signature(other).parameters.items()}
    assert defaults == {"space": inspect.Parameter.empty, "epochs": inspect.Parameter.empty, "one": 1, "two": 3.0}
    again = variant(other, one=9)
    assert again(0, 0) == (0, 0, 9, 3.0)
    assert str(inspect.signature(again)).startswith("(space, epochs, *, one: ")
    for unknown in "three", "space":
        with pytest.raises(TypeError, match=f"base has no option {unknown}"):
            variant(base, **{unknown: 1})


@pytest.mark.parametrize("method", METHODS)
def test_the_command_line_reads_the_options_from_the_source(method, monkeypatch):
    """Without importing it: names, defaults, types and helps are those of the signature that Python has."""
    factory = load(METHODS[method])
    expected = options.from_signature(factory, METHODS[method])
    monkeypatch.setattr("dnas.registry.load", None)
    found = options.read(METHODS[method])
    assert found == expected
    signature = inspect.signature(factory).parameters.values()
    assert {o.name: o.default for o in found} == {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    assert all(option.help for option in found)


def test_the_command_line_reads_the_options_that_all_spaces_share(monkeypatch):
    monkeypatch.setattr("dnas.registry.load", None)
    found = options.read(SHARED)
    assert {option.name: option.default for option in found} == SharedOptions()._asdict()
    assert {option.name: option.annotation for option in found} == {
        "partial_channels": int, "drop_path": float, "dtype": Literal["float32", "bfloat16"],
        "scan": Literal["auto", "on", "off"], "remat": bool}
    assert all(option.help for option in found)
    assert options.constant(METHODS["pc-darts"], "SPACE") == SPACE == {"partial_channels": 4}
    assert set(SPACE) <= set(SharedOptions._fields)
    assert options.constant(METHODS["darts"], "SPACE") is None
