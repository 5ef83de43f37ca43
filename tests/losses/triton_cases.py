"""The GPU kernels against the reference in float64, on a GPU or by Triton's interpreter.

Not collected by itself: ``test_triton.py`` runs it in a process of its own, because Triton decides once, when kernels
are defined, whether it interprets them. By hand: ``TRITON_INTERPRET=1 python -m pytest tests/losses/triton_cases.py``.
"""

import os
from dataclasses import replace

import pytest
import torch
from losses.test_hard_numbers import HARD, hard

from mashbill.distributions import Dense, Logits, TopK, measure_logits
from mashbill.losses import distillation_loss, reference, triton
from mashbill.losses.objective import Objective
from mashbill.losses.weighing import Weighing

# NumPy, which interprets, warns where a GPU goes on: a distance too large for float32, whose exponential is rightly 0.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DEVICE = torch.device("cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda")
DIVERGENCES = ["forward_kl", "reverse_kl", "js"]


def moved(case, device=DEVICE):
    def move(one):
        if isinstance(one, Dense):
            return Dense(one.logprobs.to(device))
        if isinstance(one, Logits):
            return Logits(one.values.to(device))
        return TopK(one.ids.to(device), one.logprobs.to(device), one.log_tail.to(device), one.n_entries)

    return replace(
        case,
        logits=case.logits.to(device),
        teachers=tuple(move(one) for one in case.teachers),
        log_weights=case.log_weights.to(device),
        mask=case.mask.to(device),
        labels=case.labels.to(device),
    )


def solve(case, *, labels=True, in_place=False, **options):
    """Return loss and gradient by the kernels, on the CPU."""
    case = moved(case)
    logits = case.logits.detach().clone().requires_grad_()
    loss = triton.distillation_loss(
        logits,
        case.teachers,
        Weighing.by(case.log_weights, case.mask),
        mask=case.mask,
        labels=case.labels if labels else None,
        objective=Objective(**options),
        in_place=in_place,
    )
    (gradient,) = torch.autograd.grad(loss.total, logits)
    return replace(loss, divergence=loss.divergence.cpu(), cross_entropy=loss.cross_entropy.cpu()), gradient.cpu()


def truth(case, *, labels=True, **options):
    """Return loss and gradient by the reference in float64, for the numbers that the kernels see."""
    teachers = tuple(
        Dense.from_logits(one.values.double()) if isinstance(one, Logits) else one for one in case.teachers
    )
    case = replace(case, teachers=teachers).to(torch.float64)
    logits = case.logits.detach().clone().requires_grad_()
    loss = reference.distillation_loss(
        logits,
        case.teachers,
        Weighing.by(case.log_weights, case.mask),
        mask=case.mask,
        labels=case.labels if labels else None,
        objective=Objective(**options),
    )
    (gradient,) = torch.autograd.grad(loss.total, logits)
    return loss, gradient


