"""The command behind the figures of docs/stores.md, with small numbers, and the figures of the last long run."""

import json

import reliability


def test_nothing_is_lost_unnoticed_or_unnamed(tmp_path):
    works = {"workers": (reliability.kills, 6), "command": (reliability.command_kills, 2)}
    works["corruptions"] = (reliability.corruptions, 45)
    record = {name: work(n, tmp_path / name) for name, (work, n) in works.items()}
    assert reliability.n_bad(record) == 0, record
    assert reliability.total_of(record) == (8, 45)


def test_what_is_bad_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(reliability, "bytes_of", lambda folder: {"name": folder.name})
    monkeypatch.setattr(reliability, "told_of", lambda folder: (int(folder.name == "damaged") * 4 * (n[0] % 2), ""))
    n = [0]
    monkeypatch.setattr(reliability, "is_named", lambda *_: False)
    found = reliability.kills(3, tmp_path / "workers")
    assert (found["bad stores"], found["kills of bad stores"]) == (found["stores"], 3)
    assert sum(each["unnoticed"] for each in reliability.corruptions(9, tmp_path / "silent").values()) == 9
    n[0] = 1
    assert sum(each["unnamed"] for each in reliability.corruptions(9, tmp_path / "nameless").values()) == 9


def test_the_page_shows_the_last_long_run():
    record = json.loads(reliability.RECORD.read_text(encoding="utf-8"))
    assert reliability.total_of(record) == (200, 2000)
    assert reliability.n_bad(record) == 0
    text = reliability.PAGE.read_text(encoding="utf-8")
    assert reliability.on_page(text, record) == text
