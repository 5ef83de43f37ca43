"""Tokens that two tokenizers have in common, and a teacher's output read in them."""

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from mashbill.distributions.topk import TopK
from mashbill.errors import VocabularyError
from mashbill.teachers.shared_tokens import ROOM, SharedColumns, SharedTokens
from mashbill.teachers.token_bytes import TokenBytes


def table(pieces, *, special=None, spelled=(), end=None) -> TokenBytes:
    return TokenBytes(pieces, special or {}, frozenset(spelled), (), end, leads_with_space=False)


def test_tokens_are_shared_by_bytes_and_control_tokens_by_text_or_by_being_the_end():
    student = table(
        {0: b"a", 1: b"b", 2: b"ab", 3: b"a"}, special={4: "<end>", 5: "<turn>", 6: "<pad>"}, spelled=[0], end=4
    )
    teacher = table(
        {0: b"ab", 1: b"a", 2: b"a", 3: b"c", 4: b"<turn>"}, special={5: "</s>", 6: "<turn>", 7: "<unk>"}, end=5
    )
    shared = SharedTokens.of(student, teacher, n_student=7, teacher_id="t")
    assert shared.student_of == {0: 2, 1: 3, 2: 3, 5: 4, 6: 5}
    assert shared.n_shared == 4


def test_no_shared_token_is_an_error():
    with pytest.raises(VocabularyError, match="no token in common"):
        SharedTokens.of(table({0: b"a"}, end=1), table({0: b"b"}, end=1), n_student=2, teacher_id="t")


def test_columns_add_up_what_is_one_token_and_leave_the_rest_to_the_tail():
    shared = SharedTokens({0: 5, 1: 2, 2: 5, 4: 5}, 9, (0, 1, 2, 3, 4, 6))
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.1, 1.0, 99.0, -0.5]], dtype=torch.float64)  # 5 is a row of padding
    columns = SharedColumns.of(shared)
    read = columns.read(logits)
    e = [math.exp(x) for x in (0.3, -1.0, 2.0, 0.1, 1.0, -0.5)]
    expected = {5: (e[0] + e[2] + e[4]) / sum(e), 2: e[1] / sum(e)}
    told = dict(zip(read.ids[0].tolist(), read.logprobs[0].exp().tolist(), strict=True))
    assert told == pytest.approx(expected)
    assert float(read.log_tail.exp()) == pytest.approx((e[3] + e[5]) / sum(e))
    assert (columns.n_rows, read.n_entries) == (7, 9)


def test_room_is_left_for_a_tail_where_everything_is_shared():
    shared = SharedTokens({0: 0, 1: 1, 2: 2, 3: 3}, 4, (0, 1, 2, 3, 4))
    read = SharedColumns.of(shared).read(torch.tensor([[3.0, 1.0, 2.0, 0.0, 0.5]]))
    assert read.ids.tolist() == [[0, 2]]
    assert 4 - read.ids.shape[-1] == ROOM
    assert float(read.logprobs.exp().sum() + read.log_tail.exp()) == pytest.approx(1)


def test_a_cut_list_keeps_its_largest_and_adds_up():
    whole = TopK(
        torch.tensor([[7, 3, -1, 5]]), torch.tensor([[0.2, 0.4, 1.0, 0.1]]).log(), torch.tensor([0.3]).log(), 9
    )
    cut = whole.cut(1)
    assert cut.ids.tolist() == [[3]]
    assert float(cut.log_tail.exp()) == pytest.approx(0.6)
    assert whole.cut(4) is whole
    with pytest.raises(ValueError, match="k=0 must be at least 1"):
        whole.cut(0)


def test_tokenizers_whose_tokens_do_not_add_up_are_refused(build):
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    with pytest.raises(
        VocabularyError, match=r"(?s)tokens of teacher `t` have no certain bytes.*joins tokens by WordPiece"
    ):
        TokenBytes.of(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]"), owner="teacher `t`")
    lower = build.tokenizer("the quick brown fox " * 9, 300)
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(VocabularyError, match=r"(?s)does not keep text as it is.*the quick"):
        TokenBytes.of(lower, owner="teacher `t`")
