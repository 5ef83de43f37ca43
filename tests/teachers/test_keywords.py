"""A list of words as a teacher."""

import pytest

from mashbill.teachers.keywords import KeywordTeacher

WORDS = {"bill": ["invoice", "refund"], "bug": ["crash"]}


def test_mass_is_shared_by_the_words_found():
    reply = KeywordTeacher(WORDS, confidence=0.8).predict(["Invoice! CRASH, crash; refund"])[0]
    assert reply == pytest.approx({"bill": 0.4, "bug": 0.4})


def test_a_text_without_its_words_gets_no_opinion():
    assert KeywordTeacher(WORDS).predict(["crashes", ""]) == [{}, {}]


def test_labels_that_were_not_found_are_left_out():
    assert KeywordTeacher(WORDS, confidence=1.0).predict(["a crash"]) == [{"bug": 1.0}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words": {}}, "must map each label"),
        ({"words": {"bill": "invoice"}}, "must be a list of words"),
        ({"words": {"bill": []}}, "must be a list of words"),
        ({"words": WORDS, "confidence": 0}, "confidence=0 must be above 0"),
        ({"words": WORDS, "confidence": 1.5}, "confidence=1.5"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        KeywordTeacher(**options)
