"""Plug-in teachers, heard in the student's labels."""

import math
from dataclasses import dataclass, field

import pytest
import torch

from mashbill.errors import TeacherError, VocabularyError
from mashbill.teachers import LabelledTeacher

STUDENT = ("de", "en", "zh", "fr")


@dataclass
class Scripted:
    """Replies with what the test says."""

    labels: tuple[str, ...]
    replies: list[dict[str, float]]
    version: str = "1.2"
    asked: list[str] = field(default_factory=list)

    def predict(self, texts):
        self.asked += texts
        return self.replies


def ask(text_inputs, labels, replies, *, gold=None, **options):
    teacher = LabelledTeacher("t", Scripted(tuple(labels), replies), STUDENT, **options)
    return teacher.score(text_inputs([f"text {row}" for row in range(len(replies))], gold))


def dense(scored) -> list[list[float]]:
    """Probabilities ``[B V]``, the tail spread evenly."""
    return scored.distribution.densify().exp()[:, 0].tolist()


def stored(scored, row=0) -> dict[str, float]:
    ids, logprobs = scored.distribution.ids[row, 0].tolist(), scored.distribution.logprobs[row, 0].exp().tolist()
    return {STUDENT[index]: value for index, value in zip(ids, logprobs, strict=True) if index >= 0}


def test_what_is_listed_is_stored_and_the_rest_is_tail(text_inputs):
    scored = ask(text_inputs, ["de", "en", "fr"], [{"de": 0.7, "en": 0.1}])
    assert stored(scored) == pytest.approx({"de": 0.7, "en": 0.1})
    assert scored.distribution.log_tail.exp().item() == pytest.approx(0.2)
    assert dense(scored)[0] == pytest.approx([0.7, 0.1, 0.1, 0.1])


def test_entries_are_stored_largest_first_and_unused_slots_are_empty(text_inputs):
    scored = ask(text_inputs, ["de", "en", "fr"], [{"de": 0.1, "en": 0.6, "fr": 0.2}, {"fr": 0.9}])
    assert scored.distribution.ids[:, 0].tolist() == [[1, 3, 0], [3, -1, -1]]
    assert scored.distribution.logprobs[1, 0, 1:].tolist() == [-1e4, -1e4]


def test_the_explicit_mapping_comes_first_and_many_labels_may_mean_one(text_inputs):
    labels = ["zh-Hans", "zh-Hant", "en", "de"]
    mapping = {"zh-Hans": "zh", "zh-Hant": "zh", "en": "fr"}
    scored = ask(text_inputs, labels, [{"zh-Hans": 0.3, "zh-Hant": 0.4, "en": 0.2}], mapping=mapping)
    assert stored(scored) == pytest.approx({"zh": 0.7, "fr": 0.2})


def test_condition_sets_labels_that_the_student_lacks_aside(text_inputs):
    scored = ask(text_inputs, ["de", "en", "eo"], [{"de": 0.3, "en": 0.1, "eo": 0.5}])
    assert stored(scored) == pytest.approx({"de": 0.6, "en": 0.2})
    assert scored.distribution.log_tail.exp().item() == pytest.approx(0.2)


def test_tail_keeps_their_mass_as_mass_on_no_label(text_inputs):
    scored = ask(text_inputs, ["de", "en", "eo"], [{"de": 0.3, "en": 0.1, "eo": 0.5}], outside="tail")
    assert stored(scored) == pytest.approx({"de": 0.3, "en": 0.1})
    assert scored.distribution.log_tail.exp().item() == pytest.approx(0.6)


@pytest.mark.parametrize("outside", ["condition", "tail"])
@pytest.mark.parametrize("reply", [{"eo": 1.0}, {}])
def test_a_row_about_other_labels_alone_says_nothing(text_inputs, outside, reply):
    scored = ask(text_inputs, ["de", "en", "eo"], [reply], outside=outside)
    assert dense(scored)[0] == pytest.approx([0.25] * 4)


def test_what_little_is_left_is_not_blown_up(text_inputs):
    scored = ask(text_inputs, ["de", "en", "eo"], [{"eo": 1 - 1e-7, "de": 1e-7}, {"eo": 1 - 1e-5, "de": 1e-5}])
    assert dense(scored)[0] == pytest.approx([0.25] * 4)
    assert dense(scored)[1] == pytest.approx([1, 0, 0, 0], abs=1e-5)


def test_without_unstored_labels_there_is_no_tail(text_inputs):
    scored = ask(text_inputs, STUDENT, [{"de": 0.4, "en": 0.2, "zh": 0.1, "fr": 0.1}])
    assert scored.distribution.log_tail.item() == -1e4
    assert dense(scored)[0] == pytest.approx([0.5, 0.25, 0.125, 0.125])


def test_all_labels_listed_at_zero_say_nothing(text_inputs):
    assert dense(ask(text_inputs, STUDENT, [dict.fromkeys(STUDENT, 0.0)]))[0] == pytest.approx([0.25] * 4)


