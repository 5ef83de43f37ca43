import math

import pytest
import torch

from mashbill.weights.boundary import Blend, SafeSet, boundary_blend
from mashbill.weights.compose import conform
from mashbill.weights.context import PartitionOfUnity
from mashbill.weights.evidence import Declared
from mashbill.weights.order import SafetyOrder
from mashbill.weights.shift import ShiftDistance, distance_to
from mashbill.weights.static import Static
from mashbill.weights.token import EntropySoftmax

DOUBLE = torch.float64
SQUARE = SafeSet(boxes=[([0.0, 0.0], [1.0, 1.0])])


def test_the_blend_gives_the_golden_weights(golden) -> None:
    value = golden("F74")
    free, ordered = torch.tensor([0.3, 0.7], dtype=DOUBLE), torch.tensor([0.6, 0.4], dtype=DOUBLE)
    assert boundary_blend(free, ordered, 0.1, radius=0.5).tolist() == pytest.approx(value["expected"], abs=value["tol"])
    batch = boundary_blend(free, ordered.expand(4, 2), torch.tensor([0.0, 0.25, 0.5, 9.0]), radius=0.5)
    assert torch.equal(batch[0], ordered)
    assert torch.equal(batch[2], free)
    assert torch.equal(batch[3], free)
    assert batch[1].tolist() == pytest.approx([0.45, 0.55])


def test_distance_is_that_to_the_nearest_part() -> None:
    safe = SafeSet(boxes=[([0.0, 0.0], [1.0, 2.0]), ([5.0, -math.inf], [math.inf, 0.0])], balls=[([0.0, 10.0], 2.0)])
    rows = torch.tensor([[0.5, 2.0], [4.0, 6.0], [2.0, -3.0], [9.0, -1e9], [0.0, 13.5], [1.0, 9.0], [8.0, 4.0]])
    expected = [0.0, math.hypot(4, 4) - 2, 3.0, 0.0, 1.5, 0.0, 4.0]
    assert safe.distance(rows).tolist() == pytest.approx(expected)


def test_distance_agrees_with_a_projection_onto_each_part() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = 4 * torch.randn(500, 3, generator=generator, dtype=DOUBLE)
    low, high = [-1.0, 0.0, 2.0], [0.5, 0.0, 3.0]
    safe = SafeSet(boxes=[(low, high)], balls=[([2.0, 2.0, -2.0], 0.7)])
    in_box = torch.minimum(torch.maximum(rows, torch.tensor(low)), torch.tensor(high))
    offset = rows - torch.tensor([2.0, 2.0, -2.0])
    in_ball = rows - offset + offset * (0.7 / offset.norm(dim=-1, keepdim=True)).clamp_max(1)
    expected = torch.minimum((rows - in_box).norm(dim=-1), (rows - in_ball).norm(dim=-1))
    assert torch.allclose(safe.distance(rows), expected, atol=1e-12)
    assert torch.allclose(safe.distance(rows.float()).double(), expected, atol=1e-5)


def free_rule() -> ShiftDistance:
    """Prefers t1, the less safe one, over most of the plane."""
    return ShiftDistance({"t0": [[3.0, 3.0]], "t1": [[0.5, 0.5]], "t2": [[-2.0, 1.0]]}, beta=1.2, radius=4.0)


def blend(radius: float = 0.4, **changes) -> Blend:
    order = SafetyOrder(3, ((0, 1), (0, 2)))
    ordered = conform(free_rule(), bounds=(0.1, 0.8), order=order)
    return Blend(
        **{"free": conform(free_rule(), bounds=(0.1, 0.8)), "ordered": ordered, "safe": SQUARE} | changes, radius=radius
    )


def weights_at(rule, random_evidence, rows: torch.Tensor, n_teachers: int = 3) -> torch.Tensor:
    return rule(random_evidence(n_teachers, len(rows), 1, features=rows)).exp()[..., 0]


def is_ordered(weights: torch.Tensor) -> torch.Tensor:
    return (weights[0] >= weights[1]) & (weights[0] >= weights[2])


