"""That a benchmark times nobody who computes something else."""

import sys
from dataclasses import replace

import pytest
import torch
from harness import check, forms, peers, variants
from harness.forms import Shape
from harness.variants import ALL, Variant

SHAPE = Shape("logits", rows=8, entries=40, teachers=3, k=5)


def examined(function, *, form: str = "logits", divergence: str = "forward_kl", **options) -> check.Verdict:
    variant = Variant("somebody", "peer", ALL, lambda: function, **options)
    shape = Shape(form, rows=8, entries=40, teachers=3, k=5)  # pyright: ignore[reportArgumentType]
    return check.examine(variant, shape, divergence=divergence, device="cpu")


def each_teacher(inputs: forms.Inputs) -> torch.Tensor:
    """Sum what the naive loss gives for each teacher alone."""
    total = torch.zeros(())
    for k, weight in enumerate(inputs.weights):
        one = replace(inputs, teacher_logits=inputs.teacher_logits[k : k + 1], log_weights=torch.zeros(1, 1, 1))
        total = total + weight * forms.naive(one)
    return total


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_the_naive_loss_is_the_truth_in_every_form(form: str, divergence: str) -> None:
    verdict = examined(forms.naive, form=form, divergence=divergence)
    assert verdict.status == "same"
    assert verdict.gradient_error is not None
    assert verdict.gradient_error < 1e-5


@pytest.mark.parametrize("form", ["topk", "stored"])
def test_a_stored_teacher_is_completed_to_a_distribution(form) -> None:
    inputs = forms.make(Shape(form, rows=4, entries=30, teachers=2, k=3))
    log_p = torch.log_softmax(inputs.scores(), dim=-1)
    for probs in inputs.each_teacher(log_p):
        assert torch.allclose(probs.sum(dim=-1), torch.ones(1, 4), atol=1e-5)


def test_a_constant_factor_is_seen() -> None:
    verdict = examined(lambda inputs: 1.01 * forms.naive(inputs))
    assert verdict.status == "other"
    assert verdict.function is None
    assert "gradient by 1.0e-02" in verdict.note


def test_a_value_that_is_no_number_is_seen() -> None:
    assert examined(lambda inputs: forms.naive(inputs) * float("nan")).status == "other"


def test_one_call_a_teacher_is_the_mixture_up_to_a_constant() -> None:
    assert examined(each_teacher).status == "other"
    verdict = examined(each_teacher, sums_teachers=True)
    assert verdict.status == "same"
    assert "spread" in verdict.note


@pytest.mark.parametrize("divergence", ["reverse_kl", "js"])
def test_one_call_a_teacher_is_another_loss_for_other_divergences(divergence: str) -> None:
    verdict = examined(each_teacher, sums_teachers=True, divergence=divergence)
    assert verdict.status == "other"
    assert "each teacher is not" in verdict.note


def test_what_breaks_is_left_out() -> None:
    def broken(_: forms.Inputs) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    verdict = examined(broken)
    assert (verdict.status, verdict.note) == ("failed", "RuntimeError: no such kernel")


@pytest.mark.parametrize("variant", peers.PEERS, ids=lambda one: one.name)
def test_who_is_not_installed_is_absent(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in peers.PACKAGES:
        for module in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, package, None)
    verdict = check.examine(variant, SHAPE, divergence="forward_kl", device="cpu")
    assert verdict.status == "absent"


def test_the_students_logits_come_back() -> None:
    inputs = forms.make(SHAPE)
    assert inputs.logits is not None
    before = inputs.logits.detach().clone()
    inputs.logits.detach().zero_()
    inputs.restore()
    assert torch.equal(inputs.logits, before)


def test_the_own_loss_takes_the_form_with_stored_teachers() -> None:
    shape = Shape("topk", rows=8, entries=40, teachers=3, k=5)
    mine = next(one for one in variants.OWN if one.name == "mashbill")
    assert check.examine(mine, shape, divergence="forward_kl", device="cpu").status == "same"
