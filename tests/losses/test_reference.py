"""The reference against the formula, written a second time with probabilities in float64."""

import pytest
import torch

from mashbill.distributions import Dense
from mashbill.losses import distillation_loss


def by_hand(problem, *, divergence, beta=0.5, temperature=1.0, pool="linear", cross_entropy=0.0):
    logits = problem.logits.detach().requires_grad_()
    p = torch.softmax(logits / temperature, -1)
    soft = [torch.softmax(one.logprobs / temperature, -1) for one in problem.teachers]
    weights = problem.log_weights.exp().unsqueeze(-1)
    if pool == "linear":
        q = sum(w * s for w, s in zip(weights, soft, strict=True))
    else:
        q = torch.softmax(sum(w * s.log() for w, s in zip(weights, soft, strict=True)), -1)
    m = beta * q + (1 - beta) * p
    kl = {
        "forward_kl": (q * (q / p).log()).sum(-1),
        "reverse_kl": (p * (p / q).log()).sum(-1),
        "js": beta * (q * (q / m).log()).sum(-1) + (1 - beta) * (p * (p / m).log()).sum(-1),
    }[divergence]
    entropy = torch.nn.functional.cross_entropy(logits.mT, problem.labels, reduction="none", ignore_index=-100)
    total = ((1 - cross_entropy) * temperature**2 * kl + cross_entropy * entropy)[problem.mask].sum()
    return total.detach(), torch.autograd.grad(total, logits)[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("pool", ["linear", "log_linear"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_value_and_gradient(problem, divergence, pool, temperature):
    case = problem(spread=1.5)
    options = {"divergence": divergence, "pool": pool, "temperature": temperature, "cross_entropy": 0.3, "beta": 0.3}
    loss, gradient = case.solve(impl="reference", **options)
    total, expected = by_hand(case, **options)
    torch.testing.assert_close(loss.total.detach(), total, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_total_is_made_of_its_parts(problem):
    loss, _ = problem().solve(impl="reference", temperature=2.0, cross_entropy=0.25)
    expected = 0.75 * 4 * loss.divergence.sum() + 0.25 * loss.cross_entropy.sum()
    torch.testing.assert_close(loss.total.detach(), expected, rtol=1e-14, atol=0)
    assert not loss.divergence.requires_grad
    assert not loss.cross_entropy.requires_grad


@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_weights_get_a_gradient(problem, pool):
    case = problem(shape=(1, 2, 4), n_teachers=2)
    mask = torch.ones(1, 2, dtype=torch.bool)

    def total(log_weights):
        return distillation_loss(case.logits, case.teachers, log_weights, mask=mask, pool=pool).total

    assert torch.autograd.gradcheck(total, (case.log_weights.detach().requires_grad_(),))


def test_gradient_beside_a_weight_of_zero_is_finite(problem):
    case = problem(shape=(1, 2, 4), n_teachers=2)
    log_weights = torch.tensor([0.0, -torch.inf], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    distillation_loss(case.logits, case.teachers, log_weights, mask=mask).total.backward()
    assert log_weights.grad is not None
    assert log_weights.grad.isfinite().all()


def test_second_derivatives_exist(problem):
    case = problem(shape=(1, 1, 3), n_teachers=2)
    mask = torch.ones(1, 1, dtype=torch.bool)

    def total(logits):
        return distillation_loss(logits, case.teachers, case.log_weights, mask=mask, impl="reference").total

    assert torch.autograd.gradgradcheck(total, (case.logits.detach().requires_grad_(),))


def test_dense_teacher_in_float32_beside_a_float64_student(problem):
    case = problem()
    narrow = Dense(case.teachers[0].logprobs.float())
    one = torch.zeros(1, 2, 1, dtype=torch.float64)
    loss = distillation_loss(case.logits, [narrow], one, mask=case.mask, impl="reference")
    assert loss.total.dtype == torch.float64
