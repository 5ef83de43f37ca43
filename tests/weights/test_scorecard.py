import json
import subprocess
import sys

import numpy as np
import pytest

from mashbill.errors import MashbillError
from mashbill.weights.scorecard import Cell, Interval, Scorecard, certify_orders, rows_to_certify


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
        (lambda c: c.update(version=2), "`version` must be 1"),
        (lambda c: c.pop("tasks"), "tasks"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["cells"][0].update(n="10"), "cells.0.n"),
        (lambda c: c["cells"][0]["loss"].update(value=None), "cells.0.loss.value"),
        (lambda c: c["cells"][0].update(teacher="x"), "teacher 'x' is not among"),
        (lambda c: c["cells"].append(c["cells"][0]), "twice"),
        (lambda c: c["orders"].update(nowhere=[]), "context of an order 'nowhere'"),
        (lambda c: c["orders"].update(short=[["a", "z"]]), "teacher of an order 'z'"),
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
    assert not (tmp_path / "scorecard.json").exists()


def test_rows_to_certify_agrees_with_the_golden_value(golden):
    assert rows_to_certify(0.05) == golden("F76")["expected"]
    assert rows_to_certify(0.05, n_teachers=3, n_contexts=4) > 2952
    with pytest.raises(ValueError, match="gap=0"):
        rows_to_certify(0.0)
    with pytest.raises(ValueError, match="n_teachers=1"):
        rows_to_certify(0.1, n_teachers=1)


def test_a_gap_is_certified_exactly_from_the_stated_number_of_rows():
    def pairs(n_rows: int) -> tuple:
        success = np.stack([np.full(n_rows, 0.5), np.full(n_rows, 0.3)])
        return certify_orders(success, context=np.zeros(n_rows, int), n_contexts=1, confidence=0.95)

    enough = rows_to_certify(0.2)
    assert pairs(enough) == (((0, 1),),)
    assert pairs(enough - 1) == ((),)


def test_orders_are_kept_for_each_context_and_may_differ():
    n = rows_to_certify(1.0, n_contexts=3)
    good, bad = np.ones(n), np.zeros(n)
    success = np.stack([np.concatenate([good, bad]), np.concatenate([bad, good])])
    context = np.repeat([0, 2], n)
    assert certify_orders(success, context=context, n_contexts=3, confidence=0.95) == (((0, 1),), (), ((1, 0),))


def test_certified_pairs_are_transitive_and_have_no_cycle():
    generator = np.random.default_rng(0)
    for _ in range(50):
        success = generator.random((5, 400)) ** generator.uniform(0.3, 3, size=(5, 1))
        (pairs,) = certify_orders(success, context=np.zeros(400, int), n_contexts=1, confidence=0.95)
        held = set(pairs)
        assert not any((j, k) in held for k, j in held)
        assert all((k, m) in held for k, j in held for i, m in held if i == j)


def test_a_false_order_is_certified_less_often_than_promised():
    generator = np.random.default_rng(1)
    n_false = 0
    for _ in range(400):
        success = (generator.random((4, 60)) < 0.5).astype(float)  # all alike: whatever is certified is false
        found = certify_orders(success, context=np.arange(60) % 2, n_contexts=2, confidence=0.8)
        n_false += any(found)
    assert n_false <= 0.2 * 400


def test_certifying_refuses_what_is_no_success():
    with pytest.raises(ValueError, match=r"within \[0, 1\]"):
        certify_orders([[0.0, 2.0]], context=[0, 0], n_contexts=1, confidence=0.95)
    with pytest.raises(ValueError, match="confidence=1"):
        certify_orders([[0.0]], context=[0], n_contexts=1, confidence=1.0)
    assert certify_orders([[1.0]], context=[0], n_contexts=1, confidence=0.95) == ((),)


def test_scorecards_are_read_without_torch():
    code = "import sys; import mashbill.weights.scorecard; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
