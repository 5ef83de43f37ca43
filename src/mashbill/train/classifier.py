"""A ``transformers`` sequence classifier as a student, reading text with its own tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mashbill.shapes import Float, Tensor
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train.data import Row
from mashbill.train.labels import label_ids, write_labels
from mashbill.train.protocol import Batch, EncodedRow


class SequenceClassifier:
    """An encoder with a classification head.

    Args:
        module: The model; a LoRA student is one wrapped by ``peft``.
        tokenizer: Its tokenizer.
        labels: Names of the head's outputs.
    """

    kind: Literal["causal_lm", "classifier"] = "classifier"

    def __init__(self, module: nn.Module, tokenizer: Any, labels: Sequence[str]) -> None:
        self.module, self.tokenizer, self.labels = module, tokenizer, tuple(labels)
        self.vocabulary = Vocabulary.from_labels(self.labels)

    @property
    def n_entries(self) -> int:
        """``V``, the number of labels."""
        return len(self.labels)

    def encode(self, rows: Sequence[Row], *, max_length: int) -> list[EncodedRow]:
        """Tokenise each row's text, cut to ``max_length`` tokens."""
        texts = [row.text or "" for row in rows]
        tokens = self.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"] if texts else []
        return [
            EncodedRow(row, torch.tensor(ids, dtype=torch.long), label)
            for row, ids, label in zip(rows, tokens, label_ids(rows, self.labels).unsqueeze(1), strict=True)
        ]

    def logits(self, batch: Batch) -> Float[Tensor, "B T V"]:
        """Score the labels of each row; ``T = 1``."""
        # Some heads look for the last token that is not the padding token, so the mask alone is not enough.
        inputs = batch.input_ids.masked_fill(~batch.attention_mask, self.tokenizer.pad_token_id or 0)
        return self.module(input_ids=inputs, attention_mask=batch.attention_mask.long()).logits.unsqueeze(1)

    def save(self, directory: Path) -> None:
        """Write the model, or its adapter alone, and the tokenizer, as ``transformers`` and ``peft`` load them."""
        self.module.save_pretrained(directory)  # pyright: ignore[reportCallIssue]  # every transformers or peft model has it
        self.tokenizer.save_pretrained(directory)
        write_labels(directory, self.labels)
