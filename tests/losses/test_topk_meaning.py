"""What the value over lists means: bounds of the true divergence, and the mistakes that others make with top-k."""

import math

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, TopK, softened_tail_interval
from mashbill.losses import distillation_loss, divergence

N = 60


def noise(*shape, seed=0, scale=2.0) -> torch.Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def solve(logits, teachers, log_weights=None, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Return divergence and gradient of rows ``[R V]``, teachers given for the same rows."""
    leaf = logits.detach().unsqueeze(0).requires_grad_()
    if log_weights is None:
        log_weights = torch.full((len(teachers), len(logits)), -math.log(len(teachers)), dtype=torch.float64)
    batched = [
        Dense(one.logprobs.unsqueeze(0))
        if isinstance(one, Dense)
        else TopK(one.ids.unsqueeze(0), one.logprobs.unsqueeze(0), one.log_tail.unsqueeze(0), one.n_entries)
        for one in teachers
    ]
    mask = torch.ones(1, len(logits), dtype=torch.bool)
    loss = distillation_loss(leaf, batched, log_weights.unsqueeze(1), mask=mask, **options)
    (gradient,) = torch.autograd.grad(loss.total, leaf)
    return loss.divergence[0], gradient[0]


def truths(n_teachers: int, *, n_entries=17, k=4, seed=0) -> tuple[torch.Tensor, torch.Tensor, list[TopK]]:
    """A student, the full log-probabilities of its teachers, sharp and flat, and what was captured of them."""
    sharpness = torch.logspace(-1, 0.7, N, dtype=torch.float64).unsqueeze(-1)
    logits = noise(N, n_entries, seed=seed)
    full = torch.stack(
        [torch.log_softmax(sharpness * noise(N, n_entries, seed=seed + k + 1), -1) for k in range(n_teachers)]
    )
    return logits, full, [TopK.from_logprobs(one, k=k) for one in full]


def outside(stored: TopK, values: torch.Tensor) -> torch.Tensor:
    """Normalise log-values over the unstored entries, ``-inf`` elsewhere."""
    return torch.log_softmax(values.scatter(-1, stored.ids, -torch.inf), -1)


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """``KL(p || q)`` of log-probabilities, with ``0 log 0 = 0``."""
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum(-1)


def test_one_teacher_is_the_coarse_grained_kl():
    logits, _, (stored,) = truths(1)
    student = torch.log_softmax(logits, -1)
    kept = stored.logprobs.exp() * (stored.logprobs - student.gather(-1, stored.ids))
    left = student.scatter(-1, stored.ids, -torch.inf).logsumexp(-1)
    bucket = stored.log_tail.exp() * (stored.log_tail - left)
    torch.testing.assert_close(solve(logits, [stored])[0], kept.sum(-1) + bucket, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "js", "skew_kl", "reverse_skew_kl", "alpha"])
def test_one_teacher_is_a_lower_bound_for_every_divergence(name):
    for seed in range(5):
        logits, full, (stored,) = truths(1, seed=10 * seed)
        value, _ = solve(logits, [stored], divergence=name)
        exact, _ = solve(logits, [Dense(full[0])], divergence=name)
        assert (value >= -1e-15).all()
        assert (value <= exact + 1e-13).all()
        assert (value < exact - 1e-3).any()


def test_the_gap_is_the_tail_times_the_divergence_of_its_shapes():
    logits, full, (stored,) = truths(1)
    student, tail = outside(stored, torch.log_softmax(logits, -1)), stored.log_tail.exp()
    true = outside(stored, full[0])
    even = outside(stored, torch.zeros_like(true))
    exact, _ = solve(logits, [Dense(full[0])])
    gap = exact - solve(logits, [stored])[0]
    torch.testing.assert_close(gap, tail * kl(true, student), rtol=1e-9, atol=1e-12)
    least = student.masked_fill(student == -torch.inf, torch.inf).amin(-1)
    assert (gap <= tail * -least + 1e-13).all()
    of_even = exact - solve(logits, [stored], tail="even")[0]
    torch.testing.assert_close(of_even, tail * (kl(true, student) - kl(even, student)), rtol=1e-9, atol=1e-12)
    assert (of_even < -1e-3).any()
    assert (of_even > 1e-3).any()


def test_the_largest_gap_and_none_are_attained():
    logits, _, (stored,) = truths(1)
    student = outside(stored, torch.log_softmax(logits, -1))
    least, place = student.masked_fill(student == -torch.inf, torch.inf).min(-1, keepdim=True)
    kept = torch.full_like(student, -torch.inf).scatter(-1, stored.ids, stored.logprobs)
    value, _ = solve(logits, [stored])
    worst = numerics.log_of(kept.scatter(-1, place, stored.log_tail.unsqueeze(-1)).exp())
    gap = solve(logits, [Dense(worst)])[0] - value
    torch.testing.assert_close(gap, stored.log_tail.exp() * -least.squeeze(-1), rtol=1e-9, atol=1e-12)
    alike = numerics.log_of(torch.logaddexp(kept, student + stored.log_tail.unsqueeze(-1)).exp())
    torch.testing.assert_close(solve(logits, [Dense(alike)])[0], value, rtol=1e-12, atol=1e-13)


def test_an_empty_tail_leaves_no_gap():
    logits, full, _ = truths(1, k=3)
    kept, ids = full[0].topk(3)
    only = torch.log_softmax(kept, -1)
    stored = TopK(ids, only, torch.full((N,), numerics.LOG_ZERO).double(), 17)
    dense = Dense(torch.full_like(full[0], numerics.LOG_ZERO).scatter(-1, ids, only))
    torch.testing.assert_close(solve(logits, [stored])[0], solve(logits, [dense])[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("tail", ["student", "even"])
def test_the_gradients_error_is_at_most_twice_the_tail(tail):
    for n_teachers in (1, 3):
        logits, full, stored = truths(n_teachers)
        weights = torch.log_softmax(noise(n_teachers, N, seed=9), 0)
        _, gradient = solve(logits, stored, weights, tail=tail)
        _, exact = solve(logits, [Dense(one) for one in full], weights)
        mass = sum(w.exp() * one.log_tail.exp() for w, one in zip(weights, stored, strict=True))
        assert ((gradient - exact).abs().sum(-1) <= 2 * mass + 1e-13).all()
        if n_teachers == 1:
            assert (gradient - exact).gather(-1, stored[0].ids).abs().max() < 1e-13


@pytest.mark.parametrize("tail", ["student", "even"])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("n_teachers", [1, 3])
def test_errors_at_other_temperatures(n_teachers, tail, temperature):
    logits, full, stored = truths(n_teachers, k=12)
    weights = torch.log_softmax(noise(n_teachers, N, seed=9), 0)
    value, gradient = solve(logits, stored, weights, tail=tail, temperature=temperature)
    true, exact = solve(logits, [Dense(one) for one in full], weights, temperature=temperature)
    ends = [softened_tail_interval(one, temperature=temperature, is_top=False)[1] for one in stored]
    off = sum(w.exp() * end for w, end in zip(weights, ends, strict=True))
    assert ((gradient - exact).abs().sum(-1) <= 2 * temperature * off + 1e-13).all()
    student = torch.log_softmax(logits / temperature, -1)
    spread = math.log(logits.shape[-1] - 1) + student.amax(-1) - student.amin(-1)
    off = off.clamp_max(1 - 1 / logits.shape[-1])
    entropy = -(torch.xlogy(off, off) + torch.xlogy(1 - off, 1 - off))
    assert ((value - true).abs() <= off * spread + entropy + 1e-13).all()


def pooled(full: torch.Tensor, log_weights: torch.Tensor) -> torch.Tensor:
    return (full + log_weights.unsqueeze(-1)).logsumexp(0)


@pytest.mark.parametrize("tail", ["student", "even"])
def test_several_teachers_lie_between_what_all_stored_and_their_mean(tail):
    is_above = is_above_all = False
    for seed in range(5):
        logits, full, stored = truths(3, k=6, seed=10 * seed)
        weights = torch.log_softmax(noise(3, N, seed=seed + 9), 0)
        value, _ = solve(logits, stored, weights, tail=tail)
        student, q = torch.log_softmax(logits, -1), pooled(full, weights)
        exact = kl(q, student)
        each = torch.stack([kl(one, student) for one in full])
        own = torch.stack([solve(logits, [one], tail=tail)[0] for one in stored])
        assert (value <= (weights.exp() * own).sum(0) + 1e-13).all()
        is_above_all |= bool((value > (weights.exp() * each).sum(0) + 1e-3).any())
        if tail == "student":
            assert (own <= each + 1e-13).all()
        by_all = torch.stack([torch.zeros_like(student).scatter(-1, one.ids, 1.0) for one in stored]).prod(0) > 0
        kept = torch.where(by_all, q.exp() * (q - student), 0).sum(-1)
        rest, left = q.masked_fill(by_all, -torch.inf).logsumexp(-1), student.masked_fill(by_all, -torch.inf)
        floor = kept + rest.exp() * (rest - left.logsumexp(-1))
        assert (floor <= value + 1e-13).all()
        assert (floor <= exact + 1e-13).all()
        is_above |= bool((value > exact + 1e-3).any())
    # No bound of the true pool: some teacher's tail really lies on what the others stored.
    assert is_above
    assert is_above_all == (tail == "even")


@pytest.mark.parametrize("tail", ["student", "even"])
@pytest.mark.parametrize("n_teachers", [1, 3])
def test_the_pooled_values_error_is_bounded_by_the_tails(tail, n_teachers):
    for seed in range(5):
        logits, full, stored = truths(n_teachers, k=12, seed=10 * seed)
        weights = torch.log_softmax(noise(n_teachers, N, seed=seed + 9), 0)
        value, _ = solve(logits, stored, weights, tail=tail)
        student = torch.log_softmax(logits, -1)
        mass = sum(w.exp() * one.log_tail.exp() for w, one in zip(weights, stored, strict=True))
        spread = math.log(logits.shape[-1] - 1) + student.amax(-1) - student.amin(-1)
        entropy = -(torch.xlogy(mass, mass) + torch.xlogy(1 - mass, 1 - mass))
        # The bound holds for the distance itself; in the mass it grows up to 1 - 1/V, and here masses are small.
        assert mass.max() < 0.5
        assert ((value - kl(pooled(full, weights), student)).abs() <= mass * spread + entropy).all()


def test_never_negative_where_a_truncated_sum_is():
    # The student has more than the teacher on the stored entries, so that the sum over them alone is below 0.
    logits = torch.tensor([[1.6, 1.2, 0.0, 0.0, 0.0]], dtype=torch.float64)
    teacher = torch.log_softmax(torch.tensor([[1.2, 0.9, 0.4, -0.2, 0.1]], dtype=torch.float64), -1)
    stored = TopK.from_logprobs(teacher, k=2)
    student = torch.log_softmax(logits, -1)
    truncated = (stored.logprobs.exp() * (stored.logprobs - student.gather(-1, stored.ids))).sum()
    value, gradient = solve(logits, [stored])
    assert truncated < -0.01
    assert 0 < value.item() <= divergence.forward_kl(teacher, student).item()
    assert gradient.abs().max() > 0.01
    for seed in range(20):
        logits, _, stored = truths(3, seed=seed)
        assert (solve(logits.float(), stored)[0] >= -1e-6).all()


def test_mass_that_leaks_off_the_list_is_seen():
    # Renormalised over the list, this student equals its teacher; nearly all its mass lies elsewhere.
    teacher = torch.tensor([[0.6, 0.3, 0.1 - 1e-7]], dtype=torch.float64).log()
    stored = TopK(torch.tensor([[4, 2, 7]]), teacher, torch.full((1,), 1e-7, dtype=torch.float64).log(), 50)
    logits = torch.full((1, 50), 13.0, dtype=torch.float64).scatter(-1, stored.ids, teacher)
    renormalised = torch.log_softmax(logits.gather(-1, stored.ids), -1)
    assert kl(teacher, renormalised).abs() < 1e-6
    value, gradient = solve(logits, [stored])
    left = torch.log_softmax(logits, -1).gather(-1, stored.ids).logsumexp(-1)
    torch.testing.assert_close(value, -left, rtol=1e-5, atol=0)
    assert value > 15
    # Descent takes all the leaked mass back.
    assert gradient.scatter(-1, stored.ids, 0).sum() > 0.99


@pytest.mark.parametrize("tail", ["student", "even"])
def test_a_shift_of_all_logits_changes_nothing(tail):
    logits, _, stored = truths(2)
    logits = (logits * 256).round() / 256
    value, gradient = solve(logits, stored, tail=tail)
    for offset in (-1e4, -20.0, -5.0, 1e4):
        moved, same = solve(logits + offset, stored, tail=tail)
        torch.testing.assert_close(moved, value, rtol=1e-13, atol=1e-14)
        torch.testing.assert_close(same, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("offset", [0.0, -5.0, -10.0, -20.0])
def test_a_padded_vocabulary_counts_for_nothing(offset):
    # Student and teacher agree; 128 columns of padding, -inf in the student, must not add a divergence.
    plain = torch.log_softmax(noise(N, 40), -1)
    padding = torch.full((N, 128), -torch.inf, dtype=torch.float64)
    stored = TopK.from_logprobs(plain, k=5)
    wide = TopK(stored.ids, stored.logprobs, stored.log_tail, 168)
    for temperature in (1.0, 4.0):
        value, gradient = solve(torch.cat([plain + offset, padding], -1), [wide], temperature=temperature)
        assert value.abs().max() < 1e-14
        assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "js", "skew_kl", "alpha"])
def test_a_student_that_is_its_teacher_stays(name, temperature):
    logits = noise(N, 40)
    stored = [TopK.from_logprobs(torch.log_softmax(logits, -1), k=k) for k in (1, 5, 39, 40)]
    value, gradient = solve(logits, stored, divergence=name, temperature=temperature)
    assert value.abs().max() < 1e-13
    assert gradient.abs().max() < 1e-12
