"""What is written is there whole, under a name that nobody else writes at, and found again after a power loss."""

import pytest

from mashbill import durable
from mashbill.durable import make_folder, sweep, write_text, written_aside


def test_two_who_write_one_file_write_at_two_names(tmp_path, monkeypatch):
    monkeypatch.setattr(durable.os, "getpid", lambda: 7)  # as in two containers
    place = tmp_path / "manifest.json"
    with written_aside(place) as one, written_aside(place) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert place.read_text() == "one"
    assert list(tmp_path.iterdir()) == [place]


def test_a_name_that_is_taken_is_not_written_at(tmp_path, monkeypatch):
    monkeypatch.setattr(durable, "name_aside", lambda path: path.with_name(".taken"))
    (tmp_path / ".taken").write_text("another's")
    with pytest.raises(FileExistsError), written_aside(tmp_path / "file"):
        pass
    assert (tmp_path / ".taken").read_text() == "another's"


def test_the_entries_of_all_folders_that_were_made_are_synced(tmp_path, monkeypatch):
    synced, sync = [], durable.sync
    monkeypatch.setattr(durable, "sync", lambda path: (synced.append(path), sync(path)))
    make_folder(tmp_path / "a/b/c")
    assert set(synced) == {tmp_path, tmp_path / "a", tmp_path / "a/b"}
    synced.clear()
    make_folder(tmp_path / "a/b/c")
    assert not synced
    write_text(tmp_path / "d/file", "text")
    assert {tmp_path, tmp_path / "d"} <= set(synced)


def test_what_killed_processes_left_of_a_file_is_swept(tmp_path):
    for name in (".manifest.json.elsewhere.1.0", "manifest.json", ".store.json.elsewhere.1.0"):
        (tmp_path / name).touch()
    sweep(tmp_path, "manifest.json")
    assert {one.name for one in tmp_path.iterdir()} == {"manifest.json", ".store.json.elsewhere.1.0"}
