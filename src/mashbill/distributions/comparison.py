"""How far teachers stand from one another and from a student, and how their gradients pull.

Numbers for weight rules, not losses: none of these functions has a gradient. All work on a few positions at a time, so
that the float32 distributions of ``K`` teachers never exist in full.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Float, Int, Tensor

TailShape = Literal["student", "even"]


@torch.no_grad()
def kl_to_mean(teachers: Sequence[Dense | TopK]) -> Float[Tensor, "K *batch"]:
    """Divergence of each teacher from the plain mean of all: ``KL(p_k || sum_j p_j / K)``.

    In ``[0, ln K]`` whatever the teachers: the mean holds a ``K``-th of each. The tail of a :class:`TopK` counts as
    spread evenly over its unstored entries.

    Args:
        teachers: One distribution a position from each, ``[*batch ...]``.

    Returns:
        Nats, float32 at least, on the first teacher's device.

    Raises:
        ValueError: There is no teacher, or sizes do not fit together.

    >>> pair = [Dense.from_probs(torch.tensor([1.0, 0.0])), Dense.from_probs(torch.tensor([0.0, 1.0]))]
    >>> [round(x, 4) for x in kl_to_mean(pair).tolist()]
    [0.6931, 0.6931]
    """
    batch, n_entries = _require_same(teachers)
    dtype, device = _common_dtype(teachers), teachers[0].logprobs.device
    out = torch.zeros(len(teachers), math.prod(batch), dtype=dtype, device=device)
    every = torch.arange(out.shape[1], device=device)
    flat = [_flat(teacher) for teacher in teachers]
    for rows in _chunks(every, n_entries=n_entries * len(teachers)):
        each = torch.stack([_completed(teacher, rows, dtype, device) for teacher in flat])
        mean = each.logsumexp(dim=0) - math.log(len(flat))
        out[:, rows] = (each.exp() * (each - mean)).sum(dim=-1).clamp(0, math.log(len(flat)))
    return out.reshape(len(teachers), *batch)


@torch.no_grad()
def kl_to(
    teachers: Sequence[Dense | TopK],
    logprobs: Float[Tensor, "*batch V"],
    *,
    mask: Bool[Tensor, "*batch"] | None = None,
    tail: TailShape = "student",
) -> Float[Tensor, "K *batch"]:
    """Divergence of each teacher from one other distribution, the student's as a rule: ``KL(p_k || p)``.

    Finite also where ``p`` has zeros: a zero counts as ``LOG_ZERO``.

    Args:
        teachers: One distribution a position from each, ``[*batch ...]``.
        logprobs: Of the other distribution, nats; logits do as well, for rows are normalised again.
        mask: Positions to compare; the others come out as 0 and are never read.
        tail: How the tail of a :class:`TopK` lies: shaped as ``p`` is, which gives the least divergence that any
            completion has (that of stored entries and tail as one bucket), or spread evenly.

    Returns:
        Nats, float32 at least, on the device of ``logprobs``.

    Raises:
        ValueError: There is no teacher, or sizes do not fit together.
    """
    batch, n_entries = _require_same(teachers, logprobs)
    dtype, device = numerics.reduction_dtype(logprobs.dtype), logprobs.device
    out = torch.zeros(len(teachers), math.prod(batch), dtype=dtype, device=device)
    flat, student = [_flat(teacher) for teacher in teachers], logprobs.reshape(-1, n_entries)
    counted = torch.arange(out.shape[1], device=device) if mask is None else mask.flatten().nonzero()[:, 0].to(device)
    for rows in _chunks(counted, n_entries=n_entries):
        other = numerics.log_softmax(student[rows])
        for k, teacher in enumerate(flat):
            here = _completed(teacher, rows, dtype, device, like=other if tail == "student" else None)
            out[k, rows] = (here.exp() * (here - other)).sum(dim=-1).clamp_min(0)
    return out.reshape(len(teachers), *batch)


@torch.no_grad()
def gradient_gram(
    teachers: Sequence[Dense | TopK],
    student_logprobs: Float[Tensor, "B T V"],
    *,
    labels: Int[Tensor, "B T"] | None,
    mask: Bool[Tensor, "B T"],
    tail: TailShape = "student",
) -> Float[Tensor, "B J J"]:
    """Inner products, row by row, of the gradients that teachers and labels exert on the student's logits.

    ``G[b, j, k] = sum_t <g_j[b, t], g_k[b, t]>`` over the positions that count, with ``g_k = p_S - p_k``, the gradient
    of ``KL(p_k || p_S)`` by logits at temperature 1, for the ``K`` teachers, and ``p_S - onehot(y)``, that of the
    cross-entropy, last: ``J = K + 1``. Gradients are subtracted before they are multiplied, so that a teacher with
    whom the student agrees has a small norm and not rounding noise. Symmetric and positive semidefinite.

    Args:
        teachers: One distribution a position from each, ``[B T ...]``.
        student_logprobs: Nats; logits do as well.
        labels: ``-100`` means none: the position adds 0 to the labels' row and column, as all do if this is None.
        mask: Positions that count; the others are never read.
        tail: As in :func:`kl_to`.

    Returns:
        Squared probabilities summed over positions, float32 at least, on the student's device.

    Raises:
        ValueError: There is no teacher, or sizes do not fit together.
    """
    (n_rows, n_positions), n_entries = _require_same(teachers, student_logprobs)
    dtype, device = numerics.reduction_dtype(student_logprobs.dtype), student_logprobs.device
    n_gradients = len(teachers) + 1
    out = torch.zeros(n_rows, n_gradients, n_gradients, dtype=dtype, device=device)
    flat, student = [_flat(teacher) for teacher in teachers], student_logprobs.reshape(-1, n_entries)
    answers = torch.full_like(mask, -100, dtype=torch.long) if labels is None else labels.long()
    answers = answers.flatten().to(device)
    for rows in _chunks(mask.flatten().nonzero()[:, 0].to(device), n_entries=n_entries * n_gradients):
        own = numerics.log_softmax(student[rows])
        gradients = own.exp().unsqueeze(1).repeat(1, n_gradients, 1)
        for k, teacher in enumerate(flat):
            like = own if tail == "student" else None
            gradients[:, k] -= _completed(teacher, rows, dtype, device, like=like).exp()
        label = answers[rows].unsqueeze(-1)
        known = (label >= 0).to(dtype)
        gradients[:, -1].scatter_add_(-1, label.clamp_min(0), -known).mul_(known)
        out.index_add_(0, rows // n_positions, gradients @ gradients.mT)
    return out


def _require_same(teachers: Sequence[Dense | TopK], other: Tensor | None = None) -> tuple[tuple[int, ...], int]:
    """Return ``*batch`` and ``V`` of all."""
    if not teachers:
        raise ValueError("teachers=() must hold at least one teacher")
    first = teachers[0]
    wanted = (*first.logprobs.shape[:-1], first.n_entries) if other is None else tuple(other.shape)
    for k, teacher in enumerate(teachers):
        found = (*teacher.logprobs.shape[:-1], teacher.n_entries)
        if found != wanted:
            raise ValueError(
                f"teachers[{k}] has positions and entries {list(found)}, but {list(wanted)} are compared; "
                "give all distributions over the same positions and the same vocabulary"
            )
    return wanted[:-1], wanted[-1]


def _common_dtype(teachers: Sequence[Dense | TopK]) -> torch.dtype:
    doubles = any(teacher.logprobs.dtype == torch.float64 for teacher in teachers)
    return torch.float64 if doubles else torch.float32


def _flat(teacher: Dense | TopK) -> Dense | TopK:
    """Return the distribution with one axis of positions."""
    logprobs = teacher.logprobs.reshape(-1, teacher.logprobs.shape[-1])
    if isinstance(teacher, Dense):
        return Dense(logprobs)
    return TopK(teacher.ids.reshape(logprobs.shape), logprobs, teacher.log_tail.reshape(-1), teacher.n_entries)


def _completed(
    teacher: Dense | TopK, rows: Tensor, dtype: torch.dtype, device: torch.device, *, like: Tensor | None = None
) -> Float[Tensor, "R V"]:
    """Return the log-probabilities of some positions over all entries, normalised in ``dtype``."""
    where = rows.to(teacher.logprobs.device)
    logprobs = teacher.logprobs[where].to(device, dtype)
    if isinstance(teacher, TopK):
        ids, log_tail = teacher.ids[where].to(device), teacher.log_tail[where].to(device, dtype)
        logprobs = TopK(ids, logprobs, log_tail, teacher.n_entries).densify(like=like)
    # Once more: mass that storage in few bits rounded away would count as a divergence.
    return numerics.log_softmax(logprobs)


def _chunks(rows: Int[Tensor, " N"], *, n_entries: int) -> Iterator[Tensor]:
    """Yield some rows at a time: what a core's cache holds, or what fills a large device."""
    n_elements = 2**19 * torch.get_num_threads() if rows.device.type == "cpu" else 2**25
    return iter(rows.split(max(1, n_elements // n_entries)) if len(rows) else ())
