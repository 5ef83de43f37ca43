import math

import pytest
import torch

from mashbill import numerics
from mashbill.distributions import Dense, Statistics, TopK, measure, measure_logits

APPENDIX = torch.tensor([[0.8, 0.15, 0.05], [0.4, 0.35, 0.25]], dtype=torch.float64)


# The low end of the entropy belongs to the packed completion, not to the even one, which the others describe.
STATISTICS = ("entropy", "gini", "margin", "max_logprob", "label_logprob", "class_mass")


def random_logits(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, dtype=torch.float64, generator=generator) * 3).to(dtype)


def same(a: Statistics, b: Statistics, *, atol=1e-12):
    for name in STATISTICS:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=atol, equal_nan=True)


def test_entropy_golden(golden):
    nats = measure(Dense.from_probs(APPENDIX)).entropy
    assert nats.tolist() == pytest.approx(golden("F01")["expected"], abs=golden("F01")["tol"])
    assert (nats / math.log(2)).tolist() == pytest.approx(golden("F02")["expected"], abs=golden("F02")["tol"])


def test_closed_forms():
    probabilities = torch.softmax(random_logits(7, 11), -1)
    labels = torch.tensor([0, 1, 2, -100, 4, 5, 6])
    classes = torch.tensor([0, 0, 1, -1, 1, -1, 2, 2, 2, -1, 0])
    got = measure(Dense.from_probs(probabilities), labels=labels, classes=classes, n_classes=3)
    p = probabilities.numpy()
    order = probabilities.sort(-1, descending=True).values
    torch.testing.assert_close(got.gini, torch.from_numpy(1 - (p**2).sum(-1)), rtol=0, atol=1e-14)
    torch.testing.assert_close(got.margin, order[:, 0] - order[:, 1], rtol=0, atol=1e-14)
    torch.testing.assert_close(got.max_logprob, order[:, 0].log(), rtol=0, atol=1e-14)
    assert got.label_logprob[3].isnan()
    assert got.label_logprob[5].item() == pytest.approx(math.log(p[5, 5]), abs=1e-14)
    mass = torch.stack([probabilities[:, classes == c].sum(-1) for c in range(3)], -1)
    torch.testing.assert_close(got.class_mass, mass, rtol=0, atol=1e-14)


def test_certain_and_uniform_ends():
    certain = measure(Dense.from_probs(torch.tensor([0.0, 1.0, 0.0])))
    assert [certain.entropy.item(), certain.gini.item(), certain.margin.item()] == [0.0, 0.0, 1.0]
    uniform = measure(Dense.from_probs(torch.full((8,), 0.125)))
    assert uniform.entropy.item() == pytest.approx(math.log(8), abs=1e-6)
    assert uniform.gini.item() == pytest.approx(7 / 8, abs=1e-6)
    assert uniform.margin.item() == 0.0


def test_one_entry():
    got = measure(Dense.from_logits(torch.tensor([[3.0]])))
    assert [got.entropy.item(), got.gini.item(), got.margin.item(), got.max_logprob.item()] == [0.0, 0.0, 1.0, 0.0]


def test_masked_entries_change_nothing():
    logits = random_logits(4, 6)
    padded = torch.cat([logits, torch.full((4, 3), -torch.inf, dtype=torch.float64)], -1)
    labels = torch.tensor([0, 5, 2, -100])
    same(measure_logits(padded, labels=labels), measure_logits(logits, labels=labels))


def test_no_labels_is_nan_and_no_classes_is_empty():
    got = measure(Dense.from_logits(random_logits(2, 3, 4)))
    assert got.label_logprob.isnan().all()
    assert got.class_mass.shape == (2, 3, 0)


@pytest.mark.parametrize("tail_is_kept", [True, False])
def test_top_k_equals_its_even_completion(tail_is_kept):
    logits = random_logits(5, 9)
    stored = TopK.from_logprobs(Dense.from_logits(logits).logprobs, k=3 if tail_is_kept else 9)
    labels, classes = torch.tensor([0, 3, 8, -100, 2]), torch.arange(9) % 2
    of_stored = measure(stored, labels=labels, classes=classes, n_classes=2)
    same(of_stored, measure(Dense(stored.densify()), labels=labels, classes=classes, n_classes=2))


