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
from mashbill.shapes import Float, Tensor


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
        logprobs = numerics.log_softmax(teacher.values.to(student.dtype))
    elif isinstance(teacher, Dense):
        logprobs = teacher.logprobs.to(student.dtype)
    else:
        logprobs = teacher.densify(like=student if tail == "student" else None).to(student.dtype)
    # Shifted before divided: what is rounded then is the distance to the largest entry, not the size of both.
    shifted = (logprobs - logprobs.amax(dim=-1, keepdim=True)) / temperature
    return numerics.log_softmax(shifted.masked_fill(logprobs <= numerics.LOG_ZERO, -torch.inf))


def pooled(
    teachers: Iterable[Float[Tensor, "R V"]], log_weights: Float[Tensor, "K R"], *, pool: PoolName
) -> Float[Tensor, "R V"]:
    """Pool teachers that come one after the other; only one is in memory beside the sum.

    ``linear`` is ``log sum_k w_k p_k``; ``log_linear`` is ``sum_k w_k log p_k``, normalised.
    """
    total = None
    for logprobs, log_weight in zip(teachers, log_weights.unsqueeze(-1), strict=True):
        if pool == "linear":
            # A weight of zero must not bring -inf into the sum.
            term = logprobs + log_weight.clamp_min(numerics.LOG_ZERO)
            total = term if total is None else torch.logaddexp(total, term)
        else:
            term = logprobs * log_weight.exp()
            total = term if total is None else total + term
    if total is None:
        raise ValueError("teachers=() must hold at least one teacher")
    return total.clamp_min(numerics.LOG_ZERO) if pool == "linear" else numerics.log_softmax(total)
