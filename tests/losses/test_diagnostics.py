from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, TopK
from mashbill.losses.diagnostics import diagnose
from mashbill.losses.divergence import forward_kl


def measured(case, **options):
    return diagnose(case.logits, case.teachers, case.log_weights, mask=case.mask, labels=case.labels, **options)


def test_closed_forms(problem):
    case = problem()
    got = measured(case)
    student = torch.log_softmax(case.logits, -1)
    weights, mask = case.log_weights.exp(), case.mask
    q = sum(w.unsqueeze(-1) * t.logprobs.exp() for w, t in zip(weights, case.teachers, strict=True)).log()
    for k, teacher in enumerate(case.teachers):
        expected = torch.where(mask, forward_kl(teacher.logprobs, student), 0)
        torch.testing.assert_close(got.kl_to_teacher[k], expected, rtol=1e-12, atol=1e-13)
    apart = sum(w * forward_kl(t.logprobs, q) for w, t in zip(weights, case.teachers, strict=True))
    torch.testing.assert_close(got.disagreement, torch.where(mask, apart, 0), rtol=1e-12, atol=1e-13)
    labelled = mask & (case.labels >= 0)
    assert torch.equal(got.label_logprob.isnan(), ~labelled)
    expected = q.gather(-1, case.labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(got.label_logprob[labelled], expected[labelled])


def test_disagreement_is_a_floor_for_any_student(problem):
    got = measured(problem(kind="mixed"), tail="even")
    weighted = (problem(kind="mixed").log_weights.exp() * got.kl_to_teacher).sum(0)
    assert (weighted >= got.disagreement - 1e-12).all()


def test_teachers_that_agree(problem):
    case = problem()
    got = measured(replace(case, teachers=case.teachers[:1] * 3))
    assert got.disagreement.abs().max() < 1e-14


@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_top_k_with_every_entry_is_dense(problem, pool):
    case = problem()
    stored = replace(case, teachers=tuple(TopK.from_logprobs(t.logprobs, k=23) for t in case.teachers))
    one, two = measured(case, pool=pool), measured(stored, pool=pool)
    torch.testing.assert_close(one.kl_to_teacher, two.kl_to_teacher)
    torch.testing.assert_close(one.disagreement, two.disagreement)


def test_masked_positions_are_never_read(problem):
    case = problem()
    hidden = ~case.mask.unsqueeze(-1)
    spoilt = replace(
        case,
        logits=case.logits.masked_fill(hidden, torch.nan),
        teachers=tuple(Dense(t.logprobs.masked_fill(hidden, torch.nan)) for t in case.teachers),
    )
    one, two = measured(case), measured(spoilt)
    assert torch.equal(one.kl_to_teacher, two.kl_to_teacher)
    assert torch.equal(one.disagreement, two.disagreement)


def test_no_labels_and_no_gradient(problem):
    case = problem()
    logits = case.logits.requires_grad_()
    got = diagnose(logits, case.teachers, case.log_weights, mask=case.mask)
    assert got.label_logprob.isnan().all()
    assert not got.kl_to_teacher.requires_grad


def test_narrow_logits_are_measured_in_float32(problem):
    got = measured(problem(dtype=torch.bfloat16))
    assert got.kl_to_teacher.dtype == torch.float32


def test_sizes_that_do_not_fit(problem):
    case = problem()
    with pytest.raises(ValueError, match=r"mask is \[1 5\]"):
        measured(replace(case, mask=case.mask[:1]))
