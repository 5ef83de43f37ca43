"""Every error says what, where, why and what to do, once."""

import pytest

from mashbill import errors
from mashbill.errors import DataError, MashbillError, Problem, RecipeError, did_you_mean


def test_a_message_has_one_fact_a_line():
    error = MashbillError("no such thing", where="recipe.yaml:3", why="it is gone", help="bring it back")
    assert str(error) == "error: no such thing\n  --> recipe.yaml:3\n   = it is gone\n   = help: bring it back"
    assert str(MashbillError("no such thing")) == "error: no such thing"


def test_facts_are_the_same_as_values():
    error = MashbillError("a", where="b", why="c", help="d")
    assert error.facts() == {"what": "a", "where": "b", "why": "c", "help": "d"}


def test_a_recipe_error_lists_every_problem_and_repeats_no_help():
    error = RecipeError([Problem("a", "x", "same"), Problem("b", "y", "same"), Problem("c", "z", "other")])
    assert str(error).splitlines() == [
        "error: a: x",
        "error: b: y",
        "   = help: same",
        "error: c: z",
        "   = help: other",
    ]
    assert error.facts()["problems"][0] == {"where": "a", "what": "x", "help": "same"}


def test_beyond_a_page_problems_are_counted():
    error = RecipeError(Problem(str(n), "x") for n in range(errors.MAX_SHOWN + 7))
    assert str(error).splitlines()[-1] == "... and 7 more"
    assert len(error.facts()["problems"]) == errors.MAX_SHOWN + 7


def test_a_data_error_is_one_message_or_several_problems():
    assert str(DataError("torn", where="x.jsonl")) == "error: torn\n  --> x.jsonl"
    assert str(DataError(problems=[Problem("x.jsonl:1", "torn")])) == "error: x.jsonl:1: torn"
    assert DataError("torn").facts()["what"] == "torn"


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.MashbillError, 2),
        (errors.VocabularyError, 2),
        (errors.TeacherError, 3),
        (errors.CorruptionError, 4),
        (errors.NumericError, 5),
    ],
)
def test_exit_codes_are_those_that_are_documented(kind, code):
    assert kind("x").exit_code == code


def test_a_guess_is_made_only_if_something_is_close():
    assert did_you_mean("sead", ["seed", "output"]) == " — did you mean `seed`?"
    assert did_you_mean("colour", ["seed", "output"]) == ""
