"""Numbers that turn a plain loop into NaN, infinity or a wrong answer: the fast losses in float32 on each."""

from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, TopK

TEMPERATURES = [0.1, 1.0, 20.0]


def hard(problem, name):
    """Return a problem in float32 that something naive turns into NaN, infinity or a wrong number."""
    case = problem(shape=(2, 4, 40), dtype=torch.float32)
    mask = torch.ones_like(case.mask)
    case = replace(case, mask=mask, labels=case.labels.clamp(0, 30))
    if name == "logits +-1e4":
        signs = torch.where(torch.arange(40) % 3 == 0, 1e4, -1e4)
        return replace(case, logits=case.logits + signs)
    if name == "offset 1e4":
        return replace(case, logits=(case.logits * 64).round() / 64 + 1e4)
    if name == "shared mask":
        padding = torch.arange(40) >= 33
        teachers = tuple(Dense.from_logits(t.logprobs.masked_fill(padding, -torch.inf)) for t in case.teachers)
        return replace(case, logits=case.logits.masked_fill(padding, -torch.inf), teachers=teachers)
    if name == "student masks what teachers use":
        return replace(case, logits=case.logits.masked_fill(torch.arange(40) >= 33, -torch.inf))
    if name == "teacher zeros":
        zeros = [torch.arange(40) % 4 == k for k in range(3)]
        teachers = tuple(
            Dense.from_logits(t.logprobs.masked_fill(z, -torch.inf)) for t, z in zip(case.teachers, zeros, strict=True)
        )
        return replace(case, teachers=teachers)
    if name == "all teachers zero on a token":
        zero = torch.arange(40) == 7
        return replace(
            case, teachers=tuple(Dense.from_logits(t.logprobs.masked_fill(zero, -torch.inf)) for t in case.teachers)
        )
    if name == "pool underflows":
        # Below the least float32 for every teacher, while the student is there with almost all its mass.
        logits = case.logits.clone()
        logits[..., 5] += 30
        low = torch.where(torch.arange(40) == 5, -150.0, 0.0)
        return replace(case, logits=logits, teachers=tuple(Dense.from_logits(t.logprobs + low) for t in case.teachers))
    if name == "tail where the student has no mass":
        stored = tuple(TopK.from_logprobs(t.logprobs, k=4) for t in case.teachers)
        logits = case.logits.clone()
        logits.scatter_(-1, torch.cat([s.ids for s in stored], -1), 200.0)
        return replace(case, logits=logits, teachers=stored)
    raise KeyError(name)


HARD = [
    "logits +-1e4",
    "offset 1e4",
    "shared mask",
    "student masks what teachers use",
    "teacher zeros",
    "all teachers zero on a token",
    "pool underflows",
    "tail where the student has no mass",
]


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
@pytest.mark.parametrize(("impl", "pool"), [("chunked", "linear"), ("chunked", "log_linear"), ("auto", "linear")])
def test_hard_numbers(problem, name, divergence, impl, pool):
    case = hard(problem, name)
    for temperature in TEMPERATURES:
        options = {"divergence": divergence, "pool": pool, "temperature": temperature, "cross_entropy": 0.2}
        loss, gradient = case.solve(impl=impl, **options)
        twin, exact = case.to(torch.float64).solve(impl="reference", **options)
        assert loss.total.isfinite()
        assert gradient.isfinite().all()
        # A divergence is a difference of logs of a few nats: that, not its own size, sets its rounding.
        torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=2e-6, atol=1e-6)
        torch.testing.assert_close(loss.cross_entropy.double(), twin.cross_entropy, rtol=2e-6, atol=1e-6)
        assert (gradient - exact).norm() <= 2e-6 * exact.norm() + 1e-6, (temperature, name)


@pytest.mark.parametrize("impl", ["chunked", "auto"])
def test_float32_is_as_good_as_float64_up_to_rounding(problem, impl):
    for divergence, temperature in (("forward_kl", 1.0), ("reverse_kl", 1.0), ("js", 2.0), ("forward_kl", 20.0)):
        kind = "mixed" if impl == "chunked" else "dense"
        case = problem(shape=(2, 16, 4000), kind=kind, k=16, dtype=torch.float32)
        options = {"divergence": divergence, "temperature": temperature}
        loss, gradient = case.solve(impl=impl, **options)
        twin, exact = case.to(torch.float64).solve(impl="reference", **options)
        assert (gradient - exact).norm() <= 2e-6 * exact.norm()
        assert abs(loss.total.item() - twin.total.item()) <= 2e-6 * abs(twin.total.item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_narrow_logits_lose_only_the_rounding_of_the_gradient(problem, dtype, kind):
    case = problem(shape=(2, 16, 2000), kind=kind).to(dtype)
    loss, gradient = case.solve(impl="chunked", temperature=2.0)
    wide = case.to(torch.float64)
    wide = replace(wide, log_weights=wide.log_weights.log_softmax(dim=0))  # what 16 bits rounded away
    twin, exact = wide.solve(impl="reference", temperature=2.0)
    assert loss.total.dtype == torch.float32
    assert gradient.dtype == dtype
    assert abs(loss.total.item() - twin.total.item()) <= 5e-6 * twin.total.item()
    floor = (exact.to(dtype) - exact).norm()
    assert (gradient - exact).norm() <= 1.05 * floor


def test_huge_temperature_keeps_impossible_entries_impossible(problem):
    case = hard(problem, "shared mask")
    for pool in ("linear", "log_linear"):
        loss, gradient = case.to(torch.float64).solve(impl="chunked", temperature=1e3, pool=pool)
        twin, exact = case.to(torch.float64).solve(impl="reference", temperature=1e3, pool=pool)
        torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-6, atol=1e-12)
        assert (gradient - exact).norm() <= 1e-6 * exact.norm()


@pytest.mark.parametrize("impl", ["chunked", "auto"])
def test_sharpening_flat_teachers_does_not_underflow(problem, impl):
    # At T = 0.1 a teacher that is nearly even over 20 000 entries has exp(10 log p) around e^-99, below float32.
    case = problem(shape=(1, 4, 20_000), spread=0.05, dtype=torch.float32)
    loss, gradient = case.solve(impl=impl, temperature=0.1)
    twin, exact = case.to(torch.float64).solve(impl="reference", temperature=0.1)
    torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=2e-6, atol=2e-6)
    assert (gradient - exact).norm() <= 5e-6 * exact.norm()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_a_tail_whose_shape_underflows(problem, divergence, temperature):
    # All the student's mass is on one stored entry; e^-300 and less is left for the tail to take its shape from.
    case = problem(shape=(1, 2, 12), n_teachers=2, dtype=torch.float32)
    logits = case.logits.clone()
    logits[..., 0] += 300
    ids = torch.tensor([0, 3]).expand(1, 2, 2).contiguous()
    stored = TopK(ids, torch.full((1, 2, 2), 0.3).log(), torch.full((1, 2), 0.4).log(), n_entries=12)
    tight = replace(case, logits=logits, teachers=(stored, case.teachers[1]), mask=torch.ones(1, 2, dtype=torch.bool))
    options = {"divergence": divergence, "temperature": temperature}
    loss, gradient = tight.solve(impl="chunked", **options)
    twin, exact = tight.to(torch.float64).solve(impl="reference", **options)
    # Logs of some hundred nats hold five decimals in float32, and T = 0.1 takes one of them.
    torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=1e-5, atol=2e-5)
    # One entry has all the mass: its gradient is a difference of nats, times T.
    assert (gradient - exact).norm() <= 1e-4 * exact.norm() + 1e-6 * max(1, temperature)
