"""Teachers as logits, gradients in place of the student's logits, and chunks on several threads."""

import subprocess
import sys

import pytest
import torch

from mashbill.distributions import Dense, Logits, TopK
from mashbill.losses import distillation_loss

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


@pytest.mark.parametrize("dtype", NARROW)
def test_an_offset_of_all_logits_is_nothing(dtype):
    student, teachers, weights, mask, _ = numbers(dtype=dtype)
    wide = [one.double() + 4096 * k for k, one in enumerate(teachers)]
    exact = solve(student.double(), [Logits(one) for one in wide], weights, mask)[0].divergence
    far = [Logits((one.float() + 4096 * k) if dtype == torch.float32 else one) for k, one in enumerate(teachers)]
    found = solve(student, far, weights, mask)[0].divergence.double()
    # Adding rounds the logits themselves to 2^-12 or so; the loss must add nothing to that.
    torch.testing.assert_close(found, exact, rtol=2e-3, atol=2e-3)


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
from mashbill.losses import distillation_loss
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
