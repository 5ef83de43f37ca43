"""Whole runs on small recipes: what they write, that they repeat, that they refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mashbill.errors import CorruptionError, MashbillError
from mashbill.train.loading import Loaded
from mashbill.train.run import distill

Make = Callable[..., Loaded]


def records(directory: Path) -> list[dict[str, Any]]:
    lines = (directory / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [{**json.loads(line), "seconds": 0} for line in lines]


def final_bits(directory: Path) -> dict[str, bytes]:
    """Return the bytes of everything that training decides."""
    last = sorted((directory / "checkpoints").glob("step-*"))[-1]
    files = {**load_file(last / "model.safetensors"), **load_file(last / "optimizer.safetensors")}
    files |= {f"student/{name}": tensor for name, tensor in load_file(directory / "student/model.safetensors").items()}
    return {name: tensor.numpy().tobytes() for name, tensor in files.items()}


def test_a_classifier_run_leaves_everything(classification: Make, tmp_path: Path) -> None:
    outcome = distill(classification())
    run = tmp_path / "run"
    assert (outcome.status, outcome.step, outcome.directory) == ("finished", 12, run)
    described = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert described["status"] == "finished"
    assert described["data"]["train"]["rows"] == 60
    assert [teacher["id"] for teacher in described["teachers"]] == ["german", "french"]
    assert described["contexts"] == ["long", "short"]
    logged = [record for record in records(run) if "evaluation" not in record]
    assert [record["step"] for record in logged] == [3, 6, 9, 12]
    for record in logged:
        assert sum(record["weights"]["all"].values()) == pytest.approx(1, abs=1e-6)
        assert set(record["weights"]["task"]) <= {"ui", "prose"}
        assert record["kl_to_teacher"].keys() == {"german", "french"}
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert [r["step"] for r in records(run) if "evaluation" in r] == [4, 8, 12]
    for name in (
        "recipe.yaml",
        "teacher_manifest.json",
        "result.json",
        "examples.json",
        "run.log",
        "student/labels.json",
    ):
        assert (run / name).is_file(), name


def test_two_runs_are_the_same_to_the_last_bit(classification: Make, tmp_path: Path) -> None:
    for output in ("one", "two"):
        distill(classification({"output": output}))
    assert final_bits(tmp_path / "one") == final_bits(tmp_path / "two")
    assert records(tmp_path / "one") == records(tmp_path / "two")


def test_another_seed_is_another_run(classification: Make, tmp_path: Path) -> None:
    distill(classification({"output": "one"}))
    distill(classification({"output": "two", "train.seed": 1}))
    assert final_bits(tmp_path / "one") != final_bits(tmp_path / "two")


def test_a_stopped_run_goes_on_to_the_same_bits(classification: Make, tmp_path: Path) -> None:
    distill(classification({"output": "whole"}))
    for stop in (1, 6, 7):
        assert distill(classification({"output": "parts"}), stop_after=stop).status == "stopped"
    assert distill(classification({"output": "parts"})).status == "finished"
    assert final_bits(tmp_path / "whole") == final_bits(tmp_path / "parts")
    assert records(tmp_path / "whole") == records(tmp_path / "parts")
    assert json.loads((tmp_path / "parts/run.json").read_text(encoding="utf-8"))["resumes"] == 3


def test_a_finished_run_is_left_alone(classification: Make, tmp_path: Path) -> None:
    distill(classification())
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert distill(classification()).status == "finished before"
    # A key that does not change what is learnt may differ.
    assert distill(classification({"train.save_total_limit": 5})).status == "finished before"
    after = {file: file.stat().st_mtime_ns for file in before}
    assert [file for file in before if after[file] != before[file] and file.name != "run.log"] == []


def test_a_damaged_record_is_named_and_can_be_removed(classification: Make, tmp_path: Path) -> None:
    distill(classification(), stop_after=6)
    (tmp_path / "run/run.json").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptionError, match=r"run\.json cannot be read"):
        distill(classification())
    (tmp_path / "run/run.json").unlink()
    distill(classification())
    assert "going on from step 6" in (tmp_path / "run/run.log").read_text(encoding="utf-8")


def test_never_resuming_overwrites_nothing(classification: Make) -> None:
    distill(classification(), stop_after=2)
    with pytest.raises(MashbillError, match="already holds a run"):
        distill(classification(), resume="never")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"train.learning_rate": 0.5}, r"train\.learning_rate was 0\.02, is 0\.5"),
        ({"train.max_steps": 20}, r"train\.max_steps was 12, is 20"),
        ({"weighting.token.beta": 1.0}, r"weighting\.token\.beta was 2\.0, is 1\.0"),
        ({"distill.cross_entropy": 0.5}, r"distill\.cross_entropy"),
        ({"sampling.task": {"ui": 0.9}}, r"sampling\.task"),
        ({"data.max_length": 4}, r"data\.max_length"),
    ],
)
def test_a_resume_refuses_what_has_changed(classification: Make, changes: dict[str, Any], key: str) -> None:
    distill(classification(), stop_after=5)
    with pytest.raises(MashbillError, match=key):
        distill(classification(changes))


def test_a_resume_refuses_changed_rows_and_teachers(classification: Make, tmp_path: Path) -> None:
    loaded = classification()
    distill(loaded, stop_after=5)
    teachers = loaded.with_changes({"teachers[1].options.sharpness": 2.0}, source="--set")
    with pytest.raises(MashbillError, match=r"teachers\[1\]\.identity"):
        distill(teachers)
    rows = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(rows[1:]), encoding="utf-8")
    with pytest.raises(MashbillError, match=r"data\.train was"):
        distill(loaded)


def test_an_accepted_change_goes_on(classification: Make) -> None:
    distill(classification())
    longer = distill(classification({"train.max_steps": 15}), accept_change=["train.max_steps"])
    assert (longer.status, longer.step) == ("finished", 15)
    with pytest.raises(MashbillError, match="no such key"):
        distill(classification({"train.max_steps": 16}), accept_change=["train.max_step"])


def test_moved_files_are_no_change(classification: Make, tmp_path: Path) -> None:
    distill(classification(), stop_after=5)
    (tmp_path / "train.jsonl").rename(tmp_path / "moved.jsonl")
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "nowhere")
    assert distill(classification({"data.train": "moved.jsonl"})).status == "finished"


def test_a_rule_on_measured_skill_measures_first(classification: Make, tmp_path: Path) -> None:
    changes = {"data.scorecard": "scorecard.jsonl", "weighting": {"task": {"rule": "performance", "temperature": 0.2}}}
    assert distill(classification(changes)).status == "finished"
    assert (tmp_path / "run/scorecard.json").is_file()


def test_a_language_model_learns_and_loads(language: Make, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    outcome = distill(language({"distill.cross_entropy": 0.3, "train.max_steps": 20, "train.learning_rate": 0.01}))
    logged = [record for record in records(tmp_path / "run") if "evaluation" not in record]
    assert logged[-1]["loss"] < logged[0]["loss"]
    assert logged[-1]["cross_entropy"] is not None
    assert outcome.result is not None
    assert outcome.result["primary"] == "perplexity"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run/student")
    assert model.config.hidden_size == 16
    assert sum(parameter.isnan().sum() for parameter in model.parameters()) == 0


def test_a_lora_student_trains_its_adapter_alone(language: Make, language_models: Path, tmp_path: Path) -> None:
    from mashbill.train.students import load_student

    loaded = language({"student": {"kind": "causal_lm", "model": str(language_models / "a"), "peft": {"r": 2}}})
    distill(loaded, stop_after=3)
    assert distill(loaded).status == "finished"
    saved = load_file(tmp_path / "run/student/adapter_model.safetensors")
    assert any(bool((tensor != 0).any()) for name, tensor in saved.items() if "lora_B" in name)
    checkpoint = load_file(tmp_path / "run/checkpoints/step-00000006/model.safetensors")
    assert all("lora" in name for name in checkpoint)
    student = load_student(tmp_path / "run/student")
    rows = student.encode([], max_length=4)
    assert rows == []
    assert any("lora" in name for name, _ in student.module.named_parameters())


def test_training_refuses_several_processes(classification: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MashbillError, match="WORLD_SIZE=2"):
        distill(classification())


def test_the_callers_random_state_is_left_alone(classification: Make) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    distill(classification(), stop_after=2)
    assert torch.equal(torch.rand(3), expected)
