import math

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, TopK, comparison
from mashbill.distributions.comparison import gradient_gram, kl_to, kl_to_mean

DOUBLE = torch.float64


def logits(*shape, seed=0, dtype=DOUBLE):
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(*shape, dtype=DOUBLE, generator=generator)).to(dtype)


def plain_kl(p, q):
    return torch.where(p > 0, p * (p / q).log(), 0).sum(-1)


def teachers_of(n_entries, *batch, k=4, dtype=DOUBLE):
    """A full teacher, a top-k one, and one with unused slots and outside mass; with their dense forms."""
    full = Dense.from_logits(logits(*batch, n_entries, seed=1, dtype=dtype))
    top = TopK.from_logprobs(Dense.from_logits(logits(*batch, n_entries, seed=2, dtype=dtype)).logprobs, k=k)
    ids = torch.full((*batch, 3), -1)
    ids[..., 1] = 2
    stored = torch.full((*batch, 3), numerics.LOG_ZERO, dtype=dtype)
    stored[..., 1] = math.log(0.6)
    outside = TopK(ids, stored, torch.full(batch, math.log(0.4), dtype=dtype), n_entries)
    return [full, top, outside]


def dense_probs(teacher, like=None):
    return (teacher.logprobs if isinstance(teacher, Dense) else teacher.densify(like=like)).exp()


