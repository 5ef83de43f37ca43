"""The page as a whole: what is in it, and what must never be."""

import json
import re
import subprocess
import sys

import pytest
from report import synthetic
from report.markup import Page

from mashbill.report.page import SECTIONS, write_report

KINDS = ("classifier", "causal_lm")
HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)></style></title>{{ 7*7 }}&lt;b&gt;\u202e$x$ \\"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_section_is_there_with_a_heading(pages, kind) -> None:
    page = Page(pages[kind])
    ids = {attributes.get("id") for attributes in page.of("section")}
    assert ids == {"verdicts", *(name for name, _, _ in SECTIONS)}
    assert all(heading in page.plain() for _, heading, _ in SECTIONS)
    assert page.unbalanced == []
    assert page.open == []


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_missing_in_a_whole_run(pages, kind) -> None:
    assert 'class="missing"' not in pages[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_page_is_below_a_megabyte(pages, kind) -> None:
    assert len(pages[kind].encode()) < 700_000


@pytest.mark.parametrize("kind", KINDS)
def test_page_can_load_and_run_nothing(pages, kind) -> None:
    page = Page(pages[kind])
    policies = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ]
    forbidden = {"script", "link", "iframe", "object", "embed", "img", "base", "form", "foreignobject", "image"}
    assert not forbidden & {tag for tag, _ in page.elements}
    assert not re.search(r"https?://|@import|url\((?!#)|//[a-z]", pages[kind])
    handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert handlers == []


@pytest.mark.parametrize("kind", KINDS)
def test_identifiers_are_unique_and_references_resolve(pages, kind) -> None:
    page = Page(pages[kind])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for _, attributes in page.elements if "href" in attributes}
    assert links | set(re.findall(r"url\(#([\w.-]+)\)", pages[kind])) <= set(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_named_and_follow_the_scheme(pages, kind) -> None:
    charts = [each for each in Page(pages[kind]).of("svg") if "chart" in each.get("class", "")]
    assert len(charts) > 8
    assert all(each["role"] == "img" and len(each["aria-label"]) > 20 for each in charts)
    body = pages[kind].split("</style>", 1)[1]
    assert not re.search(r"#0[01]0[ab]\d\d|#000000|font-family", body), "a stand-in colour or a font was left"
    assert "var(--t0)" in body


def test_same_files_give_the_same_page(run_dir, tmp_path) -> None:
    first = write_report(run_dir, output=tmp_path / "a.html").read_bytes()
    code = "import sys; from mashbill.report.page import write_report; write_report(sys.argv[1], output=sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, run_dir, tmp_path / "b.html"], check=True)
    assert first == (tmp_path / "b.html").read_bytes()


def test_report_needs_no_torch(run_dir, tmp_path) -> None:
    code = (
        "import sys; from mashbill.report import write_report; write_report(sys.argv[1], output=sys.argv[2]);"
        "sys.exit('torch' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code, run_dir, tmp_path / "report.html"]
    assert subprocess.run(command, check=False).returncode == 0


def test_report_stands_in_the_run_directory_unless_told_otherwise(run_dir, tmp_path) -> None:
    assert write_report(run_dir) == run_dir / "report.html"
    assert write_report(str(run_dir), output=str(tmp_path / "x.html")) == tmp_path / "x.html"


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_stays_text(tmp_path, kind) -> None:
    directory = synthetic.write_run(tmp_path / "run", kind, teachers=(HOSTILE, "student", "a"), small=True)
    for name in ("run", "result", "examples", "comparison", "scorecard"):
        path = directory / f"{name}.json"
        text = path.read_text()
        for word in ("django", "held-out", "chat", "law", "latin/short", "uniform", "nld", " heparin", "Opslaan als…"):
            text = text.replace(json.dumps(word, ensure_ascii=False), json.dumps(HOSTILE + word))
        path.write_text(text)
    (directory / "recipe.yaml").write_text(HOSTILE)
    html = write_report(directory).read_text()
    page = Page(html)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "img" not in {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.unbalanced == []
    assert page.plain().count("<script>alert(1)</script>") > 10
    assert "49" not in page.plain().split("verbatim")[1][:200]


def test_run_directory_name_is_escaped(tmp_path, run_dir) -> None:
    directory = tmp_path / "<script>x<"
    run_dir.rename(directory)
    assert "<script" not in write_report(directory).read_text()


def test_long_examples_and_long_records_stay_below_a_megabyte(tmp_path) -> None:
    directory = synthetic.write_run(tmp_path / "run", "causal_lm", teachers=[f"teacher-{k}" for k in range(12)])
    examples = json.loads((directory / "examples.json").read_text())[:3]
    for example in examples:
        for name in ("labels", "weights", "dominant", "disagreement", "student", "student_probability", "teachers"):
            example[name] = example[name] * 8
        example["tokens"] = [token * 20 for token in example["tokens"]] * 8
    (directory / "examples.json").write_text(json.dumps(examples))
    lines = (directory / "records.jsonl").read_text().splitlines()
    repeated = [json.dumps(json.loads(line) | {"step": n}) for n, line in enumerate(lines * 3, start=1)]
    (directory / "records.jsonl").write_text("\n".join(repeated) + "\n")
    page = write_report(directory).read_text()
    assert len(page.encode()) < 1_000_000
    assert "1 of 3 kept examples" in Page(page).plain()


def test_many_teachers_and_contexts_stay_below_a_megabyte(tmp_path) -> None:
    names = {"teachers": [f"teacher-{k}" for k in range(12)], "contexts": [f"context-{d}" for d in range(50)]}
    page = write_report(synthetic.write_run(tmp_path / "run", "classifier", **names, small=True)).read_text()
    assert len(page.encode()) < 1_000_000
    assert "480 more rows are in the files of the run" in Page(page).plain()
    assert "34 more are in the table" in Page(page).plain()
