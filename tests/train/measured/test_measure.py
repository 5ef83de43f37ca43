import json

import numpy as np
import pytest
import torch

from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import measure
from mashbill.errors import DataError, MashbillError
from mashbill.teachers.protocol import Inputs, Scored
from mashbill.train.answers import first_rows, source_rows
from mashbill.train.corpus import build_corpus
from mashbill.train.data import Row
from mashbill.train.hashed_ngram import HashedNgram
from mashbill.train.intervals import proportion
from mashbill.train.loading import load_recipe
from mashbill.train.measure import measure_scorecard, require_measured, scorecard_of
from mashbill.train.targets import collect
from mashbill.weights.scorecard import Scorecard, rows_to_certify


class Fixed:
    """A teacher that is right on the rows it is told, and sure of it."""

    def __init__(self, id: str, right: set[str]) -> None:
        self.id, self.right = id, right

    def identity(self):
        return {"kind": "fixed", "right": ",".join(sorted(self.right))}

    def score(self, inputs: Inputs) -> Scored:
        is_right = torch.tensor([[row in self.right] for row in inputs.row_ids])
        said = torch.where(is_right, inputs.labels, 1 - inputs.labels)
        probabilities = torch.full((*said.shape, 2), 0.1).scatter(-1, said.unsqueeze(-1), 0.9)
        distribution = Dense.from_probs(probabilities)
        return Scored(distribution, measure(distribution, labels=inputs.labels))


def corpus_of(rows: list[Row]):
    return build_corpus(
        HashedNgram(("no", "yes"), buckets=16, dim=2, hidden=2), rows, max_length=50, teachers=("good", "bad")
    )


def rows_of(n: int, *, context: str = "here", critical: bool = False) -> list[Row]:
    return [
        Row(f"{context}{critical}{k}", text="word", label="yes", context=context, critical=critical) for k in range(n)
    ]


def measured(tmp_path, rows: list[Row], *, good: set[str], bad: set[str], declared: bool) -> Scorecard:
    corpus = corpus_of(rows)
    targets = [collect(each, corpus, tmp_path) for each in (Fixed("good", good), Fixed("bad", bad))]
    return scorecard_of(corpus, targets, confidence=0.95, is_critical_declared=declared)


def test_a_scorecard_counts_what_the_teachers_got_right(tmp_path):
    rows = rows_of(10)
    card = measured(tmp_path, rows, good={row.id for row in rows}, bad={row.id for row in rows[:4]}, declared=False)
    bad = card.cell("bad")
    assert bad is not None
    assert bad.accuracy == proportion(4, 10, confidence=0.95)
    assert bad.loss.value == pytest.approx(-(4 * np.log(0.9) + 6 * np.log(0.1)) / 10, rel=1e-5)
    assert bad.calibration_error == pytest.approx(0.5, abs=1e-6)
    assert bad.safety == bad.accuracy  # nothing was declared critical, so every row counts
    assert bad.n_critical == 0
    assert card.table("accuracy", "context") == [[1.0], [0.4]]


def test_safety_and_its_order_look_at_critical_rows_alone(tmp_path):
    n = rows_to_certify(1.0, discordant=1.0)
    critical, ordinary = rows_of(n, critical=True), rows_of(200)
    card = measured(
        tmp_path,
        critical + ordinary,
        good={row.id for row in critical},  # wrong on all that is ordinary
        bad={row.id for row in ordinary},
        declared=True,
    )
    assert card.orders == {"here": (("good", "bad"),)}
    assert card.table("safety", "context") == [[1.0], [0.0]]
    assert card.table("accuracy", "context")[1] > card.table("accuracy", "context")[0]
    assert [(test.decision, test.n, test.wins, test.losses) for test in card.tests] == [("certified", n, n, 0)]
    alike = measured(tmp_path, critical + ordinary, good=set(), bad=set(), declared=True)
    assert alike.orders == {"here": ()}
    assert [(test.decision, test.n, test.p_value) for test in alike.undecided] == [("undecided", n, 1.0)]


