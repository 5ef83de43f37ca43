"""What the compiled loops measure on the way, against the statistics of the same numbers in float64."""

from dataclasses import fields

import pytest
import torch

from mashbill.distributions import Dense, Logits, Statistics, measure
from mashbill.losses import distillation_loss

pytestmark = pytest.mark.usefixtures("mixed")
N_TEACHERS = 3


def seen(student, teachers, *, labels=None, classes=None, mask=None, kind=Logits, **options):
    """Return the statistics that the compiled loops saw: teachers' and student's."""
    mask = torch.ones(student.shape[:2], dtype=torch.bool) if mask is None else mask
    weights = torch.full((len(teachers), 1, 1), 1 / len(teachers)).log().expand(-1, len(student), 1)
    options |= {"labels": labels, "classes": classes, "mask": mask}
    said = [kind(one) for one in teachers]
    loss = distillation_loss(student, said, weights, impl="native", look=True, **options)
    return loss.seen.teachers, loss.seen.student


def true(scores, *, labels=None, classes=None):
    n_classes = 0 if classes is None else max(0, int(classes.max()) + 1)
    return measure(Dense.from_logits(scores.double()), labels=labels, classes=classes, n_classes=n_classes)


def named(name):
    return lambda message: f"{name}: {message}"


def agree(found: Statistics, truth: Statistics):
    for field in fields(Statistics):
        one, two = getattr(found, field.name), getattr(truth, field.name)
        assert one.dtype == torch.float32
        # Rounding near an entropy of 0 is that of the sums it is a difference of, the rougher the shorter the vectors.
        torch.testing.assert_close(one.double(), two, rtol=1e-6, atol=3e-6, equal_nan=True, msg=named(field.name))


def numbers(n_entries, *, dtype=torch.float32, size=3.0, seed=0, n_positions=6):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, n_positions, n_entries)
    student, *teachers = ((size * torch.randn(*shape, generator=generator)).to(dtype) for _ in range(1 + N_TEACHERS))
    labels = torch.randint(0, n_entries, shape[:2], generator=generator)
    labels[0, ::3] = -100
    return student, teachers, labels


def check(student, teachers, labels, classes=None, **options):
    of_teachers, own = seen(student, teachers, labels=labels, classes=classes, **options)
    agree(own, true(student, labels=labels, classes=classes))
    truth = Statistics.stack([true(one, labels=labels, classes=classes) for one in teachers])
    agree(of_teachers, truth)


@pytest.mark.parametrize("n_entries", [1, 2, 3, 511, 512, 513, 1024, 1300, 5003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_field_at_odd_sizes(n_entries, dtype):
    student, teachers, labels = numbers(n_entries, dtype=dtype)
    classes = torch.arange(n_entries) % 5 - 1
    for size in (1.0, 30.0):
        check(student * size, [one * size for one in teachers], labels, classes)
    check(student, teachers, None)


@pytest.mark.parametrize("temperature", [0.1, 20.0])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "js"])
def test_they_are_those_at_temperature_1_whatever_the_loss(temperature, divergence):
    student, teachers, labels = numbers(1300)
    classes = torch.arange(1300) % 3 - 1
    options = {"temperature": temperature, "divergence": divergence, "cross_entropy": 0.3}
    check(student, teachers, labels, classes, **options)


def test_log_probabilities_are_normalised_again():
    student, teachers, labels = numbers(700)
    shifted = [Dense.from_logits(one).logprobs + 0.25 for one in teachers]
    check(student, shifted, labels, kind=Dense)


