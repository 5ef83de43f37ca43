"""The chunked loss against its plain twin: values, gradients, hard numbers, memory."""

import math
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, TopK
from mashbill.losses import chunked, distillation_loss, target

DIVERGENCES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("js", 0.5), ("js", 0.1), ("js", 0.0), ("js", 1.0)]


def agree(one, two, *, rtol=1e-11, atol=1e-13):
    """Compare (loss, gradient) pairs; the gradient by its norm."""
    (loss, gradient), (other, expected) = one, two
    torch.testing.assert_close(loss.total.detach(), other.total.detach(), rtol=rtol, atol=atol)
    torch.testing.assert_close(loss.divergence, other.divergence, rtol=rtol, atol=max(atol, 1e-12))
    torch.testing.assert_close(loss.cross_entropy, other.cross_entropy, rtol=rtol, atol=atol)
    assert (gradient - expected).norm() <= rtol * expected.norm() + atol


@pytest.mark.parametrize(
    ("kind", "tail"),
    [("dense", "student"), ("topk", "student"), ("topk", "even"), ("mixed", "student"), ("mixed", "even")],
)
@pytest.mark.parametrize("pool", ["linear", "log_linear"])
@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_equals_the_reference(problem, kind, tail, pool, divergence, beta):
    for temperature in (0.1, 0.5, 1.0, 2.0, 20.0):
        for cross_entropy in (0.0, 0.3, 1.0):
            case = problem(kind=kind, seed=int(temperature * 10))
            options = {
                "divergence": divergence,
                "beta": beta,
                "pool": pool,
                "tail": tail,
                "temperature": temperature,
                "cross_entropy": cross_entropy,
            }
            agree(case.solve(impl="chunked", **options), case.solve(impl="reference", **options))


@pytest.mark.parametrize("n_each", [1, 2, 3, 100])
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_chunks_of_any_size(problem, monkeypatch, n_each, kind):
    monkeypatch.setattr(chunked, "rows_at_once", lambda *_: n_each)
    case = problem(kind=kind)
    agree(case.solve(impl="chunked", temperature=2.0), case.solve(impl="reference", temperature=2.0))


def test_chunk_size_does_not_change_a_bit(problem, monkeypatch):
    case = problem(dtype=torch.float32)
    totals = []
    for n_each in (1, 4, 100):
        monkeypatch.setattr(chunked, "rows_at_once", lambda *_, n=n_each: n)
        totals.append(case.solve(impl="chunked"))
    for loss, gradient in totals[1:]:
        assert torch.equal(gradient, totals[0][1])
        assert torch.equal(loss.divergence, totals[0][0].divergence)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("kind", ["dense", "mixed"])
def test_gradcheck(problem, divergence, temperature, kind):
    case = problem(shape=(1, 3, 5), n_teachers=2, k=2, spread=1.0)
    # The shape of a tail is a constant of the step, so its own movement is no part of this derivative.
    options = {"divergence": divergence, "temperature": temperature, "cross_entropy": 0.3, "tail": "even"}

    def total(logits):
        return distillation_loss(
            logits, case.teachers, case.log_weights, mask=case.mask, labels=case.labels, impl="chunked", **options
        ).total

    assert torch.autograd.gradcheck(total, (case.logits.detach().requires_grad_(),))


def test_backward_can_be_repeated_and_scaled(problem):
    case = problem()
    logits = case.logits.detach().requires_grad_()
    total = distillation_loss(logits, case.teachers, case.log_weights, mask=case.mask).total
    (first,) = torch.autograd.grad(total, logits, retain_graph=True)
    (second,) = torch.autograd.grad(total, logits, retain_graph=True, grad_outputs=torch.tensor(3.0).double())
    (third,) = torch.autograd.grad(total, logits)
    assert torch.equal(first, third)
    torch.testing.assert_close(second, 3 * first, rtol=1e-15, atol=0)


def test_a_second_derivative_is_refused(problem):
    case = problem()
    logits = case.logits.detach().requires_grad_()
    total = distillation_loss(logits, case.teachers, case.log_weights, mask=case.mask).total
    for loss in (total, total * logits.sum()):
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(loss, logits, create_graph=True)


def test_gradients_add_up_in_a_leaf(problem):
    case = problem()
    logits = case.logits.detach().requires_grad_()
    total = distillation_loss(logits, case.teachers, case.log_weights, mask=case.mask).total
    total.backward(retain_graph=True)
    once = logits.grad.clone()
    total.backward()
    torch.testing.assert_close(logits.grad, 2 * once, rtol=1e-15, atol=0)


