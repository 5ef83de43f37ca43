import pytest
import torch

from mashbill.weights.contraction import jacobian_norm, sample_points
from mashbill.weights.feedback import StudentFeedback
from mashbill.weights.simplex import project_l2, squash
from mashbill.weights.stability import UncertifiedError, fixed_point

DOUBLE = torch.float64
# The teachers of Appendix A and a third against both.
TEACHERS = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25], [0.1, 0.1, 0.8]], dtype=DOUBLE)
BOX = (0.05, 1.0)
EVEN = torch.full((3,), 1 / 3, dtype=DOUBLE)


def feedback(beta: float) -> StudentFeedback:
    return StudentFeedback(TEACHERS, beta)


def test_the_map_is_the_formula() -> None:
    w = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.05, 0.35]], dtype=DOUBLE)
    divergence = torch.stack([(p * (p / (w @ TEACHERS)).log()).sum(-1) for p in TEACHERS], dim=-1)
    expected = squash(torch.softmax(-3.0 * divergence, -1), w_min=0.05, w_max=1.0)
    assert torch.allclose(feedback(3.0)(w), expected, atol=1e-14)
    assert torch.allclose(feedback(3.0)(w.float()).double(), expected, atol=1e-6)


def test_weak_feedback_has_one_fixed_point_and_a_proof() -> None:
    update = feedback(2.0)
    found = fixed_point(update, EVEN, bounds=BOX, curvature=update.curvature)
    assert found.is_certified
    assert found.certified is not None
    assert found.contraction <= found.certified < 1
    assert len(found.limits) == 1
    assert torch.allclose(update(found.weights), found.weights, atol=1e-13)
    assert found.error is not None
    assert found.error < 1e-8
    # The constant in the norm of J (I - 11'/K), where it is only just below 1; the exact one is smaller.
    points = sample_points(3, bounds=BOX, n=4000, generator=torch.Generator().manual_seed(0))
    assert float(jacobian_norm(update, points, norm="projected").max()) == pytest.approx(0.996, abs=5e-4)
    assert found.contraction == pytest.approx(0.919, abs=5e-4)


def test_feedback_can_have_one_fixed_point_without_contracting() -> None:
    update = feedback(5.0)
    with pytest.raises(
        UncertifiedError, match=r"measured one is 1\.82.*one limit from 65 starts, which is no"
    ) as caught:
        fixed_point(update, EVEN, bounds=BOX, curvature=update.curvature)
    assert len(caught.value.evidence.limits) == 1
    assert caught.value.evidence.error is None
    allowed = fixed_point(update, EVEN, bounds=BOX, norm="projected", allow_uncertified=True)
    assert not allowed.is_certified
    assert allowed.contraction == pytest.approx(2.11, abs=0.01)
    assert allowed.residual < 1e-12


@pytest.mark.parametrize(("beta", "n_limits"), [(10.0, 2), (20.0, 3)])
def test_strong_feedback_is_refused_with_its_different_limits(beta, n_limits) -> None:
    update = feedback(beta)
    with pytest.raises(UncertifiedError, match=f"{n_limits} different limits from 65 starts") as caught:
        fixed_point(update, EVEN, bounds=BOX)
    limits = caught.value.evidence.limits
    assert len(limits) == n_limits
    assert torch.allclose(update(limits), limits, atol=1e-12)
    apart = (limits[0] - limits[1]).abs().max()
    assert float((update(limits[:1]) - update(limits[1:2])).abs().max() / apart) == pytest.approx(1.0)  # no contraction
    # Each limit attracts: the start decides.
    for limit in limits:
        near = fixed_point(update, (0.99 * limit + 0.01 / 3), bounds=BOX, allow_uncertified=True)
        assert torch.allclose(near.weights, limit, atol=1e-9)


@pytest.mark.parametrize("beta", [0.5, 2.0, 8.0])
def test_the_stated_constants_survive_ascent(beta) -> None:
    update = feedback(beta)
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE).requires_grad_()
    weights = lambda: squash(torch.softmax(logits, -1), w_min=0.05, w_max=1.0)  # noqa: E731
    optimiser = torch.optim.Adam([logits], lr=0.1)
    for _ in range(30):  # toward the largest change between neighbours
        w = weights()
        step = 1e-4 * torch.tensor([1.0, -1.0, 0.0], dtype=DOUBLE)
        change = (update(w + step) - update(w - step)).abs().amax(-1)
        optimiser.zero_grad()
        (-change.sum()).backward()
        optimiser.step()
    w = weights().detach()
    norms = jacobian_norm(update, w)
    assert float(norms.max()) <= update.lipschitz()
    # The Jacobian changes no faster than the curvature says, over cells of several sizes.
    generator = torch.Generator().manual_seed(1)
    for radius in (1e-3, 1e-2, 0.1):
        move = torch.rand(100, 3, generator=generator, dtype=DOUBLE) - 0.5
        move -= move.mean(-1, keepdim=True)
        move *= radius / move.abs().amax(-1, keepdim=True)
        other = w + move
        inside = (other >= 0.05).all(-1)
        gap = (jacobian_norm(update, other) - norms).abs()
        bound = radius * update.curvature(w, radius)
        assert bool((gap <= bound)[inside].all())
        assert int(inside.sum()) > 10


