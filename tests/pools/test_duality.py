import math

import pytest
import torch
from scipy.optimize import minimize

from mashbill import losses, pools

DOUBLE = torch.float64
APPENDIX_A = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=DOUBLE).log()
EVERY = [
    ("forward_kl", None),
    ("reverse_kl", None),
    ("hellinger", None),
    ("euclid", None),
    ("itakura_saito", None),
    ("reverse_itakura_saito", None),
    *(("alpha", a) for a in (-1, 0, 0.3, 0.5, 1, 2, 3.0)),
]
CONSTANT = [one for one in EVERY if one[0] not in ("hellinger", "alpha")] + [("alpha", 0), ("alpha", 1)]


def random_problem(n_teachers=3, n_cases=20, n_entries=5, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_teachers + 1, n_cases, n_entries, generator=generator, dtype=DOUBLE)
    weights = torch.randn(n_teachers, n_cases, generator=generator, dtype=DOUBLE).log_softmax(0)
    return logits[:-1].log_softmax(-1), weights, logits[-1].log_softmax(-1)


def written_out(p, q, divergence, alpha):
    """Each divergence from its definition, in probabilities."""
    p, q = p.exp(), q.exp()
    if divergence == "alpha" and alpha not in (0, 1):
        return (1 - (p**alpha * q ** (1 - alpha)).sum(-1)) / (alpha * (1 - alpha))
    name = {0: "reverse_kl", 1: "forward_kl"}.get(alpha, divergence) if divergence == "alpha" else divergence
    return {
        "forward_kl": lambda: (p * (p / q).log()).sum(-1),
        "reverse_kl": lambda: (q * (q / p).log()).sum(-1),
        "hellinger": lambda: (p.sqrt() - q.sqrt()).square().sum(-1),
        "euclid": lambda: (p - q).square().sum(-1) / 2,
        "itakura_saito": lambda: (p / q - (p / q).log() - 1).sum(-1),
        "reverse_itakura_saito": lambda: (q / p - (q / p).log() - 1).sum(-1),
    }[name]()


@pytest.mark.parametrize(("divergence", "alpha"), EVERY)
def test_divergences_are_their_definitions(divergence, alpha) -> None:
    logprobs, _, student = random_problem()
    found = pools.divergence_between(logprobs, student, divergence=divergence, alpha=alpha)
    torch.testing.assert_close(found, written_out(logprobs, student, divergence, alpha), rtol=1e-10, atol=1e-12)
    same = pools.divergence_between(student, student, divergence=divergence, alpha=alpha)
    assert float(same.abs().max()) < 1e-14


def test_the_kl_are_those_of_the_losses() -> None:
    logprobs, _, student = random_problem(1)
    for name in ("forward_kl", "reverse_kl"):
        found = pools.divergence_between(logprobs[0], student, divergence=name)
        torch.testing.assert_close(found, getattr(losses, name)(logprobs[0], student))


def test_known_special_orders() -> None:
    logprobs, _, student = random_problem(1)
    p, q = logprobs[0].exp(), student.exp()
    twice = pools.divergence_between(logprobs[0], student, divergence="alpha", alpha=2)
    torch.testing.assert_close(2 * twice, ((p - q).square() / q).sum(-1))
    minus = pools.divergence_between(logprobs[0], student, divergence="alpha", alpha=-1)
    torch.testing.assert_close(2 * minus, ((p - q).square() / p).sum(-1))
    half = pools.divergence_between(logprobs[0], student, divergence="alpha", alpha=0.5)
    torch.testing.assert_close(half, 2 * pools.divergence_between(logprobs[0], student, divergence="hellinger"))


@pytest.mark.parametrize(("divergence", "alpha"), EVERY)
def test_the_pool_is_the_minimiser(divergence, alpha) -> None:
    """Gradient 0 at the pool to 13 digits; scipy, from elsewhere and from the definition, comes back to 8."""
    logprobs, log_weights, student = random_problem(n_cases=4)
    found = pools.pool_for(divergence, alpha=alpha)(logprobs, log_weights)

    def total(z, case):
        each = written_out(logprobs[:, case], z.log_softmax(-1), divergence, alpha)
        return (log_weights[:, case].exp() * each).sum()

    for case in range(4):
        gradient = torch.func.grad(total)(found[case], case)
        assert float(gradient.abs().max()) < 1e-13

        def value_and_slope(z, case=case):
            slope, value = torch.func.grad_and_value(total)(torch.tensor(z, dtype=DOUBLE), case)
            return float(value), slope.numpy()

        start = minimize(value_and_slope, student[case].numpy(), jac=True, method="BFGS", options={"gtol": 1e-9}).x
        z = newton(lambda z, case=case: total(z, case), torch.tensor(start, dtype=DOUBLE))
        assert z.softmax(-1).tolist() == pytest.approx(found[case].exp().tolist(), abs=1e-9)


