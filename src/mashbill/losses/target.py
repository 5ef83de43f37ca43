"""The target of the student at some positions: teachers completed, softened and pooled, in log space.

Plain and safe from underflow, with a few ``[R V]`` temporaries a teacher. The fast path uses this for the rows that
its probabilities cannot hold.
"""

from collections.abc import Iterable

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits
from mashbill.distributions.topk import TopK
from mashbill.losses.objective import PoolName, Tail
from mashbill.shapes import Float, Int, Tensor


def softened(
    teacher: Dense | Logits | TopK, student: Float[Tensor, "R V"], *, temperature: float, tail: Tail
) -> Float[Tensor, "R V"]:
    """Log-probabilities of one teacher over all ``V`` at temperature ``T``.

    A top-k teacher is completed first and softened as a whole, so that a teacher who agrees with the student on the
    stored entries and on the size of the tail agrees with it at every temperature. Rows are normalised again: what
    storage in few bits rounded away must not pull on the student.

    Args:
        teacher: Rows of one teacher.
        student: The student's log-probabilities at temperature 1, without gradient; the shape of a tail.
        temperature: ``T``.
        tail: Shape of a top-k teacher's tail.
    """
    if isinstance(teacher, Logits):
        # From the logits themselves: log-probabilities end at the floor, and a large T may bring what lies below back.
        values = teacher.values.to(student.dtype)
        return numerics.log_softmax((values - values.amax(dim=-1, keepdim=True)) / temperature)
    if isinstance(teacher, Dense):
        logprobs = teacher.logprobs.to(student.dtype)
    else:
        logprobs = teacher.densify(like=student if tail == "student" else None).to(student.dtype)
    # Shifted before divided: what is rounded then is the distance to the largest entry, not the size of both.
    shifted = (logprobs - logprobs.amax(dim=-1, keepdim=True)) / temperature
    return numerics.log_softmax(shifted.masked_fill(logprobs <= numerics.LOG_ZERO, -torch.inf))


def pooled(
    teachers: Iterable[Float[Tensor, "R V"]],
    log_weights: Float[Tensor, "*classes K R"],
    *,
    pool: PoolName,
    classes: Int[Tensor, " V"] | None = None,
) -> Float[Tensor, "R V"]:
    """Pool teachers that come one after the other; only one is in memory beside the sum.

    ``linear`` is ``log sum_k w_k p_k``; ``log_linear`` is ``sum_k w_k log p_k``, normalised. With weights that differ
    between classes of entries, ``[C K R]``, the first is normalised as well.
    """
    total = None
    for k, logprobs in enumerate(teachers):
        log_weight = by_entry(log_weights[..., k, :], classes)
        if pool == "linear":
            # A weight of zero has no say at the floor either, where all impossible entries lie; but NaN shows.
            is_off = (log_weight <= numerics.LOG_ZERO) & ~logprobs.isnan()
            term = (logprobs + log_weight).masked_fill(is_off, -torch.inf)
            total = term if total is None else torch.logaddexp(total, term)
        else:
            term = logprobs * log_weight.exp()
            total = term if total is None else total + term
    if total is None:
        raise ValueError("teachers=() must hold at least one teacher")
    if pool == "linear" and log_weights.ndim == 2:
        return total.clamp_min(numerics.LOG_ZERO)
    return numerics.log_softmax(total)


def by_entry(log_weight: Float[Tensor, "*classes R"], classes: Int[Tensor, " V"] | None) -> Float[Tensor, "R #V"]:
    """Return one teacher's log-weights to multiply rows with: one a row, or one for each entry, of its class."""
    if log_weight.ndim == 1:
        return log_weight.unsqueeze(-1)
    assert classes is not None, "weights by class come with the classes"
    index = classes.to(log_weight.device).long() % len(log_weight)  # -1 is the last
    return log_weight.T.index_select(1, index)
