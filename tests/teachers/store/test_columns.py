from dataclasses import replace

import numpy as np
import pytest
import torch
from teachers.store.worlds import CLASSES, V, answered, inputs, plan_of, truth

from mashbill.distributions import TopK
from mashbill.errors import CorruptionError
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.columns import decode, encode
from mashbill.teachers.store.files import read_shard, write_shard
from mashbill.teachers.store.layout import Layout


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
    with pytest.raises(ValueError, match="entropy is not finite"):
        encode(given, Layout(V, classes=CLASSES), {})


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
    assert 3 < note.encoded_bytes / note.n_kept <= 4.5
    # With statistics, tokens, digests and what Parquet says about itself.
    assert note.n_bytes / note.n_kept <= 5.2
    found = read_shard(tmp_path, plan, plan.shards[0]).scored.distribution
    assert torch.equal(found.ids, ids)
    assert (found.logprobs - topk.logprobs).abs().max() <= plan.layout.error_bound + 1e-6


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
    with pytest.raises(ValueError, match=message):
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
