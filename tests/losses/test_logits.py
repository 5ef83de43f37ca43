"""Teachers as logits, gradients in place of the student's logits, and chunks on several threads."""

import subprocess
import sys

import pytest
import torch

from mashbill.distributions import Dense, Logits, TopK
from mashbill.losses import Objective, chunked, distillation_loss, mixture, native

NARROW = (torch.float32, torch.bfloat16, torch.float16)


def numbers(*, dtype=torch.float64, shape=(2, 9, 253), n_teachers=3, size=3.0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def noise(*sizes):
        return torch.randn(*sizes, dtype=torch.float64, generator=generator)

    student = (size * noise(*shape)).to(dtype)
    teachers = [(size * noise(*shape)).to(dtype) for _ in range(n_teachers)]
    weights = torch.log_softmax(noise(n_teachers, *shape[:2]), dim=0)
    mask = torch.rand(shape[:2], generator=generator) < 0.7
    labels = torch.randint(0, shape[-1], shape[:2], generator=generator)
    return student, teachers, weights, mask, labels


def solve(student, teachers, weights, mask, **options):
    leaf = student.detach().clone().requires_grad_()
    logits = leaf * 1  # what a head gives is no leaf
    loss = distillation_loss(logits, teachers, weights, mask=mask, **options)
    loss.total.backward()
    return loss, leaf.grad


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js", "skew_kl", "alpha", "total_variation"])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("impl", ["chunked", "reference"])
def test_logits_are_the_distribution_that_they_make(divergence, temperature, impl):
    student, teachers, weights, mask, labels = numbers()
    options = {"divergence": divergence, "temperature": temperature, "labels": labels, "cross_entropy": 0.3}
    loss, grad = solve(student, [Logits(one) for one in teachers], weights, mask, impl=impl, **options)
    twin, exact = solve(
        student, [Dense.from_logits(one) for one in teachers], weights, mask, impl="reference", **options
    )
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 16384), (torch.bfloat16, 8), (torch.float16, 64)])
@pytest.mark.parametrize("impl", ["auto", "chunked", "reference"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_an_offset_of_all_logits_is_nothing_to_the_last_bit(dtype, offset, impl, temperature):
    student, teachers, weights, mask, labels = numbers()
    # Steps so coarse that the offset is added without rounding.
    near = [((16 * one).round() / 16).clamp(-3.75, 3.75) for one in (student, *teachers)]
    far = [one + (-1) ** k * offset for k, one in enumerate(near)]
    assert all(torch.equal(one.to(dtype).double(), one) for one in far)
    options = {"labels": labels, "cross_entropy": 0.3, "temperature": temperature, "impl": impl}
    found = []
    for own, *said in (near, far):
        loss, grad = solve(own.to(dtype), [Logits(one.to(dtype)) for one in said], weights, mask, **options)
        found.append((loss.divergence, loss.cross_entropy, grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_what_is_added_of_a_teacher_sums_to_its_weight():
    # The softmax of a library sums to 1 up to 2e-6 here, all entries of a row too large alike.
    (scores,) = numbers(dtype=torch.float32, shape=(1, 64, 33_000), n_teachers=0)[0]
    pool = torch.zeros_like(scores)
    weight = torch.linspace(0.1, 1, 64).unsqueeze(-1)
    mixture.add_dense(pool, Logits(scores), weight, temperature=1.0, work=torch.empty_like(scores))
    assert (pool.double().sum(-1, keepdim=True) / weight.double() - 1).abs().max() < 5e-7


def test_masked_entries_of_teachers_and_student_leave_everything_finite():
    student, teachers, weights, mask, _ = numbers(dtype=torch.float32)
    for one in (student, *teachers):
        one[..., -50:] = -torch.inf
    teachers[0][..., :20] = -torch.inf
    for divergence in ("forward_kl", "reverse_kl", "js"):
        options = {"divergence": divergence}
        loss, grad = solve(student, [Logits(one) for one in teachers], weights, mask, **options)
        twin, exact = solve(
            student.double(),
            [Logits(one.double()) for one in teachers],
            weights,
            mask,
            impl="reference",
            **options,
        )
        assert grad.isfinite().all()
        torch.testing.assert_close(loss.total.double(), twin.total, rtol=3e-6, atol=1e-6)
        assert (grad - exact).norm() <= 3e-6 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float64, *NARROW])
@pytest.mark.parametrize("kind", ["logits", "topk"])
def test_in_place_is_the_same_gradient_over_the_logits(dtype, kind):
    student, teachers, weights, mask, labels = numbers(dtype=dtype)
    said = [Logits(one) if kind == "logits" else TopK.from_logprobs(one.log_softmax(-1), k=9) for one in teachers]
    options = {"labels": labels, "cross_entropy": 0.2, "temperature": 2.0}
    _, expected = solve(student, said, weights, mask, **options)
    leaf = student.clone().requires_grad_()
    logits = leaf * 1
    before = logits.data_ptr()
    loss = distillation_loss(logits, said, weights, mask=mask, in_place=True, **options)
    assert logits.data_ptr() == before
    assert torch.equal(logits.detach(), expected)
    assert (logits.detach()[~mask] == 0).all()
    loss.total.backward()
    assert torch.equal(leaf.grad, expected)


def test_in_place_scales_and_serves_once():
    student, teachers, weights, mask, _ = numbers()
    said = [Logits(one) for one in teachers]
    _, expected = solve(student, said, weights, mask)
    leaf = student.clone().requires_grad_()
    loss = distillation_loss(leaf * 1, said, weights, mask=mask, in_place=True)
    (3 * loss.total).backward(retain_graph=True)
    torch.testing.assert_close(leaf.grad, 3 * expected)
    with pytest.raises(RuntimeError, match="one backward pass"):
        loss.total.backward()


def test_who_reads_the_logits_later_is_told():
    student, teachers, weights, mask, _ = numbers()
    leaf = student.clone().requires_grad_()
    logits = torch.tanh(leaf)  # its derivative reads its own result
    loss = distillation_loss(logits, [Logits(one) for one in teachers], weights, mask=mask, in_place=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.total.backward()


def test_in_place_refuses_what_it_cannot_do():
    student, teachers, weights, mask, _ = numbers()
    said = [Logits(one) for one in teachers]
    with pytest.raises(ValueError, match="in_place=True needs"):
        distillation_loss(student, said, weights, mask=mask, impl="reference", in_place=True)
    turned = [Logits(one.transpose(0, 1)) for one in teachers]
    with pytest.raises(ValueError, match="in_place=True needs"):
        distillation_loss(student.transpose(0, 1), turned, weights.transpose(1, 2), mask=mask.T, in_place=True)


THREADS = """
import sys, torch
sys.path.insert(0, "tests/losses")
from mashbill.distributions import Logits, TopK
from mashbill.losses import Objective, chunked, distillation_loss, mixture, native
torch.set_num_threads(int(sys.argv[1]))
generator = torch.Generator().manual_seed(0)
student = torch.randn(1, 61, 30_011, generator=generator, requires_grad=True)
teachers = [torch.randn(1, 61, 30_011, generator=generator) for _ in range(2)]
mask = torch.rand(1, 61, generator=generator) < 0.8
for said in ([Logits(one) for one in teachers], [TopK.from_logprobs(one.log_softmax(-1), k=8) for one in teachers]):
    loss = distillation_loss(student, said, torch.full((2, 1, 1), 0.5).log(), mask=mask)
    (grad,) = torch.autograd.grad(loss.total, student)
    print(loss.total.item().hex(), grad.double().abs().sum(dim=-1).flatten().tolist())
print(torch.get_num_threads())
"""


@pytest.mark.slow
def test_any_number_of_threads_gives_the_same_bits():
    said = []
    for n_threads in (1, 2, 3):
        run = subprocess.run(
            [sys.executable, "-c", THREADS, str(n_threads)], capture_output=True, text=True, check=True
        )
        *numbers, left = run.stdout.splitlines()
        assert int(left) == n_threads
        said.append(numbers)
    assert said[0] == said[1] == said[2]


@pytest.fixture
def by_threads():
    """Return what calls a function with 1, 2 and 3 threads and gives all that it returned."""
    before = torch.get_num_threads()

    def each(function):
        found = []
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            found.append(function())
        return found

    yield each
    torch.set_num_threads(before)


# PyTorch shares the work of one operation between cores from 32768 numbers on, and adds them up in another order then.
WAYS = [
    *((kind, "chunked", name) for kind in ("logits", "topk", "mixed") for name in ("forward_kl", "total_variation")),
    ("logits", "native", "forward_kl"),
]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("kind", "impl", "divergence"), WAYS)
def test_a_few_rows_of_a_large_vocabulary_have_the_same_bits(by_threads, n, kind, impl, divergence):
    if impl == "native" and (why := native.why_not()) is not None:
        pytest.skip(why)
    student, teachers, weights, mask, labels = numbers(dtype=torch.float32, shape=(1, n, 150_001), n_teachers=2)
    said = [Logits(one) for one in teachers]
    if kind != "logits":
        said[0] = TopK.from_logprobs(teachers[0].log_softmax(-1), k=30)
    if kind == "topk":
        said[1] = TopK.from_logprobs(teachers[1].log_softmax(-1), k=30)
    options = {"labels": labels, "cross_entropy": 0.3, "temperature": 2.0, "divergence": divergence, "impl": impl}

    def run():
        loss, grad = solve(student, said, weights, torch.ones_like(mask), look=True, **options)
        seen = [loss.seen.student.entropy, loss.seen.teachers.entropy, loss.seen.teachers.gini]
        return loss.total, loss.divergence, loss.cross_entropy, grad, *seen

    first, *others = by_threads(run)
    assert all(torch.equal(one, same) for other in others for one, same in zip(first, other, strict=True))


def test_the_sum_over_many_positions_has_the_same_bits(by_threads):
    objective, generator = Objective(cross_entropy=0.3), torch.Generator().manual_seed(0)
    for _ in range(4):  # other orders often give the same bits
        values = torch.randn(1_000_003, generator=generator).exp()
        first, *others = by_threads(lambda values=values: chunked.total(values, values.flip(0), objective))
        assert all(torch.equal(first, one) for one in others)
