"""Divergences of a few positions with their gradients, in place.

Each function takes the pool ``q`` and its logs, returns the divergence in nats, and leaves
``weight * dD / d(logits / T)`` in ``log_q``; ``q`` is overwritten. Only operations that vectorise on every processor
are used, with the broadcast operand second.

With ``p = p_S`` and ``h`` the derivative of ``D`` by ``p``, the gradient is ``p (h - sum p h)``:

* forward: ``sum(q) p - q``, both over entries above the floor;
* reverse: ``h = log p - log q``;
* Jensen-Shannon: ``h = (1 - beta) (log p - log m)``.
"""

from collections.abc import Sequence

import torch

from mashbill import numerics
from mashbill.losses.objective import Objective
from mashbill.losses.student import StudentRows
from mashbill.shapes import Float, Tensor


def n_spare(objective: Objective) -> int:
    """Return how many buffers ``[R V]`` beside ``q`` and ``log_q`` :func:`of` overwrites."""
    return int(objective.kind == "js")


def feels_underflow(objective: Objective) -> bool:
    """Return whether ``log q`` matters where ``q`` is 0 in the dtype of the buffers, as it does for the reverse KL."""
    return objective.kind == "reverse_kl"


def of(
    objective: Objective,
    student: StudentRows,
    q: Float[Tensor, "R V"],
    log_q: Float[Tensor, "R V"],
    *,
    weight: float,
    more: Sequence[Tensor] = (),
) -> Float[Tensor, " R"]:
    """Return the objective's divergence, nats; ``weight`` times its gradient by ``logits / T`` goes to ``log_q``.

    Args:
        objective: Names the divergence and its option.
        student: The student's rows; left as they are.
        q: Pooled probabilities; overwritten.
        log_q: Their logs, floored; overwritten.
        weight: Factor on the gradient alone.
        more: At least :func:`n_spare` buffers ``[R V]``; overwritten.
    """
    match objective.kind:
        case "js":
            return js(student, q, log_q, beta=objective.beta, weight=weight, spare=more[0])
        case "reverse_kl":
            return reverse_kl(student, q, log_q, weight=weight)
        case "forward_kl":
            return forward_kl(student, q, log_q, weight=weight)


def forward_kl(
    student: StudentRows, q: Float[Tensor, "R V"], log_q: Float[Tensor, "R V"], *, weight: float
) -> Float[Tensor, " R"]:
    """``KL(q || p_S)``."""
    value = log_q.sub_(student.logprobs).mul_(q).sum(dim=-1)
    if student.is_floored:
        q.masked_fill_(student.logprobs <= numerics.LOG_ZERO, 0)
    total = q.sum(dim=-1, keepdim=True)
    torch.mul(student.probs, total.mul_(weight), out=log_q).sub_(q, alpha=weight)
    return value


def reverse_kl(
    student: StudentRows, q: Float[Tensor, "R V"], log_q: Float[Tensor, "R V"], *, weight: float
) -> Float[Tensor, " R"]:
    """``KL(p_S || q)``."""
    torch.sub(student.logprobs, log_q, out=log_q)
    torch.mul(student.probs, log_q, out=q)
    value = q.sum(dim=-1)
    torch.addcmul(q, student.probs, value.unsqueeze(-1), value=-1, out=log_q).mul_(weight)
    return value


def js(
    student: StudentRows,
    q: Float[Tensor, "R V"],
    log_q: Float[Tensor, "R V"],
    *,
    beta: float,
    weight: float,
    spare: Float[Tensor, "R V"],
) -> Float[Tensor, " R"]:
    """``beta KL(q || m) + (1 - beta) KL(p_S || m)``, ``m = beta q + (1 - beta) p_S``; ``spare`` is overwritten."""
    torch.mul(student.probs, 1 - beta, out=spare).add_(q, alpha=beta)
    log_middle = spare.clamp_min_(torch.finfo(spare.dtype).tiny).log_()
    of_target = log_q.sub_(log_middle).mul_(q).sum(dim=-1)
    torch.sub(student.logprobs, log_middle, out=log_q)
    torch.mul(student.probs, log_q, out=q)
    of_student = q.sum(dim=-1)
    torch.addcmul(q, student.probs, of_student.unsqueeze(-1), value=-1, out=log_q).mul_(weight * (1 - beta))
    return beta * of_target + (1 - beta) * of_student


def add_cross_entropy(gradient: Float[Tensor, "R V"], student: StudentRows, labels: Tensor, *, weight: float) -> None:
    """Add ``weight * (p_1 - onehot)`` to the gradient of rows with a label that lies above the floor."""
    assert student.plain is not None, "the student was read without its plain probabilities"
    assert student.label_logprob is not None, "the student was read without labels"
    moves = (labels >= 0) & (student.label_logprob > numerics.LOG_ZERO)
    factor = moves.to(gradient.dtype).mul_(weight).unsqueeze(-1)
    gradient.addcmul_(student.plain, factor)
    gradient.scatter_add_(-1, labels.clamp_min(0).long().unsqueeze(-1), -factor)