def test_a_listed_zero_is_a_claim_and_an_unlisted_label_is_not(text_inputs):
    scored = ask(text_inputs, STUDENT, [{"de": 0.8, "en": 0.0}])
    assert dense(scored)[0] == pytest.approx([0.8, 0.0, 0.1, 0.1])


@pytest.mark.parametrize("outside", ["condition", "tail"])
def test_every_row_is_a_distribution(text_inputs, outside):
    generator = torch.Generator().manual_seed(0)
    labels = ["de", "en", "fr", "eo", "io"]
    draws = torch.rand(200, len(labels), generator=generator, dtype=torch.float64)
    draws = draws / draws.sum(1, keepdim=True) * torch.rand(200, 1, generator=generator)
    shown = torch.rand(200, len(labels), generator=generator) < 0.6
    replies = [
        {label: float(p) for label, p, is_listed in zip(labels, row, keep, strict=True) if is_listed}
        for row, keep in zip(draws, shown, strict=True)
    ]
    scored = ask(text_inputs, labels, replies, outside=outside)
    total = torch.tensor(dense(scored)).sum(1)
    assert torch.allclose(total, torch.ones(200), atol=1e-5)


def test_statistics_know_the_label(text_inputs):
    scored = ask(text_inputs, ["de", "en"], [{"de": 0.7, "en": 0.1}, {"de": 0.7, "en": 0.1}], gold=[0, -100])
    assert scored.statistics.label_logprob[0, 0].exp().item() == pytest.approx(0.7)
    assert math.isnan(scored.statistics.label_logprob[1, 0])
    assert scored.statistics.margin.shape == (2, 1)


def test_float32_rounding_above_one_is_scaled(text_inputs):
    assert stored(ask(text_inputs, ["de"], [{"de": 1.0005}])) == pytest.approx({"de": 1.0})


@pytest.mark.parametrize("bad", [{"de": math.nan}, {"de": -0.1, "en": 0.2}, {"de": 0.9, "en": 0.2}])
def test_what_is_no_distribution_is_refused_by_row(text_inputs, bad):
    with pytest.raises(TeacherError, match=r"teacher `t` gave no distribution(.|\n)*row `row-1`"):
        ask(text_inputs, ["de", "en"], [{"de": 1.0}, bad])


def test_an_undeclared_label_is_refused_by_row(text_inputs):
    with pytest.raises(TeacherError, match=r"did not declare: `xx`(.|\n)*row `row-1`"):
        ask(text_inputs, ["de"], [{"de": 1.0}, {"xx": 1.0}])


def test_too_few_replies_are_refused(text_inputs):
    teacher = LabelledTeacher("t", Scripted(("de",), [{"de": 1.0}]), STUDENT)
    with pytest.raises(TeacherError, match="gave 1 replies to 2 texts"):
        teacher.score(text_inputs(["a", "b"]))


@pytest.mark.parametrize("reply", [None, [0.5], {"de": "much"}, {"de": None}])
def test_a_reply_of_another_kind_is_refused_by_row(text_inputs, reply):
    with pytest.raises(TeacherError, match=r"no mapping from labels to numbers(.|\n)*row `"):
        LabelledTeacher("t", Scripted(("de",), [reply]), STUDENT).score(text_inputs(["a"]))


def test_a_failing_plug_in_is_named(text_inputs):
    @dataclass
    class Failing:
        labels: tuple[str, ...] = ("de",)

        def predict(self, texts):
            raise ZeroDivisionError("by nought")

    with pytest.raises(TeacherError, match=r"teacher `t` failed: ZeroDivisionError: by nought"):
        LabelledTeacher("t", Failing(), STUDENT).score(text_inputs(["a"]))


def test_no_common_label_is_refused_with_both_sides():
    with pytest.raises(
        VocabularyError, match=r'the teacher says "ger", "eng"; the student says "de", "en", "zh", "fr"'
    ):
        LabelledTeacher("t", Scripted(("ger", "eng"), []), STUDENT)


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"de": "dee"}, "`dee` is no label of the student — did you mean `de`"),
        ({"dex": "de"}, "is no label of the teacher"),
    ],
)
def test_a_mapping_of_unknown_labels_is_refused(mapping, text):
    with pytest.raises(VocabularyError, match=text):
        LabelledTeacher("t", Scripted(("de", "en"), []), STUDENT, mapping=mapping)


def test_coverage_is_known():
    teacher = LabelledTeacher("t", Scripted(("de", "zh-Hans", "eo"), []), STUDENT, mapping={"zh-Hans": "zh"})
    assert (teacher.covered, teacher.uncovered) == (("de", "zh"), ("en", "fr"))


def test_identity_changes_with_what_changes_answers():
    def identity(labels=("de", "en"), **options):
        return dict(LabelledTeacher("t", Scripted(labels, []), STUDENT, **options).identity())

    base = identity()
    assert base["version"] == "1.2"
    assert identity() == base
    changed = [
        identity(("de", "fr")),
        identity(outside="tail"),
        identity(mapping={"en": "fr"}),
        identity(options={"n": 3}),
    ]
    assert all(one != base for one in changed)
