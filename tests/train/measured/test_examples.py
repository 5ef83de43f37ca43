import numpy as np
import pytest
import torch

from mashbill.distributions import Dense, TopK
from mashbill.numerics import LOG_ZERO
from mashbill.train.answers import mark, prediction
from mashbill.train.examples import choose, piece, pieces


def test_every_task_context_and_outcome_is_shown_before_any_is_shown_twice():
    generator = np.random.default_rng(0)
    task, context = generator.integers(0, 3, 300), generator.integers(0, 2, 300)
    success = (generator.random(300) < 0.97).astype(float)
    rows = choose(task, context, success, generator.random(300), limit=12)
    assert len(set(rows)) == 12
    assert sorted(np.bincount(task[rows])) == [4, 4, 4]
    assert sorted(np.bincount(context[rows])) == [6, 6]
    assert (success[rows] == 0).sum() >= 3


def test_among_like_rows_the_most_contested_come_first():
    alike = np.zeros(6, dtype=np.int64)
    disagreement = np.array([0.1, 0.6, 0.3, 0.5, 0.2, 0.4])
    assert choose(alike, alike, np.ones(6), disagreement, limit=3) == [1, 3, 5]
    assert choose(alike, alike, np.full(6, np.nan), disagreement, limit=9) == [1, 3, 5, 2, 4, 0][:6]


def test_tokens_joined_are_the_text_also_where_a_character_is_split(tokenizer):
    text = "naïve 日本 if"
    ids = tokenizer(text)["input_ids"]
    shown = pieces(tokenizer, ids)
    assert len(shown) == len(ids)
    assert "".join(shown) == text
    assert "" in shown  # a byte that starts a character of three
    assert "\ufffd" not in "".join(shown)


def test_a_single_byte_is_written_as_a_byte(tokenizer):
    first_byte = tokenizer("日")["input_ids"][0]
    assert piece(tokenizer, first_byte) == r"\xe6"
    assert piece(tokenizer, tokenizer("if")["input_ids"][0]) in ("i", "if")


def test_a_prediction_that_names_nothing_is_never_right():
    # One stored label with .1; the other .9 lies on two labels it did not name: each is likelier.
    distribution = TopK(torch.tensor([[0]]), torch.tensor([[0.1]]).log(), torch.tensor([0.9]).log(), 3)
    top, logprob = prediction(distribution)
    assert top.tolist() == [-1]
    assert logprob.exp().item() == pytest.approx(0.45)
    assert not mark(distribution, torch.tensor([0]), torch.tensor([0])).is_correct.any()


def test_stored_entries_need_no_order_and_unused_slots_no_care():
    distribution = TopK(
        torch.tensor([[2, 5, -1]]),
        torch.tensor([[0.2, 0.7, 0.0]]).log().clamp_min(LOG_ZERO),
        torch.tensor([0.1]).log(),
        9,
    )
    assert prediction(distribution)[0].tolist() == [5]


def test_marks_skip_unknown_labels_and_take_what_is_known_better():
    distribution = Dense(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]).log())
    found = mark(distribution, torch.tensor([-100, 1]), torch.tensor([4, 7]))
    assert found.row.tolist() == [7]
    assert found.nll.tolist() == pytest.approx([-np.log(0.8)])
    better = mark(distribution, torch.tensor([0, 1]), torch.tensor([0, 1]), label_logprobs=torch.tensor([-3.0, -2.0]))
    assert better.nll.tolist() == [3.0, 2.0]
