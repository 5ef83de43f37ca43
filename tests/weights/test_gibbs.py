import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mashbill.distributions import Dense, kl_to_mean
from mashbill.weights.gibbs import Gibbs

DOUBLE = torch.float64


def given(make_evidence, distances, reference="student", **changes):
    distances = torch.as_tensor(distances, dtype=DOUBLE)
    distances = distances.reshape(distances.shape[0], *distances.shape[1:], *[1] * (3 - distances.ndim))
    even = torch.full((*distances.shape, 2), 0.5, dtype=DOUBLE)
    return make_evidence(even, divergences={reference: distances}, **changes)


@pytest.mark.parametrize("reference", ["student", "mean"])
def test_gibbs_golden(reference, golden, make_evidence) -> None:
    evidence = given(make_evidence, [0.1, 0.4, 1.2], reference)
    weights = Gibbs(temperature=0.5, reference=reference)(evidence).exp().flatten()
    assert weights.tolist() == pytest.approx(golden("F12")["expected"], abs=golden("F12")["tol"])


def test_the_weights_minimise_distance_less_entropy(make_evidence) -> None:
    distances = torch.tensor([0.1, 0.4, 1.2, 3.0], dtype=DOUBLE)
    w = Gibbs(temperature=0.7, reference="student")(given(make_evidence, distances)).exp().flatten()

    def objective(v):
        return (v * distances).sum(-1) + 0.7 * (v * v.log()).sum(-1)

    others = torch.distributions.Dirichlet(torch.ones(4, dtype=DOUBLE)).sample((2000,))
    near = (w + 1e-3 * (others - w)).clamp_min(1e-12)
    assert (objective(torch.cat([others, near])) >= objective(w) - 1e-15).all()


def test_teachers_above_the_cap_are_not_told_apart(make_evidence) -> None:
    w = Gibbs(cap=2.0, reference="student")(given(make_evidence, [0.5, 7.0, 1e4])).exp().flatten()
    assert w[1] == w[2]
    expected = torch.tensor([-0.5, -2.0, -2.0], dtype=DOUBLE).softmax(0)
    torch.testing.assert_close(w, expected, rtol=0, atol=1e-15)


def test_the_outlier_is_turned_away_from_the_mean() -> None:
    p = torch.tensor([[0.8, 0.1, 0.1], [0.75, 0.15, 0.1], [0.05, 0.05, 0.9]], dtype=DOUBLE).reshape(3, 1, 1, 3)
    found = kl_to_mean([Dense.from_probs(one) for one in p])
    mean = p.mean(0)
    torch.testing.assert_close(found, (p * (p / mean).log()).sum(-1), rtol=0, atol=1e-14)
    assert found.argmax(0).item() == 2


@pytest.mark.parametrize("n_teachers", [2, 4])
def test_the_students_range_is_reached(n_teachers, make_evidence) -> None:
    rule = Gibbs(temperature=0.5, reference="student", cap=3.0)
    promise = rule.declared(n_teachers)
    one_far = rule(given(make_evidence, [1e4] + [0.0] * (n_teachers - 1))).exp().flatten()
    one_near = rule(given(make_evidence, [0.0] + [1e4] * (n_teachers - 1))).exp().flatten()
    assert [float(one_far[0]), float(one_near[0])] == pytest.approx([promise.lowest, promise.highest])


def test_no_teachers_leave_the_range_against_their_mean(make_evidence) -> None:
    logits = 30 * torch.randn(4, 500, 1, 5, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    logits[:3, 250:] = logits[0, 250:]  # three alike, and one far from them: the most uneven
    p = logits.softmax(-1)
    evidence = make_evidence(p, divergences={"mean": kl_to_mean([Dense.from_probs(one) for one in p])})
    rule = Gibbs(temperature=0.5)
    weights, promise = rule(evidence).exp(), rule.declared(4)
    assert promise.lowest <= float(weights.min()) <= float(weights.max()) <= promise.highest
    # A teacher apart from three that are alike: ln K against ln K/(K-1). The range allows somewhat more.
    apart = torch.tensor([math.log(4 / 3)] * 3 + [math.log(4)], dtype=DOUBLE)
    assert float(weights.min()) <= float((-2 * apart).softmax(0)[3]) < 2 * promise.lowest


def test_what_is_declared_of_the_student() -> None:
    assert Gibbs(reference="student").declared(2).reads_student
    assert not Gibbs().declared(2).reads_student
    assert Gibbs(reference="student").needs == {"divergence:student"}
    assert Gibbs().needs == {"divergence:mean"}
    assert Gibbs().declared(1).lipschitz == 0
    assert (Gibbs().declared(1).lowest, Gibbs().declared(1).highest) == (1.0, 1.0)


def test_no_gradient_reaches_the_student(make_evidence) -> None:
    distances = torch.tensor([0.1, 0.4], dtype=DOUBLE).reshape(2, 1, 1).requires_grad_()
    even = torch.full((2, 1, 1, 2), 0.5, dtype=DOUBLE)
    assert not Gibbs(reference="student")(make_evidence(even, divergences={"student": distances})).requires_grad


def test_masked_positions_spoil_nothing(make_evidence) -> None:
    distances = torch.tensor([[[0.1, math.nan], [2.0, 0.3]], [[0.5, math.inf], [0.0, 0.3]]], dtype=DOUBLE)
    evidence = given(make_evidence, distances)
    evidence = replace(evidence, mask=torch.tensor([[True, False], [True, True]]))
    weights = Gibbs(reference="student")(evidence).exp()
    assert weights.isfinite().all()
    assert weights[:, 0, 1].tolist() == pytest.approx([0.5, 0.5])
    torch.testing.assert_close(weights[:, 1, 0], torch.tensor([-2.0, 0.0], dtype=DOUBLE).softmax(0))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Gibbs(temperature=0), r"temperature=0 must be finite and positive"),
        # Without the run-time type check of the test suite, which production does not have.
        (
            lambda: Gibbs.__post_init__(SimpleNamespace(temperature=1, reference="median", cap=1)),
            r"reference='median' must be 'mean' or 'student'",
        ),
        (lambda: Gibbs(cap=math.inf), r"cap=inf must be finite and positive"),
    ],
)
def test_bad_options_are_refused(make, said) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        make()


def test_evidence_without_the_divergence_is_refused(appendix) -> None:
    with pytest.raises(ValueError, match="needs='divergence:mean' is not in the evidence"):
        Gibbs()(appendix())
