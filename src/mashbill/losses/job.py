"""Everything but the student's scores that a loss over chunks of rows needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from mashbill.distributions.topk import TopK
from mashbill.losses import gradient, native_rows, topk
from mashbill.losses.objective import Objective
from mashbill.losses.rows import Answers, Rows
from mashbill.losses.weighing import Weighing
from mashbill.shapes import Bool, Float, Int, Tensor

Solve = Callable[[Rows], tuple[Tensor, Tensor]]
"""Does some rows: returns divergence and cross-entropy, ``[R]`` each, and writes the gradient where it belongs."""


@dataclass(frozen=True)
class Job:
    """A loss, without the logits.

    Attributes:
        teachers: What they say.
        weighing: How much each of them counts.
        mask: Positions that count.
        labels: ``-100`` means none.
        objective: What is computed.
        is_in_place: The gradient goes over the logits.
        allows_native: The compiled loops may be used.
    """

    teachers: Sequence[Answers]
    weighing: Weighing
    mask: Bool[Tensor, "B T"]
    labels: Int[Tensor, "B T"] | None
    objective: Objective
    is_in_place: bool
    allows_native: bool

    @cached_property
    def has_lists_alone(self) -> bool:
        """Whether the loss over lists can do it."""
        is_plain = self.weighing.n_kinds is None
        return is_plain and topk.fits(self.teachers, self.objective, self.mask.device)

    @property
    def needs_plain(self) -> bool:
        """Whether a chunk over ``V`` needs the student at temperature 1 beside another."""
        shaped = self.objective.tail == "student" and any(isinstance(one, TopK) for one in self.teachers)
        return self.objective.temperature != 1 and (shaped or self.labels is not None)

    @property
    def n_buffers(self) -> int:
        """How many buffers ``[R V]`` a chunk over ``V`` takes."""
        return 4 + gradient.n_spare(self.objective) + self.needs_plain

    @property
    def n_kept(self) -> int:
        """How many more it takes to keep the teachers' probabilities between measuring and mixing them."""
        if not (self.weighing.needs_statistics and self.objective.reads_teachers and self.objective.pool == "linear"):
            return 0
        return sum(not isinstance(one, TopK) for one in self.teachers)

    def is_compiled(self, logits: Float[Tensor, "B T V"]) -> bool:
        """Whether the compiled loops do it."""
        is_plain = self.allows_native and self.weighing.n_kinds is None
        return is_plain and native_rows.covers(logits, self.teachers, self.labels, self.objective)
