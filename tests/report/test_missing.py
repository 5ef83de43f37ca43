"""Runs of which a part is missing: the page says so, and shows the rest."""

import json

import pytest
from report.markup import Page

from mashbill.errors import DataError
from mashbill.report.page import write_report


def change(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("result.json", "the final evaluation has not run"),
        ("comparison.json", "No arms were compared"),
        ("scorecard.json", "the teachers' skill was not measured"),
        ("examples.json", "no rows were kept to show"),
        ("records.jsonl", "No training step was logged"),
        ("recipe.yaml", "There is no recipe.yaml"),
    ],
)
def test_a_missing_file_is_named_and_the_rest_is_shown(run_dir, name, said) -> None:
    (run_dir / name).unlink()
    page = Page(write_report(run_dir).read_text())
    assert said in page.plain()
    assert page.unbalanced == []
    assert len(page.of("section")) == 9


def test_a_run_that_only_began(run_dir) -> None:
    for path in run_dir.iterdir():
        if path.name != "run.json":
            path.unlink()
    (run_dir / "run.json").write_text('{"mashbill": "0.1.0", "status": "running"}')
    page = Page(write_report(run_dir).read_text())
    assert "This run is not finished (status: running)" in page.plain().replace("finished  (", "finished (")
    assert "before it wrote down who its teachers are" in page.plain()
    assert "nothing can be said about the student yet" in page.plain()


def test_an_interrupted_run_shows_what_it_has(run_dir) -> None:
    change(run_dir / "run.json", status="interrupted", finished=None)
    (run_dir / "result.json").unlink()
    lines = (run_dir / "records.jsonl").read_text().splitlines()[:1]
    (run_dir / "records.jsonl").write_text(lines[0] + "\n")
    text = Page(write_report(run_dir).read_text()).plain()
    assert "status: interrupted" in text
    assert "did not end as planned" in text
    assert "not finished" in text


def test_no_critical_rows_means_no_claim(run_dir) -> None:
    result = json.loads((run_dir / "result.json").read_text())
    for entry in result["entries"]:
        entry |= {"safety": None, "n_critical": 0}
    (run_dir / "result.json").write_text(json.dumps(result))
    assert "nothing is claimed about safety" in Page(write_report(run_dir).read_text()).plain()


def test_intervals_without_ends_give_no_verdict(run_dir) -> None:
    result = json.loads((run_dir / "result.json").read_text())
    result["paired"] = []
    for entry in result["entries"]:
        entry["accuracy"] |= {"low": None, "high": None}
    (run_dir / "result.json").write_text(json.dumps(result))
    text = Page(write_report(run_dir).read_text()).plain()
    assert "without an interval on 2" in text
    assert "no interval against" in text


def test_sparse_records_are_enough(run_dir) -> None:
    (run_dir / "records.jsonl").write_text('{"step": 1, "loss": 0.0}\n{"step": 2}\n')
    text = Page(write_report(run_dir).read_text()).plain()
    assert "nothing to show about who taught what" in text
    assert "No distance to single teachers was logged" in text


def test_no_run_directory(tmp_path) -> None:
    with pytest.raises(DataError, match=r"has no run\.json.*\n.*\n.*mashbill distill"):
        write_report(tmp_path)


def test_one_wild_disagreement_does_not_wash_out_the_others(run_dir) -> None:
    examples = json.loads((run_dir / "examples.json").read_text())
    for number, example in enumerate(examples):
        example["disagreement"] = [float(number % 5)]
    examples[0]["disagreement"] = [540.0]
    (run_dir / "examples.json").write_text(json.dumps(examples))
    page = write_report(run_dir).read_text()
    assert "full from 4.00 nats on" in Page(page).plain()
    rows = [each["style"] for each in Page(page).of("article") if each.get("class", "").startswith("row")]
    assert len(set(rows)) == 5


def test_bins_with_few_rows_are_not_drawn(run_dir) -> None:
    result = json.loads((run_dir / "result.json").read_text())
    for entry in result["entries"]:
        for each in entry.get("reliability", []):
            each["n"] = 9
    (run_dir / "result.json").write_text(json.dumps(result))
    assert "No bin holds enough rows" in Page(write_report(run_dir).read_text()).plain()


def test_ties_in_skill_count_as_most_skilled(run_dir) -> None:
    card = json.loads((run_dir / "scorecard.json").read_text())
    for cell in card["cells"]:
        cell["accuracy"] = {"value": 1.0, "low": 0.9, "high": 1.0}
    (run_dir / "scorecard.json").write_text(json.dumps(card))
    text = Page(write_report(run_dir).read_text()).plain()
    assert "In 2 of 2 tasks no teacher on the scorecard is more accurate" in text
