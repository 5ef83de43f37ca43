"""Which numbers in a reply are believed."""

import math
from typing import Any

import pytest

from mashbill.teachers.endpoint.asking import Failed
from mashbill.teachers.endpoint.replies import listed, logprob, member, sequence


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "not finite"),
        (float("-inf"), "not finite"),
        (10**400, "not finite"),
        (-(10**400), "not finite"),
        (0.5, "above 0: 0.5"),
        (None, "no number: 'None'"),
        ("-1.0", "no number"),
        (True, "no number"),
        ([-1.0], "no number"),
    ],
)
def test_a_number_that_is_no_log_probability_is_refused(value: Any, words: str) -> None:
    with pytest.raises(Failed, match=words) as told:
        logprob(value)
    assert told.value.verdict == "again"


@pytest.mark.parametrize("value", [0, -0.0, 1e-7, -20.5, -1])
def test_a_log_probability_is_taken(value: float) -> None:
    assert logprob(value) == min(value, 0)


@pytest.mark.parametrize(
    ("pairs", "n_least", "words"),
    [
        ([(1, -0.1), (2, -0.5)], 2, "sum to 1.51"),
        ([(1, -0.1)], 2, "lists 1 entries at a position, and 2"),
        ([(1, -9999.0), (2, -9999.0)], 2, "no number"),
        ([], 0, "no number"),
        ([(1, -1.0), (1, -2.0)], 2, "twice"),
    ],
)
def test_a_list_that_is_no_distribution_is_refused(pairs: list[Any], n_least: int, words: str) -> None:
    with pytest.raises(Failed, match=words):
        listed(pairs, n_least=n_least)


def test_a_sentinel_is_no_probability() -> None:
    found = listed([(1, -0.5), (2, -9999.0), (None, -9999.0)], n_least=3, label=2)
    assert found.top == {1: -0.5}
    assert found.label is None
    assert found.is_top


def test_the_label_may_stand_apart_or_in_the_list() -> None:
    apart = listed([(1, -0.5), (2, -1.5)], n_least=2, label=9, label_logprob=-7.0)
    assert (apart.top, apart.label) == ({1: -0.5, 2: -1.5}, -7.0)
    # The least of a list may have been added to it for being the label.
    added = listed([(1, -0.5), (9, -7.0), (2, -1.5)], n_least=2, label=9)
    assert (added.top, added.label, added.is_top) == ({1: -0.5, 2: -1.5}, -7.0, True)
    inside = listed([(1, -0.5), (2, -1.5)], n_least=2, label=1, label_logprob=-0.5)
    assert (inside.top, inside.label) == ({1: -0.5, 2: -1.5}, -0.5)
    with pytest.raises(Failed, match="two things"):
        listed([(1, -0.5), (2, -1.5)], n_least=2, label=1, label_logprob=-0.9)
    with pytest.raises(Failed, match="sum to"):
        listed([(1, -0.1)], n_least=1, label=9, label_logprob=-0.2)


def test_tokens_that_the_student_lacks_count_against_the_sum() -> None:
    found = listed([(1, -0.7), (None, -0.8)], n_least=2)
    assert (found.top, found.is_top, found.n_listed) == ({1: -0.7}, False, 2)
    with pytest.raises(Failed, match="sum to"):
        listed([(1, -0.3), (None, -0.3)], n_least=2)


def test_a_sum_that_rounding_put_above_1_is_brought_back() -> None:
    found = listed([(1, math.log(0.6) + 2e-4), (2, math.log(0.4) + 2e-4)], n_least=2)
    assert math.fsum(map(math.exp, found.top.values())) == pytest.approx(1, abs=1e-12)


def test_a_reply_of_another_shape_names_what_is_missing() -> None:
    with pytest.raises(Failed, match=r"no `choices.0`"):
        member({"choices": []}, "choices", 0, "logprobs")
    with pytest.raises(Failed, match=r"no `a`"):
        member(["a"], "a")
    with pytest.raises(Failed, match="has 2 entries, and 3 are needed"):
        sequence({"a": [1, 2]}, "a", n_least=3, n_most=3)
    with pytest.raises(Failed, match="has 4 entries, and 3 are needed"):
        sequence({"a": [1, 2, 3, 4]}, "a", n_least=3, n_most=3)
    with pytest.raises(Failed, match="is no list"):
        sequence({"a": {"b": 1}}, "a", n_least=0)
