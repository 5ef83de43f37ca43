"""What training loops do around a loss: autocast, checkpointing, evaluation, float16."""

import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mashbill.distributions import Logits, Projected, TopK
from mashbill.losses import distillation_loss, parallel
from mashbill.weights import EntropySoftmax, Evidence, between

V, N = 50, 12


@pytest.fixture
def batch():
    torch.manual_seed(0)
    teachers = [Logits(torch.randn(1, N, V)) for _ in range(2)]
    weights, mask = torch.randn(2, 1, N).log_softmax(0), torch.ones(1, N, dtype=torch.bool)
    return torch.randn(1, N, V), teachers, weights, mask


def test_a_rule_about_another_batch_is_refused(batch):
    student, teachers, _, mask = batch
    other = torch.ones(2, N // 2, dtype=torch.bool)
    rule = between(EntropySoftmax(), Evidence.unread(("a", "b"), other, n_entries=V))
    with pytest.raises(ValueError, match=r"evidence \[K B T\] = \[2 2 6\]"):
        distillation_loss(student, teachers, rule, mask=mask)


@pytest.mark.parametrize("impl", ["chunked", "native"])
def test_who_needs_the_logits_is_told_that_they_are_overwritten(batch, impl):
    student, teachers, weights, mask = batch
    leaf = student.requires_grad_()
    loss = distillation_loss(leaf.exp(), teachers, weights, mask=mask, in_place=True, impl=impl)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.total.backward()


@pytest.mark.parametrize("hidden", [False, True])
def test_float16_keeps_its_gradient_under_a_scaler(batch, hidden):
    _, teachers, weights, mask = batch
    states, head = torch.randn(1, N, 16), torch.randn(V, 16)

    def gradient(dtype, loss_of):
        leaves = states.to(dtype).requires_grad_(), head.to(dtype).requires_grad_()
        student = Projected(*leaves) if hidden else leaves[0] @ leaves[1].T
        return torch.autograd.grad(loss_of(student), leaves)

    scale = 2.0**-20
    found = gradient(
        torch.float16,
        lambda it: distillation_loss(it, teachers, weights, mask=mask, scale=scale).total * 2.0**18,
    )
    exact = gradient(torch.float32, lambda it: distillation_loss(it, teachers, weights, mask=mask, scale=0.25).total)
    for one, true in zip(found, exact, strict=True):
        assert (one.float() - true).norm() < 5e-3 * true.norm()


@pytest.mark.parametrize("n_threads", [1, 2])
def test_autocast_changes_nothing_of_hidden_states(batch, n_threads):
    _, teachers, weights, mask = batch
    parts = torch.randn(1, N, 16).requires_grad_(), torch.randn(V, 16).requires_grad_()
    before, found = torch.get_num_threads(), []
    torch.set_num_threads(n_threads)
    try:
        for enabled in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                total = distillation_loss(Projected(*parts), teachers, weights, mask=mask).total
            found.append([total, *torch.autograd.grad(total, parts)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_around_head_and_loss(batch, reentrant):
    _, teachers, weights, mask = batch
    head, states = torch.nn.Linear(16, V), torch.randn(1, N, 16, requires_grad=True)

    def loss(values):
        return distillation_loss(head(values), teachers, weights, mask=mask).total

    (plain,) = torch.autograd.grad(loss(states), states)
    checkpoint(loss, states, use_reentrant=reentrant).backward()
    assert torch.equal(states.grad, plain)


def test_without_gradients_none_is_made_and_nothing_overwritten(batch):
    student, teachers, weights, mask = batch
    leaf, before = student.clone().requires_grad_(), student.clone()
    with torch.no_grad():
        found = distillation_loss(leaf, teachers, weights.requires_grad_(), mask=mask, in_place=True)
    assert torch.equal(leaf, before)
    assert not found.total.requires_grad


def test_teachers_are_constants_under_the_reference_too(batch):
    student, teachers, weights, mask = batch
    learning = Logits(teachers[0].values.requires_grad_())
    total = distillation_loss(
        student.requires_grad_(), [learning, teachers[1]], weights.requires_grad_(), mask=mask
    ).total
    total.backward()
    assert learning.values.grad is None
    assert weights.grad is not None


def test_class_masses_of_lists_are_those_of_the_lists_spread_out(batch):
    student, teachers, weights, mask = batch
    lists = [TopK.from_logprobs(one.values.log_softmax(-1), k=5) for one in teachers]
    classes = torch.randint(-1, 3, (V,))
    seen = distillation_loss(student, lists, weights, mask=mask, classes=classes, look=True).seen
    for one, mass in zip(lists, seen.teachers.class_mass, strict=True):
        probs = one.densify().exp()
        expected = torch.stack([probs[..., classes == c].sum(-1) for c in range(int(classes.max()) + 1)], dim=-1)
        torch.testing.assert_close(mass, expected, rtol=1e-5, atol=1e-7)


def test_after_an_error_no_chunk_begins():
    before, done = torch.get_num_threads(), []
    torch.set_num_threads(2)

    def work(chunk):
        if chunk == 0:
            raise ValueError("the first fails")
        done.append((chunk, threading.current_thread().name))

    try:
        with pytest.raises(ValueError, match="the first fails"):
            parallel.spread(list(range(100_000)), lambda: work, device=torch.device("cpu"))
        n_done = len(done)
        assert n_done < 99_999
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(done) == n_done


def test_a_tail_that_is_no_number_shows(batch):
    student, teachers, weights, mask = batch
    lists = [TopK.from_logprobs(one.values.log_softmax(-1), k=5) for one in teachers]
    lists[0].log_tail[0, 3] = torch.nan
    for said in (lists, [lists[0], teachers[1]]):
        found = distillation_loss(student, said, weights, mask=mask).divergence[0].isnan()
        assert found.tolist() == [place == 3 for place in range(N)]


@pytest.mark.parametrize("impl", ["chunked", "auto"])
@pytest.mark.parametrize("beta", [0.999, 1 - 1e-6])
def test_jensen_shannon_near_its_end_keeps_its_digits(batch, impl, beta):
    student, teachers, weights, mask = batch

    def gradient(dtype, impl):
        logits = student.to(dtype).requires_grad_()
        said = [Logits(one.values.to(dtype)) for one in teachers]
        loss = distillation_loss(logits, said, weights, mask=mask, divergence="js", beta=beta, impl=impl)
        return torch.autograd.grad(loss.total, logits)[0]

    exact = gradient(torch.float64, "reference")
    assert (gradient(torch.float32, impl) - exact).norm() < 2e-6 * exact.norm()