def test_order_holds_on_the_whole_safe_set_and_to_the_last_bit_on_its_border(random_evidence) -> None:
    generator = torch.Generator().manual_seed(1)
    inside = torch.rand(2000, 2, generator=generator, dtype=DOUBLE)
    border = inside.clone()
    side = torch.arange(2000) % 4
    border[side == 0, 0], border[side == 1, 0] = 0.0, 1.0
    border[side == 2, 1], border[side == 3, 1] = 0.0, 1.0
    rule, free = blend(), blend().free
    for rows in (inside, border):
        weights = weights_at(rule, random_evidence, rows)
        assert bool(is_ordered(weights).all())
        assert torch.equal(weights, weights_at(rule.ordered, random_evidence, rows))
        # The free rule breaks the order there, so something was done.
        assert not bool(is_ordered(weights_at(free, random_evidence, rows)).any())
    outside = 1.4 + inside
    assert torch.equal(weights_at(rule, random_evidence, outside), weights_at(free, random_evidence, outside))


def test_no_jump_by_bisection_across_the_border(random_evidence) -> None:
    generator = torch.Generator().manual_seed(2)
    near, far = torch.rand(300, 2, generator=generator, dtype=DOUBLE), torch.empty(300, 2, dtype=DOUBLE)
    angle = 2 * math.pi * torch.rand(300, generator=generator, dtype=DOUBLE)
    far = near + 3 * torch.stack([angle.cos(), angle.sin()], dim=-1)

    def largest_jump(rule) -> float:
        low, high = near.clone(), far.clone()
        at_low, at_high = weights_at(rule, random_evidence, low), weights_at(rule, random_evidence, high)
        for _ in range(60):  # keep the half with the larger change
            middle = (low + high) / 2
            at_middle = weights_at(rule, random_evidence, middle)
            first = (at_middle - at_low).abs().amax(0) > (at_high - at_middle).abs().amax(0)
            low, high = torch.where(first.unsqueeze(-1), low, middle), torch.where(first.unsqueeze(-1), middle, high)
            at_low, at_high = torch.where(first, at_low, at_middle), torch.where(first, at_middle, at_high)
        return float((at_high - at_low).abs().max())

    class Switched:
        """The mutant: ordered inside, free outside."""

        def __call__(self, evidence):
            inside = SQUARE.distance(evidence.features) == 0
            parts = blend()
            return torch.where(inside.unsqueeze(-1), parts.ordered(evidence), parts.free(evidence))

    assert largest_jump(blend()) < 1e-12
    assert largest_jump(Switched()) > 0.05


@pytest.mark.parametrize("radius", [0.05, 0.4, 3.0])
def test_the_lipschitz_constant_survives_ascent(radius, random_evidence) -> None:
    rule = blend(radius)
    promise = rule.declared(3)
    assert (promise.lowest, promise.highest) == (0.1, 0.8)
    assert promise.lipschitz == pytest.approx(0.6 + 0.7 / radius)
    rows = (2 * torch.randn(200, 2, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)).requires_grad_()
    optimiser = torch.optim.Adam([rows], lr=0.03)
    most = 0.0
    for _ in range(80):
        each = [
            torch.autograd.grad(w.sum(), rows, create_graph=True)[0] for w in weights_at(rule, random_evidence, rows)
        ]
        slope = torch.stack([distance_to(g) for g in each]).amax(0)
        most = max(most, float(slope.detach().max()))
        optimiser.zero_grad()
        (-slope.sum()).backward()
        optimiser.step()
    assert 0.2 / radius < most <= promise.lipschitz * (1 + 1e-9)


def test_the_lipschitz_constant_is_attained_by_constant_rules(random_evidence) -> None:
    free, ordered = Static({"t0": 0.3, "t1": 0.7}), Static({"t0": 0.6, "t1": 0.4})
    rule = Blend(free=free, ordered=ordered, safe={"balls": [([0.0, 0.0], 1.0)]}, radius=0.5)
    rows = torch.tensor([[1.1, 0.0], [0.0, 1.2]], dtype=DOUBLE)
    weights = weights_at(rule, random_evidence, rows, 2)
    assert weights[:, 0].tolist() == pytest.approx([0.54, 0.46])
    # R is what the ranges allow, .7 - .4 = .3 either way; the same teacher's weight really moves by .3.
    assert (weights[0, 0] - weights[0, 1]).item() / 0.1 == pytest.approx(rule.declared(2).lipschitz)
    assert rule.declared(2).metric == "context features, l2"