@pytest.fixture(params=[None, 1, 40], ids=["one chunk", "a row at a time", "odd chunks"])
def chunked(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(comparison, "_chunks", lambda rows, n_entries: rows.split(max(1, request.param // 12)))


def test_kl_to_mean_is_the_formula(chunked):
    teachers = teachers_of(9, 3, 5)
    probabilities = torch.stack([dense_probs(t) for t in teachers])
    expected = plain_kl(probabilities, probabilities.mean(0))
    torch.testing.assert_close(kl_to_mean(teachers), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("tail", ["student", "even"])
def test_kl_to_is_the_formula(tail, chunked):
    student = Dense.from_logits(logits(3, 5, 9, seed=7)).logprobs
    teachers = teachers_of(9, 3, 5)
    like = student if tail == "student" else None
    expected = torch.stack([plain_kl(dense_probs(t, like), student.exp()) for t in teachers])
    torch.testing.assert_close(kl_to(teachers, student, tail=tail), expected, rtol=0, atol=1e-13)
    shifted = student + logits(3, 5, 1, seed=8)
    torch.testing.assert_close(kl_to(teachers, shifted, tail=tail), expected, rtol=0, atol=1e-12)


def test_a_tail_shaped_like_the_student_gives_the_least_divergence():
    student = Dense.from_logits(logits(6, 9, seed=7)).logprobs
    _, top, _ = teachers_of(9, 6)
    least = kl_to([top], student)[0]
    p, s, used = dense_probs(top), student.exp(), torch.zeros(6, 9, dtype=torch.bool).scatter(-1, top.ids, value=True)
    tail = top.log_tail.exp()
    stored = torch.where(used, p * (p / s).log(), 0).sum(-1)
    coarse = stored + tail * (tail / torch.where(used, 0, s).sum(-1)).log()
    torch.testing.assert_close(least, coarse, rtol=0, atol=1e-13)
    for seed in range(20):
        shape = torch.where(used, 0, logits(6, 9, seed=seed).softmax(-1))
        completion = torch.where(used, p, tail.unsqueeze(-1) * shape / shape.sum(-1, keepdim=True))
        assert (plain_kl(completion, s) >= least - 1e-12).all()


def test_zeros_everywhere_stay_finite():
    one, two = torch.eye(4)[:1], torch.eye(4)[1:2]
    teachers = [Dense.from_probs(one), Dense.from_probs(two), TopK(torch.tensor([[2]]), *_certain(), 4)]
    assert kl_to_mean(teachers).flatten().tolist() == pytest.approx([math.log(3)] * 3, rel=1e-6)
    against = kl_to(teachers, Dense.from_probs(one).logprobs).flatten().tolist()
    assert against == pytest.approx([0.0, -numerics.LOG_ZERO, -numerics.LOG_ZERO])
    assert kl_to(teachers, torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])).isfinite().all()


def _certain():
    return torch.zeros(1, 1), torch.full((1,), numerics.LOG_ZERO)


def test_kl_to_mean_never_passes_the_log_of_the_number_of_teachers():
    teachers = [Dense.from_logits(50 * logits(400, 5, seed=s, dtype=torch.float32)) for s in range(4)]
    found = kl_to_mean(teachers)
    assert 0.99 * math.log(4) < float(found.max()) <= math.log(4) * (1 + 1e-7)
    assert float(found.min()) >= 0
    assert kl_to_mean(teachers[:1]).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_teachers_are_compared_in_float32(dtype):
    whole = Dense.from_logits(logits(4, 3000))
    narrow = Dense(whole.logprobs.to(dtype))
    assert kl_to([narrow], narrow.logprobs).dtype == torch.float32
    assert float(kl_to([narrow], narrow.logprobs).max()) == 0
    assert float(kl_to([narrow], whole.logprobs.float()).max()) < 1e-3
    assert kl_to_mean([narrow, Dense(whole.logprobs.float())]).dtype == torch.float32


def test_float32_agrees_with_its_double_twin():
    student, teachers = logits(5, 2000, seed=7), teachers_of(2000, 5, k=50)
    single = [
        Dense(t.logprobs.float()) if isinstance(t, Dense) else TopK(t.ids, t.logprobs.float(), t.log_tail.float(), 2000)
        for t in teachers
    ]
    torch.testing.assert_close(kl_to(single, student.float()).double(), kl_to(teachers, student), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kl_to_mean(single).double(), kl_to_mean(teachers), rtol=1e-5, atol=1e-6)


def test_positions_outside_the_mask_are_never_read():
    mask = torch.tensor([[True, False, True], [False, False, True]])
    student, clean = logits(2, 3, 9, seed=7), teachers_of(9, 2, 3)
    broken, spoilt = student.clone(), clean[0].logprobs.clone()
    broken[~mask], spoilt[~mask] = torch.nan, torch.nan
    dirty = [Dense(spoilt), *clean[1:]]
    found = kl_to(dirty, broken, mask=mask)
    assert torch.equal(found, kl_to(clean, student) * mask)
    labels = torch.randint(0, 9, (2, 3), generator=torch.Generator().manual_seed(0))
    gram = gradient_gram(dirty, broken, labels=labels, mask=mask)
    assert torch.equal(gram, gradient_gram(clean, student, labels=labels, mask=mask))


def twin_gram(teachers, student, labels, mask, tail):
    """The plain formula, with everything in memory."""
    like = student if tail == "student" else None
    own = student.softmax(-1)
    onehot = torch.nn.functional.one_hot(labels.clamp_min(0), own.shape[-1]).to(own.dtype)
    last = torch.where((labels >= 0).unsqueeze(-1), own - onehot, 0)
    each = torch.stack([*(own - dense_probs(t, like) for t in teachers), last], dim=1)
    each = each * mask[:, None, :, None]
    return torch.einsum("bjtv,bktv->bjk", each, each)


@pytest.mark.parametrize("tail", ["student", "even"])
def test_gradient_gram_is_the_formula(tail, chunked):
    generator = torch.Generator().manual_seed(3)
    student = Dense.from_logits(logits(4, 5, 9, seed=7)).logprobs
    mask = torch.rand(4, 5, generator=generator) < 0.7
    mask[2] = False
    labels = torch.randint(0, 9, (4, 5), generator=generator)
    labels[0, :3] = -100
    teachers = teachers_of(9, 4, 5)
    expected = twin_gram(teachers, student, labels, mask, tail)
    found = gradient_gram(teachers, student, labels=labels, mask=mask, tail=tail)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert (found[2] == 0).all()
    without = gradient_gram(teachers, student, labels=None, mask=mask, tail=tail)
    torch.testing.assert_close(without[:, :-1, :-1], expected[:, :-1, :-1], rtol=0, atol=1e-13)
    assert (without[:, -1] == 0).all()


def test_gradient_gram_is_that_of_autograd():
    student = logits(1, 3, 6, seed=7).requires_grad_()
    teachers = [Dense.from_logits(logits(1, 3, 6, seed=s)) for s in (1, 2)]
    labels, mask = torch.tensor([[0, 3, 5]]), torch.ones(1, 3, dtype=torch.bool)
    logprobs = student.log_softmax(-1)
    losses = [(t.logprobs.exp() * (t.logprobs - logprobs)).sum() for t in teachers]
    losses.append(-logprobs.gather(-1, labels.unsqueeze(-1)).sum())
    flat = torch.stack([torch.autograd.grad(loss, student, retain_graph=True)[0].flatten() for loss in losses])
    found = gradient_gram(teachers, student.detach(), labels=labels, mask=mask)
    torch.testing.assert_close(found[0], flat @ flat.T, rtol=0, atol=1e-13)


def test_gradient_gram_in_float32_agrees_with_its_double_twin():
    student = logits(3, 4, 2000, seed=7)
    teachers = [Dense.from_logits(student + 0.01 * logits(3, 4, 2000, seed=s)) for s in (1, 2)]
    single = [Dense(t.logprobs.float()) for t in teachers]
    labels, mask = torch.zeros(3, 4, dtype=torch.long), torch.ones(3, 4, dtype=torch.bool)
    exact = gradient_gram(teachers, student, labels=labels, mask=mask)
    found = gradient_gram(single, student.float(), labels=labels, mask=mask)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-7)


def test_no_positions_at_all():
    empty = Dense(torch.zeros(0, 3, 5))
    assert kl_to_mean([empty, empty]).shape == (2, 0, 3)
    assert kl_to([empty], torch.zeros(0, 3, 5)).shape == (1, 0, 3)
    none = torch.zeros(2, 3, dtype=torch.bool)
    gram = gradient_gram([Dense(torch.zeros(2, 3, 5))], torch.zeros(2, 3, 5), labels=None, mask=none)
    assert gram.tolist() == torch.zeros(2, 2, 2).tolist()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"^teachers=\(\) must hold at least one"):
        kl_to_mean([])
    with pytest.raises(ValueError, match=r"^teachers\[1\] has positions and entries \[2, 4\], but \[2, 5\]"):
        kl_to_mean([Dense(torch.zeros(2, 5)), Dense(torch.zeros(2, 4))])
    with pytest.raises(ValueError, match=r"^teachers\[0\] has positions and entries \[3, 5\], but \[2, 5\]"):
        kl_to([Dense(torch.zeros(3, 5))], torch.zeros(2, 5))
