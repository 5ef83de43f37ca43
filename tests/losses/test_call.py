import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mashbill.distributions import Dense, TopK
from mashbill.losses import distillation_loss

IMPLS = ["reference", "chunked"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teachers": ()}, r"teachers=\(\) must hold at least one teacher"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask is \[2 4\], but student_logits is \[2 5 \.\.\.\]"),
        ({"labels": torch.zeros(1, 5, dtype=torch.long)}, r"labels is \[1 5\], but student_logits is \[2 5 \.\.\.\]"),
        ({"log_weights": torch.zeros(3, 2, 4)}, r"log_weights is \[3 2 4\].*need \[3 2 5\] or \[3 2 1\]"),
        ({"log_weights": torch.zeros(2, 2, 5)}, r"log_weights is \[2 2 5\], but 3 teachers"),
    ],
)
def test_sizes_that_do_not_fit(problem, change, message):
    with pytest.raises(ValueError, match=message):
        replace(problem(), **change).solve()


@pytest.mark.parametrize("shape", [(2, 5, 22), (2, 4, 23)])
def test_a_teacher_of_another_size(problem, shape):
    case = problem()
    dense = Dense.from_logits(torch.zeros(*shape, dtype=torch.float64))
    for teacher in (dense, TopK.from_logprobs(dense.logprobs, k=2)):
        message = rf"teachers\[1\] is \[2 {shape[1]} V={shape[2]}\], but student_logits is \[2 5 V=23\]"
        with pytest.raises(ValueError, match=message):
            replace(case, teachers=(case.teachers[0], teacher, case.teachers[2])).solve()


def test_cross_entropy_needs_labels(problem):
    with pytest.raises(ValueError, match=r"cross_entropy=0\.5 needs labels"):
        problem().solve(cross_entropy=0.5, labels=None)


def test_chunked_refuses_weights_that_learn(problem):
    case = problem()
    learning = replace(case, log_weights=case.log_weights.requires_grad_())
    with pytest.raises(ValueError, match="gives log_weights no gradient"):
        learning.solve(impl="chunked")


