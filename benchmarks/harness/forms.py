"""The four forms in which a loss meets student and teachers, with random inputs of any size.

========  =====================  =======================================
form      student                teachers
========  =====================  =======================================
logits    logits                 logits
hidden    hidden states, a head  hidden states, a head each
topk      logits                 stored top entries and the tail's mass
stored    hidden states, a head  stored top entries and the tail's mass
========  =====================  =======================================
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F

from mashbill.distributions.dense import Dense
from mashbill.distributions.topk import TopK

Form = Literal["logits", "hidden", "topk", "stored"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Shape:
    """``N`` positions, ``V`` entries, ``K`` teachers; of each top-k teacher ``k`` entries; widths before the heads."""

    form: Form
    rows: int
    entries: int
    teachers: int
    k: int = 64
    width: int = 512
    teacher_width: int = 1024
    dtype: str = "float32"

    @property
    def itemsize(self) -> int:
        return DTYPES[self.dtype].itemsize

    def small(self, dtype: str = "float32") -> "Shape":
        """Return sizes at which everything is compared with the truth; none is a multiple of another."""
        sizes = {"rows": 13, "entries": 311, "k": min(self.k, 9), "width": 19, "teacher_width": 23}
        return replace(self, **sizes, dtype=dtype)


@dataclass(frozen=True)
class Inputs:
    """One student and its teachers; ``None`` or empty is what the form does not have.

    Attributes:
        logits: Of the student, ``[1 N V]``.
        hidden: Of the student, ``[1 N D]``, with ``head``, ``[V D]``.
        teacher_logits: ``[1 N V]`` each.
        teacher_hidden: ``[1 N E]`` each, with ``teacher_heads``, ``[V E]`` each.
        stored: Top entries of each teacher, ``[1 N k]``.
        log_weights: One weight a teacher, ``[K 1 1]``, since no competitor knows weights a position.
        mask: All positions count.
        divergence: ``forward_kl``, ``reverse_kl`` or ``js``, the last with ``beta=0.5``.
        pristine: The student's logits once more, for variants that write over them.
    """

    logits: torch.Tensor | None
    hidden: torch.Tensor | None
    head: torch.Tensor | None
    teacher_logits: tuple[torch.Tensor, ...]
    teacher_hidden: tuple[torch.Tensor, ...]
    teacher_heads: tuple[torch.Tensor, ...]
    stored: tuple[TopK, ...]
    log_weights: torch.Tensor
    mask: torch.Tensor
    divergence: str
    pristine: torch.Tensor | None

    @property
    def leaves(self) -> list[torch.Tensor]:
        """What gradients are taken by."""
        return [leaf for leaf in (self.logits, self.hidden, self.head) if leaf is not None]

    @property
    def weights(self) -> list[float]:
        return self.log_weights.flatten().exp().tolist()

    @property
    def rows(self) -> int:
        return self.mask.numel()

    def scores(self) -> torch.Tensor:
        """Return the student's logits in full."""
        if self.logits is not None:
            return self.logits
        assert self.hidden is not None
        assert self.head is not None
        return self.hidden @ self.head.T

    def each_teacher(self, log_p: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield the teachers' probabilities in full, one at a time, in the dtype of ``log_p``, the student.

        What a top-k teacher did not store lies as the student's own mass does, as a constant.
        """
        for logits in self.teacher_logits:
            yield torch.softmax(logits.to(log_p.dtype), dim=-1)
        for hidden, head in zip(self.teacher_hidden, self.teacher_heads, strict=True):
            yield torch.softmax((hidden @ head.T).to(log_p.dtype), dim=-1)
        for stored in self.stored:
            outside = log_p.detach().exp().scatter(-1, stored.ids, 0)
            tail = stored.log_tail.exp().unsqueeze(-1).to(log_p.dtype)
            outside = outside * (tail / outside.sum(dim=-1, keepdim=True))
            yield outside.scatter(-1, stored.ids, stored.logprobs.exp().to(log_p.dtype))

    def restore(self) -> None:
        """Put the student's logits back."""
        if self.logits is not None and self.pristine is not None:
            self.logits.detach().copy_(self.pristine)


def make(shape: Shape, *, divergence: str = "forward_kl", device: str = "cpu", seed: int = 0) -> Inputs:
    """Build random inputs; the same seed and shape give the same numbers in every process."""
    generator = torch.Generator(device).manual_seed(seed)
    dtype = DTYPES[shape.dtype]

    def noise(*sizes: int, scale: float) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator, device=device).mul_(scale).to(dtype)

    whole = (1, shape.rows, shape.entries)
    has_head = shape.form in ("hidden", "stored")
    width, wide = shape.width, shape.teacher_width
    logits = None if has_head else noise(*whole, scale=2.0)
    hidden = noise(1, shape.rows, width, scale=1.0) if has_head else None
    head = noise(shape.entries, width, scale=2 / width**0.5) if has_head else None
    each = range(shape.teachers)
    teachers: dict[str, tuple] = {"teacher_logits": (), "teacher_hidden": (), "teacher_heads": (), "stored": ()}
    if shape.form == "logits":
        teachers["teacher_logits"] = tuple(noise(*whole, scale=2.0) for _ in each)
    elif shape.form == "hidden":
        teachers["teacher_hidden"] = tuple(noise(1, shape.rows, wide, scale=1.0) for _ in each)
        teachers["teacher_heads"] = tuple(noise(shape.entries, wide, scale=2 / wide**0.5) for _ in each)
    else:
        teachers["stored"] = tuple(_stored(noise(*whole, scale=3.0), shape.k) for _ in each)
    log_weights = torch.log_softmax(torch.randn(shape.teachers, 1, 1, generator=generator, device=device), dim=0)
    return Inputs(
        logits=None if logits is None else logits.requires_grad_(),
        hidden=None if hidden is None else hidden.requires_grad_(),
        head=None if head is None else head.requires_grad_(),
        **teachers,
        log_weights=log_weights,
        mask=torch.ones(1, shape.rows, dtype=torch.bool, device=device),
        divergence=divergence,
        pristine=None if logits is None else logits.detach().clone(),
    )


