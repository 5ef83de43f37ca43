import math

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, TopK, entropy_interval, gini_interval, measure, softened_tail_interval

DOUBLE = torch.float64


def stored(head, tail, n_entries):
    head = torch.tensor(head, dtype=DOUBLE)
    return TopK(torch.arange(len(head)), head.log(), torch.tensor(tail, dtype=DOUBLE).log(), n_entries)


def entropy(p):
    return -(p * numerics.log_of(p)).sum(-1)


def gini(p):
    return 1 - p.square().sum(-1)


def softened_tail(p, n_stored, temperature):
    powers = torch.where(p > 0, p ** (1 / temperature), 0)
    return powers[..., n_stored:].sum(-1) / powers.sum(-1)


def test_entropy_interval_golden(golden):
    ends = [float(end) for end in entropy_interval(stored([0.5, 0.2, 0.1], 0.2, 10))]
    assert ends == pytest.approx(golden("F49")["expected"], abs=golden("F49")["tol"])


@pytest.mark.parametrize("is_top", [True, False])
@pytest.mark.parametrize(("head", "tail", "n_entries"), [([0.5, 0.2, 0.1], 0.2, 10), ([0.35, 0.12], 0.53, 12)])
def test_both_ends_are_attained(head, tail, n_entries, is_top):
    n_stored, most = len(head), min(head) if is_top else 1.0
    n_full = int(tail / most + 1e-9)
    packed = [most] * n_full + [tail - n_full * most]
    packed = torch.tensor([*head, *packed, *[0.0] * (n_entries - n_stored - len(packed))], dtype=DOUBLE)
    even = torch.tensor([*head, *[tail / (n_entries - n_stored)] * (n_entries - n_stored)], dtype=DOUBLE)
    one = stored(head, tail, n_entries)
    for interval, of in ((entropy_interval, entropy), (gini_interval, gini)):
        low, high = interval(one, is_top=is_top)
        assert [float(low), float(high)] == pytest.approx([float(of(packed)), float(of(even))], abs=1e-14)
    for temperature in (0.5, 1.0, 2.0, 7.0):
        ends = sorted(float(softened_tail(p, n_stored, temperature)) for p in (packed, even))
        found = softened_tail_interval(one, temperature=temperature, is_top=is_top)
        assert [float(end) for end in found] == pytest.approx(ends, abs=1e-14)


@pytest.mark.parametrize("is_top", [True, False])
def test_no_completion_leaves_the_interval(is_top):
    generator = torch.Generator().manual_seed(0)
    n_entries, k = 9, 3
    widest = 0.0
    for seed in range(20):
        p = (2 * torch.randn(n_entries, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)).softmax(-1)
        p = p.sort(descending=True).values if is_top else p
        tail = p[k:].sum()
        one = TopK(torch.arange(k), p[:k].log(), tail.log(), n_entries)
        shapes = torch.distributions.Dirichlet(torch.full((n_entries - k,), 0.3, dtype=DOUBLE)).sample((2000,))
        shapes = torch.cat([shapes, torch.rand(2000, n_entries - k, generator=generator, dtype=DOUBLE)])
        rest = tail * shapes / shapes.sum(-1, keepdim=True)
        rest = rest[(rest <= p[:k].min()).all(-1)] if is_top else rest
        whole = torch.cat([p[:k].expand(len(rest), k), rest], -1)
        assert len(whole) > 10
        for (low, high), values in (
            (entropy_interval(one, is_top=is_top), entropy(whole)),
            (gini_interval(one, is_top=is_top), gini(whole)),
            (softened_tail_interval(one, temperature=3.0, is_top=is_top), softened_tail(whole, k, 3.0)),
            (softened_tail_interval(one, temperature=0.4, is_top=is_top), softened_tail(whole, k, 0.4)),
        ):
            assert low - 1e-12 <= values.min() <= values.max() <= high + 1e-12
            if high > low:
                widest = max(widest, float((values.max() - values.min()) / (high - low)))
    assert widest > 0.9