def test_scale_is_a_factor_on_the_total(problem):
    case = problem()
    plain, gradient = case.solve()
    loss, scaled = case.solve(scale=0.125)
    torch.testing.assert_close(loss.total, plain.total / 8, rtol=1e-14, atol=0)
    torch.testing.assert_close(scaled, gradient / 8, rtol=1e-14, atol=0)
    assert torch.equal(loss.divergence, plain.divergence)


def test_inputs_are_left_as_they_were(problem):
    case = problem(kind="mixed", dtype=torch.float32)
    before = [case.logits.clone(), *(one.logprobs.clone() for one in case.teachers), case.log_weights.clone()]
    case.solve(divergence="js", temperature=2.0, cross_entropy=0.5)
    after = [case.logits, *(one.logprobs for one in case.teachers), case.log_weights]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_logits_and_teachers_that_are_not_contiguous(problem):
    wide = problem(shape=(2, 6, 23))
    narrow = replace(
        wide,
        logits=wide.logits[:, :-1],
        teachers=tuple(Dense(one.logprobs[:, :-1]) for one in wide.teachers),
        log_weights=wide.log_weights[..., :-1],
        mask=wide.mask[:, :-1],
        labels=wide.labels[:, :-1],
    )
    assert not narrow.logits.is_contiguous()
    agree(narrow.solve(impl="chunked"), narrow.solve(impl="reference"))


def test_without_gradient_nothing_is_stored(problem):
    case = problem()
    loss = distillation_loss(case.logits, case.teachers, case.log_weights, mask=case.mask)
    assert not loss.total.requires_grad
    with torch.no_grad():
        logits = case.logits.detach().requires_grad_()
        assert not distillation_loss(logits, case.teachers, case.log_weights, mask=case.mask).total.requires_grad


def test_unused_slots_and_empty_replies(problem):
    case = problem(shape=(1, 3, 5), n_teachers=1)
    stored = TopK(
        ids=torch.tensor([[[3, 1], [-1, 2], [-1, -1]]]),
        logprobs=torch.tensor([[[0.5, 0.2], [1.0, 0.6], [1.0, 1.0]]], dtype=torch.float64).log()
        - 1e4 * torch.tensor([[[0, 0], [1, 0], [1, 1]]]),
        log_tail=torch.tensor([[0.3, 0.4, 1.0]], dtype=torch.float64).log(),
        n_entries=5,
    )
    dense = Dense.from_logits(torch.randn(1, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))
    both = replace(
        case,
        teachers=(dense, stored),
        log_weights=torch.full((2, 1, 1), -math.log(2), dtype=torch.float64),
        mask=torch.ones(1, 3, dtype=torch.bool),
    )
    for tail in ("student", "even"):
        for temperature in (0.5, 1.0, 3.0):
            options = {"tail": tail, "temperature": temperature}
            agree(both.solve(impl="chunked", **options), both.solve(impl="reference", **options))


@pytest.mark.parametrize("n_entries", [1, 2])
def test_smallest_vocabularies(problem, n_entries):
    for kind in ("dense", "topk"):
        case = problem(shape=(2, 3, n_entries), kind=kind, k=1)
        agree(case.solve(impl="chunked"), case.solve(impl="reference"))


@pytest.mark.parametrize(("logit", "is_done_again"), [(-50.0, True), (-60.0, False)])
def test_a_little_mass_where_the_pool_has_none_moves_the_reverse_kl(monkeypatch, logit, is_done_again):
    # The student has e^-50 / 2 where the teacher has nothing, and nothing else sets them apart.
    logits = torch.tensor([[[0.0, 0.0, logit]]], dtype=torch.float64)
    teacher = Dense.from_probs(torch.tensor([[[0.5, 0.5, 0.0]]], dtype=torch.float64))
    exact, pooled = [], target.pooled
    monkeypatch.setattr(target, "pooled", lambda *args, **kwargs: exact.append(1) or pooled(*args, **kwargs))
    loss = distillation_loss(
        logits,
        [teacher],
        torch.zeros(1, 1, 1, dtype=torch.float64),
        mask=torch.ones(1, 1, dtype=torch.bool),
        divergence="reverse_kl",
        impl="chunked",
    )
    # Below e^-55 it is left alone: a shared mask must not make every row a hard one.
    assert bool(exact) == is_done_again
    if is_done_again:
        mass = math.exp(logit) / 2
        assert loss.total.item() == pytest.approx(mass * (logit - math.log(2) + 1e4), rel=1e-6)
