import math

import pytest
import torch

from mashbill.weights.shift import ShiftDistance, distance_to

DOUBLE = torch.float64
DOMAINS = {"t0": [[0.0, 0.0], [1.0, 0.0]], "t1": [[3.0, 4.0]]}


def at(random_evidence, rows: torch.Tensor, n_teachers: int = 2, **changes):
    return random_evidence(n_teachers, len(rows), 2, features=rows, **changes)


def test_weights_are_a_softmax_of_distances_to_the_nearest_point(random_evidence) -> None:
    rows = torch.tensor([[0.0, 0.0], [0.0, 3.0], [3.0, 4.0], [1e6, 0.0]], dtype=DOUBLE)
    log_weights = ShiftDistance(DOMAINS, beta=0.7, radius=4.5)(at(random_evidence, rows))
    assert log_weights.shape == (2, 4, 1)
    # Distances 0 and 5, cut at 4.5; 3 and the root of 10; the root of 20 and 0; both cut.
    distances = [(0, 4.5), (3, math.sqrt(10)), (math.sqrt(20), 0), (4.5, 4.5)]
    expected = [torch.softmax(-0.7 * torch.tensor(pair, dtype=DOUBLE), 0).tolist() for pair in distances]
    assert log_weights.exp()[..., 0].T.tolist() == [pytest.approx(pair) for pair in expected]


def test_float32_agrees_with_its_float64_twin(random_evidence) -> None:
    rows = torch.randn(64, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    wide, narrow = at(random_evidence, rows), at(random_evidence, rows.float(), dtype=torch.float32)
    rule = ShiftDistance(DOMAINS, beta=3.0, radius=2.0)
    assert rule(narrow).dtype == torch.float32
    assert torch.allclose(rule(narrow).double(), rule(wide), atol=3e-6)


def test_distance_survives_any_scale_and_has_no_gradient_at_zero() -> None:
    offset = torch.tensor([[0.0, 0.0], [3e30, 4e30], [3e-30, 4e-30]], requires_grad=True)
    distance = distance_to(offset)
    assert distance.tolist() == [0.0, pytest.approx(5e30), pytest.approx(5e-30)]
    distance.sum().backward()
    assert offset.grad is not None
    assert torch.allclose(offset.grad, torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.6, 0.8]]))


@pytest.mark.parametrize("n_teachers", [2, 3, 5])
def test_range_is_attained_and_lipschitz_constant_survives_ascent(n_teachers, random_evidence) -> None:
    generator = torch.Generator().manual_seed(n_teachers)
    domains = {f"t{k}": torch.randn(3, 2, generator=generator).tolist() for k in range(n_teachers)}
    # One domain far from all others: there the weight of its teacher is the largest possible, and the least.
    domains["t0"] = [[50.0, 0.0]]
    rule = ShiftDistance(domains, beta=1.3, radius=2.0)
    promise = rule.declared(n_teachers)
    ends = at(random_evidence, torch.tensor([[50.0, 0.0]], dtype=DOUBLE), n_teachers)
    assert rule(ends).exp().max().item() == pytest.approx(promise.highest, abs=1e-12)
    least = ShiftDistance({name: [[50.0 * (name == "t0"), 0.0]] for name in domains}, beta=1.3, radius=2.0)
    there = at(random_evidence, torch.zeros(1, 2, dtype=DOUBLE), n_teachers)
    assert least(there).exp().min().item() == pytest.approx(promise.lowest, abs=1e-12)

    rows = (3 * torch.randn(256, 2, generator=generator, dtype=DOUBLE)).requires_grad_()
    optimiser = torch.optim.Adam([rows], lr=0.02)
    most = 0.0
    for _ in range(120):
        slope = slopes(lambda c: rule(at(random_evidence, c, n_teachers)).exp()[..., 0], rows)
        most = max(most, float(slope.detach().max()))
        optimiser.zero_grad()
        (-slope.sum()).backward()
        optimiser.step()
    assert promise.lipschitz == 0.65
    assert 0.3 < most <= promise.lipschitz * (1 + 1e-9)


def slopes(weights, rows: torch.Tensor) -> torch.Tensor:
    """Return each row's largest gradient norm over teachers."""
    each = [torch.autograd.grad(w.sum(), rows, create_graph=True)[0] for w in weights(rows)]
    return torch.stack([distance_to(g) for g in each]).amax(0)


def test_the_lipschitz_constant_is_attained(random_evidence) -> None:
    rule = ShiftDistance({"t0": [[0.0]], "t1": [[2.0]]}, beta=1.5, radius=9.0)
    rows = torch.tensor([[1.0 - 1e-6], [1.0 + 1e-6]], dtype=DOUBLE)
    weights = rule(at(random_evidence, rows)).exp()[0, :, 0]
    assert (weights[0] - weights[1]).item() / 2e-6 == pytest.approx(0.75, abs=1e-6)
    assert rule.declared(2).lipschitz == 0.75
    assert rule.declared(2).score_lipschitz == 1.5
    assert rule.declared(1).lipschitz == 0.0


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ShiftDistance(DOMAINS, beta=-1), "beta=-1 must be finite and not negative"),
        (lambda: ShiftDistance(DOMAINS, beta=math.nan), "beta=nan must be"),
        (lambda: ShiftDistance(DOMAINS, radius=0), "radius=0 must be finite and positive"),
        (lambda: ShiftDistance({}), r"domains=\{\} must map each teacher"),
        (lambda: ShiftDistance({"a": []}), r"domains\['a'\]=\[\] must be a list of points"),
        (lambda: ShiftDistance({"a": [[]]}), r"domains\['a'\] contains \[\]; a point is a list"),
        (lambda: ShiftDistance({"a": [[math.nan]]}), r"domains\['a'\] contains \[nan\]; features must be finite"),
        (lambda: ShiftDistance({"a": [[0.0]], "b": [[0.0, 1.0]]}), r"domains have points of \[1, 2\] features"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def test_what_does_not_fit_the_rows_is_refused(random_evidence) -> None:
    rows = torch.zeros(2, 3, dtype=DOUBLE)
    with pytest.raises(ValueError, match="domains have 2 features, but the rows have 3"):
        ShiftDistance(DOMAINS)(at(random_evidence, rows))
    with pytest.raises(ValueError, match="domains says nothing about teacher 't2'"):
        ShiftDistance(DOMAINS)(at(random_evidence, rows[:, :2], 3))
