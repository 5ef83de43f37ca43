import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from teachers.store.worlds import CLASSES, V, answered, inputs, plan_of, truth

from mashbill import numerics
from mashbill.distributions import Dense, Statistics, TopK, measure
from mashbill.errors import CorruptionError, TeacherError
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.capturing import expected_bytes
from mashbill.teachers.store.columns import Answered, decode, encode
from mashbill.teachers.store.files import read_shard, write_shard
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.plan import Plan, cut


def round_trip(given, layout):
    return decode(encode(given, layout, {}), layout, where="here")


@pytest.mark.parametrize("unit", [2.0**-11, 2.0**-6])
def test_what_comes_back_is_what_went_in_up_to_the_bound(unit):
    asked = inputs()
    given, layout = answered(asked, range(10)), Layout(V, unit=unit, classes=CLASSES)
    found = round_trip(given, layout)
    assert found.row_ids == given.row_ids
    assert found.content == given.content
    assert np.array_equal(found.positions, given.positions)
    assert all(np.array_equal(a, b) for a, b in zip(found.tokens, given.tokens, strict=True))
    a, b = found.scored.distribution, given.scored.distribution
    assert torch.equal(a.ids, b.ids.long())
    assert (a.logprobs - b.logprobs).abs().max() <= layout.error_bound + 1e-6
    assert (a.logprobs - b.logprobs).abs().max() > layout.error_bound / 4  # it is no looser than needed
    total = torch.cat([a.logprobs, a.log_tail.unsqueeze(-1)], -1).double().logsumexp(-1)
    assert total.abs().max() < 1e-6
    for name in ("entropy", "gini", "margin", "max_logprob", "class_mass", "entropy_low"):
        assert torch.equal(getattr(found.scored.statistics, name), getattr(given.scored.statistics, name)), name
    assert torch.allclose(found.scored.statistics.label_logprob, given.scored.statistics.label_logprob, equal_nan=True)


def test_a_mass_keeps_the_fewest_entries_that_hold_it():
    asked = inputs()
    found = round_trip(answered(asked, range(10)), Layout(V, mass=0.8, classes=CLASSES)).scored.distribution
    dense = truth(asked).logprobs[asked.mask].exp().sort(descending=True).values
    wanted = (dense.cumsum(-1) < 0.8).sum(-1) + 1
    assert torch.equal(found.n_used, wanted.clamp_max(64))
    assert wanted.min() < wanted.max() <= 64
    kept = torch.stack([row[:n].sum() for row, n in zip(dense, wanted.tolist(), strict=True)])
    assert torch.allclose(1 - found.log_tail.exp(), kept, atol=2e-3)


def test_fewer_entries_are_kept_than_were_given():
    asked = inputs()
    found = round_trip(answered(asked, range(10)), Layout(V, k=5, classes=CLASSES)).scored.distribution
    wanted = TopK.from_logprobs(truth(asked).logprobs[asked.mask], k=5)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.allclose(found.log_tail, wanted.log_tail, atol=1e-3)


def test_every_value_is_covered_by_its_row_s_digest():
    layout = Layout(V, classes=CLASSES)
    table = encode(answered(inputs(), range(10)), layout, {})
    for name in table.column_names:
        if name == "digest":
            continue
        other = encode(answered(inputs(seed=1), range(10)), layout, {})
        swapped = table.set_column(table.column_names.index(name), table.schema.field(name), other[name])
        if swapped[name].equals(table[name]):
            continue
        with pytest.raises((CorruptionError, IndexError, ValueError)):
            decode(swapped, layout, where="here")


def test_what_is_no_number_is_not_kept():
    given = answered(inputs(), range(10))
    given.scored.statistics.entropy[3] = torch.nan
    with pytest.raises(TeacherError, match=r"(?s)entropy is not finite.*row `row \d`, position \d"):
        encode(given, Layout(V, classes=CLASSES), {})


