"""Rules that are asked between reading the teachers and mixing them, and what ``look`` reports of it."""

import threading
from dataclasses import fields, replace

import pytest
import torch

from mashbill.distributions import Dense, Logits, Projected, Statistics, TopK, measure
from mashbill.losses import chunked, compiled, distillation_loss, linear, topk

SHAPE, V, K = (2, 7, 61), 61, 3
FORMS = ["dense", "logits", "hidden", "topk", "mixed", "student by hidden states too"]
IMPLS = ["chunked", "auto", "reference"]
HOW = [
    (one, dtype) for one in IMPLS for dtype in (torch.float32, torch.float64) if (one, dtype) != ("auto", torch.float64)
]
CLASSES = torch.arange(V) % 4 - 1


class Rule:
    """Weights from most of what there is, by place too; keeps what it was asked."""

    def __init__(self):
        self.asked, self.lock = [], threading.Lock()

    def __call__(self, statistics, places):
        with self.lock:
            self.asked.append((statistics, places))
        return weigh(statistics, places)


def weigh(statistics, places):
    label = statistics.label_logprob.nan_to_num(0)
    read = statistics.entropy - 2 * statistics.margin + statistics.gini + 0.1 * (statistics.max_logprob - label)
    read = read + statistics.class_mass[..., 1] + statistics.entropy_low / 2
    by_place = torch.sin(places.to(read) * torch.arange(1, K + 1).to(read).unsqueeze(-1))
    return torch.log_softmax(read + by_place, dim=0)


def build(problem, form, dtype):
    """Return student, teachers, their distributions in float64, and the rest of a problem."""
    case = problem(shape=SHAPE, kind=form if form in ("dense", "logits", "topk") else "mixed", k=9, dtype=dtype)
    case, student = replace(case, logits=case.logits * 1), case.logits
    generator = torch.Generator().manual_seed(3)

    def head(width):
        hidden, weight = (torch.randn(*size, width, generator=generator) for size in (SHAPE[:2], (V,)))
        return Projected(hidden.to(dtype), weight.to(dtype))

    if form not in ("dense", "logits", "topk", "mixed"):
        case = replace(case, teachers=tuple(head(8) for _ in range(K)))
    if form == "mixed":
        case = replace(case, teachers=(*case.teachers[:2], head(8)))
    if form == "student by hidden states too":
        student = head(5)
    return case, student


def truths(teacher):
    """Return the statistics of one teacher, everywhere, from its numbers in float64."""
    if isinstance(teacher, TopK):
        stored = TopK(teacher.ids, teacher.logprobs.double(), teacher.log_tail.double(), V)
    elif isinstance(teacher, Projected):
        stored = Dense.from_logits(teacher.logits().double())
    else:
        stored = Dense.from_logits((teacher.values if isinstance(teacher, Logits) else teacher.logprobs).double())
    return stored


def statistics_of(case):
    return Statistics.stack(
        [measure(truths(one), labels=case.labels, classes=CLASSES, n_classes=3) for one in case.teachers]
    )


def everywhere(case):
    """Return the weights that the rule should give, ``[K B T]``."""
    truth = statistics_of(case)
    flat = Statistics(**{f.name: getattr(truth, f.name).flatten(1, 2) for f in fields(Statistics)})
    return weigh(flat, torch.arange(case.mask.numel())).unflatten(1, case.mask.shape)


def solve(case, student, log_weights, **options):
    """Return a loss and its gradient by logits or hidden states."""
    leaf = (student.hidden if isinstance(student, Projected) else student).detach().clone().requires_grad_()
    own = replace(student, hidden=leaf) if isinstance(student, Projected) else leaf
    options |= {"mask": case.mask, "labels": case.labels, "classes": CLASSES, "temperature": 2.0, "cross_entropy": 0.2}
    loss = distillation_loss(own, case.teachers, log_weights, **options)
    (gradient,) = torch.autograd.grad(loss.total, leaf)
    return loss, gradient


@pytest.fixture
def few_rows(monkeypatch):
    """Do three rows at a time, everywhere."""
    monkeypatch.setattr(chunked, "rows_at_once", lambda *_: 3)
    monkeypatch.setattr(topk, "N_CHUNKS", 1)
    monkeypatch.setattr(compiled, "N_KEPT", 3 * K * V)
    monkeypatch.setattr(linear, "MEMORY", 3 * (1 + K) * V * 4)


@pytest.fixture(params=IMPLS)
def impl(request):
    return request.param


@pytest.fixture(params=HOW, ids=str)
def how(request):
    return request.param


