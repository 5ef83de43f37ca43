"""Each divergence with its gradient in place, through the call, against its plain twin by autograd."""

import math
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, Logits, TopK
from mashbill.losses import distillation_loss

OPTIONS = [
    {"divergence": "forward_kl"},
    {"divergence": "reverse_kl"},
    {"divergence": "js", "beta": 0.3},
    {"divergence": "skew_kl", "skew": 0.1},
    {"divergence": "skew_kl", "skew": 0.9},
    {"divergence": "reverse_skew_kl", "skew": 0.1},
    {"divergence": "reverse_skew_kl", "skew": 0.9},
    {"divergence": "alpha", "alpha": 0.5},
    {"divergence": "alpha", "alpha": 0.1},
    {"divergence": "alpha", "alpha": 0.9},
    {"divergence": "total_variation"},
]
SMOOTH = OPTIONS[:-1]


def named(options):
    return "-".join(str(value) for value in options.values())


every = pytest.mark.parametrize("options", OPTIONS, ids=named)
every_smooth = pytest.mark.parametrize("options", SMOOTH, ids=named)


def of_pair(q, p, options, *, dtype=torch.float64):
    """Return value and gradient of one position whose student has the probabilities ``p``."""
    logits = torch.tensor([[p]], dtype=dtype).log().requires_grad_()
    mask = torch.ones(1, 1, dtype=torch.bool)
    teacher = Dense.from_probs(torch.tensor([[q]], dtype=dtype))
    loss = distillation_loss(logits, [teacher], torch.zeros(1, 1, 1, dtype=dtype), mask=mask, impl="chunked", **options)
    (gradient,) = torch.autograd.grad(loss.total, logits)
    return loss.total.item(), gradient.flatten().tolist()


@pytest.mark.parametrize(
    ("options", "q", "p", "value", "slope"),
    [
        # p h = -p q / (2 m) is -3/10 and -1/6.
        (
            {"divergence": "skew_kl", "skew": 0.5},
            (3 / 4, 1 / 4),
            (1 / 2, 1 / 2),
            3 / 4 * math.log(6 / 5) + math.log(2 / 3) / 4,
            -1 / 15,
        ),
        # h = log(p/m) - p/(2 m).
        (
            {"divergence": "reverse_skew_kl", "skew": 0.5},
            (3 / 4, 1 / 4),
            (1 / 2, 1 / 2),
            math.log(4 / 5) / 2 + math.log(4 / 3) / 2,
            (math.log(3 / 5) + 4 / 15) / 4,
        ),
        # p h = -2 * 12/25 at both.
        ({"divergence": "alpha", "alpha": 0.5}, (16 / 25, 9 / 25), (9 / 25, 16 / 25), 4 / 25, -168 / 625),
        # p h = -3/2 * 4/9 and -3/2 * 2/9.
        (
            {"divergence": "alpha", "alpha": 2 / 3},
            (8 / 9, 1 / 9),
            (1 / 9, 8 / 9),
            9 / 2 * (1 - 2 / 3),
            -3 / 2 * (4 / 9 - 2 / 27),
        ),
        ({"divergence": "total_variation"}, (3 / 4, 1 / 4), (1 / 2, 1 / 2), 1 / 4, -1 / 4),
    ],
    ids=["skew_kl", "reverse_skew_kl", "hellinger", "alpha", "total_variation"],
)
def test_two_entries_by_hand(options, q, p, value, slope):
    found, gradient = of_pair(q, p, options)
    assert found == pytest.approx(value, rel=1e-13)
    assert gradient == pytest.approx([slope, -slope], rel=1e-13)


@every
@pytest.mark.parametrize("kind", ["dense", "mixed"])
def test_equals_the_plain_form(problem, options, kind):
    for temperature in (0.1, 1.0, 20.0):
        case = problem(kind=kind, spread=1.0, seed=int(10 * temperature))
        loss, gradient = case.solve(impl="chunked", temperature=temperature, cross_entropy=0.2, **options)
        twin, expected = case.solve(impl="reference", temperature=temperature, cross_entropy=0.2, **options)
        # Near its ends alpha divides the rounding of probabilities by alpha (1 - alpha).
        torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-12, atol=5e-15)
        assert (gradient - expected).norm() <= 1e-12 * expected.norm()


@every
def test_float32_is_as_good_as_the_plain_form_at_odd_shapes(problem, options):
    for temperature, shape in ((1.0, (11, 23, 5003)), (0.1, (3, 7, 503)), (20.0, (3, 7, 503))):
        case = problem(shape=shape, n_teachers=2, dtype=torch.float32)
        truth, exact = case.to(torch.float64).solve(impl="reference", temperature=temperature, **options)
        loss, gradient = case.solve(impl="chunked", temperature=temperature, **options)
        _, plain = case.solve(impl="reference", temperature=temperature, **options)
        assert (gradient - exact).norm() <= (plain - exact).norm() + 1e-6 * exact.norm()
        torch.testing.assert_close(loss.divergence.double(), truth.divergence, rtol=5e-6, atol=2e-6)