def listed(ids, probabilities, log_tail, n_entries=10):
    """Return answers to one row of one position."""
    logprobs = torch.tensor([probabilities], dtype=torch.float64).log().float()
    topk = TopK(torch.tensor([ids]), logprobs, torch.tensor([log_tail]), n_entries)
    given = answered(inputs(), [int(inputs().mask.any(1).nonzero()[0])], classes=())
    statistics = given.scored.statistics.rows(slice(0, 1))
    return replace(given, starts=np.array([0, 1]), positions=given.positions[:1], scored=Scored(topk, statistics))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (listed([4, 4, 9], [0.5, 0.3, 0.2], numerics.LOG_ZERO), "the id 4 stands there twice"),
        (listed([4, 5, 10], [0.5, 0.3, 0.2], numerics.LOG_ZERO), "the id 10 is none of 10"),
        (listed([4, -2, 9], [0.5, 0.3, 0.2], numerics.LOG_ZERO), "the id -2 is none of 10"),
        (listed([4, 5, 9], [0.5, 0.3, 0.192], numerics.LOG_ZERO), "sum to 0.992"),
        (listed([4, 5, 9], [0.5, 0.3, 0.2], math.log(2e-5)), "sum to 1.00002"),
        (listed([0, 1, 2], [0.5, 0.3, 0.2], math.log(0.1), n_entries=3), ""),
        (listed([0, 1, 2], [0.5, 0.3, 0.1], math.log(0.1), n_entries=3), "sum to 0.9"),
    ],
)
def test_lists_that_no_rounding_explains_are_not_kept(given, message):
    layout = Layout(given.scored.distribution.n_entries)
    if not message:  # where every entry is named, a tail has nobody to belong to
        assert round_trip(given, layout).scored.distribution.log_tail.tolist() == [numerics.LOG_ZERO]
        return
    with pytest.raises(TeacherError, match=rf"(?s){message}.*row `row \d`, position \d"):
        encode(given, layout, {})


@pytest.mark.parametrize("unit", [2.0**-20, 2.0**-11, 1.0])
@pytest.mark.parametrize("off", [-9e-6, 9e-6])
def test_the_bound_holds_for_all_that_is_accepted(unit, off):
    dense = numerics.log_softmax(torch.randn(3000, 40, generator=torch.Generator().manual_seed(0)).double() * 12)
    topk = TopK.from_logprobs(dense + off, k=16)
    statistics = measure(Dense(dense.float()))
    n = len(dense)
    given = Answered(
        ("r",), (b"\0" * 32,), (np.zeros(0, np.int32),), np.array([0, n]), np.arange(n), Scored(topk, statistics), ("",)
    )
    layout = Layout(40, k=16, unit=unit)
    found = round_trip(given, layout).scored.distribution
    error = (found.logprobs.double() - topk.logprobs).abs() - 1.2e-7 * topk.logprobs.abs()
    assert error.max() <= layout.error_bound


def test_what_32_bits_cannot_hold_joins_the_tail():
    given = listed([0, 1], [1 - 1e-7, 1e-300], numerics.LOG_ZERO)
    topk = given.scored.distribution
    given = replace(given, scored=replace(given.scored, distribution=replace(topk, logprobs=torch.tensor([[0, -3e3]]))))
    found = round_trip(given, Layout(10, unit=2.0**-20)).scored.distribution
    assert found.ids.tolist() == [[0]]
    assert found.logprobs.tolist() == [[0.0]]
    assert round_trip(given, Layout(10)).scored.distribution.logprobs.tolist() == [[0.0, -3000.0]]


def test_unused_slots_may_stand_anywhere_and_hold_anything():
    given = listed([3, 1, 2], [0.5, 0.3, 0.2], numerics.LOG_ZERO)
    other = listed([3, -1, 1, 2], [0.5, 0.9, 0.3, 0.2], numerics.LOG_ZERO)
    assert round_trip(other, Layout(10)).scored.distribution.logprobs.equal(
        round_trip(given, Layout(10)).scored.distribution.logprobs
    )


@pytest.mark.parametrize("options", [{"k": 0}, {"mass": 0.0}, {"mass": 1.5}, {"unit": 0.0}, {"unit": 2.0}])
def test_numbers_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Layout(V, **options)


