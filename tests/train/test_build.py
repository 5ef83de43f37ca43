"""From a recipe's names to operators, teachers and evidence; what does not fit is said with its place."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mashbill.errors import MashbillError, VocabularyError
from mashbill.train import recipe
from mashbill.train.build import build_operator, build_teachers, needs_scorecard
from mashbill.train.corpus import build_corpus
from mashbill.train.data import Row
from mashbill.train.gather import Knowledge
from mashbill.train.hashed_ngram import HashedNgram
from mashbill.train.loading import Loaded
from mashbill.train.students import build_student
from mashbill.weights.scorecard import Cell, Interval, Scorecard


def weighting(**values) -> recipe.Weighting:
    return recipe.Weighting.model_validate(values)


@pytest.mark.parametrize(
    ("values", "where", "what"),
    [
        ({"token": {"rule": "entropy_sofmax"}}, "", "did you mean `entropy_softmax`"),
        ({"token": {"rule": "entropy_softmax", "betta": 2}}, "weighting.token", "betta"),
        ({"task": {"rule": "performance", "temperature": -1}}, "weighting.task", "temperature=-1"),
        ({"bounds": [0.6, 0.9]}, "weighting.bounds", "w_min=0.6"),
        ({"order": [["a", "z"]]}, "weighting.order[0]", "no teacher `z`"),
        ({"order": [["a", "b"], ["b", "a"]]}, "weighting.order", "cycle"),
    ],
)
def test_what_a_rule_does_not_take_is_said_with_its_place(values: dict, where: str, what: str) -> None:
    with pytest.raises(MashbillError) as caught:
        build_operator(weighting(**values), ("a", "b"))
    assert what in str(caught.value)
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({}, False),
        ({"token": {"rule": "entropy_softmax"}}, False),
        ({"task": {"rule": "performance"}}, True),
        ({"context": {"rule": "ranked_safety"}}, True),
        ({"context": {"rule": "ranked_safety", "safety": {"a": 1.0, "b": 0.5}}}, False),
        ({"order": "scorecard"}, True),
    ],
)
def test_who_needs_a_scorecard(values: dict, needed: bool) -> None:
    given = weighting(**values)
    assert needs_scorecard(build_operator(given, ("a", "b")), given) is needed


def test_a_plug_in_cannot_teach_tokens(language: Callable[..., Loaded]) -> None:
    loaded = language()
    student = build_student(loaded.recipe.student, loaded.path.parent, 0)
    with pytest.raises(VocabularyError, match="plug-in, which names labels"):
        build_teachers([recipe.Teacher(id="w", plugin="words")], student, Path())


def test_a_plug_ins_options_are_checked(classification: Callable[..., Loaded]) -> None:
    student = HashedNgram(["de", "en"])
    with pytest.raises(MashbillError) as caught:
        build_teachers([recipe.Teacher(id="w", plugin="words", options={"nose": 1})], student, Path())
    assert caught.value.where == "teachers[0].options"


def cell(teacher: str, task: str | None, accuracy: float) -> Cell:
    interval = Interval(accuracy, 0.0, 1.0)
    return Cell(teacher, task, None, 10, Interval(1 - accuracy, 0.0, 1.0), interval, 0.1, None, 0)


def test_a_scorecard_comes_in_the_order_of_the_corpus() -> None:
    # Measured for b before a, and for a task that the corpus calls second; `new` was not measured.
    cells = [cell("b", None, 0.5), cell("a", None, 0.6), cell("b", "ui", 0.7), cell("a", "ui", 0.8)]
    card = Scorecard(("b", "a"), ("ui",), ("all",), 0.95, tuple(cells), {"all": (("a", "b"),)})
    rows = [Row("1", text="x", task="ui"), Row("2", text="y", task="new")]
    corpus = build_corpus(HashedNgram(["de", "en"]), rows, max_length=5, teachers=("a", "b"))
    known = Knowledge.of(card, corpus)
    assert corpus.tasks == ("new", "ui")
    assert torch.equal(known.scores["task"]["accuracy"], torch.tensor([[0.6, 0.8], [0.5, 0.7]]))
    assert "safety" not in known.scores["task"]
    assert known.orders == {"all": ((0, 1),)}
    other = build_corpus(HashedNgram(["de", "en"]), rows, max_length=5, teachers=("a", "c"))
    with pytest.raises(MashbillError, match="does not know teacher `c`"):
        Knowledge.of(card, other)