def test_the_truth_lies_inside_and_the_midpoint_errs_by_half_the_width_at_most():
    logits = 4 * torch.randn(50, 400, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    whole = Dense.from_logits(logits)
    exact = measure(whole)
    for k in (1, 5, 50, 399, 400):
        low, high = entropy_interval(TopK.from_logprobs(whole.logprobs, k=k))
        assert (low <= exact.entropy + 1e-12).all()
        assert (exact.entropy <= high + 1e-12).all()
        assert ((low + high) / 2 - exact.entropy <= (high - low) / 2 + 1e-12).all()
        least, most = gini_interval(TopK.from_logprobs(whole.logprobs, k=k))
        assert (least <= exact.gini + 1e-12).all()
        assert (exact.gini <= most + 1e-12).all()
        if k >= 399:
            torch.testing.assert_close(low, exact.entropy, rtol=0, atol=1e-12)
            torch.testing.assert_close(high, exact.entropy, rtol=0, atol=1e-12)


# Half widths in nats at one position with 50,257 normal logits, by their standard deviation and by k. They vary from
# position to position by about a third at sd 4 and by nearly as much as they are large at sd 6.
ONE_POSITION = {
    4: {100: 0.744, 500: 0.205, 2000: 0.042},
    6: {100: 0.089, 500: 0.010, 2000: 0.0007},
}
MEAN = {
    4: {100: 0.492, 500: 0.139, 2000: 0.0279},
    6: {100: 0.0557, 500: 0.0058, 2000: 0.00040},
}


@pytest.mark.parametrize("sd", [4, 6])
def test_half_widths_at_the_size_of_a_vocabulary(sd):
    n_positions = 24
    generator = torch.Generator().manual_seed(sd)
    logprobs = (sd * torch.randn(n_positions, 50257, generator=generator)).log_softmax(-1)
    top = TopK.from_logprobs(logprobs, k=2000)
    for k in ONE_POSITION[sd]:
        rest = torch.cat([top.logprobs[:, k:], top.log_tail.unsqueeze(-1)], -1).logsumexp(-1)
        low, high = entropy_interval(TopK(top.ids[:, :k], top.logprobs[:, :k], rest, 50257))
        half = (high - low) / 2
        mean, spread = float(half.mean()), float(half.std())
        assert mean == pytest.approx(MEAN[sd][k], abs=4 * spread / n_positions**0.5)
        assert ONE_POSITION[sd][k] == pytest.approx(mean, abs=2.5 * spread)


def test_measuring_carries_the_low_end():
    one = stored([0.5, 0.2, 0.1], 0.2, 10)
    for is_top in (True, False):
        low, high = entropy_interval(one, is_top=is_top)
        found = measure(one, is_top=is_top)
        assert [found.entropy_low.item(), found.entropy.item()] == pytest.approx([low.item(), high.item()], abs=1e-14)
    assert measure(one).entropy_low == measure(one, is_top=False).entropy_low
    whole = measure(Dense.from_logits(torch.tensor([[1.0, 2.0, -torch.inf]])))
    assert torch.equal(whole.entropy_low, whole.entropy)


def test_unused_slots_full_storage_and_a_tail_that_is_everything():
    nothing = torch.full((3, 2), numerics.LOG_ZERO, dtype=DOUBLE)
    logprobs = nothing.clone()
    logprobs[0, 1], logprobs[1, :] = math.log(0.6), math.log(0.5)
    ids = torch.tensor([[-1, 1], [0, 1], [-1, -1]])
    one = TopK(ids, logprobs, torch.tensor([math.log(0.4), numerics.LOG_ZERO, 0.0], dtype=DOUBLE), 3)
    head = -0.6 * math.log(0.6)
    low, high = entropy_interval(one, is_top=True)
    packed, even = head - 0.4 * math.log(0.4), head - 0.4 * math.log(0.2)
    assert low.tolist() == pytest.approx([packed, math.log(2), 0.0])
    assert high.tolist() == pytest.approx([even, math.log(2), math.log(3)])
    least, most = softened_tail_interval(one, temperature=2.0, is_top=False)
    assert least[1:].tolist() == most[1:].tolist() == [0.0, 1.0]
    assert gini_interval(one)[1].tolist() == pytest.approx([1 - 0.36 - 2 * 0.04, 0.5, 2 / 3])


def test_the_interval_has_finite_gradients_wherever_it_is():
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0], [0.0, 0.0, -torch.inf, -torch.inf], [1.0, 1.0, 1.0, 1.0]])
    logits = logits.double().requires_grad_()
    one = TopK.from_logprobs(Dense.from_logits(logits).logprobs, k=2)
    total = sum(end.sum() for end in (*entropy_interval(one), *gini_interval(one)))
    (slope,) = torch.autograd.grad(total, logits)
    assert slope.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_storage_keeps_the_order_of_the_ends(dtype):
    logits = torch.randn(20, 3000, generator=torch.Generator().manual_seed(0))
    logits[0] = 0
    one = TopK.from_logprobs(Dense.from_logits(logits).logprobs, k=7)
    narrow = TopK(one.ids, one.logprobs.to(dtype), one.log_tail.to(dtype), 3000)
    for low, high in (entropy_interval(narrow), gini_interval(narrow), softened_tail_interval(narrow, temperature=2.0)):
        assert (low <= high).all()
        assert low.isfinite().all()


