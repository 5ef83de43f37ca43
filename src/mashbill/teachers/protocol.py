"""What a teacher is: rows in, one distribution and its statistics a position out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from mashbill.distributions.dense import Dense
from mashbill.distributions.statistics import Statistics
from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Int, Tensor


@dataclass(frozen=True)
class Inputs:
    """A batch as teachers see it. Positions are those that the student is trained on.

    ``labels[:, t]`` is what the distribution at position ``t`` is about: the token *after* ``input_ids[:, t]`` for a
    causal language model, so that the one shift has already been made; the class for a classifier (``T = 1``).

    Attributes:
        row_ids: Stable ids, for messages.
        texts: The rows' text; teachers with their own tokenizer or features read this.
        input_ids: Student token ids, ``[B T]``, right-padded; None for a classifier.
        labels: ``[B T]``, ``-100`` where unknown or padded.
        mask: Positions that count.
    """

    row_ids: tuple[str, ...]
    texts: tuple[str, ...]
    input_ids: Int[Tensor, "B T"] | None
    labels: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Scored:
    """A teacher's answer to a batch: a distribution a position, ``[B T ...]``, and its statistics.

    Attributes:
        distribution: Of each position.
        statistics: Of the full distributions, whatever is kept of them.
        refused: Place of each row that the teacher did not answer, and why. Its distributions are even, all
            tail, and its statistics those of an even distribution.
    """

    distribution: Dense | TopK
    statistics: Statistics
    refused: Mapping[int, str] = field(default_factory=dict)


@runtime_checkable
class Teacher(Protocol):
    """Anything that gives a distribution over the student's vocabulary at each position."""

    @property
    def id(self) -> str:
        """Name in the recipe."""
        ...

    def score(self, inputs: Inputs) -> Scored:
        """Return distributions and statistics for a batch, on the CPU, without gradient.

        Raises:
            TeacherError: The teacher failed or gave values that are no distribution; names row and position.
        """
        ...

    def identity(self) -> Mapping[str, str]:
        """Return what pins this teacher down (kind, source, sha256 of weights, options), for caches and lineage."""
        ...


@runtime_checkable
class CallableTeacher(Protocol):
    """What a plug-in teacher provides: probabilities over labels of its own.

    ``labels`` may be larger than, smaller than or just different from the student's label set. A reply may list any
    part of them: missing mass is missing knowledge, not probability zero.

    A plug-in may also have ``version``, a text that changes whenever its answers do (the version of the library or
    the sha256 of the model behind it); stored answers of another version are not reused.
    """

    labels: Sequence[str]

    def predict(self, texts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Return ``{own label: probability}`` for each text, non-negative, summing to at most 1."""
        ...
