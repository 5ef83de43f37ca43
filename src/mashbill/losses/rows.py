"""The positions that count, as rows, and a few of them at a time without copying the rest."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits, Projected
from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Float, Int, Tensor

Answers = Dense | Logits | Projected | TopK
"""What a teacher says at each position, in the forms that a loss takes."""


@dataclass(frozen=True)
class Rows:
    """Some positions of a ``[B T ...]`` batch.

    Attributes:
        index: Flat positions ``b * T + t``, ascending.
        span: ``(first, last + 1)`` if the positions follow one another, so that a view will do.
        n_positions: ``T``.
    """

    index: Int[Tensor, " R"]
    span: tuple[int, int] | None
    n_positions: int

    def __len__(self) -> int:
        return len(self.index)

    def select(self, values: Float[Tensor, "B T *rest"] | Int[Tensor, "B T *rest"]) -> Tensor:
        """Return ``[R ...]``: a view where one exists, else a copy of these rows alone."""
        if not values.is_contiguous():
            # Flattening would copy everything.
            where = self.index.to(values.device)
            return values[where // self.n_positions, where % self.n_positions]
        flat = values.flatten(0, 1)
        if self.span is not None:
            return flat[self.span[0] : self.span[1]]
        return flat.index_select(0, self.index.to(values.device))

    def take(self, distribution: Answers, *, like: Tensor) -> Dense | Logits | TopK:
        """Return the rows of a distribution, on the device of ``like``; top-k values also in its dtype."""
        if isinstance(distribution, Projected):
            states = self.select(distribution.hidden).to(like.device)
            wide = numerics.reduction_dtype(states.dtype)
            return Logits(distribution.at(states, out=like.new_empty(len(self), distribution.n_entries, dtype=wide)))
        if isinstance(distribution, Logits):
            return Logits(self.select(distribution.values).to(like.device))
        if isinstance(distribution, Dense):
            return Dense(self.select(distribution.logprobs).to(like.device))
        return TopK(
            self.select(distribution.ids).to(like.device),
            self.select(distribution.logprobs).to(like),
            self.select(distribution.log_tail).to(like),
            distribution.n_entries,
        )

    def store(self, values: Tensor, *, into: Float[Tensor, "N *rest"]) -> None:
        """Write ``[R ...]`` to these positions of a flat tensor, in its dtype."""
        if self.span is not None:
            into[self.span[0] : self.span[1]].copy_(values)
        else:
            into.index_copy_(0, self.index, values.to(into.dtype))


def counted(mask: Bool[Tensor, "B T"], *, n_each: int) -> Iterator[Rows]:
    """Yield the positions that count, ``n_each`` at a time."""
    index = mask.flatten().nonzero().squeeze(1)
    all_count = len(index) == mask.numel()
    for start in range(0, len(index), n_each):
        part = index[start : start + n_each]
        first, last = (start, start + len(part) - 1) if all_count else (int(part[0]), int(part[-1]))
        span = (first, last + 1) if last - first + 1 == len(part) else None
        yield Rows(part, span, mask.shape[1])


def rows_at_once(n_entries: int, device: torch.device) -> int:
    """Return how many rows to work on together: what a core's cache holds, or what fills a large device."""
    n_elements = 2**18 if device.type == "cpu" else 2**25
    return max(1, n_elements // n_entries)
