"""Stores made anew beside the one that is there take its answers over, and nothing is lost on the way."""

from collections import Counter

import numpy as np
import pytest
from teachers.store.fire import bytes_of
from teachers.store.worlds import answered, inputs, plan_of

from mashbill.errors import CorruptionError
from mashbill.teachers.protocol import Inputs
from mashbill.teachers.store import renewing
from mashbill.teachers.store.capturing import begin, capture
from mashbill.teachers.store.columns import joined
from mashbill.teachers.store.files import read_shard
from mashbill.teachers.store.known import Known
from mashbill.teachers.store.plan import Plan
from mashbill.teachers.store.renewing import beside, carry, folder_for, settle, stores_for, tidy
from mashbill.teachers.store.verifying import verify

ROWS = 40


def some(asked, rows, *, named=""):
    """Return rows in an order, under other names if wished."""
    rows = list(rows)
    ids = tuple(named + asked.row_ids[n] for n in rows)
    texts = tuple(asked.texts[n] for n in rows)
    return Inputs(ids, texts, asked.input_ids[rows], asked.labels[rows], asked.mask[rows])


def renewed(place, asked, *, again=False, log=None, refused=(), until=None, named=""):
    """Fill a store as ``capture`` does: beside the one that is there if it has to be."""
    plan = plan_of(asked)
    folder = folder_for(place, plan, again=again)
    begin(folder, plan)
    if again and folder != place:
        carry(place, folder, plan)
    known = Known(stores_for(place, folder, plan))
    true = some(asked, range(len(asked.row_ids)))
    real = Inputs(tuple(n.removeprefix(named) for n in true.row_ids), *(getattr(true, f) for f in FIELDS))

    def ask(shard):
        here = range(shard.first, shard.first + shard.n_rows)

        def of(rows):
            each = [here[n] for n in rows]
            if log is not None:
                log.extend(asked.row_ids[n] for n in each)
            one = answered(real, each, refused=refused)
            return type(one)(tuple(asked.row_ids[n] for n in each), *(getattr(one, f) for f in ANSWERED))

        return known.answers([asked.row_ids[n] for n in here], answered(asked, here).content, of)

    capture(folder, plan, ask, reserve=0, go_on=until or (lambda: True))
    if (folder / "manifest.json").exists():
        if folder != place:
            settle(place, folder)
        return tidy(place)
    return None


FIELDS = ("texts", "input_ids", "labels", "mask")
ANSWERED = ("content", "tokens", "starts", "positions", "scored", "refused")


def n_times(n):
    left = iter([True] * n)
    return lambda: next(left, False)


@pytest.mark.parametrize("rows", [[*range(ROWS), 41, 42], [7, *range(30)], list(reversed(range(ROWS)))])
def test_other_rows_take_over_what_was_answered_with_the_bytes_of_a_fresh_store(rows, tmp_path):
    world, log = inputs(50), []
    renewed(tmp_path / "store", some(world, range(ROWS)))
    renewed(tmp_path / "fresh", some(world, rows))
    renewed(tmp_path / "store", some(world, rows), log=log)
    assert sorted(log) == sorted(world.row_ids[n] for n in rows if n >= ROWS)
    old, new = bytes_of(tmp_path / "store"), bytes_of(tmp_path / "fresh")
    assert old.keys() == new.keys()
    assert {name for name in old if old[name] != new[name]} <= {
        name for name in old if name.endswith(".json") and name != "store.json"
    }  # what is said of the loss comes from another sample
    assert verify(tmp_path / "store").is_whole


def test_rows_with_other_names_are_not_asked_again_and_every_byte_is_that_of_a_fresh_store(tmp_path):
    world, log = inputs(ROWS), []
    other = some(world, range(ROWS), named="renamed ")
    renewed(tmp_path / "store", world)
    before = bytes_of(tmp_path / "store")
    renewed(tmp_path / "store", other, log=log, named="renamed ")
    renewed(tmp_path / "fresh", other, named="renamed ")
    assert not log
    assert bytes_of(tmp_path / "store") == bytes_of(tmp_path / "fresh") != before
    assert not beside(tmp_path / "store").exists()