def close(one, two, dtype):
    tolerance = {"rtol": 5e-6, "atol": 5e-6} if dtype == torch.float32 else {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(one.double(), two.double(), equal_nan=True, **tolerance)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl"])
def test_a_rule_is_the_weights_that_it_computes(problem, how, form, divergence):
    impl, dtype = how
    case, student = build(problem, form, dtype)
    loss, gradient = solve(case, student, Rule(), impl=impl, divergence=divergence)
    twin, expected = solve(case, student, everywhere(case).to(dtype), impl=impl, divergence=divergence)
    close(loss.divergence, twin.divergence, dtype)
    close(loss.cross_entropy, twin.cross_entropy, dtype)
    close(gradient, expected, dtype)
    assert gradient.abs().max() > 1e-2


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("form", FORMS)
def test_it_is_asked_about_each_position_once_and_told_the_truth_about_it(problem, how, form):
    impl, dtype = how
    case, student = build(problem, form, dtype)
    before, rule = torch.get_num_threads(), Rule()
    try:
        torch.set_num_threads(2)
        solve(case, student, rule, impl=impl)
    finally:
        torch.set_num_threads(before)
    counted = case.mask.flatten().nonzero().squeeze(1)
    places = torch.cat([places for _, places in rule.asked])
    assert places.dtype == torch.int64
    assert places.sort().values.tolist() == counted.tolist()
    assert impl == "reference" or form == "topk" or len(rule.asked) > 1  # lists are measured together
    truth = statistics_of(case)
    for field in fields(Statistics):
        true = getattr(truth, field.name).flatten(1, 2)
        found = torch.cat([getattr(statistics, field.name) for statistics, _ in rule.asked], dim=1)
        assert found.dtype == dtype
        assert not found.requires_grad
        close(found, true[:, places], dtype)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ruled", [True, False])
def test_look_reports_what_was_read_and_used(problem, how, form, ruled):
    impl, dtype = how
    case, student = build(problem, form, dtype)
    weights = Rule() if ruled else case.log_weights
    loss, gradient = solve(case, student, weights, impl=impl, look=True)
    plain, expected = solve(case, student, weights, impl=impl)
    close(gradient, expected, dtype)
    close(loss.divergence, plain.divergence, dtype)
    assert plain.seen is None
    seen, truth = loss.seen, statistics_of(case)
    used = everywhere(case) if ruled else case.log_weights
    assert seen.log_weights.shape == (K, *SHAPE[:2])
    close(seen.log_weights[:, case.mask], used[:, case.mask], dtype)
    own = measure(
        truths(student if isinstance(student, Projected) else Logits(student)),
        labels=case.labels,
        classes=CLASSES,
        n_classes=3,
    )
    assert (seen.log_weights[:, ~case.mask] == 0).all()
    for field in fields(Statistics):
        of_teachers, of_student = getattr(seen.teachers, field.name), getattr(seen.student, field.name)
        assert of_teachers.dtype == of_student.dtype == dtype
        assert not of_teachers.requires_grad
        close(of_teachers[:, case.mask], getattr(truth, field.name)[:, case.mask], dtype)
        close(of_student[case.mask], getattr(own, field.name)[case.mask], dtype)
        assert (of_teachers[:, ~case.mask] == 0).all()
        assert (of_student[~case.mask] == 0).all()


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["dense", "logits", "topk"])
def test_statistics_are_not_rounded_to_the_dtype_of_the_logits(problem, impl, form, narrow):
    case, _ = build(problem, form, torch.float32)
    rule = Rule()
    loss, _ = solve(case, case.logits.to(narrow), rule, impl=impl, look=True)
    truth = statistics_of(case)
    close(loss.seen.teachers.entropy[:, case.mask], truth.entropy[:, case.mask], torch.float32)
    assert all(statistics.entropy.dtype == torch.float32 for statistics, _ in rule.asked)


def test_without_labels_and_classes_a_rule_sees_none(problem, impl):
    case, student = build(problem, "logits", torch.float32)

    def rule(statistics, places):
        assert statistics.label_logprob.isnan().all()
        assert statistics.class_mass.shape == (K, len(places), 0)
        return torch.zeros(K, len(places)) - torch.tensor(K).log()

    assert distillation_loss(student, case.teachers, rule, mask=case.mask, impl=impl).total > 0


def test_nothing_is_asked_of_a_loss_without_a_rule_or_a_look(problem, impl, monkeypatch):
    case, student = build(problem, "mixed", torch.float64)
    monkeypatch.setattr("mashbill.losses.weighing.measure", lambda *_, **__: pytest.fail("measured"))
    solve(case, student, case.log_weights, impl=impl)


def test_cross_entropy_alone_asks_all_the_same(problem, impl):
    case, student = build(problem, "logits", torch.float32)
    rule = Rule()
    options = {"mask": case.mask, "labels": case.labels, "classes": CLASSES, "cross_entropy": 1.0, "look": True}
    loss = distillation_loss(student, case.teachers, rule, impl=impl, **options)
    assert sum(len(places) for _, places in rule.asked) == case.mask.sum()
    assert (loss.seen.teachers.entropy[:, case.mask] > 0).all()


def test_no_gradient_goes_through_a_rule(problem, impl):
    case, student = build(problem, "logits", torch.float32)
    shares = torch.zeros(K, int(case.mask.sum()), requires_grad=True)
    said = [Logits(one.values.requires_grad_()) for one in case.teachers]

    def rule(statistics, places):
        return shares.log_softmax(dim=0)[:, : len(places)]

    leaf = student.clone().requires_grad_()
    loss = distillation_loss(leaf, said, rule, mask=case.mask, impl=impl, look=True)
    assert not any(getattr(loss.seen.teachers, field.name).requires_grad for field in fields(Statistics))
    assert not loss.seen.log_weights.requires_grad
    loss.total.backward()
    assert leaf.grad.abs().sum() > 0
    assert shares.grad is None


WRONG = [
    lambda s, p: torch.zeros(len(p), K),
    lambda s, p: torch.zeros(K, 1),
    lambda s, p: torch.zeros(len(p)),
    lambda s, p: torch.zeros(K + 1, len(p)),
    lambda s, p: torch.zeros(2, K, len(p)),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_rule_of_the_wrong_size_is_told_so_before_anything_is_overwritten(problem, impl, form):
    case, student = build(problem, form, torch.float32)
    is_projected = isinstance(student, Projected)
    before = (student.hidden if is_projected else student).clone()
    options = {"mask": case.mask, "labels": case.labels, "cross_entropy": 0.2, "impl": impl}
    if not is_projected and impl != "reference":
        student, options["in_place"] = student.requires_grad_() * 1, True
    for rule in WRONG:
        with pytest.raises(ValueError, match=rf"log_weights gave \[.*it must give \[{K} \d+\]"):
            distillation_loss(student, case.teachers, rule, **options)
        assert torch.equal((student.hidden if is_projected else student).detach(), before)
