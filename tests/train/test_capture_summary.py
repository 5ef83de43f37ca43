"""What `capture` says of a store, against sums over whole distributions in float64."""

from dataclasses import replace

import numpy as np
import pytest
from teachers.store.worlds import CLASSES, V, answered, inputs, plan_of, truth

from mashbill.distributions import TopK
from mashbill.teachers.store.files import read_note, write_shard
from mashbill.teachers.store.layout import Layout
from mashbill.train.assemble import TRAIN
from mashbill.train.capture import _summary, mean_lost
from mashbill.train.filling import Task


def store(folder, refused):
    asked = inputs(40)
    plan = plan_of(asked, at_most=16, layout=Layout(V, k=8, classes=CLASSES))
    for shard in plan.shards:
        rows = range(shard.first, shard.first + shard.n_rows)
        here = [n - shard.first for n in refused if n in rows]
        given = answered(asked, rows)
        said = tuple("it is too rude" if n in here else "" for n in range(len(rows)))
        write_shard(folder, plan, shard, replace(given, refused=said))
    return asked, plan, _summary(Task(0, "a", TRAIN, folder, plan, 4, 0, folder), {})


def test_a_summary_is_of_answered_positions(tmp_path):
    refused = range(0, 40, 3)
    asked, plan, found = store(tmp_path, refused)
    is_told = np.repeat(~np.isin(np.arange(40), refused), asked.mask.sum(1).numpy())
    full = truth(asked).logprobs[asked.mask][is_told].double()
    kept = TopK.from_logprobs(full, k=8)
    assert (found.n_refused, found.n_answered, found.n_measured) == (14, len(full), len(full))
    assert found.n_answered < found.n_positions == plan.n_positions
    assert found.kept_mass == pytest.approx(float((1 - kept.log_tail.exp()).mean()), abs=1e-4)
    assert found.lost == pytest.approx(float((full.exp() * (full - kept.densify())).sum(-1).mean()), rel=1e-5)
    assert found.bytes_per_entry is not None
    assert len(plan.shards) > 5


def test_where_nothing_was_answered_there_are_no_figures(tmp_path):
    _, _, found = store(tmp_path, range(40))
    assert (found.n_answered, found.kept_mass, found.lost, found.bytes_per_entry) == (0, None, None, None)


def test_a_shard_counts_as_much_as_it_has_positions(tmp_path):
    _, plan, _ = store(tmp_path, ())
    note = read_note(tmp_path, plan, plan.shards[0])
    assert note is not None
    long = replace(note, n_answered=1000, n_measured=10, lost=10 * 0.5)
    short = replace(note, n_answered=10, n_measured=10, lost=10 * 2.0)
    silent, unknown = replace(note, n_answered=0, n_measured=0, lost=None), replace(short, lost=None)
    assert mean_lost([long, short, silent]) == pytest.approx((1000 * 0.5 + 10 * 2.0) / 1010, abs=1e-15)
    assert mean_lost([long, unknown]) is None
    assert mean_lost([silent]) is None
