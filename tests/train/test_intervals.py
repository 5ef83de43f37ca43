import math

import numpy as np
import pytest
from scipy import stats

from mashbill.train import intervals
from mashbill.weights.scorecard import Interval


def test_proportion_is_clopper_pearson():
    found = intervals.proportion(7, 20, confidence=0.9)
    assert found.value == 0.35
    assert found.low == pytest.approx(stats.beta.ppf(0.05, 7, 14), abs=1e-9)
    assert found.high == pytest.approx(stats.beta.ppf(0.95, 8, 13), abs=1e-9)


def test_no_failure_in_300_leaves_one_percent_possible():
    found = intervals.proportion(0, 300, confidence=0.9)
    assert found.low == 0
    assert found.high == pytest.approx(1 - 0.05 ** (1 / 300), abs=1e-9)


def test_with_one_position_a_row_the_mean_is_students_t():
    values = np.random.default_rng(0).normal(size=30)
    found = intervals.clustered_mean(values, np.ones(30), confidence=0.95)
    low, high = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high), abs=1e-12)


def test_copying_every_token_of_a_row_does_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(size=12)
    once = intervals.clustered_mean(values, np.ones(12), confidence=0.95)
    ten_times = intervals.clustered_mean(values * 10, np.full(12, 10), confidence=0.95)
    assert once.low == pytest.approx(ten_times.low, abs=1e-12)
    as_if_independent = stats.sem(np.repeat(values, 10)) * stats.t.ppf(0.975, 119)
    assert ten_times.high is not None
    assert ten_times.high - ten_times.value > 2.5 * as_if_independent


def test_a_single_row_gives_an_estimate_without_ends():
    assert intervals.clustered_mean([6.0], [3], confidence=0.95) == Interval(2.0, None, None)
    assert intervals.mean_loss([6.0], [3], confidence=0.95) == Interval(2.0, None, None)


def test_a_loss_is_never_below_zero():
    assert intervals.mean_loss([0.0, 0.0, 3.0], [1, 1, 1], confidence=0.95).low == 0.0


def test_the_mean_covers_the_truth_about_as_often_as_stated():
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        counts = generator.integers(5, 30, size=25)
        level = generator.normal(2.0, 0.5, size=25)  # what the tokens of one row share
        found = intervals.clustered_mean(
            level * counts + generator.normal(size=25) * np.sqrt(counts), counts, confidence=0.9
        )
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 2.0 <= found.high
    assert 0.85 <= hits / 400 <= 0.95


def test_clustered_proportion_is_exact_for_single_positions():
    assert intervals.clustered_proportion([1, 0, 1, 1], np.ones(4), confidence=0.95) == intervals.proportion(
        3, 4, confidence=0.95
    )


