"""The loss over lists where everything or nothing is stored, and at numbers that underflow or mask."""

import math
from dataclasses import replace

import pytest
import torch
from losses.captured import COVERED, Case, agree, build

from mashbill.distributions import Dense, TopK
from mashbill.losses import distillation_loss, topk
from mashbill.losses.objective import Objective
from mashbill.numerics import LOG_ZERO


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_everything_stored(divergence, tail, temperature):
    case = build(n_entries=6, sizes=(6, 6), drop=0)
    options = {"divergence": divergence, "tail": tail, "temperature": temperature}
    agree(case.lists(**options), case.loss("reference", **options))
    dense = [Dense(one.densify().unsqueeze(0)) for one in case.teachers]
    loss = distillation_loss(
        case.logits.unsqueeze(0),
        dense,
        case.log_weights.unsqueeze(1),
        mask=torch.ones(1, 7, dtype=torch.bool),
        impl="reference",
        **options,
    )
    torch.testing.assert_close(case.lists(**options)[0], loss.divergence[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_a_teacher_that_stored_nothing(divergence, tail, temperature):
    case = build()
    empty = TopK(torch.full((7, 2), -1), torch.full((7, 2), LOG_ZERO).double(), torch.zeros(7).double(), 29)
    none = TopK(torch.zeros(7, 0).long(), torch.zeros(7, 0).double(), torch.zeros(7).double(), 29)
    options = {"divergence": divergence, "tail": tail, "temperature": temperature, "cross_entropy": 0.2}
    for silent in (empty, none):
        some = replace(case, teachers=(case.teachers[0], silent, case.teachers[2]))
        agree(some.lists(**options), some.loss("reference", **options))
        alone = replace(case, teachers=(silent,), log_weights=torch.zeros(1, 7).double())
        agree(alone.loss("chunked", **options), alone.loss("reference", **options))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("where", ["on the lists", "off the lists", "everywhere off the lists", "on all of one list"])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_masked_logits(divergence, tail, where, temperature):
    case = build()
    logits = case.logits.clone()
    stored = torch.zeros_like(logits, dtype=torch.bool)
    for one in case.teachers:
        stored |= torch.zeros_like(stored).scatter(-1, one.ids.clamp_min(0), one.ids >= 0)
    odd = torch.arange(29) % 2 == 1
    masked = {
        "on the lists": stored & odd,
        "off the lists": ~stored & odd,
        "everywhere off the lists": ~stored,
        "on all of one list": torch.zeros_like(stored).scatter(
            -1, case.teachers[0].ids.clamp_min(0), case.teachers[0].ids >= 0
        ),
    }[where]
    case = replace(case, logits=logits.masked_fill(masked, -torch.inf))
    options = {"divergence": divergence, "tail": tail, "temperature": temperature, "cross_entropy": 0.2}
    agree(case.loss("chunked", **options), case.loss("reference", **options))


@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_a_teacher_without_weight_has_no_say(divergence, tail):
    case = build()
    # It alone stored what has all the student's mass, so that its tail would have no shape.
    by_others = torch.zeros_like(case.logits)
    for one in case.teachers[::2]:
        by_others.scatter_(-1, one.ids.clamp_min(0), 1.0)
    ids = by_others.argsort(dim=-1)[:, :3]
    logits = case.logits.scatter(-1, ids, 2000.0)
    weights = case.log_weights.clone()
    weights[1] = -torch.inf
    options = {"divergence": divergence, "tail": tail}
    without = replace(case, logits=logits, teachers=case.teachers[::2], log_weights=weights[::2])
    for its_ids in (ids, torch.full_like(ids, -1)):
        silenced = (case.teachers[0], replace(case.teachers[1], ids=its_ids), case.teachers[2])
        off = replace(case, logits=logits, teachers=silenced, log_weights=weights)
        agree(off.lists(**options), without.lists(**options), tolerance=1e-13)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_a_small_tail_keeps_its_digits(temperature):
    # The lists hold all but e^-60 of the student and of the teachers: 1 minus what is kept would be 0, or noise.
    case = build(n_rows=5, n_entries=40, sizes=(4, 4), drop=0)
    logits = case.logits.clone()
    for one in case.teachers:
        logits.scatter_(-1, one.ids, 62.0)
    teachers = tuple(replace(one, log_tail=one.log_tail - 60) for one in case.teachers)
    case = replace(case, logits=logits, teachers=teachers, labels=None).to(torch.float32)
    _, _, gradient = case.lists(temperature=temperature)
    _, _, exact = case.to(torch.float64).loss("reference", temperature=temperature)
    assert exact.abs().amin() < 1e-25 or temperature > 1
    torch.testing.assert_close(gradient.double(), exact, rtol=2e-5, atol=1e-37)


def test_rows_of_a_hard_kind_come_back_whole():
    case = build(n_rows=4, drop=0)
    logits = case.logits.clone()
    # The student leaves nothing outside row 2's list, and row 3 has no list.
    logits[2, case.teachers[0].ids[2]] += 2000.0
    only = replace(case.teachers[0], ids=torch.stack([*case.teachers[0].ids[:3], torch.full((5,), -1)]))
    before = logits.clone()
    done = topk.chunk(logits, [only], torch.zeros(1, 4).double(), None, objective=Objective(), out=logits)
    assert done.hard.tolist() == [2, 3]
    assert torch.equal(done.logits, before[2:])


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("depth", [20.0, 60.0, 90.0, 300.0, 800.0])
@pytest.mark.parametrize("sizes", [(5,), (5, 3, 5)])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_a_student_that_leaves_nothing_to_shape_a_tail(divergence, tail, sizes, depth, temperature):
    # exp(-depth / T) and less lies outside the lists: far below float32, and below float64.
    case = build(sizes=sizes, drop=0)
    logits = case.logits.clone()
    for one in case.teachers:
        logits.scatter_(-1, one.ids, case.logits.gather(-1, one.ids) + depth)
    case = replace(case, logits=logits)
    options = {"divergence": divergence, "tail": tail, "temperature": temperature}
    agree(case.loss("chunked", **options), case.loss("reference", **options), tolerance=1e-11)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_nothing_but_a_list(divergence, tail, temperature):
    # No tail, while the student has mass off the lists: the pool is 0 there, at the floor.
    case = build(drop=0)
    bare = tuple(
        TopK(one.ids, torch.log_softmax(one.logprobs, -1), torch.full_like(one.log_tail, LOG_ZERO), one.n_entries)
        for one in case.teachers
    )
    options = {"divergence": divergence, "tail": tail, "temperature": temperature}
    case = replace(case, teachers=bare)
    agree(case.loss("chunked", **options), case.loss("reference", **options))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("nats", [-90.0, -800.0, -9e3, LOG_ZERO])
@pytest.mark.parametrize(("divergence", "tail"), COVERED)
def test_stored_entries_of_nearly_no_mass(divergence, tail, nats, temperature):
    # One entry that all teachers stored, and think impossible, has most of the student's mass.
    case = build(drop=0)
    ids = [one.ids.clone() for one in case.teachers]
    for each in ids:
        each[:, -1] = 28
        each[:, :-1] = each[:, :-1].masked_fill(each[:, :-1] == 28, -1)
    logits = case.logits.clone()
    logits[:, 28] = 12.0
    teachers = []
    for one, each in zip(case.teachers, ids, strict=True):
        values = one.logprobs.masked_fill(each < 0, LOG_ZERO)
        values[:, -1] = nats
        teachers.append(replace(one, ids=each, logprobs=values))
    case = replace(case, logits=logits, teachers=tuple(teachers))
    options = {"divergence": divergence, "tail": tail, "temperature": temperature}
    agree(case.loss("chunked", **options), case.loss("reference", **options))


def test_a_sum_over_a_large_vocabulary_keeps_its_digits():
    case = build(n_rows=4, n_entries=151_936, sizes=(8,)).to(torch.float32)
    value, _, gradient = case.lists()
    truth, _, exact = case.to(torch.float64).loss("reference")
    torch.testing.assert_close(value.double(), truth, rtol=3e-7, atol=0)
    assert (gradient - exact).norm() <= 3e-7 * exact.norm()


def of_lists(*teachers, logits, dtype=torch.float64):
    """Return one row with evenly weighted teachers, each (ids, log-probabilities, log-tail)."""
    n = len(teachers)
    return Case(
        torch.tensor([logits], dtype=torch.float64),
        tuple(
            TopK(torch.tensor([ids]), torch.tensor([said]).double(), torch.tensor([tail]).double(), len(logits))
            for ids, said, tail in teachers
        ),
        torch.full((n, 1), -math.log(n), dtype=torch.float64),
        None,
    ).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("options", [{"divergence": "reverse_kl"}, {"divergence": "alpha", "alpha": 1e-3}])
@pytest.mark.parametrize("others", [LOG_ZERO, math.log(0.1)])
def test_zeros_of_one_list_that_only_a_tail_of_another_reaches(others, options, dtype):
    # At T = 0.1 a tail of e^-80 is e^-800: no zero, which would lie at e^-10000, but 0 in float64.
    sure = ([0], [0.0], -80.0)
    wide = ([0, 1], [math.log1p(-math.exp(others)), LOG_ZERO], others)
    case = of_lists(wide, sure, logits=[0.0, 0.3, 0.0, 0.0, 0.0], dtype=dtype)
    if others == LOG_ZERO:
        case = of_lists(([0, 1, 2], [0.0, LOG_ZERO, LOG_ZERO], LOG_ZERO), sure, logits=[0.0] * 3, dtype=dtype)
    exact = case.to(torch.float64).loss("reference", temperature=0.1, **options)
    found = case.loss("chunked", temperature=0.1, **options)
    if options == {"divergence": "reverse_kl"}:
        # Off the sure entry the pool has (e^-80 / 2)^10 / 2, or that and the wide tail's, each times its shape.
        assert found[0].item() == pytest.approx(537.318 if others == LOG_ZERO else 680.988, abs=1e-3)
    agree(found, exact, tolerance=1e-12 if dtype == torch.float64 else 2e-6)


def test_even_shares_of_a_sharpened_tail_underflow_before_the_tail_does():
    # The tail is e^-400 at T = 0.025, an entry of it the 40 000th part of the student to the power of 40.
    logits = torch.zeros(40_000).tolist()
    case = of_lists(([0, 1], [0.0, LOG_ZERO], LOG_ZERO), ([0], [0.0], -10.0), logits=logits)
    options = {"divergence": "reverse_kl", "temperature": 0.025}
    agree(case.loss("chunked", **options), case.loss("reference", **options), tolerance=1e-11)


@pytest.mark.parametrize(("nats", "is_hard"), [(490.0, False), (510.0, True)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_lists_alone_go_down_to_e_to_the_minus_500(temperature, nats, is_hard):
    # A stored entry, a tail that alone fills another's zero, and a student's mass outside.
    half, sharp = math.log(0.5), min(1.0, temperature)
    stored = of_lists(([0, 1], [half, -nats * temperature], half), logits=[1.0, 0.0, 0.5])
    tail = of_lists(
        ([0, 1], [0.0, LOG_ZERO], LOG_ZERO), ([0, 2], [half, half], -nats * temperature), logits=[1.0, 0.0, 0.5]
    )
    shape = of_lists(([0], [half], half), logits=[0.0, -nats * sharp])
    for case in (stored, tail, shape):
        case.lists(divergence="reverse_kl", temperature=temperature, expect_hard=is_hard)
        options = {"divergence": "reverse_kl", "temperature": temperature}
        agree(case.loss("chunked", **options), case.loss("reference", **options), tolerance=1e-11)
