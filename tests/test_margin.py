"""Whether a search has decided, from its gates: against what can be worked out by hand."""

import numpy as np
import pytest

from dnas.engine.margin import Margin, margin_of, moves_logits, undecided, what_decides
from dnas.types import Group

FIVE = {"cell": Group(((0, 1), (0, 2), (1, 2)), tuple("abcde"))}


def softmaxed(leads, operations=5):
    """Gates `[E, K]` of logits that are zero but for the first operation's."""
    rows = np.exp(np.eye(operations)[0] * np.array(leads)[:, None])
    return rows / rows.sum(-1, keepdims=True)


def test_medians_over_edges_of_shares():
    gates = {"cell": np.array([[4, 3, 1, 1, 1], [1, 2, 5, 1, 1], [8, 8, 4, 0, 0]]), "edges": np.ones(3)}
    assert margin_of(FIVE, gates) == pytest.approx((0.1, 0.4, 0.2))  # leads 0.1, 0.3, 0; largest 0.4, 0.5, 0.4


def test_edges_with_other_operations_and_without_a_choice():
    groups = {"a": Group(((0, 1), (0, 2)), (("x", "y"), ("x",))), "b": Group(((0, 1),), ("p", "q"))}
    gates = {"a": np.array([[0.7, 0.3], [1.0, 0.5]]), "b": np.array([[0.2, 0.6]])}
    assert margin_of(groups, gates) == pytest.approx((0.45, 0.725, 0.5))
    assert margin_of({"a": Group(((0, 1),), ("x",))}, {"a": np.ones((1, 1))}) == Margin(1, 1, 1)


@pytest.mark.parametrize("leads, decided", [
    ([0, 0, 0], False), ([1e-3, 2e-3, -1e-3], False), ([0.09, 0.11, 0.1], False), ([0.13, 0.0, 0.13], True),
    ([0.0, 0.0, 30.0], False), ([3.0, 30.0, 0.0], True)])
def test_a_search_has_decided_where_most_of_its_edges_have(leads, decided):
    margin = margin_of(FIVE, {"cell": softmaxed(leads)})
    assert (undecided(margin.largest, margin.uniform) is None) == decided


def test_the_sentence_names_both_figures_and_what_helps():
    assert undecided(0.2012, 0.2) == ("nothing is decided yet: the largest gate of an edge is 20.1 % (median) where "
                                      "20.0 % is uniform")
    assert undecided(1.0, 1.0) is None  # there is nothing to decide
    assert what_decides({"arch_lr": 3e-4}) == ("more epochs, a larger --method.arch-lr, or `dnas select --selection "
                                               "zero-cost-gates` would decide it")
    for options in {"arch_lr": 3e-4, "arch_frozen": True}, {"arch_lr": 0.0}, {"arch_lr": "x"}, {}:
        assert not moves_logits(options) and what_decides(options).startswith("`dnas select")
