"""Statistics of a study against closed forms, and which sentences follow from them."""

import numpy as np
import pytest
from scipy.stats import permutation_test, ttest_1samp

from dnas.reports.comparison import METRICS
from dnas.studies import results, statistics
from dnas.studies.claims import collapsed, of_metric
from dnas.studies.results import Paired, Point, Row
from dnas.studies.statistics import Interval


def test_ranks_are_within_a_seed_and_ties_share_them():
    values = [[90.0, 80.0, 80.0, 70.0], [1.0, 2.0, 3.0, 4.0]]
    assert statistics.ranks(np.array(values)).tolist() == [[1, 2.5, 2.5, 4], [4, 3, 2, 1]]
    assert statistics.ranks(np.array(values), -1).tolist() == [[4, 2.5, 2.5, 1], [1, 2, 3, 4]]


def test_bootstrap_has_a_fixed_seed_and_no_interval_of_one_value():
    values = np.arange(20.0)
    first = statistics.bootstrap(values)
    assert first == statistics.bootstrap(values) != statistics.bootstrap(values, seed=1)
    error = values.std() / np.sqrt(20)  # of a resampled mean
    assert first.mean == 9.5 and first.low == pytest.approx(9.5 - 1.96 * error, abs=0.3 * error)
    assert first.high == pytest.approx(9.5 + 1.96 * error, abs=0.3 * error)
    assert statistics.bootstrap(np.array([2.0])) == Interval(2.0, None, None)
    assert statistics.bootstrap(np.full(4, 3.0)) == Interval(3.0, 3.0, 3.0)


def test_student_is_that_of_scipy():
    values = np.array([1.0, 4.0, 2.5])
    interval = ttest_1samp(values, 0).confidence_interval(0.95)
    assert statistics.student(values) == pytest.approx((values.mean(), interval.low, interval.high))
    assert statistics.student(values[:1]).low is None


@pytest.mark.parametrize("values, p", [
    ([1, 2, 3], 2 / 8), ([-1, -2, -3], 2 / 8), ([1, -1], 1.0), ([0, 0], 1.0), ([5], 1.0),
    ([1, 2, -3, 4], 10 / 16),  # the sum is 4; subsets of {1, 2, 3, 4} whose sum is at most 3 or at least 7
    ([1] * 10, 2 / 1024)])
def test_sign_flips_are_enumerated(values, p):
    assert statistics.sign_flip(values) == p
    if len(values) > 1:
        exact = permutation_test((np.array(values, float),), lambda x: abs(np.mean(x)), permutation_type="samples",
                                 n_resamples=np.inf, alternative="greater")
        assert exact.pvalue == pytest.approx(p)


def test_sign_flips_of_many_pairs_are_drawn():
    rng = np.random.default_rng(0)
    values = rng.normal(0.4, 1, 20)
    p = statistics.sign_flip(values)
    assert p == statistics.sign_flip(values) and p == pytest.approx(ttest_1samp(values, 0).pvalue, abs=0.02)
    assert statistics.sign_flip(np.full(40, 0.1)) == 1 / (1 + statistics.EXACT)


def test_the_least_p_and_holms_correction():
    assert [statistics.least_p(n) for n in (1, 2, 5)] == [1, 0.5, 2 / 32]
    assert statistics.least_p(5) == statistics.sign_flip([1, 2, 3, 4, 5])
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.6]) == [1.0, 1.0] and statistics.holm([]) == []


def row(method, selection, *values, seeds=None):
    seeds = {seed: {"discrete": value} for seed, value in zip(seeds or range(len(values)), values)}
    return Row(method, selection, seeds, {"discrete": (float(np.mean(values)), None, len(values))})


def test_ranks_and_differences_go_by_seed():
    rows = [row("a", "s", 10, 20, 30), row("b", "s", 11, 19, 36, seeds=(0, 1, 5)), row("a", "t", 5, 5, 5)]
    assert [(each.rank.mean, each.seeds) for each in results.ranks_of(rows, "discrete", 1)] == [(1.5, 2), (1.5, 2), (3, 2)]
    one, other = results.paired_of(rows, "discrete", {"": ["a", "b"]}, ["s", "t"])
    assert (one.within, one.first, one.second, one.difference.mean, one.pairs) == ("s", "b", "a", 0.0, 2)
    assert (other.within, other.first, other.second, other.difference.mean, other.pairs) == ("a", "t", "s", -15.0, 3)
    assert (other.p, other.corrected) == (0.25, 0.5)