def test_what_cannot_be_a_top_is_refused():
    with pytest.raises(ValueError, match=r"^is_top=True cannot be: at position \[\] a tail of 0.7 .* into 1 entries"):
        entropy_interval(stored([0.3], 0.7, 2))
    low, high = entropy_interval(stored([0.3], 0.7, 2), is_top=False)
    assert float(low) == pytest.approx(float(high))
    with pytest.raises(ValueError, match=r"^temperature=0 must be positive"):
        softened_tail_interval(stored([0.3], 0.7, 2), temperature=0)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("unit", [2.0**-11, 2.0**-6, 1.0])
def test_the_interval_of_rounded_numbers_holds_what_was_rounded(unit, temperature):
    n_entries, k = 200, 8
    outside = 0.0
    for c in torch.linspace(0.02, 0.06, 40, dtype=DOUBLE):
        # Packed as far as it goes below the least stored entry: the end of the interval of exact numbers.
        head = torch.cat([torch.tensor([0.4], dtype=DOUBLE), c.expand(k - 1)])
        n_full = int((1 - head.sum()) / c)
        rest = 1 - head.sum() - n_full * c
        p = torch.cat([head, c.expand(n_full), rest[None], torch.zeros(n_entries - k - n_full - 1, dtype=DOUBLE)])
        rounded = (head.log() / unit).round() * unit
        total = rounded.exp().sum() + (1 - head.sum())
        one = TopK(torch.arange(k), rounded - total.log(), (1 - head.sum()).log() - total.log(), n_entries)
        true = softened_tail(p, k, temperature)
        low, high = softened_tail_interval(one, temperature=temperature, error=unit)
        assert low <= true <= high
        if unit < 1:  # coarser ones can belong to no distribution at all
            low, high = softened_tail_interval(one, temperature=temperature)
            outside = max(outside, float(low - true), float(true - high))
    assert outside > 0 or unit == 1 or temperature < 1


def test_the_interval_is_as_it_was_where_nothing_is_rounded():
    one = stored([0.5, 0.2, 0.1], 0.2, 10)
    exact = softened_tail_interval(one, temperature=2.0)
    near = softened_tail_interval(one, temperature=2.0, error=1e-9)
    assert [float(end) for end in near] == pytest.approx([float(end) for end in exact], abs=1e-8)
    assert near[0] < exact[0] < exact[1] < near[1]