def agree(case, *, rtol=2e-6, atol=2e-6, **options):
    loss, gradient = solve(case, **options)
    twin, exact = truth(case, **options)
    # A divergence is a difference of logs of a few nats: that, not its own size, sets its rounding.
    torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=rtol, atol=atol)
    torch.testing.assert_close(loss.cross_entropy.double(), twin.cross_entropy, rtol=rtol, atol=atol)
    assert gradient.isfinite().all()
    scale = options.get("temperature", 1)
    # Rounded to the dtype of the logits at the end, and only there.
    rounding = (exact.to(gradient.dtype) - exact).norm()
    if DEVICE.type == "cpu" and gradient.dtype == torch.bfloat16:
        rounding *= 2  # the interpreter cuts digits off where a GPU rounds
    assert (gradient - exact).norm() <= 1.05 * rounding + rtol * exact.norm() + 1e-6 * max(1, scale), options


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("n_teachers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["dense", "topk", "mixed"])
def test_odd_shapes(problem, kind, n_teachers, divergence):
    case = problem(kind=kind, shape=(1, 7, 253), n_teachers=n_teachers, dtype=torch.float32)
    agree(case, divergence=divergence, cross_entropy=0.3, scale=0.5)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_several_blocks(problem, kind, divergence):
    case = problem(kind=kind, shape=(1, 5, 5003), n_teachers=3, k=9, dtype=torch.float32)
    agree(case, divergence=divergence, cross_entropy=0.1, temperature=2.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["dense", "mixed"])
def test_narrow_dtypes_lose_only_the_rounding_of_the_gradient(problem, kind, dtype):
    case = problem(kind=kind, shape=(2, 3, 253), n_teachers=2).to(dtype)
    case = replace(case, log_weights=case.log_weights.float())
    agree(case, rtol=5e-6, atol=5e-6, temperature=2.0, cross_entropy=0.2)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("tail", ["student", "even"])
def test_temperatures_and_tails(problem, tail, temperature):
    case = problem(kind="mixed", shape=(1, 4, 61), dtype=torch.float32)
    for divergence in DIVERGENCES:
        agree(case, divergence=divergence, temperature=temperature, tail=tail)


@pytest.mark.parametrize(("divergence", "temperature"), [
    ("forward_kl", 0.1), ("forward_kl", 1.0), ("forward_kl", 20.0), ("reverse_kl", 0.1), ("reverse_kl", 1.0),
    ("js", 1.0), ("js", 20.0),
])  # fmt: skip
@pytest.mark.parametrize("name", HARD)
def test_hard_numbers(problem, name, divergence, temperature):
    case = hard(problem, name)
    mask = torch.zeros_like(case.mask)
    mask[0, 1] = mask[1, 2] = True
    agree(replace(case, mask=mask), divergence=divergence, temperature=temperature, cross_entropy=0.2)


def test_unnormalised_scores_are_a_distribution_too(problem):
    case = problem(shape=(1, 4, 61), dtype=torch.float32)
    raw = case.logits.roll(1, dims=-1) * 2 + 50
    raw[..., 7] = -torch.inf
    case = replace(case, teachers=(Logits(raw), Logits(raw.flip(-1).bfloat16()), case.teachers[2]))
    for divergence in DIVERGENCES:
        agree(case, divergence=divergence, temperature=3.0, atol=5e-6)


@pytest.mark.parametrize("n_rows", [0, 1])
def test_few_rows_count(problem, n_rows):
    case = problem(shape=(2, 3, 40), dtype=torch.float32)
    logits, mask = case.logits.clone(), torch.zeros_like(case.mask)
    logits[1] = torch.nan  # is never read
    mask.view(-1)[:n_rows] = True
    case = replace(case, mask=mask, logits=logits)
    loss, gradient = solve(case)
    twin, _ = truth(case)
    torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=2e-6, atol=2e-6)
    assert (gradient != 0).any(-1).sum() == n_rows


def test_no_labels_and_nothing_to_differentiate(problem):
    case = problem(shape=(1, 4, 61), dtype=torch.float32)
    agree(case, labels=False)
    case = moved(case)
    arguments = {"mask": case.mask, "labels": None, "objective": Objective("js")}
    loss = triton.distillation_loss(case.logits, case.teachers, Weighing.by(case.log_weights, case.mask), **arguments)
    twin, _ = truth(moved(case, "cpu"), labels=False, divergence="js")
    assert not loss.total.requires_grad
    torch.testing.assert_close(loss.divergence.cpu().double(), twin.divergence, rtol=2e-6, atol=2e-6)


def test_a_row_that_is_no_distribution_comes_out_as_nan(problem):
    case = problem(shape=(1, 4, 61), dtype=torch.float32)
    case = replace(case, mask=torch.ones_like(case.mask))
    for value in (torch.nan, torch.inf, -torch.inf):
        logits, teacher = case.logits.clone(), case.teachers[0].logprobs.clone()
        logits[0, 1, slice(None) if value == -torch.inf else 3] = value
        teacher[0, 2, slice(None) if value == -torch.inf else 3] = value
        broken = replace(case, logits=logits, teachers=(Dense(teacher), *case.teachers[1:]))
        for divergence in DIVERGENCES:
            loss, _ = solve(broken, divergence=divergence)
            assert loss.divergence[0].isnan().tolist() == [False, True, value != -torch.inf, False] or (
                value == -torch.inf and loss.divergence[0].isnan().tolist() == [False, True, True, False]
            )


def test_gaps_and_full_lists_of_stored_entries(problem):
    case = problem(shape=(1, 3, 6), n_teachers=2, dtype=torch.float32)
    full = TopK.from_logprobs(case.teachers[0].logprobs, k=6)
    ids = torch.tensor([[[-1, 2, -1, 0], [-1, -1, -1, -1], [5, 4, 1, -1]]])
    logprobs = torch.where(ids >= 0, case.teachers[1].logprobs.gather(-1, ids.clamp_min(0)), -1e4)
    gappy = TopK(ids, logprobs, torch.log1p(-logprobs.exp().sum(-1)), 6)
    case = replace(case, teachers=(full, gappy), mask=torch.ones_like(case.mask))
    for tail in ("student", "even"):
        for divergence in DIVERGENCES:
            agree(case, tail=tail, divergence=divergence, temperature=2.0)


def test_rows_of_a_larger_tensor_are_read_where_they_are(problem):
    case = problem(shape=(2, 3, 64), n_teachers=2, dtype=torch.float32)
    sliced = replace(
        case,
        logits=case.logits[..., :61],
        teachers=(Dense.from_logits(case.teachers[0].logprobs.transpose(0, 1).contiguous().transpose(0, 1)[..., :61]),
                  Logits(case.teachers[1].logprobs[..., 3:])),
        labels=case.labels.clamp_max(60),
    )  # fmt: skip
    agree(sliced, cross_entropy=0.2)


