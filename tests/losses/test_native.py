"""The compiled loops against the reference in float64: odd shapes, all options, hostile rows, the last bit."""

import math
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, Logits
from mashbill.losses import compiled, distillation_loss

DIVERGENCES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("js", 0.1), ("js", 0.5), ("js", 0.0), ("js", 1.0)]
NARROW = (torch.float32, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.usefixtures("mixed")


def truth(case, **options):
    return case.to(torch.float64).solve(impl="reference", **options)


def agree(case, *, rtol=3e-6, atol=2e-6, **options):
    """Compare the compiled loops with the truth; returns loss and gradient."""
    loss, gradient = case.solve(impl="native", **options)
    twin, exact = truth(case, **options)
    # A divergence is a difference of logs of a few nats: that, not its own size, sets its rounding.
    torch.testing.assert_close(loss.divergence.double(), twin.divergence, rtol=rtol, atol=atol)
    torch.testing.assert_close(loss.cross_entropy.double(), twin.cross_entropy, rtol=rtol, atol=atol)
    # Rounded to the dtype of the logits at the end, and only there.
    rounding = (exact.to(gradient.dtype) - exact).norm()
    # It is T p (log p - log q - D): as rough as D.
    slack = 1e-6 * max(1, options.get("temperature", 1) * max(1, twin.divergence.max().item()))
    assert (gradient - exact).norm() <= 1.05 * rounding + 3e-6 * exact.norm() + slack, options
    return loss, gradient


def same(one, two):
    """Whether two pairs of loss and gradient are the same bit for bit."""
    (loss, gradient), (other, expected) = one, two
    return all(
        torch.equal(a, b)
        for a, b in [
            (loss.total, other.total),
            (loss.divergence, other.divergence),
            (loss.cross_entropy, other.cross_entropy),
            (gradient, expected),
        ]
    )


@pytest.mark.parametrize("n_entries", [1, 2, 3, 511, 512, 513, 1023, 1024, 1025, 2049, 5003])
@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_odd_numbers_of_entries_and_teachers(problem, mixed, n_entries, divergence, beta):
    for index, temperature in enumerate((0.1, 1.0, 3.0, 20.0)):
        case = problem(
            kind="logits" if index % 2 else "dense",
            shape=(1, 7, n_entries),
            n_teachers=(1, 3, 7)[index % 3],
            dtype=torch.float32,
            seed=index,
        )
        mixed.n = 0
        agree(case, divergence=divergence, beta=beta, temperature=temperature, cross_entropy=(0.0, 0.3)[index // 2])
        assert mixed.n == case.mask.sum()


@pytest.mark.parametrize("n_teachers", [64, 65])
def test_as_many_teachers_as_there_are_places_for_and_one_more(problem, mixed, n_teachers):
    case = problem(kind="logits", shape=(1, 3, 41), n_teachers=n_teachers, dtype=torch.float32)
    for divergence in ("forward_kl", "reverse_kl", "js"):
        agree(case, divergence=divergence, temperature=2.0)
    assert (mixed.n > 0) == (n_teachers == 64)


@pytest.mark.parametrize("own", NARROW)
@pytest.mark.parametrize("dtype", NARROW)
def test_every_dtype_beside_every_other(problem, mixed, own, dtype):
    for kind, divergence in (("dense", "forward_kl"), ("logits", "reverse_kl"), ("logits", "js")):
        case = problem(kind=kind, shape=(2, 5, 1301), dtype=dtype)
        case = replace(case, logits=case.logits.to(own), log_weights=case.log_weights.float())
        loss, gradient = agree(case, divergence=divergence, temperature=2.0, cross_entropy=0.2, rtol=5e-6, atol=5e-6)
        assert (loss.total.dtype, gradient.dtype) == (torch.float32, own)
    assert mixed.n == 3 * case.mask.sum()


def naive(case, divergence):
    """What one would write down in the dtype at hand."""
    logits = case.logits.detach().requires_grad_()
    p = torch.log_softmax(logits, -1)
    q = sum(w.exp().unsqueeze(-1) * t.values.softmax(-1) for w, t in zip(case.log_weights, case.teachers, strict=True))
    terms = q * (q.log() - p) if divergence == "forward_kl" else p.exp() * (p - q.log())
    each = terms.sum(-1) * case.mask
    (gradient,) = torch.autograd.grad(each.sum(), logits)
    return each.detach(), gradient


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_errs_no_more_than_pytorch(problem, divergence, dtype):
    case = problem(kind="logits", shape=(11, 23, 5003), dtype=dtype)
    case = replace(case, log_weights=case.log_weights.float())
    twin, exact = truth(case, divergence=divergence, labels=None)

    def errors(each, gradient):
        return [(each - twin.divergence).square().mean().sqrt(), (gradient - exact).norm() / exact.norm()]

    found, other = (case.solve(impl=impl, divergence=divergence, labels=None) for impl in ("native", "chunked"))
    own, chunked = errors(found[0].divergence, found[1]), errors(other[0].divergence, other[1])
    for error, *least in zip(own, chunked, errors(*naive(case, divergence)), strict=True):
        assert error <= min(least) + 1e-6


def test_a_student_like_the_pool_rests(problem):
    case = problem(shape=(2, 5, 1300), n_teachers=1, kind="logits", dtype=torch.float32)
    alike = replace(case, logits=case.teachers[0].values + 1.5)
    for divergence, beta in DIVERGENCES:
        loss, gradient = alike.solve(impl="native", divergence=divergence, beta=beta, temperature=2.0)
        assert loss.divergence.abs().max() <= 3e-6 / 4
        assert gradient.norm() <= 3e-6


def test_an_offset_of_all_logits_is_nothing_to_the_last_bit(problem):
    # Rounded so that adding it is exact.
    case = problem(kind="logits", shape=(1, 6, 1300), n_teachers=2, dtype=torch.float32)
    near = replace(
        case,
        logits=(case.logits * 256).round() / 256,
        teachers=tuple(Logits((one.values * 256).round() / 256) for one in case.teachers),
    )
    far = replace(near, logits=near.logits + 8192, teachers=tuple(Logits(one.values - 8192) for one in near.teachers))
    for divergence in ("forward_kl", "reverse_kl", "js"):
        options = {"divergence": divergence, "temperature": 3.0, "cross_entropy": 0.3, "impl": "native"}
        assert same(near.solve(**options), far.solve(**options))


@pytest.mark.parametrize("who", ["student", "teachers", "all"])
@pytest.mark.parametrize("entries", [slice(512, 1024), slice(0, 512), slice(1024, None), slice(1, None), slice(7, 8)])
def test_masked_blocks(problem, who, entries):
    case = problem(kind="logits", shape=(1, 5, 1300), n_teachers=2, dtype=torch.float32)
    labels = torch.tensor([[0, 7, 600, 1299, -100]])
    logits, said = case.logits.clone(), [one.values.clone() for one in case.teachers]
    for one in said if who == "teachers" else [logits] if who == "student" else [logits, *said]:
        one[..., entries] = -torch.inf
    mask = torch.ones_like(case.mask)
    masked = replace(case, logits=logits, teachers=tuple(Logits(one) for one in said), mask=mask, labels=labels)
    for divergence in ("forward_kl", "reverse_kl", "js"):
        for temperature in (0.1, 1.0, 20.0):
            options = {"divergence": divergence, "temperature": temperature, "cross_entropy": 0.3}
            _, gradient = agree(masked, **options)
            assert who == "teachers" or (gradient[..., entries] == 0).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_blocks_far_apart(problem, temperature):
    # Each block has a peak of its own: what it is below the row's may be anything, up to nothing being left of it.
    case = problem(kind="logits", shape=(1, 6, 2100), dtype=torch.float32)
    steps = torch.tensor([0.0, -30.0, 60.0, -200.0, 1e4]).repeat_interleave(512)[:2100]
    for turn, divergence in enumerate(("forward_kl", "reverse_kl", "js")):
        teachers = tuple(Logits(one.values + steps.roll(512 * (turn + k))) for k, one in enumerate(case.teachers))
        agree(
            replace(case, logits=case.logits + steps, teachers=teachers), divergence=divergence, temperature=temperature
        )


@pytest.mark.parametrize("n_teachers", [1, 7])
def test_a_pool_as_faint_as_float32_gets(problem, mixed, n_teachers):
    # From e^-60 to e^-130 under all the student's mass: first in the loops, then in log space, never wrong between.
    case = problem(kind="logits", shape=(1, 71, 700), n_teachers=n_teachers, spread=1.0, dtype=torch.float32)
    depth = -torch.arange(60.0, 131.0)
    teachers = [one.values.clone() for one in case.teachers]
    for one in teachers:
        one[..., 5] += depth
    logits = case.logits.clone()
    logits[..., 5] += 30
    mask = torch.ones_like(case.mask)
    faint = replace(case, logits=logits, teachers=tuple(Logits(one) for one in teachers), mask=mask)
    loss, _ = agree(faint, divergence="reverse_kl", labels=None, rtol=1e-6, atol=0)
    assert loss.divergence.max() > 125
    assert 0 < mixed.n_left < mixed.n


@pytest.mark.parametrize("who", ["student", "teacher", "teacher without weight"])
@pytest.mark.parametrize("what", ["nan", "inf", "-inf everywhere", "nan in a masked block"])
def test_a_row_that_has_no_distribution_is_nan_and_no_other(problem, who, what):
    case = problem(kind="logits", shape=(1, 4, 1300), n_teachers=2, dtype=torch.float32)
    case = replace(case, mask=torch.ones_like(case.mask), labels=torch.tensor([[3, 7, 5, 600]]))
    logits, said = case.logits.clone(), [one.values.clone() for one in case.teachers]
    spoilt = logits if who == "student" else said[0]
    if "everywhere" in what or "block" in what:
        spoilt[0, 2, 512:1024] = -torch.inf
    if "everywhere" in what:
        spoilt[0, 2] = -torch.inf
    else:
        spoilt[0, 2, 600] = torch.inf if what == "inf" else torch.nan
    if "without" in who:
        case = replace(case, log_weights=torch.tensor([-math.inf, 0.0]).view(2, 1, 1).expand(2, 1, 4))
    bad = replace(case, logits=logits, teachers=tuple(Logits(one) for one in said))
    for divergence in ("forward_kl", "reverse_kl", "js"):
        for temperature in (1.0, 2.0):
            options = {"divergence": divergence, "temperature": temperature, "cross_entropy": 0.3, "impl": "native"}
            (loss, gradient), (clean, expected) = bad.solve(**options), case.solve(**options)
            assert loss.divergence.isnan().tolist() == [[False, False, True, False]]
            assert loss.cross_entropy.isnan().tolist() == [[False, False, who == "student", False]]
            assert gradient[0, 2].isnan().all()
            others = [0, 1, 3]
            assert torch.equal(loss.divergence[0, others], clean.divergence[0, others])
            assert torch.equal(gradient[0, others], expected[0, others])


def test_a_teacher_without_weight_leaves_no_trace(problem):
    case = problem(kind="logits", shape=(1, 5, 700), dtype=torch.float32)
    rest = torch.log_softmax(case.log_weights[1:], 0)
    off = replace(case, log_weights=torch.cat([torch.full_like(rest[:1], -torch.inf), rest]))
    alone = replace(case, teachers=case.teachers[1:], log_weights=rest)
    for divergence in ("forward_kl", "reverse_kl", "js"):
        assert same(off.solve(impl="native", divergence=divergence), alone.solve(impl="native", divergence=divergence))


def in_place(case, **options):
    leaf = case.logits.clone().requires_grad_()
    options |= {"mask": case.mask, "labels": case.labels, "in_place": True}
    loss = distillation_loss(leaf * 1, case.teachers, case.log_weights, **options)
    loss.total.backward()
    return loss, leaf.grad


@pytest.fixture(params=[1, 2])
def n_threads(request):
    before = torch.get_num_threads()
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_no_bit_depends_on_threads_chunks_or_where_the_gradient_goes(
    problem, monkeypatch, n_threads, dtype, divergence
):
    case = problem(kind="logits", shape=(3, 7, 701), dtype=dtype)
    options = {"impl": "native", "divergence": divergence, "temperature": 2.0, "cross_entropy": 0.3}
    expected = case.solve(**options)
    torch.set_num_threads(n_threads)
    for n_rows in (1, 2, 3, 100):
        monkeypatch.setattr(compiled, "N_KEPT", n_rows * 3 * 701)
        assert same(case.solve(**options), expected)
        assert same(in_place(case, **options), expected)


def test_rows_left_to_pytorch_are_the_same_with_any_number_of_threads(problem, mixed, monkeypatch, n_threads):
    monkeypatch.setattr(compiled, "N_KEPT", 3 * 3 * 701)
    case = problem(kind="logits", shape=(3, 7, 701), dtype=torch.float32)
    case.logits[0, :, 5] += 100
    for one in case.teachers:
        one.values[0, ::2, 5] = -torch.inf
    options = {"impl": "native", "divergence": "reverse_kl", "temperature": 2.0, "cross_entropy": 0.3}
    expected = agree(case, **{name: value for name, value in options.items() if name != "impl"})
    assert 0 < mixed.n_left < mixed.n
    torch.set_num_threads(n_threads)
    assert same(case.solve(**options), expected)
    assert same(in_place(case, **options), expected)


def test_without_a_gradient_the_values_are_the_same(problem):
    case = problem(kind="logits", dtype=torch.float32)
    options = {"labels": case.labels, "cross_entropy": 0.3, "impl": "native", "mask": case.mask}
    before = case.logits.clone()
    loss = distillation_loss(case.logits, case.teachers, case.log_weights, **options)
    assert not loss.total.requires_grad
    assert torch.equal(case.logits, before)
    assert torch.equal(loss.total, case.solve(impl="native", cross_entropy=0.3)[0].total)


def test_rounded_log_probabilities_count_as_normalised(problem):
    case = problem(kind="dense", shape=(1, 5, 1300), dtype=torch.float32)
    rounded = replace(case, teachers=tuple(Dense(one.logprobs + 0.25) for one in case.teachers))
    agree(rounded)
    torch.testing.assert_close(rounded.solve(impl="native")[1], case.solve(impl="native")[1], rtol=1e-4, atol=1e-7)
