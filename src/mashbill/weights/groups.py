"""Which rows share weights: each its own, those of one task, or all of a batch."""

from typing import Literal, NamedTuple, get_args

import torch

from mashbill.shapes import Float, Int, Tensor
from mashbill.weights.evidence import Evidence

By = Literal["row", "task", "batch"]


class Groups(NamedTuple):
    """A partition of a batch.

    Attributes:
        of_row: Group of each row.
        n_groups: How many there are; some may be empty.
    """

    of_row: Int[Tensor, " B"]
    n_groups: int

    @classmethod
    def of(cls, evidence: Evidence, by: By) -> "Groups":
        """Return the groups of the evidence's rows."""
        if by == "task":
            return cls(evidence.task, len(evidence.tasks))
        if by == "batch":
            return cls(torch.zeros_like(evidence.task), 1)
        return cls(torch.arange(len(evidence.task), device=evidence.task.device), len(evidence.task))

    def total(self, values: Float[Tensor, "B *rest"]) -> Float[Tensor, "G *rest"]:
        """Sum the rows of each group."""
        zero = values.new_zeros(self.n_groups, *values.shape[1:])
        return zero.index_add(0, self.of_row.to(values.device), values)

    def share(self, values: Float[Tensor, "G *rest"]) -> Float[Tensor, "B *rest"]:
        """Give each row what its group has."""
        return values[self.of_row.to(values.device)]


def require_by(by: str) -> None:
    """Raise ``ValueError`` unless ``by`` names a partition."""
    if by not in get_args(By):
        raise ValueError(f"by={by!r} must be 'row', 'task' or 'batch'")