def test_in_place_overwrites_the_logits_with_the_gradient(problem):
    case = moved(problem(kind="mixed", shape=(2, 3, 253), dtype=torch.float32))
    for divergence in DIVERGENCES:
        _, exact = solve(case, divergence=divergence, scale=3.0)
        leaf = case.logits.clone().requires_grad_()
        logits = leaf * 1
        arguments = {"mask": case.mask, "labels": None, "objective": Objective(divergence), "in_place": True}
        loss = triton.distillation_loss(logits, case.teachers, Weighing.by(case.log_weights, case.mask), **arguments)
        (3 * loss.total).backward(retain_graph=True)
        torch.testing.assert_close(leaf.grad.cpu(), exact)
        assert logits.data_ptr() != leaf.data_ptr()
        torch.testing.assert_close(logits.detach().cpu(), exact)
        with pytest.raises(RuntimeError, match="in_place=True lets backward run once"):
            loss.total.backward()


def test_backward_twice_gives_the_same_gradient_twice(problem):
    case = moved(problem(shape=(1, 3, 40), dtype=torch.float32))
    logits = case.logits.clone().requires_grad_()
    arguments = {"mask": case.mask, "labels": None, "objective": Objective()}
    loss = triton.distillation_loss(logits, case.teachers, Weighing.by(case.log_weights, case.mask), **arguments)
    (2 * loss.total).backward(retain_graph=True)
    once = logits.grad.clone()
    (2 * loss.total).backward()
    assert torch.equal(logits.grad, 2 * once)


def test_the_same_bits_every_time(problem):
    case = problem(kind="mixed", shape=(1, 4, 2500), dtype=torch.float32)
    (one, first), (two, second) = solve(case), solve(case)
    assert torch.equal(first, second)
    assert torch.equal(one.divergence, two.divergence)


def test_equal_distributions_are_no_distance_apart(problem):
    case = problem(shape=(1, 4, 253), n_teachers=1, dtype=torch.float32)
    case = replace(case, teachers=(Logits(case.logits),), log_weights=torch.zeros(1, 1, 1))
    for divergence in DIVERGENCES:
        loss, gradient = solve(case, divergence=divergence)
        assert loss.divergence.abs().max() < 1e-7
        assert gradient.abs().max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics(problem, dtype):
    for n_entries in (1, 2, 253, 5003):
        case = problem(shape=(2, 2, n_entries), dtype=torch.float32)
        logits = case.logits.to(dtype)
        if n_entries > 2:
            logits[0, 0, : n_entries // 2] = -torch.inf
            logits[0, 1, 3] += 200
            logits[1, 0, :2] = 50
        found = triton.statistics(logits.to(DEVICE), labels=case.labels.to(DEVICE)).to("cpu", torch.float64)
        known = measure_logits(logits.double(), labels=case.labels)
        for name in ("entropy", "entropy_low", "gini", "margin", "max_logprob", "label_logprob", "class_mass"):
            torch.testing.assert_close(
                getattr(found, name), getattr(known, name), rtol=2e-6, atol=2e-6, equal_nan=True, msg=name
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rule_is_asked_and_what_it_saw_reported(problem, dtype):
    case = moved(problem(kind="mixed", shape=(2, 4, 61), dtype=torch.float32))
    case, asked = replace(case, logits=case.logits.to(dtype)), []

    def rule(statistics, places):
        asked.append(places.cpu())
        by_place = torch.sin(places * torch.arange(1, 4, device=DEVICE).unsqueeze(-1))
        return torch.log_softmax(by_place - statistics.entropy + statistics.class_mass[..., 1], dim=0)

    options = {"mask": case.mask, "labels": case.labels, "classes": torch.arange(61, device=DEVICE) % 2, "look": True}
    loss, twin = (
        distillation_loss(case.logits, case.teachers, rule, impl=impl, temperature=2.0, **options)
        for impl in ("triton", "reference")
    )
    counted = case.mask.flatten().nonzero().squeeze(1).tolist()
    assert torch.cat(asked).sort().values.tolist() == sorted(2 * counted)
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=5e-6, atol=5e-6)
    torch.testing.assert_close(loss.seen.log_weights, twin.seen.log_weights)
    for who in ("teachers", "student"):
        found, known = (getattr(one.seen, who) for one in (loss, twin))
        torch.testing.assert_close(vars(found), vars(known), equal_nan=True)


def test_statistics_of_nothing():
    found = triton.statistics(torch.zeros(2, 0, 5, device=DEVICE))
    assert found.entropy.shape == (2, 0)
