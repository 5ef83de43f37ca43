"""The compiled loops on rows that are masked, far apart, underflowing, or no distribution at all."""

import math
from dataclasses import replace

import pytest
import torch
from losses.native_agreement import agree

from mashbill.distributions import Logits

pytestmark = pytest.mark.usefixtures("mixed")


@pytest.mark.parametrize("who", ["student", "teachers", "all"])
@pytest.mark.parametrize("entries", [slice(512, 1024), slice(0, 512), slice(1024, None), slice(1, None), slice(7, 8)])
def test_masked_blocks(problem, who, entries):
    case = problem(kind="logits", shape=(1, 5, 1300), n_teachers=2, dtype=torch.float32)
    labels = torch.tensor([[0, 7, 600, 1299, -100]])
    logits, said = case.logits.clone(), [one.values.clone() for one in case.teachers]
    for one in said if who == "teachers" else [logits] if who == "student" else [logits, *said]:
        one[..., entries] = -torch.inf
    mask = torch.ones_like(case.mask)
    masked = replace(case, logits=logits, teachers=tuple(Logits(one) for one in said), mask=mask, labels=labels)
    for divergence in ("forward_kl", "reverse_kl", "js"):
        for temperature in (0.1, 1.0, 20.0):
            options = {"divergence": divergence, "temperature": temperature, "cross_entropy": 0.3}
            _, gradient = agree(masked, **options)
            assert who == "teachers" or (gradient[..., entries] == 0).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
def test_blocks_far_apart(problem, temperature):
    # Each block has a peak of its own: what it is below the row's may be anything, up to nothing being left of it.
    case = problem(kind="logits", shape=(1, 6, 2100), dtype=torch.float32)
    steps = torch.tensor([0.0, -30.0, 60.0, -200.0, 1e4]).repeat_interleave(512)[:2100]
    for turn, divergence in enumerate(("forward_kl", "reverse_kl", "js")):
        teachers = tuple(Logits(one.values + steps.roll(512 * (turn + k))) for k, one in enumerate(case.teachers))
        agree(
            replace(case, logits=case.logits + steps, teachers=teachers), divergence=divergence, temperature=temperature
        )


@pytest.mark.parametrize("n_teachers", [1, 7])
def test_a_pool_as_faint_as_float32_gets(problem, mixed, n_teachers):
    # From e^-65 to e^-130 under all the student's mass: first in the loops, then in log space, never wrong between,
    # where float32 still holds what some teachers give and no longer what others do.
    depth = torch.arange(65.0, 130.0, 0.25)
    shape = (1, len(depth), 700)
    case = problem(kind="logits", shape=shape, n_teachers=n_teachers, spread=1.0, dtype=torch.float32)
    logits, teachers = case.logits.clone(), [one.values.clone() for one in case.teachers]
    logits[..., 5] += 30
    for one in teachers:
        one[..., 9] = 20  # sure of another entry
        one[..., 5] = (20 - depth) + one[..., 5]
    said, mask = tuple(Logits(one) for one in teachers), torch.ones_like(case.mask)
    agree(replace(case, logits=logits, teachers=said, mask=mask), divergence="reverse_kl", labels=None, rtol=1e-6)
    assert 0 < mixed.n_left < mixed.n


def test_a_student_with_hardly_any_mass_where_the_pool_has_none(problem, mixed):
    # Each e^-x of it costs 10000 nats.
    depth = torch.arange(0.0, 80.0)
    case = problem(kind="logits", shape=(1, len(depth), 700), spread=1.0, dtype=torch.float32)
    case.logits[..., 5] -= depth
    for one in case.teachers:
        one.values[..., 5] = -torch.inf
    every = replace(case, mask=torch.ones_like(case.mask))
    loss, _ = agree(every, divergence="reverse_kl", labels=None)
    assert loss.divergence.max() > 5
    assert 0 < mixed.n_left < mixed.n


@pytest.mark.parametrize("who", ["student", "teacher", "teacher without weight"])
@pytest.mark.parametrize("what", ["nan", "inf", "-inf everywhere", "nan in a masked block"])
def test_a_row_that_has_no_distribution_is_nan_and_no_other(problem, who, what):
    case = problem(kind="logits", shape=(1, 4, 1300), n_teachers=2, dtype=torch.float32)
    case = replace(case, mask=torch.ones_like(case.mask), labels=torch.tensor([[3, 7, 5, 600]]))
    logits, said = case.logits.clone(), [one.values.clone() for one in case.teachers]
    spoilt = logits if who == "student" else said[0]
    if "everywhere" in what or "block" in what:
        spoilt[0, 2, 512:1024] = -torch.inf
    if "everywhere" in what:
        spoilt[0, 2] = -torch.inf
    else:
        spoilt[0, 2, 600] = torch.inf if what == "inf" else torch.nan
    if "without" in who:
        case = replace(case, log_weights=torch.tensor([-math.inf, 0.0]).view(2, 1, 1).expand(2, 1, 4))
    bad = replace(case, logits=logits, teachers=tuple(Logits(one) for one in said))
    for divergence in ("forward_kl", "reverse_kl", "js"):
        for temperature in (1.0, 2.0):
            options = {"divergence": divergence, "temperature": temperature, "cross_entropy": 0.3, "impl": "native"}
            (loss, gradient), (clean, expected) = bad.solve(**options), case.solve(**options)
            assert loss.divergence.isnan().tolist() == [[False, False, True, False]]
            assert loss.cross_entropy.isnan().tolist() == [[False, False, who == "student", False]]
            assert gradient[0, 2].isnan().all()
            others = [0, 1, 3]
            assert torch.equal(loss.divergence[0, others], clean.divergence[0, others])
            assert torch.equal(gradient[0, others], expected[0, others])