def newton(function, z):
    for _ in range(3):
        slope, curvature = torch.func.grad(function)(z), torch.autograd.functional.hessian(function, z)
        z = z - torch.linalg.pinv(curvature, rtol=1e-10) @ slope  # logits are free up to a constant
    return z


def test_golden_of_the_constant(golden) -> None:
    log_weights = torch.tensor([0.69, 0.31], dtype=DOUBLE).log()
    expected = golden("F51")["expected"]
    assert float(pools.divergence_gap(APPENDIX_A, log_weights)) == pytest.approx(expected, abs=1e-9)
    for student in ([0.2, 0.3, 0.5], [0.98, 0.01, 0.01]):
        found = pools.divergence_gap(APPENDIX_A, log_weights, torch.tensor(student, dtype=DOUBLE).log())
        assert float(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("divergence", "alpha"), CONSTANT)
def test_the_gap_is_the_same_for_every_student(divergence, alpha) -> None:
    logprobs, log_weights, student = random_problem()
    at_pool = pools.divergence_gap(logprobs, log_weights, divergence=divergence, alpha=alpha)
    student.requires_grad_()
    found = pools.divergence_gap(logprobs, log_weights, student.log_softmax(-1), divergence=divergence, alpha=alpha)
    torch.testing.assert_close(found.detach(), at_pool, rtol=1e-9, atol=1e-11)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert float(gradient.abs().max()) < 1e-11


def test_what_the_constants_are() -> None:
    logprobs, log_weights, _ = random_problem()
    w = log_weights.exp()
    q = pools.linear(logprobs, log_weights)
    entropies = -(logprobs.exp() * logprobs).sum(-1)
    jensen = -(q.exp() * q).sum(-1) - (w * entropies).sum(0)
    torch.testing.assert_close(pools.divergence_gap(logprobs, log_weights), jensen)
    log_mass = (w.unsqueeze(-1) * logprobs).sum(0).logsumexp(-1)
    torch.testing.assert_close(pools.divergence_gap(logprobs, log_weights, divergence="reverse_kl"), -log_mass)


@pytest.mark.parametrize("alpha", [-1, 0.5, 2])
def test_the_gap_of_other_orders_is_affine_in_the_divergence(alpha) -> None:
    logprobs, log_weights, student = random_problem()
    mean = (log_weights.exp().unsqueeze(-1) * logprobs.exp() ** alpha).sum(0) ** (1 / alpha)
    power = mean.sum(-1) ** alpha
    q = pools.pool_for("alpha", alpha=alpha)(logprobs, log_weights)
    towards_pool = pools.divergence_between(q, student, divergence="alpha", alpha=alpha)
    expected = (power - 1) * towards_pool + (1 - power) / (alpha * (1 - alpha))
    found = pools.divergence_gap(logprobs, log_weights, student, divergence="alpha", alpha=alpha)
    torch.testing.assert_close(found, expected)


def test_the_gap_depends_on_the_weights() -> None:
    log_weights = torch.tensor([0.69, 0.31], dtype=DOUBLE).log().requires_grad_()
    (gradient,) = torch.autograd.grad(pools.divergence_gap(APPENDIX_A, log_weights.log_softmax(0)), log_weights)
    assert float(gradient.abs().max()) > 1e-3


def test_shapes_and_one_teacher() -> None:
    logprobs, log_weights, student = random_problem(3, 12)
    plain = pools.divergence_gap(logprobs, log_weights, student)
    one_a_row = log_weights.reshape(3, 4, 3)[..., :1]
    shaped = pools.divergence_gap(logprobs.reshape(3, 4, 3, 5), one_a_row, student.reshape(4, 3, 5))
    assert shaped.shape == (4, 3)
    assert shaped[:, 0].tolist() == pytest.approx(plain.reshape(4, 3)[:, 0].tolist())
    alone = pools.divergence_gap(logprobs[:1], torch.zeros(1, 12, dtype=DOUBLE), student)
    assert float(alone.abs().max()) < 1e-14


def test_an_order_out_of_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"alpha=None with divergence='alpha': give the order"):
        pools.pool_for("alpha")
    with pytest.raises(ValueError, match=r"alpha=2 with divergence='hellinger'"):
        pools.pool_for("hellinger", alpha=2)
    assert math.isfinite(float(pools.divergence_gap(APPENDIX_A, torch.tensor([0.5, 0.5]).log())))