@every
def test_gradcheck(problem, options):
    case = problem(shape=(1, 3, 5), n_teachers=2, spread=1.0)

    def total(logits):
        return distillation_loss(
            logits, case.teachers, case.log_weights, mask=case.mask, impl="chunked", temperature=2.0, **options
        ).total

    assert torch.autograd.gradcheck(total, (case.logits.detach().requires_grad_(),))


def hard(case, name):
    """Return the problem with ``-inf`` masks, zero teachers or a student whose probabilities underflow."""
    entries = torch.arange(case.logits.shape[-1])
    teachers, logits = [one.logprobs for one in case.teachers], case.logits
    if name in ("shared mask", "student's mask"):
        logits = logits.masked_fill(entries >= 33, -torch.inf)
    if name == "shared mask":
        teachers = [one.masked_fill(entries >= 33, -torch.inf) for one in teachers]
    if name == "zeros of one teacher each":
        teachers = [one.masked_fill(entries % 4 == k, -torch.inf) for k, one in enumerate(teachers)]
    if name == "zeros of all teachers":
        teachers = [one.masked_fill(entries == 7, -torch.inf) for one in teachers]
    if name == "pool underflows where the student is":
        logits = logits + torch.where(entries == 5, 30.0, 0.0)
        teachers = [one + torch.where(entries == 5, -150.0, 0.0) for one in teachers]
    if name == "logits of +-1e4":
        logits = logits + torch.where(entries % 3 == 0, 1e4, -1e4)
    mask = torch.ones_like(case.mask)
    return replace(case, logits=logits, teachers=tuple(Dense.from_logits(one) for one in teachers), mask=mask)


@every
@pytest.mark.parametrize(
    "name",
    [
        "shared mask",
        "student's mask",
        "zeros of one teacher each",
        "zeros of all teachers",
        "pool underflows where the student is",
        "logits of +-1e4",
    ],
)
def test_hard_numbers(problem, options, name):
    case = hard(problem(shape=(2, 4, 40), dtype=torch.float32), name)
    for temperature in (0.1, 1.0, 20.0):
        loss, gradient = case.solve(impl="chunked", temperature=temperature, labels=None, **options)
        twin, exact = case.to(torch.float64).solve(impl="reference", temperature=temperature, labels=None, **options)
        assert loss.total.isfinite()
        assert gradient.isfinite().all()
        torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=2e-6, atol=1e-6)
        assert (gradient - exact).norm() <= 2e-6 * exact.norm() + 1e-6


@every
def test_masked_entries_do_not_move(problem, options):
    case = hard(problem(shape=(2, 4, 40)), "student's mask")
    _, gradient = case.solve(**options)
    assert torch.equal(gradient[..., 33:], torch.zeros_like(gradient[..., 33:]))