def test_a_composed_constant_below_1_certifies() -> None:
    update = feedback(0.3)
    assert update.lipschitz() < 1
    found = fixed_point(update, EVEN, bounds=BOX, lipschitz=update.lipschitz())
    assert found.is_certified
    assert found.certified == update.lipschitz()
    relaxed = fixed_point(update, EVEN, bounds=BOX, lipschitz=update.lipschitz(), relaxation=0.3)
    assert torch.allclose(relaxed.weights, found.weights, atol=1e-12)
    assert relaxed.n_steps > found.n_steps


def test_several_starts_and_narrow_dtypes() -> None:
    update = feedback(1.0)
    starts = torch.tensor([[0.9, 0.05, 0.05], [0.2, 0.3, 0.5]])
    found = fixed_point(update, starts, bounds=BOX, curvature=update.curvature)
    assert found.weights.shape == (2, 3)
    assert torch.allclose(found.weights[0], found.weights[1], atol=1e-12)


def test_what_is_false_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^lipschitz=0\.5 is refuted: the Jacobian's sup norm is 0\.9.* at w="):
        fixed_point(feedback(2.0), EVEN, bounds=BOX, lipschitz=0.5)
    with pytest.raises(ValueError, match=r"^update\(w\)=.*is not in the box simplex \[0\.05, 0\.9\]"):
        fixed_point(lambda w: torch.nn.functional.one_hot(w.argmax(-1), 3).to(w) + 0 * w, EVEN, bounds=BOX)
    with pytest.raises(ValueError, match=r"^start=\[0\.0, 0\.5, 0\.5\] is not in the box"):
        fixed_point(feedback(1.0), torch.tensor([0.0, 0.5, 0.5]), bounds=BOX)
    with pytest.raises(ValueError, match=r"^relaxation=0 must be above 0"):
        fixed_point(feedback(1.0), EVEN, relaxation=0)
    with pytest.raises(ValueError, match="probabilities must all be positive"):
        StudentFeedback(torch.eye(2), 1.0)
    with pytest.raises(ValueError, match=r"beta=-1\.0 must be"):
        feedback(-1.0)


def test_a_map_that_never_settles_is_refused() -> None:
    def swap(w: torch.Tensor) -> torch.Tensor:  # period 2 except at the middle
        return w[:, [1, 0, 2]]

    with pytest.raises(UncertifiedError, match="limit") as caught:
        fixed_point(swap, torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE), max_steps=100)
    assert caught.value.evidence.residual == pytest.approx(0.5)
    assert caught.value.evidence.contraction == pytest.approx(1.0)
    damped = fixed_point(
        swap, torch.tensor([0.7, 0.2, 0.1], dtype=DOUBLE), relaxation=0.5, allow_uncertified=True, max_steps=100
    )
    assert damped.weights.tolist() == pytest.approx([0.45, 0.45, 0.1])


def test_the_error_is_of_the_norm_of_the_constant() -> None:
    """In l2 a residual that is small in the sup norm proves less: many small parts hide one large distance."""
    far = torch.tensor([1.0] + [0.4] * 25 + [-1.0] + [-0.4] * 25, dtype=DOUBLE)
    left = 0.05 * far.sign()
    slope = torch.outer(far - left, far) / (far @ far)
    assert float(torch.linalg.matrix_norm(slope, ord=2)) < 0.9
    even = torch.full_like(far, 1 / len(far))
    found = fixed_point(
        lambda w: project_l2(even + (w - even) @ slope.T, w_min=0, w_max=1),
        even + 0.01 * far,
        norm="l2",
        lipschitz=0.9,
        max_steps=0,
        n_points=20,
        n_starts=1,
    )
    assert found.error is not None
    assert float((found.weights - even).norm()) <= found.error
    assert found.residual / (1 - 0.9) < float((found.weights - even).abs().max())


def test_two_limits_refute_a_constant_below_one() -> None:
    """The Jacobian of a jump is 0 on both sides and shows nothing."""
    one, other = torch.tensor([0.8, 0.2], dtype=DOUBLE), torch.tensor([0.2, 0.8], dtype=DOUBLE)
    with pytest.raises(ValueError, match="2 different limits"):
        fixed_point(lambda w: torch.where(w[..., :1] > 0.5, one, other) + 0 * w, one, lipschitz=0.5)


def test_a_loose_tolerance_refutes_nothing() -> None:
    found = fixed_point(lambda w: 0.999 * w + 0.001 / 3, EVEN, lipschitz=0.999, tolerance=1e-3)
    assert found.is_certified
    assert len(found.limits) > 1
