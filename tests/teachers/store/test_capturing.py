"""Stores are filled once, whoever dies meanwhile, with the same bytes."""

import os
import random

import pytest
from teachers.store.fire import asking, bytes_of, fill_under_fire, forked
from teachers.store.worlds import inputs, plan_of

from mashbill.errors import MashbillError
from mashbill.teachers.store import capturing
from mashbill.teachers.store.capturing import Work, capture
from mashbill.teachers.store.layout import Layout
from mashbill.teachers.store.verifying import verify

ROWS = 60


@pytest.fixture
def asked():
    return inputs(ROWS)


@pytest.fixture
def alone(asked, tmp_path):
    """Bytes that one worker writes."""
    capture(tmp_path / "alone", plan_of(asked), asking(asked), reserve=0)
    return bytes_of(tmp_path / "alone")


def test_two_workers_write_the_bytes_of_one_and_ask_about_nothing_twice(asked, alone, tmp_path):
    folder, log = tmp_path / "store", tmp_path / "log"
    children = [forked(folder, asked, log) for _ in range(2)]
    assert [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children] == [0, 0]
    assert bytes_of(folder) == alone
    done = log.read_text().split()
    assert sorted(map(int, done)) == list(range(len(plan_of(asked).shards)))


def test_machines_share_the_shards_by_rank(asked, alone, tmp_path):
    for rank in (1, 0):
        capture(tmp_path / "store", plan_of(asked), asking(asked), work=Work(rank, 2), reserve=0)
        n_there = len(list((tmp_path / "store/shards").glob("*.parquet")))
        assert n_there == (len(plan_of(asked).shards) if rank == 0 else len(plan_of(asked).shards) // 2)
        assert (tmp_path / "store/manifest.json").exists() == (rank == 0)
    assert bytes_of(tmp_path / "store") == alone


def test_workers_that_are_killed_lose_nothing(asked, alone, tmp_path):
    generator, n_kills = random.Random(0), 0
    while n_kills < 12:
        folder = tmp_path / f"store {n_kills}"
        n_kills += fill_under_fire(folder, asked, generator, most_kills=4)
        assert bytes_of(folder) == alone
        assert verify(folder).is_whole


def test_the_store_of_something_else_is_left_alone(asked, alone, tmp_path):
    folder = tmp_path / "alone"
    for other, named in [
        (plan_of(inputs(ROWS, seed=1)), "the rows differ"),
        (plan_of(asked, layout=Layout(300, k=3)), "what is kept differs"),
        (plan_of(asked, teacher={"kind": "test", "source": "another"}), "the teacher's source differs"),
    ]:
        with pytest.raises(MashbillError, match=named):
            capture(folder, other, asking(asked), reserve=0)
        assert bytes_of(folder) == alone


def test_a_folder_with_other_files_is_left_alone(asked, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MashbillError, match="holds files, but no store"):
        capture(tmp_path, plan_of(asked), asking(asked), reserve=0)
    assert [one.name for one in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_disk_that_is_nearly_full_stops_it_and_loses_nothing(asked, alone, tmp_path, monkeypatch):
    folder, free = tmp_path / "store", [2**30] * 3 + [2**28] * 99
    monkeypatch.setattr(capturing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free.pop(0)}))
    with pytest.raises(MashbillError, match="the disk is nearly full"):
        capture(folder, plan_of(asked), asking(asked))
    assert len(list((folder / "shards").glob("*.parquet"))) == 3
    monkeypatch.undo()
    capture(folder, plan_of(asked), asking(asked), reserve=0)
    assert bytes_of(folder) == alone


def test_an_error_of_the_teacher_leaves_what_is_there(asked, alone, tmp_path):
    folder, ask, calls = tmp_path / "store", asking(asked), []

    def failing(shard):
        calls.append(shard.number)
        if len(calls) == 4:
            raise RuntimeError("out of memory")
        return ask(shard)

    with pytest.raises(RuntimeError, match="out of memory"):
        capture(folder, plan_of(asked), failing, reserve=0)
    capture(folder, plan_of(asked), failing, reserve=0)
    assert bytes_of(folder) == alone
    n_shards = len(plan_of(asked).shards)
    assert calls == [*range(4), *range(3, n_shards)]


def test_ranks_out_of_range():
    with pytest.raises(ValueError, match="rank=2"):
        Work(2, 2)
