"""The loop: early stopping, mixes, damaged checkpoints, trackers."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mashbill.errors import MashbillError, NumericError
from mashbill.train import engine
from mashbill.train.loading import Loaded
from mashbill.train.run import distill

Make = Callable[..., Loaded]


def records(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "records.jsonl").read_text(encoding="utf-8").splitlines()]


def model(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def test_patience_stops_and_the_best_student_is_kept(
    classification: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 3.0, 4.0, 3.5, 9.0])
    monkeypatch.setattr(engine, "evaluate", lambda lesson, batch_size: {"loss": next(losses)})
    changes = {
        "train.eval_steps": 2,
        "train.early_stopping_patience": 2,
        "train.max_steps": 30,
        "train.save_steps": None,
    }
    outcome = distill(classification({**changes, "train.save_total_limit": 1}))
    assert (outcome.status, outcome.step) == ("finished", 8)
    run = tmp_path / "run"
    assert sorted(place.name for place in (run / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    best, last, student = (
        model(run / place) for place in ("checkpoints/step-00000004", "checkpoints/step-00000008", "student")
    )
    assert all(torch.equal(student[name], best[name]) for name in student)
    assert any(not torch.equal(student[name], last[name]) for name in student)
    assert list(losses) == [9.0], "after the second worse one nothing is evaluated any more"


def test_a_damaged_newest_checkpoint_is_passed_over(
    classification: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    distill(classification({"output": "whole"}))
    loaded = classification({"output": "damaged"})
    distill(loaded, stop_after=7)
    newest = tmp_path / "damaged/checkpoints/step-00000007/optimizer.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 4
    newest.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        distill(loaded)
    assert "step-00000007 is damaged" in caplog.text
    assert "optimizer.safetensors" in caplog.text
    for name, tensor in model(tmp_path / "whole/student").items():
        assert torch.equal(tensor, model(tmp_path / "damaged/student")[name])
    assert [r["step"] for r in records(tmp_path / "damaged")] == [r["step"] for r in records(tmp_path / "whole")]


def test_a_failing_run_says_so_and_keeps_its_checkpoint(
    classification: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = classification()
    distill(loaded, stop_after=6)
    before = (tmp_path / "run/checkpoints/step-00000006/model.safetensors").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("mashbill.train.step.Outcome.is_faulty", property(lambda _: torch.tensor(True)))
        with pytest.raises(NumericError):
            distill(loaded)
    assert json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))["status"] == "stopped"
    assert (tmp_path / "run/checkpoints/step-00000006/model.safetensors").read_bytes() == before
    assert distill(loaded).status == "finished"


def test_a_run_that_broke_does_not_look_as_if_it_went_on(
    classification: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise KeyError("oops")

    monkeypatch.setattr("mashbill.train.run.evaluate_run", fail)
    with pytest.raises(KeyError):
        distill(classification())
    assert json.loads((tmp_path / "run/run.json").read_text(encoding="utf-8"))["status"] == "stopped"
    log = (tmp_path / "run/run.log").read_text(encoding="utf-8")
    assert "ERROR 'oops'" in log
    assert "stopped after 12 steps" in log


def test_a_teacher_that_gives_nan_stops_the_run_by_name(classification: Make, tmp_path: Path) -> None:
    odd = {"id": "odd", "plugin": "words", "options": {"sharpness": float("nan")}}
    loaded = classification({"teachers": [odd], "weighting": {}})
    with pytest.raises(MashbillError, match="teacher `odd`") as raised:
        distill(loaded)
    assert raised.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_the_mix_reaches_the_batches(classification: Make, tmp_path: Path) -> None:
    changes = {"sampling.task": {"ui": 1.0, "prose": 0.0}, "train.logging_steps": 1}
    distill(classification(changes))
    logged = [record for record in records(tmp_path / "run") if "evaluation" not in record]
    assert all(set(record["weights"]["task"]) == {"ui"} for record in logged)


def test_weights_in_the_records_are_those_of_the_rule(classification: Make, tmp_path: Path) -> None:
    weights = {"ui": {"german": 0.9, "french": 0.1}, "prose": {"german": 0.2, "french": 0.8}}
    static = {"rule": "static", "by": "task", "weights": weights}
    distill(classification({"weighting": {"task": static}}))
    weights = records(tmp_path / "run")[0]["weights"]
    assert weights["task"]["ui"]["german"] == pytest.approx(0.9, abs=1e-6)
    assert weights["task"]["prose"]["french"] == pytest.approx(0.8, abs=1e-6)
    assert 0.2 < weights["all"]["german"] < 0.9


def test_tensorboard_receives_the_numbers(
    classification: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    distill(classification({"report_to": ["tensorboard"]}))
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    scalars = board.Tags()["scalars"]
    assert "train/loss" in scalars
    assert any("held_out" in name for name in scalars)
    logged = [record["loss"] for record in records(tmp_path / "run") if "evaluation" not in record]
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx(logged, rel=1e-6)


def test_an_unknown_tracker_is_refused(classification: Make) -> None:
    with pytest.raises(MashbillError, match="no tracker `tensorbord` — did you mean `tensorboard`"):
        distill(classification({"report_to": ["tensorbord"]}))


def test_bfloat16_trains(classification: Make) -> None:
    assert distill(classification({"train.bf16": True})).status == "finished"