def test_a_store_of_two_versions_of_the_rows_names_cannot_be_made(tmp_path):
    world = inputs(ROWS)
    renewed(tmp_path / "store", world, until=n_times(1))
    renewed(tmp_path / "store", some(world, range(ROWS), named="b "), named="b ")
    plan = Plan.read(tmp_path / "store")
    assert {name[:2] for one in plan.shards for name in read_shard(tmp_path / "store", plan, one).row_ids} == {"b "}


def test_rows_that_were_refused_are_asked_again_and_no_others(tmp_path):
    world, log = inputs(ROWS), []
    place = tmp_path / "store"
    renewed(place, world, refused=(3, 17))
    files = {one.name: one.stat().st_ino for one in (place / "shards").iterdir()}
    assert (place / "dead_letters.jsonl").exists()
    renewed(place, world, log=log)  # not told to ask again
    assert not log
    renewed(place, world, again=True, log=log, refused=(17,))
    assert sorted(log) == ["row 17", "row 3"]
    assert "row 17" in (place / "dead_letters.jsonl").read_text()
    assert "row 3" not in (place / "dead_letters.jsonl").read_text()
    renewed(place, world, again=True)
    assert not (place / "dead_letters.jsonl").exists()
    renewed(tmp_path / "fresh", world)
    fresh = bytes_of(tmp_path / "fresh")
    assert {name: data for name, data in bytes_of(place).items() if "parquet" in name} == {
        name: data for name, data in fresh.items() if "parquet" in name
    }
    assert verify(place).is_whole
    same = [name for name, number in files.items() if (place / "shards" / name).stat().st_ino == number]
    assert len(same) >= len(files) - 4  # shards without refused rows were not written again


@pytest.mark.parametrize("linked", [True, False])
def test_whoever_is_killed_at_any_moment_nothing_is_asked_twice(linked, tmp_path, monkeypatch):
    if not linked:
        monkeypatch.setattr(renewing.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    world, log, place = inputs(50), [], tmp_path / "store"
    renewed(place, some(world, range(ROWS)), log=log, refused=(3,))
    renewed(place, some(world, range(ROWS)), again=True, log=log, until=n_times(0))
    renewed(place, some(world, range(5, 45)), log=log, until=n_times(2))
    renewed(place, some(world, range(48)), log=log, until=n_times(3))
    (rename, renames) = (type(place).rename, [])

    def killed(self, target):
        renames.append(target)
        if len(renames) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(place), "rename", killed)
    with pytest.raises(KeyboardInterrupt):  # the old store has left its place, and the new one is not there yet
        renewed(place, some(world, range(50)), log=log)
    monkeypatch.undo()
    assert not place.exists()
    renewed(place, some(world, range(50)), log=log)
    assert [name for name, n in Counter(log).items() if n > 1] == ["row 3"]
    assert verify(place).is_whole
    assert not beside(place).exists()


def test_answers_to_rows_that_are_asked_about_no_more_are_kept_and_named(tmp_path):
    world, place, log = inputs(ROWS), tmp_path / "store", []
    renewed(place, world)
    kept = renewed(place, some(world, range(30)))
    assert list(kept.values()) == [10]
    assert renewed(place, world, log=log) == {}
    assert not log
    assert not beside(place).exists()


def test_what_is_taken_over_is_proved_first(tmp_path):
    world, place = inputs(ROWS), tmp_path / "store"
    renewed(place, some(world, range(30)))
    file = place / "shards/000000.parquet"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptionError, match="shard 000000"):
        renewed(place, world)


def test_answers_do_not_change_when_they_are_taken_over(tmp_path):
    world, place = inputs(ROWS), tmp_path / "store"
    renewed(place, world)
    plan = Plan.read(place)
    before = joined([read_shard(place, plan, one) for one in plan.shards])
    renewed(place, some(world, np.random.default_rng(0).permutation(ROWS)))
    plan = Plan.read(place)
    after = joined([read_shard(place, plan, one) for one in plan.shards])
    at = {name: n for n, name in enumerate(before.row_ids)}
    for n, name in enumerate(after.row_ids):
        one = slice(*before.starts[at[name] : at[name] + 2])
        other = slice(*after.starts[n : n + 2])
        width = min(before.scored.distribution.logprobs.shape[1], after.scored.distribution.logprobs.shape[1])
        assert (
            before.scored.distribution.logprobs[one, :width] == after.scored.distribution.logprobs[other, :width]
        ).all()
