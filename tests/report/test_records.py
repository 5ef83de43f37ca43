"""Reading a run directory: what is accepted, and how damage is named."""

import json

import pytest

from mashbill.errors import CorruptionError
from mashbill.report.records import read_run

JSON_FILES = ("run.json", "result.json", "examples.json", "comparison.json", "scorecard.json")


@pytest.mark.parametrize("name", [*JSON_FILES, "records.jsonl"])
@pytest.mark.parametrize("damage", [b"{", b"\xff\xfe\x00", b"", b"3", b"[" * 100_000, b'{"step": "x"}'])
def test_damage_is_named_with_its_file_and_a_way_out(run_dir, name, damage) -> None:
    whole = (run_dir / name).read_bytes()
    (run_dir / name).write_bytes(damage + b"\n" + whole if name == "records.jsonl" and damage else damage)
    if name == "records.jsonl" and not damage:
        (run_dir / name).write_bytes(b"\n\n")  # blank lines are no damage
        assert read_run(run_dir).steps == ()
        return
    with pytest.raises(
        CorruptionError, match=rf"{name} cannot be read\n  --> .*{name}(:1)?\n.*\n.*help: restore"
    ) as caught:
        read_run(run_dir)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_cut_in_half_is_damage(run_dir, name) -> None:
    content = (run_dir / name).read_bytes()
    (run_dir / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(CorruptionError, match=name):
        read_run(run_dir)


def test_a_wrong_value_is_named_by_its_place(run_dir) -> None:
    result = json.loads((run_dir / "result.json").read_text())
    result["entries"][3]["accuracy"]["value"] = "much"
    (run_dir / "result.json").write_text(json.dumps(result))
    with pytest.raises(CorruptionError, match=r"entries\.3\.accuracy\.value: Input should be a valid number"):
        read_run(run_dir)


def test_examples_with_uneven_lists_are_damage(run_dir) -> None:
    examples = json.loads((run_dir / "examples.json").read_text())
    examples[0]["weights"] = []
    (run_dir / "examples.json").write_text(json.dumps(examples))
    with pytest.raises(CorruptionError, match="`weights` has 0 items for 1 tokens"):
        read_run(run_dir)


@pytest.mark.parametrize("name", ["records.jsonl", "examples.json", "result.json", "scorecard.json"])
def test_files_of_another_run_are_noticed(run_dir, name) -> None:
    text = (run_dir / name).read_text()
    (run_dir / name).write_text(text.replace("glotlid", "stranger"))
    with pytest.raises(CorruptionError, match=rf"{name} names teacher 'stranger'"):
        read_run(run_dir)


def test_a_torn_last_record_is_no_damage(run_dir) -> None:
    whole = read_run(run_dir)
    with (run_dir / "records.jsonl").open("a") as file:
        file.write('{"step": 1210, "lo')
    torn = read_run(run_dir)
    assert not whole.torn
    assert torn.torn
    assert torn.steps == whole.steps


def test_steps_written_again_after_a_resume_replace_the_first(run_dir) -> None:
    lines = [{"step": step, "loss": loss} for step, loss in [(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.2), (3, 1.4)]]
    lines += [{"step": 4, "loss": 1.1, "resumed": True}, {"step": 4, "evaluation": {"set": "a", "loss": 1.0}}]
    (run_dir / "records.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    files = read_run(run_dir)
    assert [(record.step, record.loss) for record in files.steps] == [(1, 3.0), (2, 2.0), (3, 1.4), (4, 1.1)]
    assert files.resumes == (3, 4)
    assert len(files.evaluations) == 1


def test_unknown_keys_are_left_alone(run_dir) -> None:
    run = json.loads((run_dir / "run.json").read_text()) | {"colour": "blue"}
    (run_dir / "run.json").write_text(json.dumps(run))
    assert read_run(run_dir).run.status == "finished"
