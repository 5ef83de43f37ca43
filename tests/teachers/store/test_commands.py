"""Commands that fill one store at once, or are killed, leave what one undisturbed command does."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from teachers.store.commands import ROWS, left_over, rows_of, started, whole, write_recipe
from teachers.store.fire import bytes_of
from teachers.store.worlds import inputs, plan_of

from mashbill.teachers.store import asking
from mashbill.teachers.store.asking import FOLDER, Asked, forget_asked, has_asked, write_asked


@pytest.fixture
def plan():
    return plan_of(inputs(20))


def questions(shard):
    n, each = shard.n_rows, np.zeros(1, np.int64)
    return Asked(tuple(map(str, range(n))), ("",) * n, None, (each,) * n, (each,) * n)


def test_two_commands_at_once_fill_one_store(tmp_path):
    alone, _ = whole(tmp_path / "alone", n_workers=1, seconds=0)
    for n in range(3):
        place = tmp_path / str(n)
        write_recipe(place)
        both = [started(place, n_workers=1, seconds=0.001) for _ in range(2)]
        assert [one.wait(120) for one in both] == [0, 0], (place / "said").read_text()
        assert bytes_of(place / "store") == alone
        assert not left_over(place / "store")
        assert len(set(rows_of(place / "store"))) == sum(ROWS.values())


def test_questions_whose_folder_another_command_removes_are_laid_down_again(plan, tmp_path, monkeypatch):
    write, calls = pq.write_table, []

    def late(table, where, **options):
        calls.append(where.name)
        if len(calls) == 1:
            where.parent.rmdir()
        elif len(calls) == 2:
            write(table, where, **options)
            forget_asked(tmp_path, plan.shards)  # the other command takes this one's for what a killed one left
            return
        write(table, where, **options)

    monkeypatch.setattr(asking.pq, "write_table", late)
    write_asked(tmp_path, plan.shards[0], questions(plan.shards[0]))
    assert len(calls) == 3
    assert [one.name.startswith(".") for one in (tmp_path / FOLDER).iterdir()] == [False]


def test_no_two_commands_write_at_the_same_name(plan, tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(asking.pq, "write_table", lambda _, where, **__: (names.append(where.name), where.touch()))
    for _ in range(2):
        write_asked(tmp_path, plan.shards[0], questions(plan.shards[0]))
    assert len(set(names)) == 2


def test_only_the_questions_of_one_s_own_shards_are_forgotten(plan, tmp_path):
    for shard in plan.shards[:2]:
        write_asked(tmp_path, shard, questions(shard))
    others = tmp_path / FOLDER / f".{plan.shards[1].name}-half.parquet.elsewhere.7.0"
    others.touch()
    forget_asked(tmp_path, plan.shards[:1])
    assert [has_asked(tmp_path, shard) for shard in plan.shards[:2]] == [False, True]
    assert others.exists()
    forget_asked(tmp_path, plan.shards)
    forget_asked(tmp_path, plan.shards)
    assert not (tmp_path / FOLDER).exists()
