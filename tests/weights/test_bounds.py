import functools
import itertools
import math
import random

import numpy as np
import pytest

from mashbill.weights.arrangement import Entries, least_sum
from mashbill.weights.bounds import (
    check_box,
    composed_bounds,
    effective_bounds,
    exponent_sum,
    scale_bounds,
    tempered_floor,
)


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


def random_vertices(draw: np.random.Generator, n_draws: int, n_teachers: int, low: float, high: float) -> np.ndarray:
    """Vertices of the box simplex ``[n_draws, K]``: filled up in random orders."""
    ranks = draw.permuted(np.tile(np.arange(n_teachers), (n_draws, 1)), axis=1)
    return low + np.clip(1 - n_teachers * low - ranks * (high - low), 0, high - low)


@pytest.mark.parametrize("n_scales", [2, 3, 4])
@pytest.mark.parametrize("n_teachers", [2, 3, 5])
def test_no_vertices_of_100_000_leave_the_composed_bounds(n_teachers, n_scales) -> None:
    draw, reached, n_boxes = np.random.default_rng(n_scales), [], 10
    for trial in range(n_boxes):
        boxes = [
            effective_bounds(
                n_teachers, w_min=draw.uniform(0.01, 0.9) / n_teachers, w_max=draw.uniform(1.05, 1.95) / n_teachers
            )
            for _ in range(n_scales)
        ]
        boxes = [boxes[0]] * n_scales if trial % 2 else boxes
        low, high = composed_bounds(boxes, n_teachers=n_teachers)
        product = np.prod([random_vertices(draw, 10_000, n_teachers, *box) for box in boxes], axis=0)
        w = product / product.sum(axis=1, keepdims=True)
        assert low * (1 - 1e-12) <= w.min()
        assert w.max() <= high * (1 + 1e-12)
        reached.append(np.isclose(w.min(), low, rtol=1e-9) and np.isclose(w.max(), high, rtol=1e-9))
    # Where there are few vertices, some draw is the extreme one.
    assert n_teachers == 5 or all(reached)


def least_sum_of_all_arrangements(scales: list[np.ndarray]) -> float:
    first, *others = scales
    every = [{tuple(p) for p in itertools.permutations(b)} for b in others]
    return min(float(np.prod([first, *choice], axis=0).sum()) for choice in itertools.product(*every))


@pytest.mark.parametrize("seed", range(30))
def test_the_least_sum_is_that_of_all_arrangements(seed) -> None:
    draw = random.Random(seed)
    n, n_scales = draw.choice([(2, 5), (3, 4), (4, 3), (5, 3), (6, 2)])
    scales = []
    for _ in range(n_scales):
        n_top, middle = draw.randint(0, n), draw.choice([None, 0.3])
        low = draw.choice([0.0, 0.01, 0.2])
        scales.append(Entries(draw.choice([0.5, 0.7]), min(n_top, n - (middle is not None)), middle, low))
    if seed % 3 == 0:
        scales = [scales[0]] * n_scales
    expected = least_sum_of_all_arrangements([b.descending(n) for b in scales])
    assert least_sum(scales, n) == pytest.approx(expected, rel=1e-12, abs=1e-30)


def least_sum_place_by_place(scales: list[Entries], n: int) -> float:
    """Fill one place after another, in every way that is left."""
    entries = [[(b.top, b.n_top), (b.middle or 0.0, int(b.middle is not None)), (b.low, n)] for b in scales]
    n_low = [n - b.n_top - (b.middle is not None) for b in scales]

    @functools.cache
    def least(places: int, left: tuple[tuple[int, int, int], ...]) -> float:
        if places == 0:
            return 0.0
        options = []
        for choice in itertools.product(range(3), repeat=len(scales)):
            rest = tuple(
                tuple(count - (i == c) for i, count in enumerate(counts))
                for c, counts in zip(choice, left, strict=True)
            )
            if min(map(min, rest)) >= 0:
                product = math.prod(entry[c][0] for c, entry in zip(choice, entries, strict=True))
                options.append(product + least(places - 1, rest))
        return min(options)

    start = ((entry[0][1], entry[1][1], low) for entry, low in zip(entries, n_low, strict=True))
    return least(n, tuple(start))


@pytest.mark.parametrize("seed", range(24))
def test_the_least_sum_of_scales_that_differ_is_that_of_all_fillings(seed) -> None:
    draw = random.Random(seed)
    n_scales, n = draw.choice([(3, 7), (4, 4), (5, 3)])
    scales = [
        Entries(draw.choice([0.5, draw.uniform(0.2, 0.9)]), draw.randint(1, n - 1), None, draw.uniform(0.001, 0.2))
        for _ in range(n_scales)
    ]
    if n_scales == 3:
        middles = [draw.choice([None, 0.5 * (b.top + b.low)]) for b in scales]
        scales = [Entries(b.top, b.n_top - (m is not None), m, b.low) for b, m in zip(scales, middles, strict=True)]
    assert least_sum(scales, n) == pytest.approx(least_sum_place_by_place(scales, n), rel=1e-12)


def test_families_with_a_choice_are_searched() -> None:
    # Five scales whose stable families do not determine how many places each type has.
    scales = [Entries(0.5, n_top, None, low) for n_top, low in ((1, 0.05), (3, 0.05), (1, 0.1), (1, 0.05), (3, 0.1))]
    assert least_sum(scales, 4) == pytest.approx(0.0005625, rel=1e-12)
    assert least_sum_place_by_place(scales, 4) == pytest.approx(0.0005625, rel=1e-12)