def test_the_comparisons_and_how_many_seeds_they_need():
    pairs = statistics.comparisons({"x": ["a", "b"], "y": ["c"]}, ["s", "t", "u"])
    assert len(pairs) == 3 + 2 * 2 + 2 and pairs[0] == ("x", "s", "b", "a", ("b", "s"), ("a", "s"))
    for tests in 1, 2, 6, 26:
        seeds = statistics.seeds_for(tests)
        assert tests * statistics.least_p(seeds) <= 0.05 < tests * statistics.least_p(seeds - 1)


def test_what_no_outcome_could_show_is_not_corrected_for():
    same, moved = row("a", "s", *range(6)), row("b", "s", *range(6))
    once = row("c", "s", 9, *range(1, 6))  # one seed differs
    better = row("d", "s", *range(1, 7))
    pairs = results.paired_of([same, moved, once, better], "discrete", {"": ["a", "b", "c", "d"]}, ["s"])
    assert [(each.first, each.p, each.corrected, each.counted) for each in pairs] == [
        ("b", 1, 1, False), ("c", 1, 1, False), ("d", 2 / 64, 2 / 64, True)]
    assert of_metric(METRIC, pairs[:2], [], ["s"]) == [
        "No difference in discretised % is sure: in no comparison two seeds differ."]


METRIC = METRICS["discrete"]


def sentences(first, second):
    rows = [row("a", "s", *first), row("b", "s", *second)]
    pairs, ranks = results.paired_of(rows, "discrete", {"": ["a", "b"]}, ["s"]), results.ranks_of(rows, "discrete", 1)
    return of_metric(METRIC, pairs, ranks, ["s"])


def test_a_sentence_only_for_what_the_numbers_support():
    many = np.arange(50.0, 58)
    better = sentences(many, many + [1, 2, 3, 1, 2, 3, 1, 2])
    assert better[0] == ("b is better than a, chosen by s: discretised % differs by 1.88 over 8 seeds "
                         "(corrected p 0.00781).")
    assert better[1].startswith("b with s has the first mean rank") and len(better) == 2
    assert sentences(many, many + [1, -2, 3, -1, 2, -3, 1, -1])[0] == (
        "No difference in discretised % is sure (no corrected p is at most 0.05).")
    few = sentences(many[:3], many[:3] + 9)  # three seeds cannot be sure, however large the difference
    assert few == ["No difference in discretised % is sure: with 3 seeds and 1 comparison no corrected p can be below "
                   "0.25."]


def test_searches_that_end_with_skips_are_sentences():
    points = [Point("a", seed, epoch, 0, None, skips, 6, None) for seed, skips in ((0, 4), (1, 3)) for epoch in (0, 1)]
    lines = collapsed([*points, Point("b", 0, 1, 0, None, None, None, None)])
    assert lines == ["1 of 2 searches of a ended with skips on more than half of the edges that their own rule keeps."]


def test_curves_are_means_over_seeds_that_know_the_value():
    points = [Point("a", 0, 0, 0, None, 1, 6, 4.0), Point("a", 0, 1, 2.0, 0.5, 1, 6, 2.0),
              Point("a", 1, 1, 4.0, 0.7, 2, 6, 1.0)]
    assert results.mean_points(points, "regret") == {"a": [(0, 0.0, 4.0), (1, 3.0, 1.5)]}
    assert results.mean_points(points, "entropy") == {"a": [(1, 3.0, pytest.approx(0.6))]}


def test_a_paired_difference_where_less_is_better():
    pair = Paired("gap", "s", "b", "a", Interval(-2.0, -3.0, -1.0), 8, 0.01, 0.01)
    (line,) = of_metric(METRICS["gap"], [pair], [], ["s"])
    assert line.startswith("b is better than a, chosen by s: gap differs by 2.00")
