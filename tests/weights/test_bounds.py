import itertools
import math
import random

import numpy as np
import pytest

from mashbill.weights.bounds import check_box, composed_bounds, effective_bounds


def test_effective_bounds_golden(golden) -> None:
    first, second, _ = golden("F22")["expected"]
    tol = golden("F22")["tol"]
    assert effective_bounds(4, w_min=0.05, w_max=0.3) == pytest.approx(first, abs=tol)
    assert effective_bounds(3, w_min=0.1, w_max=0.9) == pytest.approx(second, abs=tol)


@pytest.mark.parametrize(
    ("n_teachers", "w_min", "w_max", "said"),
    [
        (4, 0.3, 1.0, r"w_min=0\.3 is too large for 4 teachers: .* sum to 1\.2 > 1; lower it to at most 1/4 = 0\.25"),
        (3, 0.0, 0.3, r"w_max=0\.3 is too small for 3 teachers: .* sum to 0\.9 < 1; raise it to at least 1/3 = 0\.333"),
        (0, 0.0, 1.0, r"n_teachers=0 must be at least 1"),
    ],
)
def test_infeasible_bounds_are_refused_with_numbers(n_teachers, w_min, w_max, said) -> None:
    with pytest.raises(ValueError, match=said):
        effective_bounds(n_teachers, w_min=w_min, w_max=w_max)


@pytest.mark.parametrize("bounds", [(-0.1, 0.5), (0.6, 0.5), (0.1, 1.5), (math.nan, 0.5), (0.1, math.nan), (0.0, 0.0)])
def test_impossible_boxes_are_refused(bounds) -> None:
    with pytest.raises(ValueError, match=r"^w_m(in|ax)="):
        check_box(*bounds)


@pytest.mark.parametrize("n_teachers", range(1, 100))
def test_the_degenerate_box_is_feasible_whatever_the_rounding(n_teachers) -> None:
    even = 1 / n_teachers
    low, high = effective_bounds(n_teachers, w_min=even, w_max=even)
    assert (low, high) == pytest.approx((even, even))
    assert low <= even <= high


def test_composed_bounds_golden(golden) -> None:
    cases = [([(0.2, 0.8)] * 3, 2), ([(0.1, 0.6)] * 3, 3), ([(0.1, 0.8)] * 3, 3)]
    for expected, (ranges, n_teachers) in zip(golden("F26")["expected"], cases, strict=True):
        assert composed_bounds(ranges, n_teachers=n_teachers) == pytest.approx(expected, abs=golden("F26")["tol"])


def vertices(n_teachers: int, low: float, high: float) -> list[np.ndarray]:
    """All vertices of the box simplex: every entry at a bound, but one."""
    found = []
    for place in range(n_teachers):
        for rest in itertools.product((low, high), repeat=n_teachers - 1):
            left = 1 - sum(rest)
            if low - 1e-12 <= left <= high + 1e-12:
                found.append(np.insert(np.array(rest), place, left))
    return found


def by_brute_force(ranges, n_teachers) -> tuple[float, float]:
    extremes = [math.inf, -math.inf]
    for choice in itertools.product(*(vertices(n_teachers, *box) for box in ranges)):
        w = np.prod(choice, axis=0)
        extremes = [min(extremes[0], w[0] / w.sum()), max(extremes[1], w[0] / w.sum())]
    return extremes[0], extremes[1]


@pytest.mark.parametrize("seed", range(12))
def test_composed_bounds_are_those_of_all_vertices(seed) -> None:
    draw = random.Random(seed)
    n_teachers = draw.choice([2, 3, 4])
    n_scales = draw.choice([1, 2, 3]) if n_teachers < 4 else draw.choice([1, 2])
    ranges = [(draw.uniform(0.01, 1 / n_teachers), draw.uniform(1 / n_teachers, 0.8)) for _ in range(n_scales)]
    expected = by_brute_force(ranges, n_teachers)
    assert composed_bounds(ranges, n_teachers=n_teachers) == pytest.approx(expected, rel=1e-9)


def test_three_scales_whose_w_max_binds_are_those_of_all_vertices() -> None:
    ranges = [(0.05, 0.35), (0.1, 0.4), (0.02, 0.3)]
    expected = by_brute_force(ranges, 4)
    assert composed_bounds(ranges, n_teachers=4) == pytest.approx(expected, rel=1e-9)


def test_random_vertices_never_leave_the_composed_bounds() -> None:
    draw = np.random.default_rng(0)
    ranges = [(0.02, 0.25), (0.05, 0.2), (0.01, 0.3)]
    low, high = composed_bounds(ranges, n_teachers=6)
    seen = []
    for _ in range(3000):
        product = np.ones(6)
        for box in ranges:
            w, left = np.full(6, box[0]), 1 - 6 * box[0]
            for k in draw.permutation(6):
                step = min(left, box[1] - box[0])
                w[k], left = w[k] + step, left - step
            product *= w
        seen += list(product / product.sum())
    assert low <= min(seen) <= max(seen) <= high
    assert max(seen) > 0.9 * high


def test_the_formula_without_a_binding_upper_bound() -> None:
    low, high, n_teachers, n_scales = 0.07, 0.79, 4, 5
    rest = 1 - (n_teachers - 1) * low
    expected_low = low**n_scales / ((n_teachers - 1) * low**n_scales + rest**n_scales)
    expected_high = rest**n_scales / (rest**n_scales + (n_teachers - 1) * low**n_scales)
    found = composed_bounds([(low, high)] * n_scales, n_teachers=n_teachers)
    assert found == pytest.approx((expected_low, expected_high), rel=1e-12)


def test_one_scale_one_teacher_and_no_scale() -> None:
    assert composed_bounds([(0.1, 0.6)], n_teachers=3) == pytest.approx((0.1, 0.6))
    assert composed_bounds([(0.1, 1.0)], n_teachers=1) == (1.0, 1.0)
    assert composed_bounds([], n_teachers=4) == (0.25, 0.25)
    assert composed_bounds([(0.0, 1.0)] * 2, n_teachers=3) == (0.0, 1.0)


def test_composed_bounds_refuse_an_empty_scale() -> None:
    with pytest.raises(ValueError, match="too large for 3 teachers"):
        composed_bounds([(0.1, 0.5), (0.4, 0.5)], n_teachers=3)