def test_alike_and_different_scales_agree() -> None:
    ranges = [(0.05, 0.31)] * 3
    nudged = [(0.05, 0.31), (0.05, 0.31 + 1e-9), (0.05, 0.31 - 1e-9)]
    for n_teachers in (4, 5, 9):
        alike, different = (composed_bounds(boxes, n_teachers=n_teachers) for boxes in (ranges, nudged))
        assert alike == pytest.approx(different, rel=1e-6)


def test_many_scales_and_many_teachers() -> None:
    low, high = composed_bounds([(0.005, 0.05), (0.001, 0.04), (0.002, 0.03), (0.0, 0.1)], n_teachers=64)
    assert low == 0
    assert 0.5 < high < 1
    narrow = composed_bounds([(0.01, 0.02)] * 8, n_teachers=64)
    assert narrow[0] < 0.01 < 0.02 < narrow[1] < 0.2


def test_a_lower_bound_of_zero_may_be_written_without_a_point() -> None:
    assert composed_bounds([(0, 0.6)] * 2, n_teachers=3) == composed_bounds([(0.0, 0.6)] * 2, n_teachers=3)
    assert composed_bounds([(0, 0.6)] * 2, n_teachers=3) == pytest.approx(by_brute_force([(0.0, 0.6)] * 2, 3))


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


def test_the_inverse_design_for_two_teachers() -> None:
    low, high = scale_bounds(0.2, n_teachers=2, n_scales=3)
    assert low == pytest.approx(0.38648821, abs=5e-9)
    assert (low, high) == pytest.approx((1 / (1 + 4 ** (1 / 3)), 1 - low), rel=1e-15)


@pytest.mark.parametrize("n_teachers", [2, 3, 5, 64])
@pytest.mark.parametrize("n_scales", [1, 2, 3, 5])
def test_a_product_of_designed_scales_reaches_the_target_and_stays_inside(n_teachers, n_scales) -> None:
    w_min = 0.3 / n_teachers
    found = scale_bounds(w_min, n_teachers=n_teachers, n_scales=n_scales)
    product = composed_bounds([found] * n_scales, n_teachers=n_teachers)
    assert product == pytest.approx((w_min, 1 - (n_teachers - 1) * w_min), rel=1e-12)
    for w_max in (1.2 / n_teachers, 1.7 / n_teachers):
        target = effective_bounds(n_teachers, w_min=w_min, w_max=w_max)
        found = scale_bounds(w_min, w_max, n_teachers=n_teachers, n_scales=n_scales)
        low, high = composed_bounds([found] * n_scales, n_teachers=n_teachers)
        assert target[0] * (1 - 1e-12) <= low <= high <= target[1] * (1 + 1e-12)
        assert low == pytest.approx(target[0], rel=1e-12) or high == pytest.approx(target[1], rel=1e-12)
        # A wider box of the same shape leaves the target.
        even = 1 / n_teachers
        wider = [(even + (1 + 1e-9) * (found[0] - even), even + (1 + 1e-9) * (found[1] - even))] * n_scales
        outside = composed_bounds(wider, n_teachers=n_teachers)
        assert n_scales == 1 or outside[0] < target[0] or outside[1] > target[1]


def test_designs_at_the_edge() -> None:
    assert scale_bounds(0.0, n_teachers=3, n_scales=2) == (0.0, 1.0)
    assert scale_bounds(0.25, 0.25, n_teachers=4, n_scales=3) == (0.25, 0.25)
    assert scale_bounds(0.3, n_teachers=1, n_scales=4) == (1.0, 1.0)
    with pytest.raises(ValueError, match="n_scales=0 must be at least 1"):
        scale_bounds(0.1, n_teachers=3, n_scales=0)
    with pytest.raises(ValueError, match=r"w_min=0\.4 is too large for 3 teachers"):
        scale_bounds(0.4, n_teachers=3, n_scales=2)


def test_tempered_products_stay_above_the_floor_and_reach_it() -> None:
    draw, n_teachers = np.random.default_rng(0), 3
    for lows, temperatures in (([0.1] * 3, [3] * 3), ([0.05, 0.2], [2, 4]), ([0.1, 0.02, 0.2], [4, 4, 2.5])):
        powers = np.zeros((20_000, n_teachers))
        for low, temperature in zip(lows, temperatures, strict=True):
            w = random_vertices(draw, 20_000, n_teachers, low, 1.0)
            mixed = draw.dirichlet(np.ones(n_teachers), 20_000) * (1 - n_teachers * low) + low
            powers += np.log(np.where(draw.random((20_000, 1)) < 0.5, w, mixed)) / temperature
        products = np.exp(powers)
        floor = tempered_floor(lows, temperatures=temperatures, n_teachers=n_teachers)
        least = float((products / products.sum(axis=1, keepdims=True)).min())
        assert min(lows) * (1 - 1e-12) <= floor <= least * (1 + 1e-12)
    assert tempered_floor([0.1] * 3, temperatures=[3] * 3, n_teachers=3) == pytest.approx(0.1)


def test_temperatures_that_certify_nothing_are_refused() -> None:
    assert exponent_sum([1, 2, 4]) == 1.75
    assert exponent_sum([7] * 7) <= 1 + 1e-15
    with pytest.raises(ValueError, match=r"sum to 1/T = 3 > 1, which certifies no bound; .*scale_bounds"):
        tempered_floor([0.1] * 3, temperatures=[1, 1, 1], n_teachers=3)
    with pytest.raises(ValueError, match="must all be finite and positive"):
        exponent_sum([1, 0])
    with pytest.raises(ValueError, match="temperatures has 1 numbers for 2 scales"):
        tempered_floor([0.1, 0.1], temperatures=[2], n_teachers=3)
