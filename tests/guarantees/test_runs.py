"""What a run measured: read from its files by hand, and files that are damaged."""

import json
from pathlib import Path

import pytest

from mashbill.errors import CorruptionError, DataError
from mashbill.guarantees import measured


def entry(who: str, loss: float, **more) -> dict:
    return {"set": "test", "who": who, "by": "all", "name": "all", "n": 100, "loss": {"value": loss}, **more}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text("{}")
    steps = [
        {
            "step": step,
            "divergence": divergence,
            "disagreement": apart,
            "kl_to_teacher": {"a": 0.3, "b": divergence},
            "weights": {"all": {"a": 0.6, "b": 0.4}, "task": {"t": {"a": low, "b": 1 - low}}, "context": {}},
        }
        for step, divergence, apart, low in ((10, 0.5, 0.2, 0.5), (20, 0.1, 0.15, 0.3))
    ]
    lines = [*steps, {"step": 20, "evaluation": {"set": "test", "loss": 1.0}}]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "weig'
    (tmp_path / "records.jsonl").write_text(text)
    examples = [{"weights": [{"a": 0.9, "b": 0.1}, {"a": 0.5, "b": 0.5}]}]
    (tmp_path / "examples.json").write_text(json.dumps(examples))
    entries = [
        entry("student", 0.9, n_critical=25),
        entry("teacher:a", 0.7),
        entry("teacher:b", 0.8),
        entry("pool", 0.75),
        entry("pool", 9.0) | {"by": "task"},
    ]
    (tmp_path / "result.json").write_text(json.dumps({"entries": entries}))
    return tmp_path


def test_numbers_are_those_of_the_files(run: Path) -> None:
    found = {name: round(one.value, 9) for name, one in measured(run).items()}
    assert found == {
        "least weight": 0.1,
        "largest weight": 0.9,
        "largest deviation": 0.8,
        "mean deviation": 0.4,
        "disagreement": 0.2,
        "divergence": 0.1,
        "kl to a": 0.3,
        "kl to b": 0.1,
        "regret on test": 0.05,
        "gap on test": 0.15,
        "critical share on test": 0.25,
    }
    assert measured(run)["least weight"].source == "examples.json, 2 positions"
    assert {one.unit for one in measured(run).values()} == {"probability", "nats"}


def test_the_least_of_several_files_is_kept(run: Path) -> None:
    (run / "examples.json").unlink()
    found = measured(run)
    assert (found["least weight"].value, found["largest weight"].value) == (0.3, 0.7)
    assert "largest deviation" not in found


def test_a_run_that_has_only_begun_has_measured_nothing(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert measured(tmp_path) == {}


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no run\.json"):
        measured(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("examples.json", "[1, 2]"),
        ("examples.json", "{"),
        ("records.jsonl", '{"step": 1, "weights": 3}\n'),
        ("records.jsonl", "nonsense\n"),
        ("result.json", '{"entries": [{"by": "all"}]}'),
        ("result.json", "[]"),
    ],
)
def test_a_damaged_file_is_named(run: Path, name: str, text: str) -> None:
    (run / name).write_text(text)
    with pytest.raises(CorruptionError, match=name):
        measured(run)