@pytest.mark.parametrize("n_entries", [49_152, 151_936])
def test_an_entry_takes_four_and_a_half_bytes_at_most(tmp_path, n_entries):
    asked, generator = inputs(40, n_positions=12), torch.Generator().manual_seed(0)
    n = int(asked.mask.sum())
    # As steep as the distributions of language models are: the first entry has about a third of the mass.
    slope = torch.arange(1, n_entries + 1).log() * -1.2
    ids = torch.stack([torch.randperm(n_entries, generator=generator)[:64] for _ in range(n)])
    noise = torch.rand(n, n_entries, generator=generator) * 0.5
    logprobs = (slope + noise).log_softmax(-1).sort(descending=True).values
    rest = logprobs[:, 64:].logsumexp(-1)
    small = answered(asked, range(40), classes=())
    topk = TopK(ids, logprobs[:, :64], rest, n_entries)
    given = replace(small, scored=Scored(topk, small.scored.statistics))
    plan = plan_of(asked, at_most=10**6, layout=Layout(n_entries))
    note = write_shard(tmp_path, plan, plan.shards[0], given)
    assert note.n_kept == 64 * n
    assert 3 < note.encoded_bytes / note.n_kept <= min(4.5, plan.layout.entry_bytes(deepest=32) + 0.01)
    # With statistics, tokens, digests and what Parquet says about itself.
    assert note.n_bytes / note.n_kept <= 5.2
    found = read_shard(tmp_path, plan, plan.shards[0]).scored.distribution
    assert torch.equal(found.ids, ids)
    assert (found.logprobs - topk.logprobs).abs().max() <= plan.layout.error_bound + 1e-6


@pytest.mark.parametrize(
    ("n_entries", "deepest", "unit", "most"),
    [
        (2**17, 31.9, 2.0**-11, 4.5),
        (2**18, 15.9, 2.0**-11, 4.5),
        (151_936, 60.0, 2.0**-11, 4.8),
        (151_936, 20.0, 2.0**-20, 5.8),
    ],
)
def test_the_worst_lists_take_no_more_than_is_said(tmp_path, n_entries, deepest, unit, most):
    generator = torch.Generator().manual_seed(0)
    n, k = 3000, 64
    ids = torch.rand(n, n_entries // 64, generator=generator).topk(k, dim=1).indices * 64 + torch.randint(
        64, (n, k), generator=generator
    )
    logprobs = -torch.rand(n, k, generator=generator).double().sort(dim=1).values
    # Half of them leap at once to the far end, half creep there.
    logprobs[::2] = logprobs[::2] / 100 - 0.99
    logprobs[:, 0], logprobs[:, -1] = 0, -1
    logprobs = (logprobs * 0.85 * deepest).log_softmax(-1)
    assert -deepest <= logprobs.min() < -0.85 * deepest
    zeros = torch.zeros(n)
    statistics = Statistics(zeros, zeros, zeros, zeros, zeros, zeros, torch.zeros(n, 0))
    scored = Scored(TopK(ids, logprobs, torch.full((n,), numerics.LOG_ZERO), n_entries), statistics)
    given = Answered(("r",), (b"\0" * 32,), (np.zeros(0, np.int32),), np.array([0, n]), np.arange(n), scored, ("",))
    layout = Layout(n_entries, unit=unit)
    plan = Plan({"kind": "test"}, "v", layout, cut([n], ["r"], [b"\0" * 32], at_most=10**6))
    note = write_shard(tmp_path, plan, plan.shards[0], given)
    said = layout.entry_bytes(deepest=deepest)
    assert said - 0.5 < note.encoded_bytes / note.n_kept <= said + 0.005 <= most
    assert note.n_bytes <= expected_bytes(plan, n)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda topk: replace(topk, logprobs=topk.logprobs + torch.nan), "sum to nan"),
        (lambda topk: replace(topk, logprobs=topk.logprobs + 0.1), "sum to 1.1"),
        (lambda topk: replace(topk, log_tail=topk.log_tail * torch.inf), "sum to|not finite"),
        (lambda topk: replace(topk, n_entries=V + 1), "has 301 entries, but the plan says 300"),
    ],
)
def test_what_is_no_distribution_is_not_kept(tmp_path, change, message):
    asked = inputs()
    given, plan = answered(asked, range(10)), plan_of(asked, at_most=10**6)
    bad = replace(given, scored=replace(given.scored, distribution=change(given.scored.distribution)))
    with pytest.raises((TeacherError, ValueError), match=message):
        write_shard(tmp_path, plan, plan.shards[0], bad)
    assert not list(tmp_path.rglob("*"))


def test_answers_to_other_rows_are_not_kept(tmp_path):
    asked = inputs()
    plan = plan_of(inputs(seed=1), at_most=10**6)
    with pytest.raises(ValueError, match="not the 10 rows of shard 000000"):
        write_shard(tmp_path, plan, plan.shards[0], answered(asked, range(10)))


def test_class_mass_of_classes_that_the_plan_does_not_name_is_not_kept(tmp_path):
    asked = inputs()
    with pytest.raises(ValueError, match="has 2 classes, but the plan names"):
        encode(answered(asked, range(10)), Layout(V), {})
