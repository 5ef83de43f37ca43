"""Three-way verdicts."""

import pytest

from mashbill.report import verdict
from mashbill.report.schema import Entry, Interval, Paired, Result


def interval(value, half=0.02):
    return Interval(value=value, low=value - half, high=value + half)


def entry(who, accuracy, **values):
    return Entry(set="s", who=who, by="all", name="all", n=100, accuracy=interval(accuracy), **values)


def result(entries, paired=()):
    return Result(kind="classifier", primary="accuracy", entries=entries, paired=list(paired))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0.90, 0.85, "above"), (0.90, 0.87, "within"), (0.90, 0.93, "within"), (0.90, 0.95, "below")],
)
def test_separate_intervals(first, second, expected) -> None:
    assert verdict.compare(interval(first), interval(second), measure="accuracy") == expected
    mirrored = {"above": "below", "below": "above"}.get(expected, expected)
    assert verdict.compare(interval(first), interval(second), measure="perplexity") == mirrored


def test_touching_intervals_are_not_apart() -> None:
    touching = Interval(value=0.5, low=0.4, high=0.6), Interval(value=0.7, low=0.6, high=0.8)
    assert verdict.compare(*touching, measure="accuracy") == "within"


def test_missing_or_infinite_ends_decide_nothing() -> None:
    whole = interval(0.5)
    for ends in ({"low": None, "high": 1.0}, {"low": 0.0, "high": float("nan")}, {}):
        assert verdict.compare(whole, Interval(value=0.9, **ends), measure="accuracy") == "undecided"


def test_best_teacher_is_the_best_point_and_the_first_of_equals() -> None:
    entries = [entry("pool", 0.99), entry("teacher:a", 0.8), entry("teacher:b", 0.9), entry("teacher:c", 0.9)]
    best = verdict.best_teacher(verdict.overall(result(entries), "s"), "accuracy")
    assert best is not None
    assert best.who == "teacher:b"


def test_less_perplexity_is_better() -> None:
    entries = [entry(f"teacher:{name}", 0.5, perplexity=interval(value)) for name, value in (("a", 9.0), ("b", 7.0))]
    best = verdict.best_teacher(verdict.overall(result(entries), "s"), "perplexity")
    assert best is not None
    assert best.who == "teacher:b"


def test_paired_difference_decides_where_separate_intervals_overlap() -> None:
    entries = [entry("student", 0.90), entry("teacher:a", 0.88)]
    paired = Paired(
        set="s", first="student", second="teacher:a", accuracy=interval(0.02, 0.01), loss=interval(-0.1, 0.3)
    )
    assert (verdict.duel(result(entries), "s", "accuracy") or pytest.fail("no duel")).verdict == "within"
    found = verdict.duel(result(entries, [paired]), "s", "accuracy")
    assert found is not None
    assert found.verdict == "above"
    assert found.gain == paired.accuracy


def test_paired_loss_is_turned_around_for_perplexity() -> None:
    both = [entry(who, 0.5, perplexity=interval(value)) for who, value in (("student", 8.0), ("teacher:a", 9.0))]
    line = Paired(set="s", first="student", second="teacher:a", accuracy=interval(0.0), loss=interval(-0.1, 0.05))
    found = verdict.duel(result(both, [line]), "s", "perplexity")
    assert found is not None
    assert found.gain is not None
    assert found.verdict == "above"
    assert (found.gain.low, found.gain.high) == pytest.approx((0.05, 0.15))


def test_no_student_or_no_teacher_is_no_duel() -> None:
    assert verdict.duel(result([entry("student", 0.9)]), "s", "accuracy") is None
    assert verdict.duel(result([entry("teacher:a", 0.9)]), "s", "accuracy") is None
    assert verdict.duel(result([entry("teacher:a", 0.9), entry("student", 0.9)]), "s", "safety") is None
