import itertools

import numpy as np
import pytest
import quadprog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from mashbill.weights import isotonic, minimal_cuts, order
from mashbill.weights.order import SafetyOrder

DOUBLE = torch.float64
CROWN = SafetyOrder(12, tuple((i, 6 + j) for i in range(6) for j in range(6) if i != j))  # 2^6 + 2^6 + 4 upper sets
LADDER = SafetyOrder(20, tuple((i, 10 + j) for i in range(10) for j in range(10) if (i + j) % 3))


def random_dag(draw: np.random.Generator, n_teachers: int, density: float) -> SafetyOrder:
    chosen, names = np.triu(draw.random((n_teachers, n_teachers)) < density, 1), draw.permutation(n_teachers)
    return SafetyOrder(n_teachers, tuple((int(names[i]), int(names[j])) for i, j in np.argwhere(chosen)))


def by_quadprog(values: np.ndarray, weights: np.ndarray, pairs) -> np.ndarray:
    if not pairs:
        return values
    eye = np.eye(len(values))
    rows = np.array([eye[i] - eye[j] for i, j in pairs])
    return quadprog.solve_qp(np.diag(weights), weights * values, rows.T, np.zeros(len(rows)))[0]


@pytest.mark.parametrize("n_teachers", [1, 2, 3, 10, 64])
def test_a_total_order_is_fitted_as_scikit_learn_does(n_teachers) -> None:
    draw, model = np.random.default_rng(0), IsotonicRegression(increasing=False)
    values = draw.normal(size=(200, n_teachers))
    values[::3] = values[::3].round()
    weights = draw.integers(1, 5, n_teachers).astype(float)
    levels = torch.arange(n_teachers, 0, -1, dtype=DOUBLE)
    for sizes in (np.ones(n_teachers), weights):
        found = isotonic.fit_ranking(torch.from_numpy(values), levels.expand(200, -1), torch.from_numpy(sizes)).numpy()
        expected = np.array([model.fit_transform(np.arange(n_teachers), row, sample_weight=sizes) for row in values])
        np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_orders_of_up_to_64_teachers_are_fitted_as_a_quadratic_program_does(seed) -> None:
    draw = np.random.default_rng(seed)
    for n_teachers, density in itertools.product((9, 16, 32, 64), (0.03, 0.1, 0.3, 0.8)):
        safety = random_dag(draw, n_teachers, density)
        values = draw.normal(size=(3, n_teachers))
        values[1] = values[1].round()
        found = order.fit(torch.from_numpy(values), safety).numpy()
        expected = np.array([by_quadprog(row, np.ones(n_teachers), safety.closure) for row in values])
        np.testing.assert_allclose(found, expected, atol=1e-11)
        assert all((found[:, i] >= found[:, j]).all() for i, j in safety.closure)


@st.composite
def weighted_problems(draw):
    n = draw(st.integers(1, 7))
    forward = list(itertools.combinations(draw(st.permutations(range(n))), 2))
    pairs = draw(st.lists(st.sampled_from(forward), max_size=9)) if forward else []
    values = draw(st.lists(st.sampled_from([0.0, 0.1, 0.2]) | st.floats(-2, 2), min_size=n, max_size=n))
    weights = draw(st.lists(st.integers(1, 4), min_size=n, max_size=n))
    return tuple(pairs), values, weights


