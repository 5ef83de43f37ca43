import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from mashbill.weights import isotonic, order
from mashbill.weights.order import SafetyOrder

DOUBLE = torch.float64
FOREST = SafetyOrder(4, ((0, 1), (0, 2), (3, 2)))  # no ranking: 3 is not comparable with 0 and 1


def partitions(items):
    """Every way to split a list into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for blocks in partitions(rest):
        yield [[first], *blocks]
        for i, block in enumerate(blocks):
            yield [*blocks[:i], [first, *block], *blocks[i + 1 :]]


def fit_by_enumeration(values: np.ndarray, pairs) -> np.ndarray:
    """The isotonic fit is the nearest feasible vector of block means, over all partitions into blocks."""
    best, least = np.full_like(values, values.mean()), np.inf
    for blocks in partitions(list(range(len(values)))):
        x = values.copy()
        for block in blocks:
            x[block] = values[block].mean()
        distance = ((x - values) ** 2).sum()
        if distance < least and all(x[i] >= x[j] - 1e-12 for i, j in pairs):
            best, least = x, distance
    return best


@st.composite
def orders(draw):
    n_teachers = draw(st.integers(2, 5))
    forward = list(itertools.combinations(draw(st.permutations(range(n_teachers))), 2))
    pairs = draw(st.lists(st.sampled_from(forward), max_size=6))
    values = draw(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5]) | st.floats(-2, 2), min_size=5, max_size=5))
    return tuple(pairs), np.array(values[:n_teachers])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(orders())
def test_the_fit_is_the_nearest_of_all_block_means(problem) -> None:
    pairs, values = problem
    safety = SafetyOrder(len(values), pairs)
    found = order.fit(torch.tensor(values), safety).numpy()
    assert found == pytest.approx(fit_by_enumeration(values, safety.closure), abs=1e-12)


def joint_optimum(v, safety, w_min, w_max, metric):
    """Solve the whole problem at once with a general optimiser; return its distance."""
    rules = [{"type": "eq", "fun": lambda w: w.sum() - 1}]
    rules += [{"type": "ineq", "fun": lambda w, i=i, j=j: w[i] - w[j]} for i, j in safety.closure]
    found = minimize(
        lambda w: distance(w, v, metric),
        np.full(len(v), 1 / len(v)),
        method="SLSQP",
        bounds=[(w_min, w_max)] * len(v),
        constraints=rules,
        options={"ftol": 1e-15, "maxiter": 500},
    )
    return found.x


def distance(w, v, metric):
    return ((w - v) ** 2).sum() if metric == "l2" else (w * np.log(w / v) - w + v).sum()


@pytest.mark.parametrize("metric", ["l2", "kl"])
@pytest.mark.parametrize("seed", range(10))
def test_projection_is_the_optimum_of_the_joint_problem(seed, metric) -> None:
    draw = np.random.default_rng(seed)
    v = draw.dirichlet(np.full(4, 0.7)) + 1e-3
    safety = FOREST if seed % 2 else SafetyOrder.from_scores(draw.integers(0, 3, 4).tolist())
    w = order.project(torch.tensor(v), safety=safety, w_min=0.1, w_max=0.45, metric=metric).numpy()
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert all(w[i] >= w[j] - 1e-12 for i, j in safety.closure)
    assert w.min() >= 0.1 - 1e-15
    assert w.max() <= 0.45 + 1e-15
    rival = joint_optimum(v, safety, 0.1, 0.45, metric)
    assert distance(w, v, metric) <= distance(rival, v, metric) + 1e-9
    assert w == pytest.approx(rival, abs=1e-4)


def test_goldens(golden) -> None:
    v = torch.tensor([0.15, 0.45, 0.25, 0.15], dtype=DOUBLE)
    found = order.project(v, safety=[3.0, 3.0, 2.0, 1.0], w_min=0.05, w_max=0.6)
    assert found.tolist() == pytest.approx(golden("F19")["expected"], abs=golden("F19")["tol"])
    witness = torch.tensor([0.44, 0.56], dtype=DOUBLE)
    for metric in ("l2", "kl"):
        repaired = order.project(witness, safety=[2.0, 1.0], w_min=0.2, w_max=0.8, metric=metric)
        assert repaired.tolist() == pytest.approx(golden("F21")["expected"], abs=golden("F21")["tol"])


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("metric", ["l2", "kl"])
@pytest.mark.parametrize(
    "safety",
    [
        SafetyOrder.from_scores([0.3, 0.9, 0.9, 0.1, 0.5]),
        SafetyOrder(5, ((0, 1), (0, 2), (3, 2))),
        SafetyOrder(5, ((4, 0), (4, 1), (4, 2), (4, 3))),
        SafetyOrder(5, ((2, 0),)),
    ],
    ids=["ranking", "forest", "star", "one pair"],
)
def test_the_order_is_never_broken(safety, metric, dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.rand(10_000, 5, generator=generator, dtype=DOUBLE).pow(3).to(dtype)
    w = order.project(v, safety=safety, w_min=0.05, w_max=0.3, metric=metric)
    for safer, less in safety.closure:
        assert float((w[:, less] - w[:, safer]).max()) <= (1e-12 if dtype == DOUBLE else 1e-6)
    assert float((w.sum(-1) - 1).abs().max()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_the_fit_keeps_the_order_to_the_last_bit(dtype) -> None:
    v = torch.randn(10_000, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)
    tied = (3 * v).round() / 10  # means of equal numbers are not always that number
    for safety in (SafetyOrder.from_scores([5, 4, 3, 2, 1]), SafetyOrder(5, ((0, 1), (0, 2), (3, 2), (1, 4)))):
        for values in (v, tied):
            x = order.fit(values, safety)
            for safer, less in safety.closure:
                assert bool((x[:, safer] >= x[:, less]).all())


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_all_three_algorithms_agree(dtype) -> None:
    ranking = SafetyOrder.from_scores([3, 1, 2, 2, 0, 1])
    (part,) = ranking._parts
    assert part.levels is not None
    sets = torch.tensor(
        [
            [float(chosen >> k & 1) for k in range(6)]
            for chosen in range(1, 64)
            if all(chosen >> k & 1 == 0 or part.safer[k] & ~chosen == 0 for k in range(6))
        ],
        dtype=dtype,
    )
    sizes = torch.tensor([1, 2, 1, 3, 1, 1], dtype=dtype)
    v = torch.randn(500, 6, generator=torch.Generator().manual_seed(2), dtype=DOUBLE).to(dtype)
    levels = torch.tensor(part.levels, dtype=dtype).expand_as(v)
    by_pooling = isotonic.fit_ranking(v, levels, sizes)
    atol = 1e-12 if dtype == DOUBLE else 1e-6
    torch.testing.assert_close(isotonic.fit_by_upper_sets(v, sizes, sets), by_pooling, atol=atol, rtol=0)
    by_cuts = isotonic.fit_by_cuts(v, [1, 2, 1, 3, 1, 1], part.safer)
    torch.testing.assert_close(by_cuts, by_pooling, atol=atol, rtol=0)


@pytest.mark.parametrize("safety", [FOREST, SafetyOrder.from_scores([1, 3, 2, 2])], ids=["forest", "ranking"])
@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_gradients_are_those_of_finite_differences(safety, metric) -> None:
    v = torch.rand(8, 4, generator=torch.Generator().manual_seed(3), dtype=DOUBLE).add(0.05).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: order.project(x, safety=safety, w_min=0.1, w_max=0.45, metric=metric), (v,)
    )


def test_scores_may_differ_from_row_to_row() -> None:
    v = torch.tensor([[0.2, 0.8], [0.2, 0.8]], dtype=DOUBLE)
    w = order.project(v, safety=torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=DOUBLE))
    torch.testing.assert_close(w, torch.tensor([[0.5, 0.5], [0.2, 0.8]], dtype=DOUBLE))


def test_many_ties_in_a_long_ranking_impose_nothing() -> None:
    scores = [float(k % 2) for k in range(64)]
    v = torch.rand(50, 64, generator=torch.Generator().manual_seed(9), dtype=DOUBLE) + torch.tensor(scores)
    torch.testing.assert_close(order.fit(v, scores), v, atol=1e-14, rtol=0)
    assert torch.equal(order.fit(v, SafetyOrder.from_scores(scores)), order.fit(v, scores))


def test_ties_impose_nothing() -> None:
    v = torch.tensor([0.1, 0.6, 0.3], dtype=DOUBLE)
    for safety in ([1.0, 1.0, 1.0], SafetyOrder(3, ())):
        torch.testing.assert_close(order.project(v, safety=safety), v)


def test_a_teacher_outside_the_order_is_left_alone_by_the_fit() -> None:
    v = torch.tensor([0.1, 0.9, 0.4], dtype=DOUBLE)
    torch.testing.assert_close(order.fit(v, SafetyOrder(3, ((0, 2),))), torch.tensor([0.25, 0.9, 0.25], dtype=DOUBLE))


def test_a_value_near_zero_does_not_blur_the_others() -> None:
    log_w = torch.tensor([-0.1, -0.2, -1e4])
    fitted = order.fit(log_w, [3.0, 2.0, 1.0])
    assert fitted.tolist() == log_w.tolist()


@pytest.mark.parametrize("n_teachers", [2, 3, 6])
def test_the_fit_moves_no_further_than_its_argument(n_teachers) -> None:
    generator = torch.Generator().manual_seed(n_teachers)
    x, y = torch.randn(2, 3000, n_teachers, generator=generator, dtype=DOUBLE)
    safety = SafetyOrder.from_scores(list(range(n_teachers)))
    moved = (order.fit(x, safety) - order.fit(y, safety)).abs().amax(-1)
    assert bool((moved <= (x - y).abs().amax(-1) + 1e-12).all())


def test_permuting_teachers_permutes_the_result() -> None:
    generator = torch.Generator().manual_seed(7)
    v = torch.rand(200, 4, generator=generator, dtype=DOUBLE)
    permutation = [2, 0, 3, 1]
    place = {k: n for n, k in enumerate(permutation)}
    permuted = SafetyOrder(4, tuple((place[i], place[j]) for i, j in FOREST.pairs))
    torch.testing.assert_close(order.fit(v[:, permutation], permuted), order.fit(v, FOREST)[:, permutation])


def test_long_rankings_and_large_orders_with_few_upper_sets_work() -> None:
    v = torch.randn(20, 64, generator=torch.Generator().manual_seed(8), dtype=DOUBLE)
    x = order.fit(v, SafetyOrder.from_scores(list(range(64))))
    assert bool((x.diff(dim=-1) >= 0).all())
    two_chains = (*((i, i + 1) for i in range(9)), (10, 9), (10, 11))
    SafetyOrder(12, two_chains)


def test_cycles_are_named() -> None:
    with pytest.raises(ValueError, match=r"cycle (0 > 2 > 1 > 0|1 > 0 > 2 > 1|2 > 1 > 0 > 2)"):
        SafetyOrder(4, ((0, 2), (2, 1), (1, 0), (0, 3)))
    with pytest.raises(ValueError, match="cycle 1 > 1"):
        SafetyOrder(2, ((1, 1),))


def test_bad_arguments_are_refused() -> None:
    v = torch.full((3,), 1 / 3)
    with pytest.raises(ValueError, match=r"pairs contain \(0, 3\), but teachers are numbered 0 to 2"):
        SafetyOrder(3, ((0, 3),))
    with pytest.raises(ValueError, match="must be numbers"):
        SafetyOrder.from_scores([0.5, float("nan")])
    with pytest.raises(ValueError, match="safety orders 2 teachers, but there are 3 weights"):
        order.fit(v, SafetyOrder(2, ((0, 1),)))
    with pytest.raises(ValueError, match="safety has 2 scores for 3 teachers"):
        order.fit(v, [1.0, 2.0])


def test_copeland_counts_certain_wins() -> None:
    assert FOREST.copeland() == (2, -1, -2, 1)


def test_a_score_of_nan_is_refused_and_not_taken_for_the_safest() -> None:
    with pytest.raises(ValueError, match="NaN score"):
        order.project(torch.tensor([0.2, 0.8]), safety=[float("nan"), 1.0])
