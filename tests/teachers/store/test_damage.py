"""Whatever happens to a store's bytes is noticed, and named."""

import random
import shutil

import pytest
from teachers.store.damages import DAMAGES, damaged, found_in, is_named
from teachers.store.fire import asking
from teachers.store.worlds import answered, inputs, plan_of

from mashbill.errors import MashbillError
from mashbill.teachers.store.capturing import capture
from mashbill.teachers.store.files import read_shard
from mashbill.teachers.store.verifying import verify

N = 30


def fill(folder, asked, plan):
    capture(folder, plan, asking(asked), reserve=0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, asked = tmp_path_factory.mktemp("whole") / "store", inputs(N)
    fill(folder, asked, plan_of(asked))
    return folder


@pytest.fixture(scope="module")
def stale(tmp_path_factory):
    """The store that another version of the teacher filled; it refused other rows."""
    folder, asked = tmp_path_factory.mktemp("stale") / "store", inputs(N)
    plan = plan_of(asked, teacher={"kind": "test", "source": "yesterday's"})
    capture(folder, plan, lambda s: answered(asked, range(s.first, s.first + s.n_rows), refused=[5]), reserve=0)
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_file_and_rows_are_named(whole, stale, tmp_path, damage):
    generator, plan = random.Random(damage.__name__), plan_of(inputs(N))
    for n in range(25):
        files = damaged(whole, stale, tmp_path / str(n), generator, damage)
        problems, missing = found_in(tmp_path / str(n))
        assert problems or missing, f"{damage.__name__} of {files[0].name} went unnoticed"
        told = "\n".join([*problems, *missing])
        assert all(is_named(one, plan, told) for one in files), (files, told)
        shutil.rmtree(tmp_path / str(n))


def test_a_flip_in_a_page_names_rows(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    file = sorted((tmp_path / "store/shards").glob("*.parquet"))[1]
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 4
    file.write_bytes(content)
    (problem,) = verify(tmp_path / "store").problems
    shard = plan_of(inputs(N)).shards[1]
    assert f"`row {shard.first}`" in str(problem)
    assert f"rows {shard.first} to {shard.first + shard.n_rows - 1}" in str(problem)


def test_shards_of_another_place_or_time_are_noticed(whole, stale, tmp_path):
    for case in range(3):
        folder = tmp_path / str(case)
        shutil.copytree(whole, folder)
        shards = folder / "shards"
        if case == 0:  # two shards swapped, with their notes
            for ending in ("parquet", "json"):
                a, b = shards / f"000000.{ending}", shards / f"000001.{ending}"
                kept = a.read_bytes()
                a.write_bytes(b.read_bytes())
                b.write_bytes(kept)
        elif case == 1:  # one of an older store
            for ending in ("parquet", "json"):
                shutil.copy(stale / f"shards/000002.{ending}", shards / f"000002.{ending}")
        else:  # a second copy under a name of its own
            shutil.copy(shards / "000000.parquet", shards / "000099.parquet")
        assert verify(folder).problems
    plan = plan_of(inputs(N))
    with pytest.raises(MashbillError, match="another store"):
        read_shard(tmp_path / "1", plan, plan.shards[2])


def test_the_plan_of_another_store_is_noticed(whole, stale, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    shutil.copy(stale / "store.json", tmp_path / "store/store.json")
    assert len(verify(tmp_path / "store").problems) > len(plan_of(inputs(N)).shards)


def test_what_was_lost_is_captured_again(whole, tmp_path):
    asked, folder = inputs(N), tmp_path / "store"
    shutil.copytree(whole, folder)
    for name in ("shards/000001.parquet", "shards/000001.json", "manifest.json"):
        (folder / name).unlink()
    assert verify(folder).missing == ("000001",)
    fill(folder, asked, plan_of(asked))
    assert verify(folder).is_whole
    for name in ("shards/000001.parquet", "manifest.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