def test_orders_belong_to_contexts(tmp_path):
    n = rows_to_certify(1.0, n_contexts=2, discordant=1.0)
    here, there = rows_of(n, context="here"), rows_of(n, context="there")
    card = measured(
        tmp_path, here + there, good={row.id for row in here}, bad={row.id for row in there}, declared=False
    )
    assert card.orders == {"here": (("good", "bad"),), "there": (("bad", "good"),)}


def test_a_context_without_critical_rows_has_no_safety_and_no_order(tmp_path):
    rows = rows_of(8, critical=True) + rows_of(8, context="there")
    card = measured(tmp_path, rows, good={row.id for row in rows}, bad=set(), declared=True)
    assert card.orders["there"] == ()
    cell = card.cell("good", context="there")
    assert cell is not None
    assert cell.safety is None


def test_blocks_of_one_text_are_one_row():
    ids = ["a", "b#0", "b#1", "b#2", "c#0", "d", "d#1", "e#x"]
    student = HashedNgram(("no", "yes"), buckets=4, dim=2, hidden=2)
    corpus = build_corpus(student, [Row(id, text="word") for id in ids], max_length=9)
    source = source_rows(corpus)
    assert source.tolist() == [0, 1, 1, 1, 2, 3, 4, 5]
    assert first_rows(source).tolist() == [True, True, False, False, True, True, True, True]


def test_the_whole_recipe_is_measured_and_the_answers_are_kept(classifier, classifier_run):
    before = set((classifier_run.directory / "teachers").iterdir())
    card = measure_scorecard(classifier)
    assert set((classifier_run.directory / "teachers").iterdir()) == before  # nobody was asked again
    assert card.teachers == ("germanic", "romance")
    assert (card.tasks, card.contexts) == (("docs", "ui"), ("long", "short"))
    assert len(card.cells) == 2 * 3 * 3  # each teacher by task and context, each also pooled
    assert card == Scorecard.read(classifier_run.directory / "scorecard.json")
    pooled = card.cell("germanic", task="ui", context="short")
    assert pooled is not None
    assert pooled.n == 12


def test_a_language_model_is_measured_by_token(causal):
    card = measure_scorecard(causal)
    first = card.cell("first")
    assert first is not None
    assert first.n > 200
    assert first.safety is not None
    assert 0 <= first.safety.value <= 1
    assert {cell.task for cell in card.cells} == {None, "code", "prose"}


def test_rows_without_labels_are_refused(classifier, tmp_path):
    line = json.dumps({"id": "x7", "text": "ist das", "task": "ui", "length": "short", "critical": False})
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    changed = classifier.with_changes({"data.scorecard": str(tmp_path / "rows.jsonl")}, source="--set")
    with pytest.raises(DataError, match=r"row `x7` has no label \(1 of 1"):
        measure_scorecard(changed)


def test_a_recipe_without_such_rows_is_refused(classifier):
    with pytest.raises(MashbillError, match="no rows to measure teachers on"):
        measure_scorecard(classifier.with_changes({"data.scorecard": None}, source="--set"))
    assert load_recipe(classifier.path) == classifier


def test_a_task_that_was_not_measured_is_refused_only_if_it_is_read(tmp_path):
    card = measured(tmp_path, rows_of(4), good=set(), bad=set(), declared=False)
    require_measured(card, tasks=("new",), contexts=("new",), needs=("entropy",))
    require_measured(card, tasks=("all",), contexts=("new",), needs=("score:task:accuracy",))
    with pytest.raises(MashbillError, match="no task `new`"):
        require_measured(card, tasks=("all", "new"), contexts=("here",), needs=("score:task:accuracy",))
    with pytest.raises(MashbillError, match="no context `new`"):
        require_measured(card, tasks=("all",), contexts=("new",), needs=("orders",))
