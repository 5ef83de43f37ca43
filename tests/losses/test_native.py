"""The compiled loops against the reference in float64: odd shapes, all options, hostile rows, the last bit."""

from dataclasses import replace

import pytest
import torch
from losses.native_agreement import agree, same, truth

from mashbill.distributions import Dense, Logits
from mashbill.losses import compiled, distillation_loss

DIVERGENCES = [("forward_kl", 0.5), ("reverse_kl", 0.5), ("js", 0.1), ("js", 0.5), ("js", 0.0), ("js", 1.0)]
NARROW = (torch.float32, torch.bfloat16, torch.float16)

pytestmark = pytest.mark.usefixtures("mixed")


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


def test_as_many_teachers_as_there_are_places_for(problem, mixed):
    case = problem(kind="logits", shape=(1, 3, 41), n_teachers=64, dtype=torch.float32)
    for divergence in ("forward_kl", "reverse_kl", "js"):
        agree(case, divergence=divergence, temperature=2.0)
    assert mixed.n == 3 * case.mask.sum()


@pytest.mark.parametrize("own", NARROW)
@pytest.mark.parametrize("dtype", NARROW)
def test_every_dtype_beside_every_other(problem, mixed, own, dtype):
    for kind, divergence in (("dense", "forward_kl"), ("logits", "reverse_kl"), ("logits", "js")):
        case = problem(kind=kind, shape=(2, 5, 1301), dtype=dtype)
        case = replace(case, logits=case.logits.to(own), log_weights=case.log_weights.float().log_softmax(0))
        loss, gradient = agree(case, divergence=divergence, temperature=2.0, cross_entropy=0.2, rtol=5e-6, atol=5e-6)
        assert (loss.total.dtype, gradient.dtype) == (torch.float32, own)
    assert mixed.n == 3 * case.mask.sum()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_are_rounded_as_pytorch_rounds(problem, dtype):
    case = problem(kind="logits", shape=(2, 8, 1300), n_teachers=1, dtype=dtype)
    case = replace(case, log_weights=case.log_weights.float().log_softmax(0))
    wide = replace(case, logits=case.logits.float())
    rounded, exact = (one.solve(impl="native")[1] for one in (case, wide))
    assert torch.equal(rounded, exact.to(dtype))


@pytest.mark.parametrize(("dtype", "step"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_way_between_two_numbers_the_even_one_is_taken(dtype, step):
    # p is 1/2 and q is 1 and 0, so that the gradient is half the scale.
    logits, teacher = torch.zeros(1, 1, 2, dtype=dtype, requires_grad=True), Logits(torch.tensor([[[0.0, -torch.inf]]]))
    options = {"mask": torch.ones(1, 1, dtype=torch.bool), "impl": "native"}
    for n, even in ((1, 0), (3, 4), (5, 4), (7, 8)):
        loss = distillation_loss(logits, [teacher], torch.zeros(1, 1, 1), scale=1 + n * step, **options)
        (gradient,) = torch.autograd.grad(loss.total, logits)
        assert gradient.flatten().tolist() == [-(1 + even * step) / 2, (1 + even * step) / 2]


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
    case = replace(case, log_weights=case.log_weights.float().log_softmax(0))
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
