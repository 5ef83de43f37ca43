import math

import numpy as np
import pytest

from mashbill.train import intervals, metrics
from mashbill.train.metrics import Marks


def marks(row, nll, is_correct, confidence) -> Marks:
    return Marks(
        np.array(row, dtype=np.int64),
        np.array(nll, dtype=float),
        np.array(is_correct, dtype=bool),
        np.array(confidence, dtype=float),
    )


EXAMPLE = marks([0, 0, 1, 2], [1.0, 2.0, 3.0, 6.0], [1, 0, 1, 0], [0.9, 0.4, 0.9, 0.3])


def test_totals_add_up_by_row():
    totals = metrics.RowTotals.of(EXAMPLE)
    assert totals.row.tolist() == [0, 1, 2]
    assert totals.n.tolist() == [2, 1, 1]
    assert totals.nll.tolist() == [3, 3, 6]
    assert totals.success.tolist() == [0.5, 1, 0]


def test_summary_of_a_language_model():
    found = metrics.summarise(EXAMPLE, confidence=0.95, has_perplexity=True)
    assert found is not None
    assert (found.n, found.n_rows) == (4, 3)
    assert found.loss.value == 3.0
    assert found.accuracy.value == 0.5
    assert found.perplexity is not None
    assert found.perplexity.value == pytest.approx(math.exp(3))
    assert found.safety is None
    assert found.n_critical == 0


def test_a_classifier_has_an_exact_interval_and_no_perplexity():
    one_each = marks([0, 1, 2, 3], [0.1] * 4, [1, 1, 1, 0], [0.9] * 4)
    found = metrics.summarise(one_each, confidence=0.9)
    assert found is not None
    assert found.perplexity is None
    assert found.accuracy == intervals.proportion(3, 4, confidence=0.9)


def test_safety_is_success_on_critical_rows_alone(golden):
    # One critical row in a hundred, and it fails: the paper's measure says .99, success on what matters is 0.
    one_each = marks(np.arange(100), np.zeros(100), np.arange(100) != 7, np.ones(100))
    is_critical = np.arange(100) == 7
    found = metrics.summarise(one_each, confidence=0.95, is_critical=is_critical)
    assert found is not None
    assert found.safety is not None
    assert (found.safety.value, found.n_critical) == (0.0, 1)
    diluted = np.where(is_critical, one_each.is_correct, True).mean()
    assert diluted == pytest.approx(golden("F82")["expected"], abs=golden("F82")["tol"])


def test_no_critical_row_means_no_safety_and_no_position_means_no_summary():
    found = metrics.summarise(EXAMPLE, confidence=0.95, is_critical=np.zeros(3, bool))
    assert found is not None
    assert found.safety is None
    assert metrics.summarise(Marks.join([]), confidence=0.95) is None


def test_calibration_error_in_closed_form():
    # Two bins: .9 confident and right half the time; .3 confident and never right.
    bins = metrics.reliability_bins(EXAMPLE)
    assert [each.n for each in bins] == [1, 1, 2]
    assert metrics.calibration_error(bins) == pytest.approx((0.3 + 0.4 + 2 * abs(1 - 0.9)) / 4)


def test_bin_edges_belong_to_the_bin_below_and_certainty_has_a_bin():
    edges = marks([0, 1, 2], [0, 0, 0], [1, 1, 1], [1 / 15, 1.0, 0.0])
    assert [(each.low, each.n) for each in metrics.reliability_bins(edges)] == [(0.0, 2), (14 / 15, 1)]


def test_a_calibrated_candidate_has_a_small_error_and_an_overconfident_one_has_not():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.2, 1, size=20_000)
    right = generator.random(20_000) < confidence
    rows = np.arange(20_000)
    honest = metrics.reliability_bins(marks(rows, rows * 0.0, right, confidence))
    boastful = metrics.reliability_bins(marks(rows, rows * 0.0, right, np.sqrt(confidence)))
    assert metrics.calibration_error(honest) < 0.015
    assert metrics.calibration_error(boastful) == pytest.approx(np.mean(np.sqrt(confidence) - confidence), abs=0.02)


def test_marks_join_and_split_by_row():
    both = Marks.join([EXAMPLE, EXAMPLE])
    assert both.nll.sum() == 24
    assert both.of_rows(np.array([False, True, False])).nll.tolist() == [3, 3]


def test_paired_differences_have_the_sign_of_first_minus_second():
    better = marks([0, 1, 2, 3], [0.1] * 4, [1, 1, 1, 0], [0.9] * 4)
    worse = marks([0, 1, 2, 3], [0.6] * 4, [1, 0, 0, 0], [0.9] * 4)
    accuracy, loss = metrics.paired(better, worse, confidence=0.95)
    assert accuracy.value == 0.5
    assert loss.value == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="the same ones"):
        metrics.paired(better, EXAMPLE.of_rows(np.array([True, False, False])), confidence=0.95)
