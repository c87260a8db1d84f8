"""Successive halving: who is trained for how long, what is chosen, and short trainings of any network by one program."""

import jax.numpy as jnp
import numpy as np
import pytest

import dnas
from dnas.engine.compile import on_device
from dnas.engine.trials import compile_trials
from dnas.selection.halving import RUNGS, distinct, halving
from dnas.selection.sampling import tried
from dnas.selection.select import load_selected, select
from dnas.selection.types import TRIED, Context
from dnas.selection.zero_cost import proxy_of
from dnas.task import classification, task_of
from dnas.types import Genotype, Group, SearchSpace
from tests.test_search import BATCH, tiny
from tests.test_selection import softmax_gates, undecided_state
from tests.toy_space import toy

OPS = tuple("abcde")


EVEN = np.zeros((3, 5))


def context(values, logits=EVEN, better=1):
    """A space of 125 networks, of which training gives values(decisions, epochs), and a list of what was trained."""
    group, trained = Group(((0, 1), (0, 2), (1, 2)), OPS), []
    space = SearchSpace("three", {}, {"g": group}, None, None,
                        lambda scores: Genotype.from_decisions(space, {"g": np.argmax(scores["g"], -1)}),
                        None, None, None, None, None)

    def train(genotype, epochs, seed):
        decisions = tuple(int(k) for k in genotype.decisions(space.groups)["g"])
        trained.append((decisions, epochs, seed))
        return values(decisions, epochs)

    state = undecided_state(space, {"g": jnp.asarray(logits, jnp.float32)})
    return Context(space, classification()._replace(better=better), softmax_gates, state, None, None, 2, 8, seed=3,
                   train=train), trained


def test_each_rung_trains_half_as_many_for_twice_as_long():
    on, trained = context(lambda decisions, epochs: sum(decisions) + 0.01 * epochs)
    chosen = select(halving(draws=8, epochs=8, rungs=3), on)
    assert [epochs for _, epochs, _ in trained] == [2] * 8 + [4] * 4 + [8] * 2 and {seed for *_, seed in trained} == {3}
    order = sorted({decisions for decisions, *_ in trained}, key=sum, reverse=True)
    assert len(order) == 8 and trained[0][0] == (0, 0, 0)  # the first is the space's own choice
    assert sorted(map(sum, (d for d, e, _ in trained if e == 8)), reverse=True) == [sum(d) for d in order[:2]]
    assert sum(int(k) for k in chosen.genotype.decisions(on.space.groups)["g"]) == sum(order[0])
    assert chosen.cost["trained_epochs"] == 48 and np.isfinite(chosen.scores[RUNGS]).sum(-1).tolist() == [8, 4, 2]


def test_the_last_rung_decides_and_less_may_be_better():
    """A network that is best early and worst late is not chosen, and of an error the smallest is."""
    on, trained = context(lambda decisions, epochs: (1 if sum(decisions) < 6 else 2) * (-1 if epochs < 2 else 1), better=-1)
    chosen = select(halving(draws=16, epochs=2, rungs=2, source="uniform"), on)
    early, late = ([sum(d) for d, epochs, _ in trained if epochs == length] for length in (1, 2))
    assert sorted(value < 6 for value in early)[:8] == sorted(value < 6 for value in late)
    assert (sum(int(k) for k in chosen.genotype.decisions(on.space.groups)["g"]) < 6) == (min(late) < 6)


def test_what_is_infinite_is_never_preferred():
    on, _ = context(lambda decisions, epochs: -np.inf if decisions[0] else 0.5)
    assert select(halving(draws=12, epochs=2, rungs=2, source="uniform"), on).genotype.choices["g"][0].op == "a"


def test_sure_gates_give_few_architectures():
    logits = np.zeros((3, 5))
    logits[:, 2] = 30.0
    on, trained = context(lambda decisions, epochs: 0.0, logits)
    chosen = select(halving(draws=8, epochs=4, rungs=3), on)
    assert {decisions for decisions, *_ in trained} == {(2, 2, 2)} and len(trained) == 3
    assert [choice.op for choice in chosen.genotype.choices["g"]] == ["c"] * 3


