"""Vocabularies are compared entry by entry."""

import subprocess
import sys

import pytest

from mashbill.errors import VocabularyError
from mashbill.teachers import Vocabulary, require_agreement

STUDENT = Vocabulary({0: "<pad>", 1: "a", 2: "b", 3: "c"}, 4)


def refusal(teacher: Vocabulary) -> str:
    with pytest.raises(VocabularyError) as caught:
        require_agreement(STUDENT, teacher, teacher_id="code")
    return str(caught.value)


def test_a_tokenizer_is_read_whole(llama):
    own = llama.vocabulary
    assert own.tokens[0] == "<pad>"
    assert {token: index for index, token in own.tokens.items()} == llama.tokenizer.get_vocab()
    assert len(own) == max(own.tokens) + 1


def test_added_tokens_count(build):
    tokenizer = build.tokenizer("one two three", 300)
    before = Vocabulary.from_tokenizer(tokenizer)
    tokenizer.add_tokens(["<tool>"])
    after = Vocabulary.from_tokenizer(tokenizer)
    assert "<tool>" in after.tokens.values()
    assert after.digest != before.digest


def test_the_digest_is_of_the_map_not_of_its_order_or_padding():
    assert Vocabulary({1: "a", 0: "<pad>", 3: "c", 2: "b"}, 9).digest == STUDENT.digest
    assert Vocabulary({0: "<pad>", 1: "b", 2: "a", 3: "c"}, 4).digest != STUDENT.digest


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="n_entries=3 must be at least 4"):
        Vocabulary(STUDENT.tokens, 3)


@pytest.mark.parametrize("n_entries", [4, 7])
def test_the_same_map_agrees_with_padding_on_either_side(n_entries):
    padded = Vocabulary(STUDENT.tokens, n_entries)
    require_agreement(STUDENT, padded, teacher_id="code")
    require_agreement(padded, STUDENT, teacher_id="code")


def test_a_teacher_may_know_more():
    require_agreement(STUDENT, Vocabulary({**STUDENT.tokens, 4: "d"}, 5), teacher_id="code")


def test_equal_size_is_no_agreement():
    text = refusal(Vocabulary({0: "<pad>", 1: "b", 2: "a", 3: "c"}, 4))
    assert "teacher `code` does not share the student's vocabulary" in text
    assert '2 ids name different tokens (student vs teacher, first: 1 "a" vs "b", 2 "b" vs "a")' in text


def test_missing_ids_are_counted_and_shown():
    assert '1 ids of the student are missing (first: 3 "c")' in refusal(Vocabulary({0: "<pad>", 1: "a", 2: "b"}, 4))


def test_two_real_tokenizers_of_equal_size_differ(llama, build):
    other = build.tokenizer("import os, sys\nfor path in sys.argv: print(os.stat(path))\n" * 9, len(llama.vocabulary))
    wide = Vocabulary.from_tokenizer(other, n_entries=len(llama.vocabulary))
    with pytest.raises(VocabularyError, match="name different tokens"):
        require_agreement(llama.vocabulary, wide, teacher_id="code")


def test_labels_are_numbered_in_order():
    assert Vocabulary.from_labels(["de", "en"]).tokens == {0: "de", 1: "en"}


def test_no_torch_is_imported():
    code = "import sys, mashbill.teachers.vocabulary, mashbill.teachers.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
