"""Numbers in the page's tables are those of the files."""

import json
from dataclasses import replace

import pytest
from report.markup import Page

from mashbill.report.records import read_run
from mashbill.report.sections.skill import MOST_UNDECIDED, section
from mashbill.report.sections.teaching import FINAL_STEPS
from mashbill.report.text import count


@pytest.fixture(scope="module")
def classifier(pages) -> Page:
    return Page(pages["classifier"])


@pytest.fixture(scope="module")
def files(runs):
    return lambda name: json.loads((runs["classifier"] / name).read_text())


def percent(value):
    return f"{100 * value:.1f}%"


def test_results_over_all_rows(classifier, files) -> None:
    rows = {(row[0], row[1]): row[2:] for row in classifier.table("Over all rows of each set")[1:]}
    entries = [entry for entry in files("result.json")["entries"] if entry["by"] == "all"]
    assert len(rows) == len(entries) == 21
    for entry in entries:
        who = {"pool": "pooled teachers"}.get(entry["who"], entry["who"].removeprefix("teacher:"))
        assert rows[entry["set"], who] == [
            count(entry["n"]),
            percent(entry["accuracy"]["value"]),
            f"{entry['loss']['value']:.3f}",
            percent(entry["safety"]["value"]),
        ]


def test_results_by_context(classifier, files) -> None:
    head, *rows = classifier.table("wikipedia: accuracy by context")
    shown = {(row[0], who): value for row in rows for who, value in zip(head[2:], row[2:], strict=True)}
    entries = [e for e in files("result.json")["entries"] if e["by"] == "context" and e["set"] == "wikipedia"]
    assert len(shown) == len(entries)
    for entry in entries:
        who = {"pool": "pooled teachers"}.get(entry["who"], entry["who"].removeprefix("teacher:"))
        assert shown[entry["name"], who] == percent(entry["accuracy"]["value"])


def test_final_weights_are_means_of_the_last_records(classifier, runs) -> None:
    head, *rows = classifier.table("Final weight by context")
    assert len(rows) == 8
    lines = [json.loads(line) for line in (runs["classifier"] / "records.jsonl").read_text().splitlines()]
    last = [line["weights"]["context"] for line in lines if "weights" in line][-FINAL_STEPS:]
    for row in rows:
        for teacher, shown in zip(head[1:], row[1:], strict=True):
            mean = sum(weights[row[0]][teacher] for weights in last) / FINAL_STEPS
            assert float(shown.removesuffix("%")) == pytest.approx(100 * mean, abs=0.5001)


def test_weights_over_steps_are_single_records(classifier, runs) -> None:
    head, *rows = classifier.table("Mean weight at some of the logged steps")
    lines = [json.loads(line) for line in (runs["classifier"] / "records.jsonl").read_text().splitlines()]
    by_step = {str(line["step"]): line["weights"]["all"] for line in lines if "weights" in line}
    assert [rows[0][0], rows[-1][0]] == ["10", "1200"]
    for step, *values in rows:
        assert values == [percent(by_step[step][teacher]) for teacher in head[1:]]


def test_seeds(classifier, files) -> None:
    comparison = files("comparison.json")
    rows = {(row[0], row[1]): row[2:] for row in classifier.table("Accuracy of the student, by arm and seed")[1:]}
    for arm, seeds in comparison["arms"].items():
        values = [
            next(e["accuracy"]["value"] for e in run["entries"] if (e["set"], e["by"]) == ("django", "all"))
            for run in seeds.values()
        ]
        assert rows[arm, "django"] == [*map(percent, values), percent(sum(values) / 3)]


def test_calibration_errors(classifier, files) -> None:
    head, *rows = classifier.table("Expected calibration error")
    found = {(e["set"], e["who"]): e["calibration_error"] for e in files("result.json")["entries"] if e["by"] == "all"}
    student = next(row for row in rows if row[0] == "student")
    assert student[1:] == [percent(found[name, "student"]) for name in head[1:]]


def test_scorecard(classifier, files) -> None:
    rows = classifier.table("By context")[1:]
    cells = [cell for cell in files("scorecard.json")["cells"] if cell["context"]]
    assert {(row[0], row[1], row[3]) for row in rows} == {
        (cell["context"], cell["teacher"], percent(cell["accuracy"]["value"])) for cell in cells
    }


def test_certified_edges_are_listed(classifier) -> None:
    text = classifier.plain()
    assert "latin/short glotlid › lingua cld3 › lingua" in text
    assert "No pair is certified in cyrillic/short" in text
    assert "exact sign test on the rows where two teachers differ" in text


def test_undecided_pairs_are_listed_with_what_was_seen(classifier, files) -> None:
    undecided = [test for test in files("scorecard.json")["tests"] if test["decision"] == "undecided"]
    _, *rows = classifier.table("Undecided pairs")
    assert len(rows) == len(undecided) > 0
    for row, test in zip(rows, undecided, strict=True):
        assert row[:2] == [test["context"], f"{test['safer']}, {test['less_safe']}"]
        assert row[2:] == ["1\u202f200", "9", "7", "0.2%", "0.402", "0.001"]
    assert f"{len(undecided)} of {len(files('scorecard.json')['tests'])} pairs are undecided" in classifier.plain()


def test_many_undecided_pairs_are_only_counted(runs) -> None:
    files = read_run(runs["classifier"])
    assert files.scorecard is not None
    many = [test.model_copy(update={"decision": "undecided"}) for test in files.scorecard.tests] * MOST_UNDECIDED
    shown = section(replace(files, scorecard=files.scorecard.model_copy(update={"tests": many})))
    assert shown["undecided"] is None
    assert shown["n_undecided"] == len(many)


def test_examples_say_what_everybody_said(classifier, files) -> None:
    text = classifier.plain()
    example = files("examples.json")[0]
    answer = example["teachers"][0]["glotlid"]
    weight = example["weights"][0]["glotlid"]
    assert f"glotlid {100 * weight:.0f}% said {answer['top']} {100 * answer['probability']:.0f}%" in text
    assert f"student {example['student'][0]} {100 * example['student_probability'][0]:.0f}%" in text


def test_recipe_is_verbatim(pages, runs) -> None:
    recipe = pages["classifier"].split("<pre", 1)[1].split(">", 1)[1].split("</pre>")[0]
    assert recipe == (runs["classifier"] / "recipe.yaml").read_text()


def test_hashes_are_whole_in_the_title(pages) -> None:
    assert 'title="' + "5e" * 32 + '"' in pages["classifier"]
    assert "5e5e5e5e5e5e…" in pages["classifier"]


def test_a_strip_colours_the_token_that_was_predicted(pages, runs) -> None:
    page = Page(pages["causal_lm"])
    example = json.loads((runs["causal_lm"] / "examples.json").read_text())[0]
    at = pages["causal_lm"].index('<p class="tokens"')
    strip = Page(pages["causal_lm"][at : pages["causal_lm"].index("</p>", at) + 4])
    spans = strip.of("span")
    assert len(spans) == len(example["labels"]) + 1
    assert spans[0] == {"class": "start"}
    assert "".join(strip.text) == example["tokens"][0] + "".join(example["labels"])
    for span, dominant, weights in zip(spans[1:], example["dominant"], example["weights"], strict=True):
        index = list(weights).index(dominant)
        assert span["class"].split()[0] == f"t{index}"
        assert f"{dominant} {100 * weights[dominant]:.0f}%" in span["title"]
    assert page.plain().count("most contested tokens") == 6
