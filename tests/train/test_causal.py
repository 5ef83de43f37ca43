"""The one shift, blocks, completions and conversations."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mashbill.errors import DataError
from mashbill.train.causal import encode_causal
from mashbill.train.data import Row

TEXT = "der die das und ist nicht ein haus"


@pytest.fixture(scope="module")
def tokenizer(language_models: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(language_models / "tokenizer")


def counted(encoded, tokenizer) -> str:
    return tokenizer.decode(encoded.labels[encoded.labels != -100])


def test_each_label_is_the_next_token_and_the_end_is_learnt(tokenizer: Any) -> None:
    (row,) = encode_causal([Row("a", text=TEXT)], tokenizer, max_length=99)
    assert torch.equal(row.input_ids[1:], row.labels[:-1])
    assert int(row.labels[-1]) == tokenizer.eos_token_id
    assert tokenizer.decode(row.input_ids) == TEXT


def test_a_long_text_becomes_blocks_that_lose_nothing(tokenizer: Any) -> None:
    (whole,) = encode_causal([Row("a", text=TEXT)], tokenizer, max_length=99)
    blocks = encode_causal([Row("a", text=TEXT, task="t")], tokenizer, max_length=3)
    assert [block.row.id for block in blocks] == [f"a#{n}" for n in range(len(blocks))]
    assert {block.row.task for block in blocks} == {"t"}
    assert torch.equal(torch.cat([block.labels for block in blocks]), whole.labels)
    assert torch.equal(torch.cat([block.input_ids for block in blocks]), whole.input_ids)
    assert max(len(block.labels) for block in blocks) == 3


def test_only_the_completion_counts(tokenizer: Any) -> None:
    (row,) = encode_causal([Row("a", prompt="der die ", completion="das und")], tokenizer, max_length=99)
    assert counted(row, tokenizer) == "das und</s>"
    first = int((row.labels != -100).nonzero()[0])
    assert tokenizer.decode(row.input_ids[: first + 1]) == "der die "


def test_only_the_assistants_turns_count(tokenizer: Any) -> None:
    turns = [("user", "der"), ("assistant", "die"), ("user", "das"), ("assistant", "und ist")]
    messages = tuple({"role": role, "content": content} for role, content in turns)
    (row,) = encode_causal([Row("a", messages=messages)], tokenizer, max_length=99)
    assert counted(row, tokenizer) == "die</s>und ist</s>"


def test_a_cut_completion_is_reported_and_an_empty_one_refused(
    tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    row = Row("a", prompt="der ", completion=TEXT)
    encode_causal([row], tokenizer, max_length=5)
    assert "1 of 1 rows are longer than max_length=5" in caplog.text
    with pytest.raises(DataError, match="row `a` has nothing to learn from"):
        encode_causal([Row("a", prompt=TEXT, completion="das")], tokenizer, max_length=3)


def test_a_template_that_rewrites_the_past_is_refused(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tokenizer, "chat_template", "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    messages = tuple({"role": role, "content": "das"} for role in ("user", "assistant", "user", "assistant"))
    with pytest.raises(DataError, match="rewrites earlier turns"):
        encode_causal([Row("a", messages=messages)], tokenizer, max_length=99)


def test_no_template_is_said(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(DataError, match="no chat template"):
        encode_causal([Row("a", messages=({"role": "assistant", "content": "x"},))], tokenizer, max_length=9)
