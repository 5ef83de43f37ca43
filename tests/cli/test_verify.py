"""What `verify` and `capture` say of a store of several sets of which something is lost."""

import json
import re
import shutil

import pytest

SETS = ["eval-held_out", "eval-scorecard rows", "train"]


@pytest.fixture
def capture(folder, command):
    """Fill the store of the recipe's first teacher, or go on with it."""
    recipe = folder / "recipe.yaml"
    text = recipe.read_text().replace("  - id: office", "  - store: store\n    id: office", 1)
    recipe.write_text(text + "\ncapture: {k: 3, shard_positions: 6}\n")
    return lambda *more: command("capture", recipe, "--workers", "1", *more)


@pytest.fixture
def store(folder, capture):
    assert capture().code == 0
    return folder / "store"


def no_file(store):
    (store / "train/shards/000001.parquet").unlink()


def cut_file(store):
    file = store / "train/shards/000001.parquet"
    file.write_bytes(file.read_bytes()[:-1])


def note_of_another_store(store):
    note = store / "train/shards/000001.json"
    note.write_text(note.read_text().replace('"store": "', '"store": "another'))


def lose_plan(store):
    (store / "train/store.json").unlink()


NOTED = r"shard 000001 of the store {}.*\n  --> .*train/shards/000001\.parquet\n.*rows 6 to 11"


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (no_file, NOTED.format("cannot be read")),
        (cut_file, NOTED.format("is not what was written: it has")),
        (note_of_another_store, NOTED.format("belongs to another store")),
        (lose_plan, r"holds shards, but no store\.json\n  --> .*train/store\.json"),
    ],
)
def test_capture_does_not_take_a_note_s_word(store, capture, command, spoil, told):
    spoil(store)
    options = ["--set", "capture.k=2"] if spoil is lose_plan else []  # no other plan is written over these shards
    found = capture(*options)
    assert found.code == 4, found
    assert re.search(told, found.err), found.err
    assert command("verify", store).code == 4


def test_a_set_that_is_lost_is_missed(store, command):
    shutil.rmtree(store / "eval-held_out")
    found = command("verify", store)
    assert found.code == 4
    assert f"the set `eval-held_out` is missing: all of its rows are\n  --> {store / 'eval-held_out'}" in found.out


def test_a_plan_that_is_lost_is_missed(store, command):
    (store / "eval-held_out/store.json").unlink()
    for folder in (store, store / "eval-held_out"):
        found = command("verify", folder)
        assert found.code == 4
        assert f"store.json is missing\n  --> {store / 'eval-held_out/store.json'}" in found.out


def test_the_list_of_sets_is_whole_or_is_told(store, capture, command):
    listed = (store / "sets.json").read_text()
    assert json.loads(listed) == {"sets": SETS}
    (store / "sets.json").unlink()
    found = command("verify", store, "--json")
    assert found.code == 4
    assert [one["what"] for one in json.loads(found.out)["problems"]] == ["sets.json is missing"]
    assert capture().code == 0
    assert (store / "sets.json").read_text() == listed
    for text in ("{}", "[1]", listed + " ", "{", listed.replace("train", "brain")):
        (store / "sets.json").write_text(text)
        assert command("verify", store).code == 4
    assert capture().code == 0
    assert "the set `brain` is missing" in command("verify", store).out  # what was listed once stays listed
    (store / "sets.json").write_text("{")
    assert capture().code == 4


def test_sets_that_were_begun_and_not_listed_before_a_kill_are_no_damage(store, command):
    (store / "sets.json").unlink()
    for name in SETS:
        shutil.rmtree(store / name / "shards")
        (store / name / "manifest.json").unlink()
    found = command("verify", store)
    assert (found.code, found.out.count("not captured yet: 4 shard(s)")) == (2, 3)


def test_a_shard_that_a_whole_store_has_lost_is_damage(store, capture, command):
    for ending in ("parquet", "json"):
        (store / f"train/shards/000001.{ending}").unlink()
    found = command("verify", store)
    assert found.code == 4
    assert re.search(r"shard 000001 is missing\n  --> .*000001\.parquet\n.*it holds rows 6 to 11; manifest", found.out)
    assert capture().code == 0
    assert command("verify", store).code == 0


@pytest.mark.parametrize(
    ("name", "told"), [("recipe.yaml", "is a file, not a store"), ("nowhere", "no store at"), ("data", "no store at")]
)
def test_a_wrong_path_is_no_damage(folder, command, name, told):
    found = command("verify", folder / name)
    assert (found.code, found.out) == (2, "")
    assert re.fullmatch(rf"error: .*{told}(.*\n)*", found.err)
    assert found.err.count("error:") == 1


def test_rows_that_are_answered_at_last_are_no_dead_letters(store, capture, command):
    (store / "train/dead_letters.jsonl").write_text("of yesterday\n")
    assert capture().code == 0
    assert command("verify", store).code == 0
    assert not (store / "train/dead_letters.jsonl").exists()
