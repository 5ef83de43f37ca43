"""Statistics from the exponentials of the mixture, against the plain ones of the same numbers in float64."""

import math
from dataclasses import fields, replace

import pytest
import torch

from mashbill.distributions import Dense, Logits, Statistics, TopK, measure
from mashbill.losses import distillation_loss
from mashbill.losses.asking import Asked
from mashbill.losses.teacher import Reader
from mashbill.losses.weighing import Weighing
from mashbill.weights import EntropySoftmax, Evidence, InverseVariance, between, product

SIZES = [1, 2, 3, 511, 767, 768, 1024, 5003]
N_ROWS, N_TEACHERS = 5, 3


def rule(statistics, places):
    return torch.full_like(statistics.entropy, -math.log(len(statistics.entropy)))


def numbers(n_entries, *, size=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n_entries)
    each = [size * torch.randn(N_ROWS, n_entries, generator=generator) for _ in range(N_TEACHERS)]
    labels = torch.randint(n_entries, (N_ROWS,), generator=generator)
    labels[0] = -100
    return [one.to(dtype) for one in each], labels, torch.arange(n_entries) % 4 - 1


def read(each, labels, classes, *, temperature=1.0, keep=True, weighing=None):
    """Return what is found of teachers: statistics, and probabilities that were kept."""
    wide = torch.float64 if each[0].values.dtype == torch.float64 else torch.float32
    n_kept = sum(isinstance(one, Logits) for one in each) * keep
    buffers = torch.full((2 + n_kept, N_ROWS, each[0].n_entries), torch.nan, dtype=wide)
    weighing = weighing or Weighing(None, Asked(rule), classes=classes, n_classes=3)
    return Reader(weighing, labels, temperature, buffers[:2]).teachers(each, kept=buffers[2:])


def true(each, labels, classes):
    found = [measure(Dense.from_logits(one.double()), labels=labels, classes=classes, n_classes=3) for one in each]
    return Statistics.stack(found)


def agree(found, truth, *, dtype=torch.float64):
    tolerance = {"rtol": 1e-11, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-6, "atol": 3e-6}
    for field in fields(Statistics):
        one, two = getattr(found, field.name), getattr(truth, field.name)
        torch.testing.assert_close(one.double(), two, equal_nan=True, **tolerance)


@pytest.mark.parametrize("n_entries", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_field_and_every_probability_at_odd_sizes(n_entries, dtype):
    for size in (1.0, 30.0):
        said, labels, classes = numbers(n_entries, size=size, dtype=dtype)
        for temperature, keep in ((1.0, True), (1.0, False), (2.0, True), (2.0, False)):
            found, softened = read([Logits(one) for one in said], labels, classes, temperature=temperature, keep=keep)
            agree(found, true(said, labels, classes), dtype=dtype)
            assert list(softened) == list(range(N_TEACHERS)) * keep
            for k, one in softened.items():
                expected = torch.softmax(said[k].double() / temperature, dim=-1)
                torch.testing.assert_close((one.probs / one.total).double(), expected, rtol=1e-5, atol=1e-8)


def test_ties_and_margins_within_blocks_between_them_and_after_the_last():
    said, labels, classes = numbers(5003)
    for first, second in ((3, 4), (3, 700), (700, 3), (5002, 3), (3, 5002), (5001, 5002)):
        for gap in (0.0, 0.25):
            for one in said:
                one[:, first], one[:, second] = 40, 40 - gap
            found, _ = read([Logits(one) for one in said], labels, classes)
            agree(found, true(said, labels, classes))
            assert gap > 0 or (found.margin == 0).all()
            for one in said:
                one[:, first] = one[:, second] = 0


def test_entries_without_mass_and_rows_without_a_distribution():
    said, labels, classes = numbers(1300)
    said[0][:, 600:] = said[1][:, :-1] = -torch.inf
    labels[1] = 650
    agree(read([Logits(one) for one in said], labels, classes)[0], true(said, labels, classes))
    said[0][1, 5], said[1][2], said[2][3, 7] = torch.nan, -torch.inf, torch.inf
    found, _ = read([Logits(one) for one in said], labels, classes)
    agree(found, true(said, labels, classes))
    assert found.entropy.isnan().sum() == 3


def test_lists_among_the_dense_keep_their_places():
    said, labels, classes = numbers(61)
    stored = TopK.from_logprobs(Dense.from_logits(said[1]).logprobs, k=61)
    found, softened = read([Logits(said[0]), stored, Logits(said[2])], labels, classes)
    agree(found, true(said, labels, classes))
    assert list(softened) == [0, 2]


def test_what_a_rule_does_not_read_is_not_measured():
    said, labels, classes = numbers(61)

    def entropies(statistics, places):
        return rule(statistics, places)

    entropies.reads = frozenset({"entropy"})
    weighing = Weighing(None, Asked(entropies), classes, 3)
    found, _ = read([Logits(one) for one in said], labels, classes, weighing=weighing)
    assert found.gini.isnan().all()
    assert found.margin.isnan().all()
    truth = true(said, labels, classes)
    agree(replace(found, gini=truth.gini, margin=truth.margin), truth)


def undeclared(evidence):
    return torch.log_softmax(evidence.statistics.margin + evidence.statistics.entropy, dim=0)


undeclared.needs = frozenset({"entropy"})


def silent(evidence):
    return undeclared(evidence)


def test_operators_tell_what_they_read_and_those_that_tell_wrong_get_everything():
    mask = torch.ones(1, N_ROWS, dtype=torch.bool)
    unread = Evidence.unread(tuple("abc"), mask, n_entries=61)
    assert between(EntropySoftmax(), unread).reads == {"entropy"}
    assert between(InverseVariance(), unread).reads == {"gini"}
    assert between(product(token=EntropySoftmax()), unread).reads == {"entropy"}
    assert between(undeclared, unread).reads is None
    assert between(silent, unread).reads is None


@pytest.mark.parametrize("operator", [EntropySoftmax(), InverseVariance(), undeclared, silent])
def test_operators_give_the_weights_of_statistics_measured_apart(operator):
    said, _, _ = numbers(900)
    teachers, mask = [Logits(one.unsqueeze(0)) for one in said], torch.ones(1, N_ROWS, dtype=torch.bool)
    weigh = between(operator, Evidence.unread(tuple("abc"), mask, n_entries=900))
    apart = Statistics.stack([measure(Dense.from_logits(one.values)) for one in teachers])
    expected = operator(Evidence.plain(tuple("abc"), apart, n_entries=900))
    student = torch.zeros(1, N_ROWS, 900, dtype=torch.float64)
    found, given = (distillation_loss(student, teachers, one, mask=mask, impl="chunked") for one in (weigh, expected))
    torch.testing.assert_close(found.divergence, given.divergence, rtol=1e-11, atol=1e-13)


def test_memory_does_not_grow_with_the_teachers(peak_mib):
    n_positions, n_entries, n_teachers = 64, 50_000, 12
    logits = torch.zeros(1, n_positions, n_entries).requires_grad_()
    teachers, mask = [Logits(logits.detach())] * n_teachers, torch.ones(1, n_positions, dtype=torch.bool)
    leaf = logits * 1

    def run():
        distillation_loss(leaf, teachers, rule, mask=mask, impl="chunked", in_place=True)

    run()
    # A chunk is a MiB: four to work in, four to keep teachers in, and what is freed at once.
    assert max(peak_mib(run) for _ in range(3)) <= 14
