from dataclasses import replace

import pytest
import torch

from mashbill.weights.published.kendall import objective
from mashbill.weights.uncertainty import KendallOptimum, kendall_raw

DOUBLE = torch.float64


def test_kendall_golden(golden, random_evidence) -> None:
    losses = torch.tensor([0.2, 0.5, 1.0], dtype=DOUBLE)
    raw, normalised = golden("F64")["expected"]
    assert kendall_raw(losses).tolist() == pytest.approx(raw, abs=golden("F64")["tol"])
    evidence = random_evidence(3, scores={"task": {"loss": losses.unsqueeze(-1)}})
    found = KendallOptimum()(evidence)
    assert found[:, 0, 0].exp().tolist() == pytest.approx(normalised, abs=golden("F64")["tol"])
    assert kendall_raw(torch.tensor([1.0, 1e-4], dtype=DOUBLE)).tolist() == pytest.approx([0.5, 5000.0])


def test_it_is_the_optimum_of_the_learned_objective() -> None:
    losses = torch.tensor([0.2, 0.5, 1.0, 7.0], dtype=DOUBLE)
    s = torch.zeros(4, dtype=DOUBLE, requires_grad=True)
    solver = torch.optim.LBFGS(
        [s], max_iter=200, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        solver.zero_grad()
        value = objective(s, losses).sum()
        value.backward()
        return value

    solver.step(closure)
    torch.testing.assert_close((-s).exp().detach() / 2, kendall_raw(losses), rtol=1e-6, atol=0)


def test_present_distances_are_averaged_over_what_counts(random_evidence) -> None:
    generator = torch.Generator().manual_seed(0)
    distance = torch.rand(3, 4, 5, generator=generator, dtype=DOUBLE) + 0.1
    mask = torch.rand(4, 5, generator=generator) < 0.6
    mask[1] = False
    distance[:, ~mask] = torch.nan
    task = torch.tensor([0, 0, 1, 0])
    changes = {"tasks": ("a", "b"), "task": task, "mask": mask}
    evidence = random_evidence(3, 4, 5, divergences={"student": distance}, **changes)

    def mean(rows):
        return distance[:, rows][:, mask[rows]].mean(-1)

    def weights(by):
        found = KendallOptimum(losses="student", by=by)(evidence)
        assert bool(found.isfinite().all())
        return found[..., 0].exp()

    for by, rows in [("row", [2]), ("task", [0, 1, 3]), ("batch", [0, 1, 2, 3])]:
        expected = 1 / mean(torch.tensor(rows))
        torch.testing.assert_close(weights(by)[:, rows[-1]], expected / expected.sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights("row")[:, 1], torch.full((3,), 1 / 3, dtype=DOUBLE))
    distance.requires_grad_()
    assert not KendallOptimum(losses="student")(evidence).requires_grad


def test_promises() -> None:
    assert KendallOptimum().declared(3).lipschitz is None
    assert not KendallOptimum().declared(3).reads_student
    student = KendallOptimum(losses="student", epsilon=0.1).declared(2)
    assert (student.lipschitz, student.score_lipschitz) == (pytest.approx(5.0), pytest.approx(10.0))
    assert student.reads_student
    assert student.mixes_rows
    assert not KendallOptimum(losses="student", by="row").declared(2).mixes_rows
    assert KendallOptimum().declared(1).lowest == 1.0


def test_lipschitz_constant_with_epsilon(random_evidence) -> None:
    rule, generator = KendallOptimum(losses="student", epsilon=0.05, by="row"), torch.Generator().manual_seed(1)
    distance = 3 * torch.rand(2, 3000, 1, generator=generator, dtype=DOUBLE) ** 6
    distance[:, :5] = 0
    step = torch.tensor([1e-6, -1e-6], dtype=DOUBLE).reshape(2, 1, 1).expand_as(distance)
    evidence = random_evidence(2, 3000, 1, divergences={"student": distance})
    moved = replace(evidence, divergences={"student": (distance + step).clamp_min(0)})
    ratio = (rule(moved).exp() - rule(evidence).exp()).abs().amax(0) / 1e-6
    bound = rule.declared(2).lipschitz
    assert 0.4 * bound < float(ratio.max()) <= bound * (1 + 1e-6)


def test_a_loss_of_zero_stays_finite(random_evidence) -> None:
    table = torch.tensor([[0.0], [0.5]])
    found = KendallOptimum()(random_evidence(2, scores={"task": {"loss": table}}))
    assert bool(found.isfinite().all())
    assert found[:, 0, 0].exp().tolist() == pytest.approx([1.0, 0.0])
    assert bool(kendall_raw(table).isfinite().all())


@pytest.mark.parametrize("rule", [KendallOptimum(), KendallOptimum(losses="student")])
def test_missing_evidence_is_named(rule, random_evidence) -> None:
    with pytest.raises(ValueError, match="is not in the evidence"):
        rule(random_evidence(2))
    with pytest.raises(ValueError, match=r"epsilon=-1\.0 must be finite"):
        replace(rule, epsilon=-1.0)
