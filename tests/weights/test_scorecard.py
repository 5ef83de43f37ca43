import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mashbill.errors import MashbillError
from mashbill.weights.scorecard import Cell, Interval, PairTest, Scorecard


def cell(
    teacher: str, *, task: str | None = None, context: str | None = None, accuracy: float = 0.5, safety=None
) -> Cell:
    return Cell(
        teacher=teacher,
        task=task,
        context=context,
        n=10,
        loss=Interval(0.7, 0.5, 0.9),
        accuracy=Interval(accuracy, 0.2, 0.8),
        calibration_error=0.1,
        safety=None if safety is None else Interval(safety, 0.0, 1.0),
        n_critical=0 if safety is None else 4,
    )


def scorecard() -> Scorecard:
    cells = [cell("a"), cell("b")]
    for place, teacher in enumerate(("a", "b")):
        cells += [cell(teacher, task="ui", accuracy=0.25 + place / 2), cell(teacher, task="docs", accuracy=0.5)]
        cells += [cell(teacher, context="short", safety=0.75 - place / 2), cell(teacher, task="ui", context="short")]
    return Scorecard(("a", "b"), ("ui", "docs"), ("short",), 0.95, tuple(cells), {"short": (("a", "b"),)})


def test_what_is_written_is_read_back_equal(tmp_path):
    path = tmp_path / "run" / "scorecard.json"
    scorecard().write(path)
    assert Scorecard.read(path) == scorecard()
    assert [file.name for file in path.parent.iterdir()] == ["scorecard.json"]


def test_table_has_a_row_a_teacher_and_a_column_a_name():
    assert scorecard().table("accuracy", "task") == [[0.25, 0.5], [0.75, 0.5]]
    assert scorecard().table("safety", "context") == [[0.75], [0.25]]
    assert scorecard().table("calibration_error", "task") == [[0.1, 0.1], [0.1, 0.1]]


def test_table_names_what_is_missing():
    with pytest.raises(MashbillError, match=r"no safety of teacher `a` on task `ui`") as caught:
        scorecard().table("safety", "task")
    assert "critical rows" in caught.value.help
    with pytest.raises(ValueError, match=r"measure='speed' by 'task'"):
        scorecard().table("speed", "task")


def test_a_cell_without_rows_is_none_and_its_table_says_so():
    assert scorecard().cell("a", task="docs", context="short") is None
    pooled_only = Scorecard(("a",), ("ui",), (), 0.95, (cell("a"),), {})
    with pytest.raises(MashbillError, match=r"no accuracy of teacher `a` on task `ui`") as caught:
        pooled_only.table("accuracy", "task")
    assert "labelled rows" in caught.value.help


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=1), "`version` must be 2"),
        (lambda c: c.pop("tasks"), "tasks"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["cells"][0].update(n="10"), "cells.0.n"),
        (lambda c: c["cells"][0]["loss"].update(value=None), "cells.0.loss.value"),
        (lambda c: c["cells"][0].update(teacher="x"), "teacher 'x' is not among"),
        (lambda c: c["cells"].append(c["cells"][0]), "twice"),
        (lambda c: c["orders"].update(nowhere=[]), "context of an order 'nowhere'"),
        (lambda c: c["orders"].update(short=[["a", "z"]]), "teacher of an order 'z'"),
        (lambda c: c.update(tests=[{"context": "short"}]), "tests.0.safer"),
        (lambda c: c.update(confidence=1.0), "confidence=1.0"),
    ],
)
def test_reading_is_strict_and_names_the_key(tmp_path, change, message):
    content = json.loads(json.dumps(scorecard().to_json()))
    change(content)
    path = tmp_path / "scorecard.json"
    path.write_text(json.dumps(content))
    with pytest.raises(MashbillError) as caught:
        Scorecard.read(path)
    assert message in caught.value.why
    assert caught.value.where == str(path)


def test_reading_refuses_what_is_no_json_and_what_is_not_there(tmp_path):
    (tmp_path / "torn.json").write_text('{"version": 1, "teach')
    with pytest.raises(MashbillError, match="not JSON"):
        Scorecard.read(tmp_path / "torn.json")
    with pytest.raises(MashbillError, match="there is no scorecard"):
        Scorecard.read(tmp_path / "none.json")


def test_a_value_that_is_not_finite_is_never_written(tmp_path):
    bad = Scorecard(("a",), (), (), 0.95, (cell("a", accuracy=float("nan")),), {})
    with pytest.raises(ValueError, match="JSON compliant"):
        bad.write(tmp_path / "scorecard.json")
    assert list(tmp_path.iterdir()) == []


def pair_test(decision: str, safer: str = "a", less_safe: str = "b") -> PairTest:
    return PairTest("short", safer, less_safe, decision, "sign", 9, 8, 1, 7 / 9, 10 / 512, 0.025)


def test_what_was_tested_is_kept(tmp_path):
    card = replace(scorecard(), tests=(pair_test("certified"),))
    card.write(tmp_path / "scorecard.json")
    assert Scorecard.read(tmp_path / "scorecard.json") == card
    assert card.undecided == ()
    open_pair = replace(scorecard(), orders={"short": ()}, tests=(pair_test("undecided"),))
    assert open_pair.undecided == open_pair.tests
    assert open_pair.tests[0].n_discordant == 9


def test_orders_must_be_those_that_the_tests_certify():
    with pytest.raises(ValueError, match="orders of context 'short' are not the pairs that its tests certify"):
        replace(scorecard(), tests=(pair_test("undecided"),))
    with pytest.raises(ValueError, match="orders of context 'short'"):
        replace(scorecard(), orders={}, tests=(pair_test("certified"),))
    with pytest.raises(ValueError, match="teacher of a test 'z' is not among"):
        replace(scorecard(), tests=(pair_test("certified", "a", "z"),))


def test_a_failed_rename_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "scorecard.json"
    scorecard().write(path)
    old = path.read_bytes()

    def fail(self, target):
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        replace(scorecard(), confidence=0.9).write(path)
    assert [file.name for file in tmp_path.iterdir()] == ["scorecard.json"]
    assert path.read_bytes() == old


def test_scorecards_are_read_without_torch():
    code = "import sys; import mashbill.weights.scorecard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
