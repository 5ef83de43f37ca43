"""Weights that differ between classes of entries: against the pool of the paper's floor and by finite differences."""

from dataclasses import fields, replace

import pytest
import torch

from mashbill.distributions import Dense, Logits, Projected, Statistics, TopK, measure
from mashbill.losses import chunked, distillation_loss, divergence, linear, triton
from mashbill.losses.objective import Objective
from mashbill.losses.weighing import Weighing
from mashbill.pools import token_renormalise

SHAPE, V, K, C = (2, 5, 23), 23, 3, 4
# All classes but one, and some entries of the last by the short way of naming it.
CLASSES = torch.tensor([0, 1, -1, 3, 1] * 5)[:V]
DISTANCES = {
    "forward_kl": divergence.forward_kl,
    "reverse_kl": divergence.reverse_kl,
    "js": lambda q, p: divergence.js(q, p, beta=0.3),
    "total_variation": divergence.total_variation,
}
IMPLS = ["chunked", "auto", "reference"]


def by_class(*, n_positions=SHAPE[1], n_classes=C, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(n_classes, K, SHAPE[0], n_positions, dtype=torch.float64, generator=generator)
    return torch.log_softmax(scores, dim=1)


def build(problem, kind="logits", dtype=torch.float64, **options):
    return replace(problem(kind=kind, shape=SHAPE, dtype=dtype), log_weights=by_class(**options).to(dtype))


def softened(one, temperature):
    return torch.log_softmax((one.values if isinstance(one, Logits) else one.logprobs) / temperature, -1)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("kind", ["dense", "logits"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("n_positions", [1, SHAPE[1]])
@pytest.mark.parametrize("impl", ["chunked", "reference"])
def test_it_is_the_divergence_from_the_renormalised_pool(problem, impl, name, kind, temperature, n_positions):
    case = build(problem, kind, n_positions=n_positions)
    loss, gradient = case.solve(
        impl=impl, divergence=name, beta=0.3, temperature=temperature, classes=CLASSES, labels=None
    )
    stacked = torch.stack([softened(one, temperature) for one in case.teachers])
    q = token_renormalise(stacked, case.log_weights, classes=CLASSES)
    assert not torch.allclose(q.mass, torch.ones_like(q.mass), atol=0.02)
    leaf = case.logits.detach().requires_grad_()
    each = DISTANCES[name](q.logprobs, torch.log_softmax(leaf / temperature, -1)) * case.mask
    (expected,) = torch.autograd.grad(temperature**2 * each.sum(), leaf)
    torch.testing.assert_close(loss.divergence, each.detach(), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_gradcheck(problem, divergence):
    case = build(problem)

    def total(logits):
        options = {"divergence": divergence, "temperature": 2.0, "cross_entropy": 0.3, "classes": CLASSES}
        return distillation_loss(
            logits, case.teachers, case.log_weights, mask=case.mask, labels=case.labels, impl="chunked", **options
        ).total

    assert torch.autograd.gradcheck(total, (case.logits.detach().requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_the_reference_gives_weights_by_class_their_gradient(problem, divergence):
    case = build(problem)

    def total(log_weights):
        options = {"divergence": divergence, "temperature": 2.0, "classes": CLASSES}
        return distillation_loss(case.logits, case.teachers, log_weights, mask=case.mask, **options).total

    assert torch.autograd.gradcheck(total, (case.log_weights.detach().requires_grad_(),), fast_mode=True)


def parts(case, kind):
    """Return student and teachers in one of the forms that there are, from the same numbers."""
    generator = torch.Generator().manual_seed(1)

    def head(width):
        sizes = (*SHAPE[:2], width), (V, width)
        return Projected(*(torch.randn(*size, dtype=torch.float64, generator=generator) for size in sizes))

    lists = tuple(TopK.from_logprobs(one.values.log_softmax(-1), k=5) for one in case.teachers)
    return {
        "hidden": (case.logits, tuple(head(4) for _ in range(K))),
        "both hidden": (head(4), tuple(head(4) for _ in range(K))),
        "topk": (case.logits, lists),
        "mixed": (case.logits, (lists[0], case.teachers[1], head(4))),
    }[kind]


@pytest.mark.parametrize("kind", ["hidden", "both hidden", "topk", "mixed"])
@pytest.mark.parametrize("pool", ["linear", "log_linear"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("n_each", [1, 100])
def test_every_form_of_teacher(problem, monkeypatch, kind, pool, divergence, n_each):
    monkeypatch.setattr(chunked, "rows_at_once", lambda *_: n_each)
    monkeypatch.setattr(linear, "MEMORY", 3 * n_each * 4 * V * 8)
    case = build(problem)
    student, teachers = parts(case, kind)
    found = []
    for impl in ("chunked", "reference"):
        leaf = (student.hidden if isinstance(student, Projected) else student).detach().clone().requires_grad_()
        own = replace(student, hidden=leaf) if isinstance(student, Projected) else leaf
        options = {"mask": case.mask, "labels": case.labels, "cross_entropy": 0.3, "temperature": 2.0, "impl": impl}
        options |= {"pool": pool, "divergence": divergence, "classes": CLASSES, "look": True}
        loss = distillation_loss(own, teachers, case.log_weights, **options)
        found.append((loss, torch.autograd.grad(loss.total, leaf)[0]))
    (loss, gradient), (twin, expected) = found
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)
    assert torch.equal(loss.seen.log_weights, twin.seen.log_weights)


@pytest.mark.parametrize("kind", ["dense", "logits", "topk", "mixed"])
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_that_are_all_alike_are_no_classes(problem, kind, impl, dtype):
    case = build(problem, kind, dtype)
    plain = replace(case, log_weights=case.log_weights[0])
    alike = replace(case, log_weights=case.log_weights[:1].expand(C, -1, -1, -1))
    tolerance = 3e-6 if dtype == torch.float32 else 1e-12
    for name in ("forward_kl", "reverse_kl", "js"):
        loss, gradient = alike.solve(impl=impl, divergence=name, classes=CLASSES, temperature=2.0)
        twin, expected = plain.solve(impl=impl, divergence=name, temperature=2.0)
        torch.testing.assert_close(loss.divergence, twin.divergence, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(gradient, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_teacher_for_each_class_is_routing_by_entry(problem, impl):
    case = build(problem)
    off = torch.full_like(case.log_weights, -torch.inf)
    off[0, 0] = off[1, 1] = off[2, 1] = off[3, 2] = 0
    probs = torch.stack([one.values.softmax(-1) for one in case.teachers])
    chosen = torch.tensor([0, 1, 1, 2])[CLASSES]
    pool = probs.gather(0, chosen.expand(1, *SHAPE[:2], V))[0]
    alone = replace(case, teachers=(Dense.from_probs(pool / pool.sum(-1, keepdim=True)),))
    alone = replace(alone, log_weights=torch.zeros(1, 2, 1, dtype=torch.float64))
    loss, gradient = replace(case, log_weights=off).solve(impl=impl, classes=CLASSES)
    twin, expected = alone.solve(impl="reference")
    torch.testing.assert_close(loss.divergence, twin.divergence, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_look_reports_them_by_class(problem, impl, dtype):
    case = build(problem, dtype=dtype)
    loss, _ = case.solve(impl=impl, classes=CLASSES, look=True)
    assert loss.seen.log_weights.shape == (C, K, *SHAPE[:2])
    used, given = loss.seen.log_weights[..., case.mask], case.log_weights[..., case.mask]
    # Weights in 16 bits are normalised again.
    expected = given if dtype == torch.float32 else given.float().log_softmax(dim=1)
    torch.testing.assert_close(used, expected, rtol=0, atol=0)
    assert (loss.seen.log_weights[..., ~case.mask] == 0).all()
    truth = measure(Dense.from_logits(case.logits.double()), labels=case.labels, classes=CLASSES, n_classes=C)
    for field in fields(Statistics):
        one, two = getattr(loss.seen.student, field.name), getattr(truth, field.name)
        torch.testing.assert_close(one[case.mask].double(), two[case.mask], rtol=2e-6, atol=2e-6, equal_nan=True)


WRONG = [
    ({"classes": None}, r"log_weights is \[4 3 2 5\], weights by class, which need classes="),
    ({"classes": CLASSES[:-1]}, r"classes is \[22\], but student_logits is \[2 5 V=23\]"),
    (
        {"classes": torch.full((V,), 4)},
        r"classes has ids from 4 to 4, but log_weights is \[4 3 2 5\], for classes 0 to 3",
    ),
    ({"classes": CLASSES - 1}, r"classes has ids from -2 to 2"),
    ({"log_weights": by_class()[:, :2]}, r"log_weights is \[4 2 2 5\], but 3 teachers"),
    ({"log_weights": by_class()[..., :4]}, r"log_weights is \[4 3 2 4\], but 3 teachers .* or that for each class"),
    ({"log_weights": by_class()[None]}, r"log_weights is \[1 4 3 2 5\]"),
    ({"log_weights": by_class()[0, 0]}, r"log_weights is \[2 5\]"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message for _, message in WRONG])
@pytest.mark.parametrize("impl", IMPLS)
def test_what_does_not_fit_is_told_so_before_anything_is_overwritten(problem, impl, change, message):
    case = build(problem, dtype=torch.float32)
    leaf = case.logits.clone().requires_grad_()
    logits, in_place = leaf * 1, impl != "reference"
    options = {
        "mask": case.mask,
        "impl": impl,
        "classes": CLASSES,
        "log_weights": case.log_weights,
        "in_place": in_place,
    }
    with pytest.raises(ValueError, match=message):
        distillation_loss(logits, case.teachers, **(options | change))
    assert torch.equal(logits.detach(), case.logits)


def test_plain_weights_take_classes_of_any_size_for_the_statistics(problem):
    case = replace(build(problem), log_weights=by_class()[0])
    loss, gradient = case.solve(classes=torch.arange(V), look=True)
    assert loss.seen.teachers.class_mass.shape == (K, *SHAPE[:2], V)
    assert torch.equal(gradient, case.solve()[1])
    with pytest.raises(ValueError, match=r"classes is \[22\]"):
        case.solve(classes=torch.arange(V - 1))


def test_the_gpu_kernels_name_what_they_lack(problem):
    case = build(problem, dtype=torch.float32)
    weighing = Weighing.by(case.log_weights, case.mask)
    with pytest.raises(ValueError, match="log_weights by class have no GPU kernel; use impl='chunked'"):
        triton.distillation_loss(
            case.logits, case.teachers, weighing, mask=case.mask, labels=None, objective=Objective()
        )


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_classes_that_hear_only_those_who_deny_them(divergence):
    teachers = [Logits(torch.tensor([[[0.0, -110.0]]])), Logits(torch.tensor([[[-110.0, 0.0]]]))]
    weights = torch.tensor([[-torch.inf, 0.0], [0.0, -torch.inf]]).view(2, 2, 1, 1)
    arguments = {"mask": torch.ones(1, 1, dtype=torch.bool), "classes": torch.tensor([0, 1]), "divergence": divergence}
    found = []
    for impl in ("chunked", "reference"):
        logits = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
        loss = distillation_loss(logits, teachers, weights, impl=impl, **arguments)
        found.append((loss.divergence, torch.autograd.grad(loss.total, logits)[0]))
    torch.testing.assert_close(found[0], found[1])
