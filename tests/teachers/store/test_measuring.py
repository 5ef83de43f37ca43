"""Figures of a shard against sums over whole distributions in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from teachers.store.worlds import CLASSES, V, answered, inputs, plan_of, truth

from mashbill import numerics
from mashbill.distributions import Dense, TopK, measure
from mashbill.teachers.protocol import Scored
from mashbill.teachers.store.columns import Answered, decode, encode
from mashbill.teachers.store.files import write_shard
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.measuring import Figures, lost_nats, measured


def row_of(topk, statistics):
    n = len(topk.log_tail)
    nothing = np.zeros(0, np.int32)
    scored = Scored(topk, statistics)
    return Answered(("r",), (b"\0" * 32,), (nothing,), np.array([0, n]), np.arange(n), scored, ("",))


def lost(logprobs, layout):
    """Return what is said to be lost, and what is."""
    given = row_of(TopK.from_logprobs(logprobs, k=layout.k), measure(Dense(logprobs)))
    kept = decode(encode(given, layout, {}), layout, where="here").scored
    p, q = logprobs.double().log_softmax(-1), kept.distribution.densify().double().log_softmax(-1)
    return lost_nats(given.scored, kept), (p.exp() * (p - q)).sum(-1)


@pytest.mark.parametrize("n_entries", [3, 20, 64])
def test_where_every_entry_is_stored_next_to_nothing_is_lost(n_entries):
    generator = torch.Generator().manual_seed(0)
    logprobs = numerics.log_softmax(torch.randn(2000, n_entries, generator=generator) * 3)
    said, true = lost(logprobs, Layout(n_entries))
    assert 1e-9 < true.max() < 1e-7
    assert (said - true).abs().max() < 1e-11


@pytest.mark.parametrize(("k", "scale"), [(8, 3), (64, 3), (8, 30)])
def test_what_is_cut_off_is_lost(k, scale):
    generator = torch.Generator().manual_seed(1)
    logprobs = numerics.log_softmax(torch.randn(500, V, generator=generator) * scale)
    said, true = lost(logprobs, Layout(V, k=k))
    assert (said - true).abs().max() < 3e-6
    assert true.max() > 1e-4


def test_entries_that_nobody_can_name_have_lost_nothing():
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(2))
    logprobs = numerics.log_softmax(logits.masked_fill(torch.arange(30) >= 5, -torch.inf))
    said, _ = lost(logprobs, Layout(30, k=8))
    assert said.abs().max() < 1e-7


def test_figures_are_of_answered_positions_alone():
    asked, layout = inputs(), Layout(V, k=8, classes=CLASSES)
    given = answered(asked, range(10), k=8, refused=(1, 4, 7))
    # What somebody says who does not answer: no entry, and all mass in the tail.
    n_each = np.diff(given.starts)
    silent = torch.from_numpy(np.repeat(np.isin(np.arange(10), (1, 2, 4)), n_each))
    topk = given.scored.distribution
    nothing = TopK(
        topk.ids.masked_fill(silent[:, None], -1),
        topk.logprobs.masked_fill(silent[:, None], numerics.LOG_ZERO),
        topk.log_tail.masked_fill(silent, 0.0),
        V,
    )
    given = replace(given, scored=Scored(nothing, given.scored.statistics))
    whole = decode(encode(given, layout, {}), layout, where="here")
    found = measured(given, whole.scored, whole, layout)
    told = torch.from_numpy(np.repeat(~np.isin(np.arange(10), (1, 2, 4, 7)), n_each))
    top = truth(asked).logprobs[asked.mask][told].double().exp().topk(8).values.sum(-1)
    assert 0 < int(told.sum()) < len(told)
    assert (found.n_answered, found.n_kept, found.n_measured) == (len(top), 8 * len(top), len(top))
    assert found.kept_mass / found.n_answered == pytest.approx(float(top.mean()), abs=1e-4)
    full = truth(asked).logprobs[asked.mask][told].double()
    even = TopK.from_logprobs(full, k=8).densify()
    assert found.lost is not None
    assert found.lost == pytest.approx(float((full.exp() * (full - even)).sum()), rel=1e-4)


def test_nothing_is_measured_where_nobody_answered(tmp_path):
    asked = inputs()
    plan = plan_of(asked, at_most=10**6)
    note = write_shard(tmp_path, plan, plan.shards[0], answered(asked, range(10), refused=range(10)))
    assert (note.n_refused, note.n_answered, note.n_kept, note.kept_mass) == (10, 0, 0, 0)
    assert (note.n_measured, note.lost) == (0, None)


def test_positions_where_k_entries_hold_less_than_the_mass_are_counted():
    asked, layout = inputs(), Layout(V, k=8, mass=0.8, classes=CLASSES)
    given = answered(asked, range(10), k=64)
    whole = decode(encode(given, layout, {}), layout, where="here")
    found = measured(given, whole.scored, whole, layout)
    top = truth(asked).logprobs[asked.mask].double().exp().topk(8).values.sum(-1)
    assert 0 < found.n_short == int((top < 0.8).sum()) < len(top)
    assert isinstance(found, Figures)