def test_draws_differ_and_follow_the_gates_or_not():
    logits = np.zeros((3, 5))
    logits[:, 4] = 3.0
    on, _ = context(None, logits)
    share = lambda source: np.mean([[c.op == "e" for c in g.choices["g"]] for g in distinct(on, 20, source, 0)])
    assert len(set(map(Genotype.to_json, distinct(on, 20, "gates", 0)))) == 20
    assert share("gates") > share("uniform") + 0.2


@pytest.mark.parametrize("options, message", [
    ({"draws": 3, "rungs": 3}, "both must be at least 4"), ({"epochs": 2, "rungs": 3}, "both must be at least 4"),
    ({"draws": 0}, "draws is 0; it must be 1 to"), ({"rungs": 0}, "rungs is 0"), ({"source": "all"}, "source is 'all'"),
    ({"seed": -1}, "seed is -1"),
    ({"pool": 15}, "pool is 15; it must be 0, or 16 to"), ({"pool": -1}, "pool is -1")])
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(ValueError, match=message):
        halving(**options)


def test_interrupted_it_goes_on(tmp_path):
    on, trained = context(lambda decisions, epochs: sum(decisions))
    whole = select(halving(draws=4, epochs=2, rungs=2), on, folder=tmp_path / "whole")
    trained.clear()

    def fail(decisions, epochs):
        if len(begun) == 5:
            raise KeyboardInterrupt
        return sum(decisions)

    failing, begun = context(fail)
    with pytest.raises(KeyboardInterrupt):
        select(halving(draws=4, epochs=2, rungs=2), failing, folder=tmp_path / "cut")
    trained.clear()
    again = select(halving(draws=4, epochs=2, rungs=2), on, folder=tmp_path / "cut")
    assert len(trained) == 2 and again.genotype == whole.genotype == load_selected(tmp_path / "cut").genotype
    np.testing.assert_array_equal(again.scores[TRIED], whole.scores[TRIED])


def test_a_trial_trains_the_network_of_its_gates():
    """Of a toy space without weights in its edges: dead edges leave the stem, and either way the metric is repeatable."""
    data = tiny()
    space = toy(data.image, data.classes)
    trial = compile_trials(space, task_of(data), data, on_device(data), BATCH)
    gates = lambda *ops: {"chain": np.eye(4, dtype=np.float32)[list(ops)]}
    first, again, other = trial(gates(2, 2), 3, 0), trial(gates(2, 2), 3, 0), trial(gates(0, 3), 3, 0)
    assert first == again and 0 <= min(first, other) <= max(first, other) <= 1
    assert trial(gates(2, 2), 3, 1) != first or trial(gates(2, 2), 1, 0) != first


def test_through_python_and_the_report(tmp_path):
    data = tiny()
    run = dnas.search(toy(data.image, data.classes), "darts", data, epochs=1, batch=BATCH, out=tmp_path / "run",
                      progress=False)
    chosen = dnas.select(run, "halving", draws=4, epochs=2, rungs=2, progress=False)
    pooled = dnas.select(run, "halving", draws=2, epochs=1, rungs=1, pool=12, progress=False, out=tmp_path / "pooled")
    values = proxy_of(run.supernet.context, "synflow", 0)
    best = sorted(map(values, distinct(run.supernet.context, 12, "gates", 0)), reverse=True)[:2]
    assert [values(tried(run.supernet.space, pooled.scores, n)) for n in range(2)] == best and best[0] > best[1]
    assert chosen.cost["trained_epochs"] == 8 and chosen.cost["epochs"] == 0 and chosen.fine_tuned is None
    assert (tmp_path / "run/selections/halving/genotype.json").exists()
    values = chosen.scores[RUNGS]
    assert np.isfinite(values[0]).all() and np.nanmax(values) <= 1
