"""The page of an audit: what stands in it, what must never, and that the same audit gives the same page."""

import dataclasses
import re

import pytest
from report.audited import PROOF, conforming, of_pool, results
from report.markup import Page

from mashbill.report.audit_page import MAX_CHARACTERS, render, tally, write_audit

HOSTILE = """<script>alert(1)</script>"'><img src=x onerror=alert(2)></style>{{ 7*7 }}&lt;b&gt;\u202e"""


def page_of(*groups) -> Page:
    return Page(render([result for group in groups for result in group], guarantees={}))


@pytest.fixture(scope="module")
def text() -> str:
    return render([*results(), *conforming(), *of_pool()], guarantees={})


def test_the_matrix_says_every_verdict_in_words(text) -> None:
    page = Page(text)
    weights, pools = page.tables
    assert weights[0] == ["Axiom", "Surer", "Calm"]
    rows = {row[0]: row[1:] for row in weights[1:] if len(row) == 3}
    assert rows["normalisation"] == ["✓certified", "✓certified"] or "normalisation" in rows
    said = {label for row in weights for label in row}
    assert {"✓certified", "✗falsified", "○survived", "–n/a", "!error"} <= said
    assert pools[0] == ["Axiom", "linear"]
    assert page.unbalanced == []
    assert page.open == []


def test_groups_stand_in_the_order_of_the_axioms(text) -> None:
    page = Page(text)
    groups = [row[0] for row in page.tables[0] if len(row) == 1]
    assert groups == ["Weights, token scale", "Weights, task scale", "Contract of a rule"]


def test_every_cell_leads_to_its_entry(text) -> None:
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for attributes in page.of("a")]
    assert len([link for link in links if "-" in link]) == 10
    assert {link[1:] for link in links} <= set(ids)


def test_violations_are_open_and_the_rest_is_closed(text) -> None:
    entries = [each for each in Page(text).of("details") if each.get("class") == "entry"]
    assert len(entries) == 10
    assert sum("open" in each for each in entries) == 4


def test_a_witness_comes_with_its_replay_and_its_situation(text) -> None:
    plain = Page(text).plain()
    assert "gini (0.5, 0.1) gives (0.2, 0.8)" in plain
    assert "audit.replay(witness, operator)" in plain
    assert '"logits": ["-inf", 0.25]' in plain
    assert "0.600000 beyond the tolerance" in plain


def test_a_certificate_is_checked_again_when_the_page_is_written() -> None:
    proof = results()[0]
    assert "yes, when this page was written" in page_of([proof]).plain()
    tampered = dataclasses.replace(PROOF, numbers={"parts": [1, 2, 3], "sum": 7})
    said = page_of([dataclasses.replace(proof, certificate=tampered)]).plain()
    assert "do not rely on it" in said
    assert "yes, when this page" not in said


def test_survived_says_how_hard_was_tried_and_by_what(text) -> None:
    assert "1\u202f312 situations by bisection; seed 7" in Page(text).text or "1\u202f312" in text
    assert "That is no proof." in Page(text).plain()


def test_a_known_failure_is_shown_as_known_with_its_reason() -> None:
    known = results(known="the rule knows no order")
    page = page_of(known)
    assert "✗known" in {label for row in page.tables[0] for label in row}
    assert "Known: the rule knows no order" in page.plain()
    assert "1 of the failures known" in page.plain()
    assert tally(known) == "1 certified, 1 falsified, 1 survived, 2 not applicable, 2 error, 1 of the failures known"


def test_the_headline_counts_violations() -> None:
    assert "2 operators against 7 axioms: 3 violations, in 1 operator." in page_of(results(), conforming()).plain()
    assert "1 operator against 2 axioms: no axiom is violated" in page_of(conforming()).plain()


def test_operators_of_one_name_keep_their_whole_names() -> None:
    page = page_of(conforming("a:Rule(beta=1.0)"), conforming("b:Rule"), conforming("runs/first"))
    assert page.tables[0][0] == ["Axiom", "a:Rule(beta=1.0)", "b:Rule", "first"]


def test_the_page_can_load_and_run_nothing(text) -> None:
    page = Page(text)
    policies = [each["content"] for each in page.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ]
    assert not {"script", "link", "iframe", "img", "form"} & {tag for tag, _ in page.elements}
    assert not re.search(r"https?://|@import|url\(", text)
    assert "prefers-color-scheme:dark" in text


def test_texts_of_others_stay_text() -> None:
    hostile = [dataclasses.replace(result, operator=HOSTILE, reason=HOSTILE) for result in results(known=HOSTILE)]
    page = page_of(hostile)
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert "49" not in page.plain()
    assert page.unbalanced == []


def test_a_witness_of_a_megabyte_is_cut_and_says_so() -> None:
    falsified = results()[2]
    assert falsified.witness is not None
    large = dataclasses.replace(falsified.witness, inputs={"logits": [0.5] * 200_000})
    text = render([dataclasses.replace(falsified, witness=large)], guarantees={})
    assert len(text) < 40_000 + MAX_CHARACTERS
    assert "more characters" in text


def test_the_same_audit_gives_the_same_page(tmp_path) -> None:
    place = write_audit(results(), output=tmp_path / "new" / "audit.html")
    assert place.read_text(encoding="utf-8") == render(results(), guarantees={})


def test_what_follows_stands_below_the_operator() -> None:
    seen = {"name": "least weight", "value": 0.04, "unit": "probability", "source": "records.jsonl"}
    kept = {
        "id": "weights.range",
        "title": "range of weights",
        "status": "inherited",
        "statement": "every weight is in [0.05, 0.9]",
        "premise": "certified by the audit",
        "source": "Theorem IV.2",
        "reason": "",
        "measured": [seen],
        "is_met": False,
    }
    not_kept = {**kept, "id": "x", "status": "not inherited", "statement": "", "reason": "it jumps", "measured": []}
    page = Page(render(conforming(), guarantees={"my_rules:Calm": [kept, {**not_kept, "is_met": None}]}))
    rows = page.tables[1][1:]
    assert [row[1] for row in rows] == ["inherited", "not inherited"]
    assert rows[1][2] == "it jumps"
    assert "measured: least weight 0.040000 (records.jsonl)" in page.plain()
    assert page.plain().count("outside the bound") == 1
    assert "What follows" not in page_of(conforming()).plain()