def test_rows_that_agree_with_themselves_count_as_one_trial_each():
    # Every row is all right or all wrong, so 400 tokens know no more than 40 rows.
    successes = np.repeat([10, 0], 20)
    found = intervals.clustered_proportion(successes, np.full(40, 10), confidence=0.95)
    rows_alone = intervals.proportion(20, 40, confidence=0.95)
    tokens_alone = intervals.proportion(200, 400, confidence=0.95)
    assert found.low is not None
    assert found.low == pytest.approx(rows_alone.low, abs=0.02)
    assert tokens_alone.low is not None
    assert found.low < tokens_alone.low - 0.05


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_with_all_or_nothing_each_row_is_one_trial(share):
    found = intervals.clustered_proportion(np.full(30, 50 * share), np.full(30, 50), confidence=0.9)
    rows = intervals.proportion(int(30 * share), 30, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((rows.low, rows.high), abs=1e-9)


def test_clustered_proportion_covers_the_truth():
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        chance = generator.beta(9, 1, size=20)
        found = intervals.clustered_proportion(generator.binomial(15, chance), np.full(20, 15), confidence=0.9)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.9 <= found.high
    assert hits / 300 >= 0.87


def test_mean_success_is_exact_for_zeros_and_ones_and_close_between():
    assert intervals.mean_success([1, 1, 0], confidence=0.95) == intervals.proportion(2, 3, confidence=0.95)
    between = intervals.mean_success([0.5, 0.5, 0.5, 0.5], confidence=0.95)
    halves = intervals.proportion(2, 4, confidence=0.95)
    assert (between.low, between.high) == pytest.approx((halves.low, halves.high), abs=1e-9)


def test_exponential_maps_each_end_and_gives_up_where_it_overflows():
    found = intervals.exponential(Interval(1.0, 0.0, 2.0))
    assert found == Interval(math.e, 1.0, math.exp(2))
    assert intervals.exponential(Interval(1.0, None, 800.0)) == Interval(math.e, None, None)
    assert intervals.exponential(Interval(9e3, 8e3, 1e4)) is None


def test_what_is_hard_for_both_cancels_in_a_paired_difference():
    generator = np.random.default_rng(4)
    hardness = generator.normal(0, 5, size=40)
    first, second = hardness + 0.5, hardness + generator.normal(0, 0.01, size=40)
    found = intervals.paired_difference(first, second, np.ones(40), confidence=0.95)
    assert found.low is not None
    assert 0.49 < found.low < 0.5 < found.value + 0.01
    alone = intervals.clustered_mean(first, np.ones(40), confidence=0.95)
    assert alone.low is not None
    assert alone.low < 0


def test_two_rows_that_differ_alike_prove_nothing_and_two_hundred_do():
    def difference(n: int) -> Interval:
        return intervals.paired_proportion(np.ones(n), np.zeros(n), np.ones(n), confidence=0.95)

    few, many = difference(2), difference(200)
    assert few.value == many.value == 1.0
    assert few.low is not None
    assert many.low is not None
    assert few.low < 0 < 0.9 < many.low


def test_the_paired_proportion_is_agresti_and_mins():
    # 8 rows right for the first alone, 2 for the second alone, of 30.
    first, second = np.r_[np.ones(8), np.zeros(2), np.ones(20)], np.r_[np.zeros(8), np.ones(2), np.ones(20)]
    found = intervals.paired_proportion(first, second, np.ones(30), confidence=0.95)
    half = stats.norm.ppf(0.975) / 32 * math.sqrt(8 + 2 + 1 - 6**2 / 32)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((6 / 32 - half, 6 / 32 + half))


def test_the_paired_proportion_covers_the_truth_on_small_samples():
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(600):
        first = (generator.random(20) < 0.9).astype(float)
        second = np.where(generator.random(20) < 0.8, first, generator.random(20) < 0.5)
        found = intervals.paired_proportion(first, second, np.ones(20), confidence=0.95)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.08 <= found.high  # .9 - (.8 * .9 + .2 * .5)
    assert hits / 600 >= 0.93  # without the added half rows it is .84


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 10, 20])
def test_candidates_that_are_alike_are_seldom_told_apart_whatever_the_number_of_rows(n):
    # Every row differs, in either direction alike: the number of rows for the first is binomial.
    told_apart = 0.0
    for n_first in range(n + 1):
        first = np.arange(n) < n_first
        found = intervals.paired_proportion(first, ~first, np.ones(n), confidence=0.95)
        assert found.low is not None
        assert found.high is not None
        told_apart += stats.binom.pmf(n_first, n, 0.5) * (found.low > 0 or found.high < 0)
    assert told_apart <= 0.05
    assert (told_apart > 0) == (n >= 6)


def test_a_few_rows_with_means_over_seeds_prove_nothing():
    five, six = np.full(5, 2 / 3), np.full(6, 2 / 3)
    assert intervals.paired_proportion(five, np.zeros(5), np.ones(5), confidence=0.95).low == 0.0
    found = intervals.paired_proportion(six, np.zeros(6), np.ones(6), confidence=0.95)
    assert found.low is not None
    assert found.low > 0