def test_auto_gives_learning_weights_their_gradient(problem):
    case = problem()
    log_weights = case.log_weights.detach().requires_grad_()
    distillation_loss(case.logits, case.teachers, log_weights, mask=case.mask).total.backward()
    assert log_weights.grad is not None
    assert log_weights.grad.abs().sum() > 0


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_masked_positions_are_never_read(problem, impl, divergence):
    case = problem()
    spoilt = case.logits.masked_fill(~case.mask.unsqueeze(-1), torch.nan)
    teachers = tuple(Dense(t.logprobs.masked_fill(~case.mask.unsqueeze(-1), torch.nan)) for t in case.teachers)
    weights = case.log_weights.masked_fill(~case.mask, torch.nan)
    labels = case.labels.masked_fill(~case.mask, 10**6)
    loss, gradient = case.solve(impl=impl, divergence=divergence, cross_entropy=0.5)
    spoilt_case = replace(case, logits=spoilt, teachers=teachers, log_weights=weights, labels=labels)
    other, same = spoilt_case.solve(impl=impl, divergence=divergence, cross_entropy=0.5)
    assert torch.equal(loss.total, other.total)
    assert torch.equal(gradient, same)
    assert (gradient[~case.mask] == 0).all()
    assert (loss.divergence[~case.mask] == 0).all()
    assert (loss.cross_entropy[~case.mask] == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_no_position_at_all(problem, impl, kind):
    case = problem(kind=kind)
    loss, gradient = replace(case, mask=torch.zeros_like(case.mask)).solve(impl=impl, cross_entropy=0.5)
    assert loss.total.item() == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_one_position_alone(problem, impl):
    case = problem()
    only = torch.zeros_like(case.mask)
    only[1, 2] = True
    loss, gradient = replace(case, mask=only).solve(impl=impl)
    assert loss.total.item() == loss.divergence[1, 2].item() > 0
    assert (gradient[1, 2] != 0).any()
    assert (gradient[0] == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_unlabelled_positions_keep_their_divergence(problem, impl):
    case = problem()
    loss, _ = case.solve(impl=impl, cross_entropy=0.5)
    none = case.mask & (case.labels == -100)
    assert none.any()
    assert (loss.cross_entropy[none] == 0).all()
    assert (loss.divergence[none] > 0).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", ["dense", "mixed"])
def test_micro_batches_add_up_to_the_whole_batch(problem, impl, kind):
    case = problem(shape=(8, 6, 17), kind=kind)
    options = {"impl": impl, "temperature": 2.0, "cross_entropy": 0.3, "divergence": "js"}
    n_positions = int(case.mask.sum())
    whole, gradient = case.solve(**options)

    def row(value, b):
        if isinstance(value, Dense):
            return Dense(value.logprobs[b : b + 1])
        if isinstance(value, TopK):
            return TopK(value.ids[b : b + 1], value.logprobs[b : b + 1], value.log_tail[b : b + 1], value.n_entries)
        return value[b : b + 1]

    parts = [
        replace(
            case,
            logits=row(case.logits, b),
            teachers=tuple(row(t, b) for t in case.teachers),
            log_weights=case.log_weights[:, b : b + 1],
            mask=row(case.mask, b),
            labels=row(case.labels, b),
        ).solve(**options, scale=1 / n_positions)
        for b in range(8)
    ]
    totals = torch.stack([loss.total.detach() for loss, _ in parts])
    torch.testing.assert_close(totals.sum(), whole.total.detach() / n_positions, rtol=1e-12, atol=1e-12)
    rows = torch.cat([part for _, part in parts])
    torch.testing.assert_close(rows, gradient / n_positions, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_equal_weights_are_uniform_distillation_bit_for_bit(problem, kind):
    case = problem(kind=kind, dtype=torch.float32)
    one_a_row = replace(case, log_weights=torch.full((3, 2, 1), -math.log(3)))
    one_a_token = replace(case, log_weights=torch.zeros(3, 2, 5) - math.log(3))
    (a, gradient), (b, same) = one_a_row.solve(), one_a_token.solve()
    assert torch.equal(a.total, b.total)
    assert torch.equal(gradient, same)


@pytest.mark.parametrize("impl", IMPLS)
def test_equal_weights_are_the_mean_teacher(problem, impl):
    case = problem()
    mean = torch.stack([t.logprobs.exp() for t in case.teachers]).mean(0)
    pooled = replace(case, teachers=(Dense.from_probs(mean),), log_weights=torch.zeros(1, 2, 1, dtype=torch.float64))
    equal = replace(case, log_weights=torch.full((3, 2, 1), -math.log(3), dtype=torch.float64))
    (a, gradient), (b, same) = equal.solve(impl=impl), pooled.solve(impl=impl)
    torch.testing.assert_close(a.total, b.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, same, rtol=0, atol=1e-13)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kind", ["dense", "topk", "mixed"])
@pytest.mark.parametrize("pool", ["linear", "log_linear"])
def test_one_hot_weights_are_routing(problem, impl, kind, pool):
    case = problem(kind=kind)
    weights = torch.full((3, 2, 1), -torch.inf, dtype=torch.float64)
    weights[1] = 0
    routed = replace(case, log_weights=weights).solve(impl=impl, pool=pool)
    alone = replace(case, teachers=case.teachers[1:2], log_weights=weights[1:2]).solve(impl=impl, pool=pool)
    torch.testing.assert_close(routed[0].total, alone[0].total, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(routed[1], alone[1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_a_student_that_has_learned_everything_is_at_rest(problem, impl, divergence, temperature, kind):
    case = problem(kind=kind)
    logprobs = torch.log_softmax(case.logits, -1)
    itself = Dense(logprobs) if kind == "dense" else TopK.from_logprobs(logprobs, k=4)
    done = replace(case, teachers=(itself,) * 3)
    loss, gradient = done.solve(impl=impl, divergence=divergence, temperature=temperature)
    assert loss.divergence.abs().max() < 1e-13
    assert gradient.abs().max() < 1e-13


def test_temperature_squared_keeps_the_size_of_the_gradient(problem):
    case = problem(spread=0.1)
    sizes = [case.solve(temperature=t)[1].norm().item() for t in (1.0, 2.0, 8.0, 20.0)]
    assert max(sizes) / min(sizes) < 1.1


def test_a_row_of_weights_broadcasts_over_positions(problem):
    case = problem(per_token=False)
    spread = replace(case, log_weights=case.log_weights.expand(-1, -1, 5))
    assert torch.equal(case.solve()[1], spread.solve()[1])


def test_the_package_is_lazy():
    code = "import sys, mashbill, mashbill.losses; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_triton_is_refused_by_name_where_it_cannot_run(problem):
    with pytest.raises(ValueError, match="impl='triton' needs an NVIDIA GPU"):
        problem().solve(impl="triton")


COMPILED = """
import torch
from mashbill.distributions import Logits, Projected
from mashbill.losses import distillation_loss

teachers = [Logits(torch.randn(1, 6, 40)) for _ in range(3)]
weights, mask = torch.randn(3, 1, 6).log_softmax(0), torch.ones(1, 6, dtype=torch.bool)
head = torch.nn.Linear(8, 40)

def by_logits(states):
    return distillation_loss(head(states), teachers, weights, mask=mask).total

def by_states(states):
    return distillation_loss(Projected(states, head.weight, head.bias), teachers, weights, mask=mask).total

states = torch.randn(1, 6, 8)
for step in (by_logits, by_states):
    found = []
    for function in (step, torch.compile(step, backend="eager")):
        head.zero_grad()
        loss = function(states)
        loss.backward()
        found.append((loss.detach(), head.weight.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
"""


def test_inside_a_compiled_function_the_loss_runs_as_it_is():
    # In a process of its own: the checks of shapes that tests switch on cannot be compiled.
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "does not know how to trace" not in done.stderr
