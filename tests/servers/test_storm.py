"""Rows captured from a server that fails at three requests in ten; ``python tests/servers/storm.py`` does 5,000."""

import json
from pathlib import Path

import pytest
from servers.faulty import KINDS, FaultyServer
from servers.storm import KEY, VARIABLE, draw_rows, is_good, storm, write_recipe

from mashbill.cli.app import main as mashbill
from mashbill.teachers.endpoint.patience import Patience


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "_backoff", lambda self, n_before: 0.005)


def test_every_row_is_stored_or_a_dead_letter(tmp_path: Path) -> None:
    found = storm(tmp_path, n_rows=120, share=0.3, seed=0, budget=200)
    assert is_good(found), found
    assert found["kinds"] >= 15
    assert found["further_attempts"] > 20


def test_rows_that_are_given_up_are_dead_letters(tmp_path: Path) -> None:
    found = storm(tmp_path, n_rows=60, share=0.6, seed=3, budget=600, n_good=6)
    assert is_good(found), found
    assert found["dead_letters"] > 0


def test_a_spent_budget_stops_before_a_shard_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, KEY)
    with FaultyServer(share=0.3, n_good=12) as server:
        recipe = write_recipe(tmp_path, server.url, draw_rows(60, seed=0), budget=5, concurrency=8)
        assert mashbill(["capture", str(recipe)]) == 3
        n = sum(1 for _, _, body in server.requests if body)
        assert n - len({body for _, _, body in server.requests if body}) <= 5
        assert "all 5 further attempts of `retry_budget` are spent" in capsys.readouterr().err
        assert not list((tmp_path / "stores").rglob("shards/*.parquet"))
        # The same command goes on, with a budget of its own.
        text = recipe.read_text(encoding="utf-8").replace("retry_budget: 5", "retry_budget: 500")
        recipe.write_text(text, encoding="utf-8")
        assert mashbill(["capture", str(recipe)]) == 0
    assert len(list((tmp_path / "stores").rglob("shards/*.parquet"))) == 1


def test_which_attempts_fail_does_not_depend_on_their_order() -> None:
    bodies = [json.dumps({"prompt": [n]}).encode() for n in range(50)]
    told = []
    for order in (bodies, bodies[::-1]):
        with FaultyServer(seed=5) as server:
            handler = server._http.RequestHandlerClass
            assert isinstance(handler, type)
            fault_of = handler.fault_of  # pyright: ignore[reportAttributeAccessIssue]
            told.append({body: [fault_of(handler, body) for _ in range(3)] for body in order})
    assert told[0] == told[1]
    assert {kind for kinds in told[0].values() for kind in kinds} - {None} <= set(KINDS)