@pytest.mark.parametrize("n_entries", [2, 40, 1300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_tie_at_the_top_is_a_margin_of_exactly_0(n_entries, dtype):
    student, teachers, labels = numbers(n_entries, dtype=dtype)
    for k, one in enumerate((student, *teachers)):
        # In one block, in two, and between all entries.
        one[..., 0] = one[..., -1 if k else 1] = 40
    teachers[2][:] = 7
    of_teachers, own = seen(student, teachers, labels=labels)
    assert (own.margin == 0).all()
    assert (of_teachers.margin == 0).all()
    check(student, teachers, labels)


@pytest.mark.parametrize("gap", [2**-10, 0.5, 30.0])
def test_margins_of_one_and_of_two_blocks(gap):
    student, teachers, labels = numbers(1300)
    for k, one in enumerate((student, *teachers)):
        one[..., 3] = 32
        one[..., (4, 700, 1299, 511)[k]] = 32 - gap
    check(student, teachers, labels)


@pytest.mark.parametrize("entries", [slice(512, 1024), slice(1, None), slice(0, 1299), slice(600, 700)])
def test_masked_entries_have_no_mass_and_labels_there_the_floor(entries):
    student, teachers, _ = numbers(1300)
    labels = torch.tensor([[0, 600, 1299, -100, 650, 1]])
    for one in (student, *teachers):
        one[..., entries] = -torch.inf
    check(student, teachers, labels, torch.arange(1300) // 650)


def test_logits_far_apart_and_far_from_0():
    student, teachers, labels = numbers(1300, size=1.0)
    signs = torch.where(torch.arange(1300) % 3 == 0, 1e4, -1e4)
    # What the logits themselves were rounded to is what counts.
    check(student + signs, [one - signs for one in teachers], labels)
    check(student + 1e4, [one - 1e4 for one in teachers], labels)


def test_near_certainty_keeps_what_little_is_left():
    student, teachers, labels = numbers(1300)
    for one in (student, *teachers):
        one[..., 77] += 25
    check(student, teachers, labels)


@pytest.mark.parametrize("classes", [torch.full((700,), -1), torch.zeros(700), torch.arange(700) % 300])
def test_classes_none_one_and_many(classes):
    student, teachers, labels = numbers(700)
    check(student, teachers, labels, classes.long())
    found = seen(student, teachers, classes=classes.to(torch.int16))[0].class_mass
    assert found.shape == (N_TEACHERS, 1, 6, int(classes.max()) + 1)


def at(statistics: Statistics, index) -> dict[str, torch.Tensor]:
    """Return every field at some positions of the only sequence."""
    each = {field.name: getattr(statistics, field.name) for field in fields(Statistics)}
    return {name: one[..., index, :] if name == "class_mass" else one[..., index] for name, one in each.items()}


@pytest.mark.parametrize("what", [torch.nan, torch.inf, None])
def test_a_row_without_a_distribution_has_nan_in_every_field(what):
    student, teachers, labels = numbers(1300)
    labels[0, 2], classes = 5, torch.arange(1300) % 2
    clean = seen(student, teachers, labels=labels, classes=classes)
    for one in (student, teachers[1]):
        one[0, 2, slice(None) if what is None else 600] = -torch.inf if what is None else what
    of_teachers, own = seen(student, teachers, labels=labels, classes=classes)
    for name, value in at(own, 2).items():
        assert value.isnan().all(), name
        assert at(of_teachers, 2)[name][1].isnan().all(), name
    for now, before in zip((of_teachers, own), clean, strict=True):
        torch.testing.assert_close(
            at(now, [0, 1, 3, 4, 5]), at(before, [0, 1, 3, 4, 5]), rtol=0, atol=0, equal_nan=True
        )


def test_masked_positions_are_0_and_the_others_as_without_a_mask():
    student, teachers, labels = numbers(300, n_positions=9)
    mask = torch.tensor([True, False, True, True, False, False, True, True, False])
    options = {"labels": labels, "classes": torch.arange(300) % 2}
    every = seen(student, teachers, **options)
    for one in (student, *teachers):
        one[0, ~mask] = torch.nan
    for found, full in zip(seen(student, teachers, mask=mask.unsqueeze(0), **options), every, strict=True):
        torch.testing.assert_close(at(found, mask), at(full, mask), rtol=0, atol=0, equal_nan=True)
        assert all((value == 0).all() for value in at(found, ~mask).values())