@every
def test_never_negative_and_invariant_to_shifts(problem, options):
    case = problem(shape=(3, 9, 17))
    loss, gradient = case.solve(**options)
    assert (loss.divergence >= 0).all()
    assert gradient.sum(dim=-1).abs().max() <= 1e-15
    moved, same = replace(case, logits=case.logits + 4.0).solve(**options)
    torch.testing.assert_close(moved.divergence, loss.divergence, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(same, gradient, rtol=1e-12, atol=1e-14)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_like_the_pool_rests(problem, options, dtype):
    case = problem(shape=(2, 5, 300), n_teachers=1, dtype=dtype)
    alike = replace(case, logits=case.teachers[0].logprobs + 1.5)
    loss, gradient = alike.solve(**options)
    eps = torch.finfo(dtype).eps
    assert loss.divergence.abs().max() <= 8 * eps
    assert gradient.norm() <= 16 * eps


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("impl", ["chunked", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_rounding_does_not_choose_the_signs_of_total_variation(problem, kind, dtype, impl, temperature):
    case = problem(shape=(2, 5, 300), n_teachers=1, dtype=torch.float64)
    scores = case.teachers[0].logprobs
    teacher = TopK.from_logprobs(scores, k=9) if kind == "topk" else case.teachers[0]
    alike = replace(case, logits=scores + 1.5, teachers=(teacher,)).to(dtype)
    loss, gradient = alike.solve(impl=impl, temperature=temperature, labels=None, divergence="total_variation")
    assert loss.divergence.max() <= 16 * torch.finfo(dtype).eps / min(1, temperature)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_total_variation_rests_at_ties():
    # Powers of two: nothing is rounded, so the two are equal to the last bit.
    q = (1 / 2, 1 / 4, 1 / 8, 1 / 8)
    assert of_pair(q, q, {"divergence": "total_variation"}) == (0.0, [0.0] * 4)


@pytest.mark.parametrize("impl", ["chunked", "reference"])
@pytest.mark.parametrize(("dtype", "step"), [(torch.float32, 2.0**-15), (torch.float64, 2.0**-44)])
def test_total_variation_pulls_where_the_two_differ_by_little(problem, dtype, step, impl):
    # A small step, and some hundred times what rounding may do; every sign is known.
    case = problem(shape=(2, 5, 300), n_teachers=1, dtype=torch.float64)
    signs = torch.where(torch.arange(300) % 2 == 0, 1.0, -1.0)
    scores = (case.teachers[0].logprobs * 64).round() / 64
    near = replace(case, logits=scores + step * signs, teachers=(Logits(scores),)).to(dtype)
    _, gradient = near.solve(impl=impl, labels=None, divergence="total_variation")
    p = torch.softmax(scores, -1)
    slope = signs / 2 * p
    expected = torch.where(case.mask.unsqueeze(-1), slope - p * slope.sum(-1, keepdim=True), 0)
    assert (gradient - expected).norm() <= 1e-3 * expected.norm()


@every
@pytest.mark.parametrize("impl", ["chunked", "reference"])
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_no_number_in_a_teacher_shows_in_value_and_gradient(problem, options, kind, impl):
    case = problem(kind=kind, shape=(1, 3, 23))
    broken = case.teachers[1].logprobs.clone()
    broken[0, 1, 2] = torch.nan
    spoilt = replace(case, mask=torch.ones(1, 3, dtype=torch.bool), labels=torch.full((1, 3), -100))
    spoilt = replace(spoilt, teachers=(case.teachers[0], replace(case.teachers[1], logprobs=broken), case.teachers[2]))
    loss, gradient = spoilt.solve(impl=impl, **options)
    assert loss.divergence.isnan().tolist() == [[False, True, False]]
    assert gradient[0, 1].isnan().all()
    assert gradient[0, ::2].isfinite().all()


@pytest.mark.parametrize(
    ("options", "end", "kl"),
    [
        ({"divergence": "js", "beta": 0.0}, None, "forward_kl"),
        ({"divergence": "js", "beta": 1.0}, None, "reverse_kl"),
        ({"divergence": "skew_kl", "skew": 0.0}, {"divergence": "skew_kl", "skew": 1e-9}, "forward_kl"),
        (
            {"divergence": "reverse_skew_kl", "skew": 0.0},
            {"divergence": "reverse_skew_kl", "skew": 1e-9},
            "reverse_kl",
        ),
        ({"divergence": "alpha", "alpha": 1.0}, {"divergence": "alpha", "alpha": 1 - 1e-9}, "forward_kl"),
        ({"divergence": "alpha", "alpha": 0.0}, {"divergence": "alpha", "alpha": 1e-9}, "reverse_kl"),
    ],
)
def test_ends_are_the_kl_divergences_to_the_bit_and_the_limits(problem, options, end, kl):
    case = problem(spread=1.0)
    exact, slope = case.solve(divergence=kl)
    for impl in ("chunked", "reference"):
        loss, gradient = case.solve(impl=impl, **options)
        expected, expected_slope = case.solve(impl=impl, divergence=kl)
        assert torch.equal(loss.divergence, expected.divergence)
        assert torch.equal(gradient, expected_slope)
    if end is not None:
        loss, gradient = case.solve(**end)
        torch.testing.assert_close(loss.divergence, exact.divergence, rtol=1e-6, atol=0)
        assert (gradient - slope).norm() <= 1e-6 * slope.norm()


@pytest.mark.parametrize("alpha", [1e-5, 1 - 1e-5])
def test_alpha_near_its_ends_keeps_its_digits_in_float32(problem, alpha):
    case = problem(shape=(2, 8, 400), n_teachers=2, dtype=torch.float32)
    for temperature in (1.0, 20.0):
        options = {"divergence": "alpha", "alpha": alpha, "temperature": temperature}
        loss, gradient = case.solve(**options)
        twin, exact = case.to(torch.float64).solve(impl="reference", **options)
        torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=1e-5, atol=1e-6)
        assert (gradient - exact).norm() <= 2e-6 * exact.norm()


@pytest.mark.parametrize("options", [{"divergence": "reverse_kl"}, {"divergence": "alpha", "alpha": 0.3}], ids=named)
def test_a_sure_student_is_moved_by_the_right_amount(problem, options):
    # All mass but e^-12 on one entry: what is left of the gradient there is a difference of near numbers.
    case = problem(shape=(2, 8, 400), n_teachers=2, dtype=torch.float32)
    sure = replace(case, logits=case.logits + torch.where(torch.arange(400) == 3, 30.0, 0.0))
    _, gradient = sure.solve(**options)
    _, exact = sure.to(torch.float64).solve(impl="reference", **options)
    assert (gradient - exact).norm() <= 1e-5 * exact.norm()


def test_what_the_student_masks_does_not_pull_however_near_alpha_is_to_1(problem):
    # At order 0.9999 an entry at the floor, e^-10000, still has e^-1 of the target's mass in the overlap.
    case = hard(problem(shape=(2, 4, 40), dtype=torch.float64), "student's mask")
    options = {"divergence": "alpha", "alpha": 0.9999}
    loss, gradient = case.solve(**options)
    twin, expected = case.solve(impl="reference", **options)
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-11, atol=0)
    assert (gradient - expected).norm() <= 1e-11 * expected.norm()