def test_top_k_with_unused_slots():
    stored = TopK(
        ids=torch.tensor([[-1, 1], [-1, -1]]),
        logprobs=torch.tensor([[numerics.LOG_ZERO, math.log(0.6)], [numerics.LOG_ZERO] * 2], dtype=torch.float64),
        log_tail=torch.tensor([math.log(0.4), 0.0], dtype=torch.float64),
        n_entries=3,
    )
    labels = torch.tensor([1, 2])
    same(measure(stored, labels=labels), measure(Dense(stored.densify()), labels=labels))


def test_top_k_whose_largest_entry_is_an_unstored_one():
    # A single unstored entry may hold more than any stored one, and then it is the top.
    stored = TopK(torch.tensor([0]), torch.tensor([0.3]).log(), torch.tensor(0.7).log(), n_entries=2)
    assert measure(stored).max_logprob.exp().item() == pytest.approx(0.7)
    assert measure(stored).margin.item() == pytest.approx(0.4)


def test_even_tail_is_the_upper_end_of_entropy(golden):
    head = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64)
    stored = TopK(torch.arange(3), head.log(), torch.tensor(0.2, dtype=torch.float64).log(), n_entries=10)
    ends = golden("F49")["expected"]
    assert measure(stored).entropy.item() == pytest.approx(max(ends), abs=golden("F49")["tol"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_measured_in_float32(dtype):
    logits = random_logits(3, 5000, dtype=dtype)
    got, exact = measure_logits(logits), measure_logits(logits.double())
    assert got.entropy.dtype == torch.float32
    assert (got.entropy - exact.entropy).abs().max() < 1e-5
    stored = TopK.from_logprobs(Dense.from_logits(logits).logprobs.to(dtype), k=50)
    assert measure(stored).entropy.dtype == torch.float32


@pytest.mark.parametrize("chunk_elements", [1, 13, 40, 2**20])
def test_chunks_equal_the_whole(chunk_elements):
    logits = random_logits(3, 4, 13)
    labels = torch.randint(-1, 13, (3, 4), generator=torch.Generator().manual_seed(1))
    labels[labels < 0] = -100
    options = {"labels": labels, "classes": torch.arange(13) % 3 - 1, "n_classes": 2}
    whole = measure(Dense.from_logits(logits), **options)
    same(measure_logits(logits, **options, chunk_elements=chunk_elements), whole, atol=0)


def test_measuring_no_rows():
    got = measure_logits(torch.zeros(0, 2, 5), labels=torch.zeros(0, 2, dtype=torch.long))
    assert got.entropy.shape == (0, 2)


def test_measuring_a_single_position():
    same(measure_logits(random_logits(5)), measure(Dense.from_logits(random_logits(5))))


def test_measuring_gives_no_gradient():
    assert not measure_logits(random_logits(2, 5).requires_grad_()).entropy.requires_grad


def test_stack_rows_and_to():
    one, two = (measure(Dense.from_logits(random_logits(4, 5, seed=s))) for s in (0, 1))
    both = Statistics.stack([one, two])
    assert both.entropy.shape == (2, 4)
    assert both.class_mass.shape == (2, 4, 0)
    assert torch.equal(both.rows(slice(1, 2)).entropy[0], two.entropy)
    assert both.to(torch.float32).gini.dtype == torch.float32


@pytest.mark.parametrize("kind", ["dense", "all stored"])
def test_masses_of_large_classes_keep_their_digits(kind):
    # Added one by one in float32, a million equal shares are a per cent off.
    n = 10**6
    classes = torch.arange(n) % 3 - 1
    dense = Dense.from_logits(torch.zeros(2, n))
    one = dense if kind == "dense" else TopK.from_logprobs(dense.logprobs, k=n)
    mass = measure(one, classes=classes, n_classes=2).class_mass
    exact = torch.stack([(classes == c).sum() for c in range(2)]).double() / n
    # The rounding of ln n alone is 5e-7.
    torch.testing.assert_close(mass.double(), exact.expand(2, 2), rtol=1e-6, atol=0)


def test_masses_of_many_rows_are_those_of_each():
    logits, classes = random_logits(300, 5, 400), torch.arange(400) % 7 - 1
    whole = measure(Dense.from_logits(logits), classes=classes, n_classes=6).class_mass
    expected = torch.stack([torch.softmax(logits, -1)[..., classes == c].sum(-1) for c in range(6)], -1)
    torch.testing.assert_close(whole, expected, rtol=1e-13, atol=0)
