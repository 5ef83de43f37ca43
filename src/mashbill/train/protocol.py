"""What a student is, and the values that pass between rows and a student."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import nn

from mashbill.shapes import Bool, Float, Int, Tensor
from mashbill.teachers.vocabulary import Vocabulary
from mashbill.train.data import Row

NO_LABEL = -100
"""Label of a position that has none or does not count; the value that ``transformers`` uses."""


@dataclass(frozen=True)
class EncodedRow:
    """A row as the student reads it.

    Attributes:
        row: Where it comes from; its ``id`` is that of the block if a long text was cut into several.
        input_ids: Token ids, or hashed features of a classifier; any length.
        labels: What each position is to predict, ``-100`` where nothing. A causal language model has one for each input
            token, already the *next* token. A classifier has exactly one.
    """

    row: Row
    input_ids: Int[Tensor, " L"]
    labels: Int[Tensor, " T"]


@dataclass(frozen=True)
class Batch:
    """Some rows of a corpus, padded on the right.

    Attributes:
        index: Their places in the corpus.
        input_ids: Padded with 0.
        attention_mask: Which inputs are real.
        labels: ``-100`` where there is none.
        mask: Positions that count.
    """

    index: Int[Tensor, " B"]
    input_ids: Int[Tensor, "B L"]
    attention_mask: Bool[Tensor, "B L"]
    labels: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]

    def to(self, device: torch.device) -> "Batch":
        """Move every tensor."""
        return Batch(
            *(each.to(device) for each in (self.index, self.input_ids, self.attention_mask, self.labels, self.mask))
        )


@runtime_checkable
class Student(Protocol):
    """A model that is trained, with what turns rows into its inputs.

    Attributes:
        kind: One label a row, or the next token at each position.
        module: The parameters.
        n_entries: ``V``, always ``len(vocabulary)``: rows of padding in a model's output are cut off by ``logits``.
        vocabulary: What the output entries mean.
    """

    kind: Literal["causal_lm", "classifier"]
    module: nn.Module
    vocabulary: Vocabulary

    @property
    def n_entries(self) -> int:
        """``V``."""
        ...

    def encode(self, rows: Sequence[Row], *, max_length: int) -> list[EncodedRow]:
        """Turn rows into inputs and labels."""
        ...

    def logits(self, batch: Batch) -> Float[Tensor, "B T V"]:
        """Return scores of every entry; ``logits[:, t]`` is about ``labels[:, t]``."""
        ...

    def save(self, directory: Path) -> None:
        """Write what :func:`mashbill.train.students.load_student` needs into an existing, empty directory."""
        ...


@runtime_checkable
class StudentArchitecture(Protocol):
    """What a plug-in of kind ``students`` is: a call from labels and options to a student."""

    def __call__(self, labels: Sequence[str], **options: object) -> Student:
        """Build a student with fresh parameters, drawn from torch's global generator."""
        ...


Origin = Mapping[str, str]
"""Where a student's first parameters come from: kind, source, sha256."""