@settings(max_examples=200)
@given(weighted_problems())
def test_minimal_cuts_solve_the_weighted_problem(problem) -> None:
    pairs, values, weights = problem
    safety = SafetyOrder(len(values), pairs)
    safer = [sum(1 << i for i, less in safety.closure if less == j) for j in range(len(values))]
    fitted, number = minimal_cuts.fit_row(values, weights, safer)
    expected = by_quadprog(np.array(values), np.array(weights, dtype=float), safety.closure)
    np.testing.assert_allclose(fitted, expected, atol=1e-9)  # weights differ: the program itself is the less exact
    assert all(fitted[i] >= fitted[j] for i, j in safety.closure)
    for block in set(number):
        members = [k for k, n in enumerate(number) if n == block]
        mean = np.average([values[k] for k in members], weights=[weights[k] for k in members])
        assert [fitted[k] for k in members] == pytest.approx([mean] * len(members), abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("safety", [CROWN, LADDER], ids=["crown", "ladder"])
def test_large_orders_are_kept_to_the_last_bit(safety, dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    v = torch.randn(100, safety.n_teachers, generator=generator, dtype=dtype)
    v[:50] = (2 * v[:50]).round() / 10
    x = order.fit(v, safety)
    assert x.dtype == dtype
    for safer, less in safety.closure:
        assert bool((x[:, safer] >= x[:, less]).all())
    torch.testing.assert_close(order.fit(x, safety), x, rtol=0, atol=0)


def test_each_method_is_used_where_it_is_meant() -> None:
    assert [part.levels is None for part in SafetyOrder.from_scores([3, 1, 2])._parts] == [False]
    assert CROWN._parts[0].upper_sets is not None
    assert (LADDER._parts[0].levels, LADDER._parts[0].upper_sets) == (None, None)
    apart = SafetyOrder(14, tuple((i, i + 7) for i in range(7)))  # 3^7 upper sets, but seven rankings
    assert [part.members for part in apart._parts] == [(i, i + 7) for i in range(7)]
    v = torch.randn(50, 14, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    mean = (v[:, :7] + v[:, 7:]) / 2
    expected = torch.cat([v[:, :7].maximum(mean), v[:, 7:].minimum(mean)], dim=-1)
    torch.testing.assert_close(order.fit(v, apart), expected)


@pytest.mark.parametrize("metric", ["l2", "kl"])
def test_gradients_through_minimal_cuts_are_those_of_finite_differences(metric) -> None:
    v = torch.rand(2, 20, generator=torch.Generator().manual_seed(3), dtype=DOUBLE).add(0.05).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: order.project(x, safety=LADDER, w_min=0.01, w_max=0.08, metric=metric), (v,)
    )


def test_the_jacobian_averages_over_blocks() -> None:
    v = torch.tensor([0.0, 1.0, 3.0, 2.0], dtype=DOUBLE)
    jacobian = torch.func.jacrev(lambda x: order.fit(x, SafetyOrder(4, ((0, 1), (2, 3)))))(v)
    expected = torch.eye(4, dtype=DOUBLE)
    expected[:2, :2] = 0.5
    torch.testing.assert_close(jacobian, expected)


def test_a_value_near_zero_does_not_blur_the_others_in_a_large_order() -> None:
    v = torch.linspace(0, -1, 20)
    v[19] = -1e4
    pairs = tuple((i, 10 + j) for i in range(10) for j in range(10) if (i + j) % 3)
    assert torch.equal(order.fit(v, SafetyOrder(20, pairs)), v)
    v[18] = 5.0  # above all that is safer
    x = order.fit(v, SafetyOrder(20, pairs))
    assert float(x[19]) == -1e4
    twin = order.fit(v.double(), SafetyOrder(20, pairs))
    torch.testing.assert_close(x.double(), twin, atol=1e-6, rtol=0)


def test_empty_batches_pass() -> None:
    for safety in ([2.0, 1.0, 0.0], SafetyOrder(3, ((0, 1),)), SafetyOrder(3, (), ((0, 2),))):
        assert order.project(torch.zeros(0, 3), safety=safety).shape == (0, 3)
    assert order.project(torch.zeros(0, 20), safety=LADDER).shape == (0, 20)


@pytest.mark.parametrize("safety", [[1, 2, 3, 4, 5, 6], SafetyOrder(6, ((0, 1), (0, 2), (3, 2)), ((4, 5),))])
def test_no_value_is_looked_at_on_another_device(safety) -> None:
    # The meta device has no values: whatever waits for one, or is made on the CPU, fails there.
    w = torch.rand(4, 5, 6, device="meta")
    which = torch.zeros(4, 5, dtype=torch.long, device="meta")
    for metric in ("l2", "kl"):
        assert order.project(w, safety=safety, w_min=0.1, metric=metric).device.type == "meta"
        if isinstance(safety, SafetyOrder):
            found = order.project_by(w, which, orders=[safety, safety], w_min=0.1, metric=metric)
            assert found.shape == w.shape
