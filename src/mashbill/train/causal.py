"""A causal language model as a student, and the one place where positions are shifted.

``logits[:, t]`` predicts ``labels[:, t]`` everywhere else in the package, because rows leave :func:`encode_causal` with
labels that already are the next token.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mashbill.errors import DataError
from mashbill.shapes import Float, Tensor
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train.data import Row
from mashbill.train.protocol import NO_LABEL, Batch, EncodedRow

log = logging.getLogger(__name__)

Span = tuple[list[int], bool]
"""Consecutive tokens, and whether the student is to predict them."""


class CausalStudent:
    """A ``transformers`` causal language model with its tokenizer.

    Args:
        module: The model; a LoRA student is one wrapped by ``peft``.
        tokenizer: Its tokenizer.
    """

    kind: Literal["causal_lm", "classifier"] = "causal_lm"

    def __init__(self, module: nn.Module, tokenizer: Any) -> None:
        self.module, self.tokenizer = module, tokenizer
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer)

    @property
    def n_entries(self) -> int:
        """``V``, the entries that the tokenizer can name."""
        return len(self.vocabulary)

    def encode(self, rows: Sequence[Row], *, max_length: int) -> list[EncodedRow]:
        """Tokenise rows; see :func:`encode_causal`."""
        return encode_causal(rows, self.tokenizer, max_length=max_length)

    def logits(self, batch: Batch) -> Float[Tensor, "B T V"]:
        """Score the next token at each position; the model's padding rows are cut off."""
        output = self.module(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), use_cache=False)
        return output.logits[..., : self.n_entries]

    def save(self, directory: Path) -> None:
        """Write the model, or its adapter alone, and the tokenizer, as ``transformers`` and ``peft`` load them."""
        self.module.save_pretrained(directory)  # pyright: ignore[reportCallIssue]  # every transformers or peft model has it
        self.tokenizer.save_pretrained(directory)


def encode_causal(rows: Sequence[Row], tokenizer: Any, *, max_length: int) -> list[EncodedRow]:
    """Turn rows into input tokens and, for each, the token that follows.

    A plain text counts at every position and ends with the end-of-text token if there is one; what is longer than
    ``max_length`` becomes consecutive blocks ``id#0``, ``id#1`` and so on. In a prompt with its completion, and in a
    conversation, only the completion or the assistant's turns count, and what is beyond ``max_length`` is cut off.

    Args:
        rows: From :func:`mashbill.train.data.read_rows`.
        tokenizer: Of ``transformers``.
        max_length: Most positions of an encoded row.

    Raises:
        DataError: A row has nothing to learn from: fewer than two tokens, or no completion within ``max_length``.
    """
    texts = [row.text for row in rows if row.text]
    tokens = iter(_with_end(each, tokenizer) for each in _tokens(tokenizer, texts, special=True))
    encoded, n_cut = [], 0
    for row in rows:
        if row.text:
            encoded += _blocks(row, next(tokens), max_length)
            continue
        spans = _conversation(row, tokenizer) if row.messages else _completion(row, tokenizer)
        n_cut += sum(len(ids) for ids, _ in spans) - 1 > max_length
        encoded.append(_shifted(row, spans, max_length))
    if n_cut:
        log.warning("%d of %d rows are longer than max_length=%d; their ends are cut off", n_cut, len(rows), max_length)
    return encoded


def _blocks(row: Row, tokens: list[int], max_length: int) -> Iterator[EncodedRow]:
    n_positions = len(tokens) - 1
    if n_positions < 1:
        raise _nothing_to_learn(row, "its text has fewer than two tokens")
    for number, start in enumerate(range(0, n_positions, max_length)):
        stop = min(start + max_length, n_positions)
        own = row if n_positions <= max_length else replace(row, id=f"{row.id}#{number}")
        yield EncodedRow(own, torch.tensor(tokens[start:stop]), torch.tensor(tokens[start + 1 : stop + 1]))


def _shifted(row: Row, spans: Sequence[Span], max_length: int) -> EncodedRow:
    tokens = [token for ids, _ in spans for token in ids]
    targets = [token if counts else NO_LABEL for ids, counts in spans for token in ids]
    inputs, labels = torch.tensor(tokens[:-1][:max_length]), torch.tensor(targets[1:][:max_length])
    if not bool((labels != NO_LABEL).any()):
        raise _nothing_to_learn(row, f"no token of a completion lies within max_length={max_length}")
    return EncodedRow(row, inputs, labels)


def _completion(row: Row, tokenizer: Any) -> list[Span]:
    # Tokenised apart, so that the border between prompt and completion is a border between tokens.
    prompt, completion = _tokens(tokenizer, [row.prompt or ""], special=True)[0], row.completion or ""
    if prompt and prompt[-1] == tokenizer.eos_token_id:
        prompt = prompt[:-1]
    return [(prompt, False), (_with_end(_tokens(tokenizer, [completion], special=False)[0], tokenizer), True)]


def _conversation(row: Row, tokenizer: Any) -> list[Span]:
    if not tokenizer.chat_template:
        raise DataError(
            f"row `{row.id}` is a conversation, but the student's tokenizer has no chat template",
            why="without one there is no rule that makes tokens of turns",
            help="use a tokenizer with a chat template, or rows with `prompt` and `completion`",
        )
    messages = [dict(message) for message in row.messages or ()]
    spans: list[Span] = []
    written = ""
    for n, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(messages[:n], tokenize=False, add_generation_prompt=True)
        after = tokenizer.apply_chat_template(messages[: n + 1], tokenize=False)
        if not (before.startswith(written) and after.startswith(before)):
            raise DataError(
                f"row `{row.id}`: the chat template rewrites earlier turns when turn {n} is added",
                why="then no span of tokens is that turn's own",
                help="cut the conversation after its first answer, or use another chat template",
            )
        others, own = _tokens(tokenizer, [before[len(written) :], after[len(before) :]], special=False)
        spans += [(others, False), (own, True)]
        written = after
    return spans


def _tokens(tokenizer: Any, texts: Sequence[str], *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=special, truncation=False, verbose=False)["input_ids"]


def _with_end(tokens: list[int], tokenizer: Any) -> list[int]:
    end = tokenizer.eos_token_id
    return tokens if end is None or tokens[-1:] == [end] else [*tokens, end]


def _nothing_to_learn(row: Row, why: str) -> DataError:
    return DataError(
        f"row `{row.id}` has nothing to learn from", why=why, help="remove the row or raise data.max_length"
    )