def _stored(logits: torch.Tensor, k: int) -> TopK:
    return TopK.from_logprobs(Dense.from_logits(logits).logprobs, k=k)


def double(inputs: Inputs) -> Inputs:
    """Return the same numbers in float64, to compute the truth from."""

    def wide(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values.detach().double().requires_grad_(values.requires_grad)

    def each(values: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(one.double() for one in values)

    stored = tuple(TopK(one.ids, one.logprobs.double(), one.log_tail.double(), one.n_entries) for one in inputs.stored)
    return replace(
        inputs,
        logits=wide(inputs.logits),
        hidden=wide(inputs.hidden),
        head=wide(inputs.head),
        teacher_logits=each(inputs.teacher_logits),
        teacher_hidden=each(inputs.teacher_hidden),
        teacher_heads=each(inputs.teacher_heads),
        stored=stored,
        log_weights=inputs.log_weights.double(),
        pristine=wide(inputs.pristine),
    )


def naive(inputs: Inputs) -> torch.Tensor:
    """Add up the teachers' probabilities and call ``F.kl_div``: what one writes first. Mean over positions, nats."""
    scores = inputs.scores()
    log_p = F.log_softmax(scores if scores.dtype == torch.float64 else scores.float(), dim=-1)
    q = torch.zeros_like(log_p)
    for log_weight, probs in zip(inputs.log_weights, inputs.each_teacher(log_p), strict=True):
        q = q + log_weight.exp() * probs
    if inputs.divergence == "forward_kl":
        value = F.kl_div(log_p, q, reduction="sum")
    elif inputs.divergence == "reverse_kl":
        value = F.kl_div(q.log(), log_p, reduction="sum", log_target=True)
    else:
        log_m = (0.5 * (q + log_p.exp())).log()
        value = F.kl_div(log_m, q, reduction="sum") + F.kl_div(log_m, log_p, reduction="sum", log_target=True)
        value = value / 2
    return value / inputs.rows
