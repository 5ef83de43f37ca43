"""Completions as a teacher: counts of what follows each beginning, and no opinion where nobody was asked."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mashbill.distributions.completions import empirical, from_counts
from mashbill.teachers import Inputs
from mashbill.teachers.samples import OUTSIDE, SampledTeacher, tally_labels, tally_tokens

V = 6
PROMPT = [4, 5]


def row(completion):
    """Tokens of a prompt with its completion, and the token after each that the teacher said."""
    tokens = [*PROMPT, *completion]
    return tokens[:-1], [-100] * (len(PROMPT) - 1) + list(completion)


def teacher(completions, *, smoothing=0.0) -> SampledTeacher:
    return SampledTeacher("t", tally_tokens(row(each) for each in completions), V, smoothing, {"sha256": "0"})


def inputs_of(completions, extra=2) -> Inputs:
    rows = [row(each) for each in completions]
    width = max(len(ids) for ids, _ in rows) + extra
    ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    return Inputs(tuple(map(str, range(len(rows)))), ("",) * len(rows), ids, labels, labels != -100)


completions = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1, max_size=8)


@given(completions, completions, st.sampled_from([0.0, 0.5, 1.0]))
def test_every_position_has_the_frequencies_of_what_followed_the_same_beginning(samples, asked, smoothing):
    scored = teacher(samples, smoothing=smoothing).score(inputs_of(asked))
    dense = scored.distribution.densify().exp()
    for b, own in enumerate(asked):
        for i in range(len(own)):
            followers = Counter(one[i] for one in samples if one[:i] == own[:i] and len(one) > i)
            n = sum(followers.values())
            place = len(PROMPT) - 1 + i
            expected = [(followers[v] + smoothing) / (n + smoothing * V) if n else 1 / V for v in range(V)]
            assert dense[b, place].tolist() == pytest.approx(expected, abs=1e-6)
            assert int(teacher(samples).n_samples(inputs_of(asked))[b, place]) == n


def test_a_single_sample_is_one_hot_and_sure_of_nothing():
    inputs = inputs_of([[1, 2]])
    scored = teacher([[1, 2]]).score(inputs)
    here = inputs.mask
    assert scored.distribution.ids[here].tolist() == [[1], [2]]
    assert scored.distribution.logprobs[here].exp().tolist() == [[1.0], [1.0]]
    assert scored.statistics.entropy[here].tolist() == pytest.approx([math.log(V)] * 2)
    assert scored.statistics.entropy_low[here].tolist() == pytest.approx([math.log(V)] * 2)
    assert scored.statistics.max_logprob[here].exp().tolist() == pytest.approx([1 / V] * 2)
    assert scored.statistics.margin[here].tolist() == [0, 0]
    assert scored.statistics.label_logprob[here].tolist() == [0, 0]


def test_beginnings_that_nobody_sampled_are_all_tail():
    inputs = inputs_of([[3, 1]])
    scored = teacher([[1, 2], [3, 2]]).score(inputs)
    second = len(PROMPT)
    assert scored.distribution.ids[0, second - 1].tolist() == [1, 3]
    assert scored.distribution.ids[0, second].tolist() == [2, -1]
    third = teacher([[1, 2]]).score(inputs)
    assert third.distribution.ids[0, second].tolist() == [-1]
    assert float(third.distribution.log_tail[0, second]) == 0


def test_another_prompt_is_another_question():
    other = inputs_of([[1, 2]])
    changed = Inputs(other.row_ids, other.texts, other.input_ids.clone(), other.labels, other.mask)
    changed.input_ids[0, 0] = 0
    assert int(teacher([[1, 2]]).n_samples(changed).sum()) == 0


def test_labels_are_counted_by_text_and_strangers_stay_in_the_tail():
    tally = tally_labels([("a", 0), ("a", 0), ("a", 2), ("a", OUTSIDE), ("b", 1)])
    one = SampledTeacher("t", tally, 3, 0.0, {})
    inputs = Inputs(("x", "y", "z"), ("a", "b", "c"), None, torch.tensor([[0], [-100], [1]]), torch.ones(3, 1).bool())
    scored = one.score(inputs)
    assert scored.distribution.ids[:, 0].tolist() == [[0, 2], [1, -1], [-1, -1]]
    assert scored.distribution.logprobs[0, 0].exp().tolist() == pytest.approx([0.5, 0.25])
    assert scored.distribution.log_tail[:, 0].exp().tolist() == pytest.approx([0.25, 0, 1])
    assert one.n_samples(inputs).tolist() == [[4], [1], [0]]
    label = scored.statistics.label_logprob[:, 0]
    assert label[0].exp().item() == pytest.approx(0.5)
    assert bool(label[1].isnan())


def test_strangers_have_nowhere_to_lie_where_every_label_was_seen():
    ids, counts = torch.tensor([[0, 1]]), torch.tensor([[3.0, 1.0]])
    found = from_counts(ids, counts, n_entries=2, outside=torch.tensor([4.0]))
    assert found.logprobs.exp().tolist()[0] == pytest.approx([0.75, 0.25])
    assert float(found.log_tail.exp()) == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.sampled_from([0.0, 0.3]))
def test_counts_and_answers_make_the_same_distribution(answers, smoothing):
    counted = Counter(answers)
    ids, n = torch.tensor([list(counted)]), torch.tensor([[float(each) for each in counted.values()]])
    of_counts = from_counts(ids, n, n_entries=5, smoothing=smoothing).densify()[0]
    of_answers = empirical(torch.tensor(answers), n_entries=5, smoothing=smoothing).distribution.densify()
    torch.testing.assert_close(of_counts, of_answers)


def test_identity_follows_smoothing():
    assert teacher([[1]]).identity() != teacher([[1]], smoothing=0.1).identity()
    assert teacher([[1]]).identity()["kind"] == "samples"