def test_whole_contexts_are_safe_whatever_their_features(random_evidence) -> None:
    rule = Blend(EntropySoftmax(beta=3.0), Static({"t0": 0.6, "t1": 0.4}), SafeSet(contexts=["ward"]))
    names = {"contexts": ("ward", "street"), "context": torch.tensor([0, 1, 0, 1])}
    evidence = random_evidence(2, 4, 5, **names)
    log_weights = rule(evidence)
    assert log_weights.shape == (2, 4, 5)
    assert torch.equal(log_weights[:, ::2], Static({"t0": 0.6, "t1": 0.4})(evidence)[:, ::2].expand(2, 2, 5))
    assert torch.equal(log_weights[:, 1::2], EntropySoftmax(beta=3.0)(evidence)[:, 1::2])
    assert rule.scale == "token"
    assert rule.needs == {"entropy"}
    assert blend().needs == {"features"}
    assert blend().scale == "context"
    assert rule.declared(2).lipschitz == EntropySoftmax(beta=3.0).declared(2).lipschitz
    with pytest.raises(ValueError, match="safe names context 'ward'"):
        rule(random_evidence(2))


def test_tiny_weights_keep_their_ratios_and_gradients_stay_finite(random_evidence) -> None:
    rows = torch.tensor([[0.0, 0.0], [1.2, 0.5], [9.0, 9.0]], requires_grad=True)
    steep = EntropySoftmax(beta=300.0)
    evidence = random_evidence(3, 3, 2, dtype=torch.float32, features=rows)
    log_weights = Blend(steep, conform(steep, bounds=None, order=SafetyOrder(3, ((0, 1),))), SQUARE, 0.5)(evidence)
    assert bool(log_weights.isfinite().all())
    assert torch.allclose(log_weights.exp().sum(0), torch.ones(3, 2), atol=1e-6)
    assert float(log_weights.detach().min()) < -100
    log_weights.exp().square().sum().backward()
    assert rows.grad is not None
    assert bool(rows.grad.isfinite().all())


def test_promises_of_the_parts_are_carried(random_evidence) -> None:
    class Student:
        def __call__(self, evidence):
            return EntropySoftmax()(evidence)

        def declared(self, n_teachers):
            return Declared(0.0, 1.0, None, "student", "none", reads_student=True, mixes_rows=True)

    promise = Blend(Student(), PartitionOfUnity(), SQUARE).declared(3)
    assert promise.reads_student
    assert promise.mixes_rows
    assert promise.lipschitz is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (SafeSet, "is empty; give boxes, balls or contexts"),
        (lambda: SafeSet(boxes=[([1.0], [0.0])]), r"boxes contain \[1\.0\] to \[0\.0\]"),
        (lambda: SafeSet(boxes=[([math.nan], [0.0])]), "low must not exceed high"),
        (lambda: SafeSet(boxes=[([0.0, 0.0], [1.0])]), "low must not exceed high"),
        (lambda: SafeSet(balls=[([0.0], -1.0)]), r"balls contain \[0\.0\] of radius -1\.0"),
        (lambda: SafeSet(boxes=[([0.0], [1.0])], balls=[([0.0, 0.0], 1.0)]), r"boxes and balls have \[1, 2\] features"),
        (lambda: blend(0.0), r"radius=0\.0 must be finite and positive"),
        (lambda: blend(safe={}), "is empty"),
        (lambda: boundary_blend(torch.ones(2), torch.ones(2), 0.1, radius=-1), "radius=-1 must be"),
        (lambda: SQUARE.distance(torch.zeros(1, 3)), "safe has 2 features, but the rows have 3"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=said):
        make()
