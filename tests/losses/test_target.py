import math
from dataclasses import replace

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, Logits, TopK, soften
from mashbill.losses import distillation_loss, target


def random_logprobs(*shape, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(torch.randn(*shape, dtype=torch.float64, generator=generator) * scale, dim=-1)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_dense_teachers_are_softened(temperature):
    logprobs = random_logprobs(4, 6)
    got = target.softened(Dense(logprobs), random_logprobs(4, 6, seed=1), temperature=temperature, tail="student")
    torch.testing.assert_close(got, soften.power(logprobs, temperature=temperature), rtol=1e-12, atol=1e-12)


def test_logits_far_below_the_floor_count_at_temperatures_that_bring_them_back(problem):
    scores = torch.tensor([[[0.0, -12_000.0, -20_000.0, -torch.inf]]], dtype=torch.float64)
    got = target.softened(Logits(scores[0]), random_logprobs(1, 4), temperature=1000.0, tail="student")
    torch.testing.assert_close(got, torch.log_softmax(scores[0] / 1000, -1).clamp_min(numerics.LOG_ZERO))
    case = problem(kind="logits", shape=(1, 1, 4), n_teachers=1)
    case = replace(case, teachers=(Logits(scores),))
    loss, gradient = case.solve(impl="chunked", temperature=1000.0)
    twin, expected = case.solve(impl="reference", temperature=1000.0)
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_a_teacher_cut_from_the_student_is_the_student_at_every_temperature(temperature):
    student = random_logprobs(4, 9)
    got = target.softened(TopK.from_logprobs(student, k=3), student, temperature=temperature, tail="student")
    torch.testing.assert_close(got, soften.power(student, temperature=temperature), rtol=1e-12, atol=1e-12)


def test_even_tail_is_the_softened_even_completion():
    stored = TopK.from_logprobs(random_logprobs(4, 9), k=3)
    got = target.softened(stored, random_logprobs(4, 9, seed=1), temperature=2.0, tail="even")
    torch.testing.assert_close(got, soften.power_topk(stored, temperature=2.0).densify(), rtol=1e-12, atol=1e-12)


def test_rounding_of_storage_is_normalised_away():
    narrow = random_logprobs(4, 500).bfloat16()
    got = target.softened(Dense(narrow), random_logprobs(4, 500, seed=1), temperature=1.0, tail="student")
    assert (narrow.double().exp().sum(-1) - 1).abs().max() > 1e-4
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_linear_pool_is_the_weighted_mean():
    teachers = random_logprobs(3, 5, 7)
    log_weights = random_logprobs(5, 3, seed=1).T
    expected = (log_weights.exp().unsqueeze(-1) * teachers.exp()).sum(0)
    torch.testing.assert_close(target.pooled(teachers, log_weights, pool="linear").exp(), expected)


def test_log_linear_pool_is_the_normalised_geometric_mean():
    teachers = random_logprobs(3, 5, 7)
    log_weights = random_logprobs(5, 3, seed=1).T
    expected = torch.log_softmax((log_weights.exp().unsqueeze(-1) * teachers).sum(0), -1)
    torch.testing.assert_close(target.pooled(teachers, log_weights, pool="log_linear"), expected)


@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_a_teacher_switched_off_has_no_say(pool):
    on, off = random_logprobs(4, 5), Dense.from_logits(torch.tensor([[0.0] + [-torch.inf] * 4] * 4)).logprobs.double()
    log_weights = torch.tensor([[0.0] * 4, [-torch.inf] * 4], dtype=torch.float64)
    torch.testing.assert_close(target.pooled([on, off], log_weights, pool=pool), on, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nats", [-torch.inf, numerics.LOG_ZERO, -1e6])
@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_a_teacher_switched_off_leaves_no_trace_where_the_others_have_nothing(pool, nats):
    on, off = (Dense.from_probs(torch.tensor([each], dtype=torch.float64)).logprobs for each in ([1, 0, 0], [0, 1, 0]))
    one, none = torch.zeros(1, dtype=torch.float64), torch.full((1,), nats, dtype=torch.float64)
    for teachers, weights in (([on, off], [one, none]), ([off, off, on], [none, none, one])):
        log_weights = torch.stack(weights).requires_grad_()
        got = target.pooled(teachers, log_weights, pool=pool)
        torch.testing.assert_close(got, on, rtol=1e-12, atol=0)
        got.sum().backward()
        assert log_weights.grad.isfinite().all()
    by_class = torch.tensor([[[0.0], [nats]], [[math.log(0.4)], [math.log(0.6)]]], dtype=torch.float64).requires_grad_()
    got = target.pooled([on, off], by_class, pool=pool, classes=torch.tensor([0, 0, 1]))
    # In the class of the first two only the first teacher counts; rows are normalised.
    torch.testing.assert_close(got, on, rtol=1e-12, atol=0)
    got.sum().backward()
    assert by_class.grad.isfinite().all()


@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_entries_impossible_for_all_stay_impossible(pool):
    teacher = Dense.from_probs(torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)).logprobs
    log_weights = torch.full((2, 1), 0.5, dtype=torch.float64).log()
    got = target.pooled([teacher, teacher], log_weights, pool=pool)
    assert got[0, 2].item() == pytest.approx(numerics.LOG_ZERO, abs=1e-9)


def test_no_teacher_is_refused():
    with pytest.raises(ValueError, match="at least one teacher"):
        target.pooled([], torch.zeros(0, 3), pool="linear")


def completions(n: int) -> tuple[torch.Tensor, TopK, torch.Tensor]:
    """A student, a teacher cut to two entries of six, and ``n`` ways to lay out its tail."""
    generator = torch.Generator().manual_seed(4)
    student = 2 * torch.randn(1, 1, 6, generator=generator, dtype=torch.float64)
    teacher = TopK.from_logprobs(
        torch.log_softmax(2 * torch.randn(1, 1, 6, generator=generator, dtype=torch.float64), dim=-1), k=2
    )
    sharpness = torch.logspace(-1, 1.5, n, dtype=torch.float64).unsqueeze(-1)
    tails = (sharpness * torch.randn(n, 4, generator=generator, dtype=torch.float64)).softmax(-1)
    stored = teacher.ids.flatten().long()
    rest = torch.tensor([v for v in range(6) if v not in stored.tolist()])
    whole = torch.zeros(n, 6, dtype=torch.float64).index_copy(1, rest, tails * teacher.log_tail.exp().flatten())
    whole[:, stored] = teacher.logprobs.flatten().exp()
    return student, teacher, numerics.log_of(whole)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_a_tail_of_the_students_shape_costs_least_at_temperature_1_alone(divergence):
    student, teacher, whole = completions(200)
    mask, one = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.float64)

    def cost(some, temperature):
        loss = distillation_loss(student, [some], one, mask=mask, divergence=divergence, temperature=temperature)
        return float(loss.divergence)

    others = [cost(Dense(each.view(1, 1, 6)), 1.0) for each in whole]
    assert cost(teacher, 1.0) <= min(others) + 1e-12
    assert min(cost(Dense(each.view(1, 1, 6)), 4.0) for each in whole) < cost(teacher, 4.0) - 1e-3
