"""Divergences of a few positions with their gradients, in place.

Each function takes the pool ``q`` and its logs, returns the divergence in nats, and leaves
``weight * dD / d(logits / T)`` in ``log_q``; ``q`` is overwritten. Only operations that vectorise on every processor
are used, with the broadcast operand second.

With ``p = p_S`` and ``h`` the derivative of ``D`` by ``p``, the gradient is ``p (h - sum p h)``:

* forward: ``sum(q) p - q``, both over entries above the floor;
* reverse: ``h = log p - log q``;
* Jensen-Shannon: ``h = (1 - beta) (log p - log m)``, with ``m = beta q + (1 - beta) p``;
* skew, ``m = s q + (1 - s) p``: ``h = -(1 - s) q / m``;
* reverse skew, ``m = s p + (1 - s) q``: ``h = log(p / m) - s p / m``;
* alpha: ``p h = -q^a p^(1-a) / a``, over entries above the floor;
* total variation: ``h = sign(p - q) / 2``, with 0 for what rounding may have made of equal numbers.

A constant in ``h`` falls out.
"""

from collections.abc import Sequence

import torch

from mashbill import numerics
from mashbill.losses import divergence
from mashbill.losses.objective import Objective
from mashbill.losses.student import StudentRows
from mashbill.shapes import Float, Tensor

_LARGE = 80.0
# A power of q/p that float32 holds. What lies above is multiplied by a probability that makes less than e^-80 of it.


def n_spare(objective: Objective) -> int:
    """Return how many buffers ``[R V]`` beside ``q`` and ``log_q`` :func:`of` overwrites."""
    return int(objective.kind in ("js", "skew_kl", "reverse_skew_kl"))


def feels_underflow(objective: Objective) -> bool:
    """Return whether ``log q`` matters where ``q`` is 0 in the dtype of the buffers but the student is not."""
    return objective.kind in ("reverse_kl", "alpha")


def reads_logs(objective: Objective) -> bool:
    """Return whether :func:`of` reads ``log_q``; otherwise it is only a place to write to."""
    return objective.kind not in ("skew_kl", "reverse_skew_kl", "total_variation")


def of(
    objective: Objective,
    student: StudentRows,
    q: Float[Tensor, "R V"],
    log_q: Float[Tensor, "R V"],
    *,
    weight: float,
    more: Sequence[Tensor] = (),
    eps: float | None = None,
) -> Float[Tensor, " R"]:
    """Return the objective's divergence, nats; ``weight`` times its gradient by ``logits / T`` goes to ``log_q``.

    Args:
        objective: Names the divergence and its option.
        student: The student's rows; left as they are.
        q: Pooled probabilities; overwritten.
        log_q: Their logs, floored, or anything unless :func:`reads_logs`; overwritten.
        weight: Factor on the gradient alone.
        more: At least :func:`n_spare` buffers ``[R V]``; overwritten.
        eps: Relative rounding of what came in; None if it is that of the buffers.
    """
    match objective.kind:
        case "forward_kl":
            value = forward_kl(student, q, log_q, weight=weight)
        case "reverse_kl":
            value = reverse_kl(student, q, log_q, weight=weight)
        case "js":
            value = js(student, q, log_q, beta=objective.beta, weight=weight, spare=more[0])
        case "skew_kl":
            value = skew_kl(student, q, log_q, skew=objective.skew, weight=weight, spare=more[0])
        case "reverse_skew_kl":
            value = reverse_skew_kl(student, q, log_q, skew=objective.skew, weight=weight, spare=more[0])
        case "alpha":
            value = alpha_divergence(student, q, log_q, alpha=objective.alpha, weight=weight)
        case "total_variation":
            eps = torch.finfo(q.dtype).eps if eps is None else eps
            value = total_variation(student, q, log_q, weight=weight, eps=eps)
    return value


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
    return _project(q, student, weight=weight, out=log_q)


def js(
    student: StudentRows,
    q: Float[Tensor, "R V"],
    log_q: Float[Tensor, "R V"],
    *,
    beta: float,
    weight: float,
    spare: Float[Tensor, "R V"],
) -> Float[Tensor, " R"]:
    """``beta KL(q || m) + (1 - beta) KL(p_S || m)``, ``m = beta q + (1 - beta) p_S``; ``spare`` is overwritten.

    Near its ends ``m`` is ``a``, one of the two, with a small share ``s`` of the other, and ``log m/a`` is written as
    ``log1p(s (other / a - 1))``: a difference of logs would lose digits like ``1/s``.
    """
    log_middle = _mixed(q, student.probs, share=beta, out=spare).log_()
    if 1 - beta < divergence.NEAR:
        of_target = _log_mixed(q, student.probs, share=1 - beta, out=log_q).mul_(q).sum(dim=-1).neg_()
    else:
        of_target = log_q.sub_(log_middle).mul_(q).sum(dim=-1)
    if beta < divergence.NEAR:
        _log_mixed(student.probs, q, share=beta, out=log_q).neg_()
    else:
        torch.sub(student.logprobs, log_middle, out=log_q)
    torch.mul(student.probs, log_q, out=q)
    of_student = _project(q, student, weight=weight * (1 - beta), out=log_q)
    return beta * of_target + (1 - beta) * of_student


def skew_kl(
    student: StudentRows,
    q: Float[Tensor, "R V"],
    log_q: Float[Tensor, "R V"],
    *,
    skew: float,
    weight: float,
    spare: Float[Tensor, "R V"],
) -> Float[Tensor, " R"]:
    """``KL(q || m)``, ``m = skew q + (1 - skew) p_S``; ``spare`` is overwritten."""
    mixed = _mixed(q, student.probs, share=skew, out=spare)
    ratio = torch.div(q, mixed, out=log_q)
    value = torch.clamp(ratio, min=torch.finfo(q.dtype).tiny, out=spare).log_().mul_(q).sum(dim=-1)
    _project(ratio.mul_(student.probs), student, weight=weight * (skew - 1), out=log_q)
    return value


def reverse_skew_kl(
    student: StudentRows,
    q: Float[Tensor, "R V"],
    log_q: Float[Tensor, "R V"],
    *,
    skew: float,
    weight: float,
    spare: Float[Tensor, "R V"],
) -> Float[Tensor, " R"]:
    """``KL(p_S || m)``, ``m = skew p_S + (1 - skew) q``; ``spare`` is overwritten."""
    mixed = _mixed(student.probs, q, share=skew, out=spare)
    # p/m is 1 + (1 - skew) u with u = (p - q)/m, which stays exact where p and q agree.
    unlike = torch.sub(student.probs, q, out=log_q).div_(mixed)
    logs = torch.mul(unlike, 1 - skew, out=spare)
    # What is lost of a small ratio is weighted by the ratio.
    logs.clamp_min_(torch.finfo(q.dtype).eps - 1).log1p_()
    value = torch.mul(logs, student.probs, out=q).sum(dim=-1)
    ascent = logs.sub_(unlike, alpha=skew * (1 - skew)).mul_(student.probs)
    _project(ascent, student, weight=weight, out=log_q)
    return value


def alpha_divergence(
    student: StudentRows, q: Float[Tensor, "R V"], log_q: Float[Tensor, "R V"], *, alpha: float, weight: float
) -> Float[Tensor, " R"]:
    """``(1 - sum q^a p_S^(1-a)) / (a (1 - a))``.

    Written with ``q^a p^(1-a) - p = p expm1(a log q/p)`` for ``a`` up to 1/2 and with the roles of ``p`` and ``q``
    exchanged above, so that no small difference of large numbers is left near either end.
    """
    by_student = alpha <= 0.5
    log_q.sub_(student.logprobs).mul_(alpha if by_student else alpha - 1).clamp_max_(_LARGE)
    overlap = log_q.expm1_().mul_(student.probs if by_student else q)
    value = overlap.sum(dim=-1).div_(alpha * (alpha - 1))
    if not by_student:
        overlap.add_(q)
        if student.is_floored:
            overlap.masked_fill_(student.logprobs <= numerics.LOG_ZERO, 0)
    _project(overlap, student, weight=-weight / alpha, out=log_q)
    return value


def total_variation(
    student: StudentRows, q: Float[Tensor, "R V"], log_q: Float[Tensor, "R V"], *, weight: float, eps: float
) -> Float[Tensor, " R"]:
    """``sum |q - p_S| / 2``, a probability; the derivative of ``|q - p_S|`` counts as 0 within rounding, ``eps``."""
    torch.sub(student.probs, q, out=log_q)
    distance = torch.abs(log_q, out=q)
    value = distance.sum(dim=-1).div_(2)
    is_apart = distance.addcmul_(student.probs, student.logprobs, value=2 * eps)
    is_apart.sub_(student.probs, alpha=divergence.TIE * eps).gt_(0)
    log_q.sign_().mul_(is_apart).mul_(student.probs)
    log_q[:, :1].add_((value - value).unsqueeze(-1))  # the sign of NaN is 0
    _project(log_q, student, weight=weight / 2, out=log_q)
    return value


def _mixed(one: Tensor, other: Tensor, *, share: float, out: Tensor) -> Tensor:
    """Write ``share one + (1 - share) other``, at least the least normal number."""
    return torch.mul(other, 1 - share, out=out).add_(one, alpha=share).clamp_min_(torch.finfo(out.dtype).tiny)


def _log_mixed(one: Tensor, other: Tensor, *, share: float, out: Tensor) -> Tensor:
    """Write ``log((share other + (1 - share) one) / one)``, with anything finite where ``one`` is 0."""
    torch.clamp(one, min=torch.finfo(out.dtype).tiny, out=out)
    return torch.div(other, out, out=out).sub_(1).mul_(share).log1p_()


def _project(ascent: Tensor, student: StudentRows, *, weight: float, out: Tensor) -> Float[Tensor, " R"]:
    """Write ``weight * (p h - p sum p h)`` of ``ascent = p h``, and return ``sum p h``."""
    total = ascent.sum(dim=-1)
    torch.addcmul(ascent, student.probs, total.unsqueeze(-1), value=-1, out=out)
    # Once more: where one entry has nearly all the mass, what remains is the rounding of that entry.
    out.addcmul_(student.probs, out.sum(dim=-1, keepdim=True), value=-1).mul_(weight)
    return total


def add_cross_entropy(gradient: Float[Tensor, "R V"], student: StudentRows, labels: Tensor, *, weight: float) -> None:
    """Add ``weight * (p_1 - onehot)`` to the gradient of rows with a label that lies above the floor."""
    assert student.plain is not None, "the student was read without its plain probabilities"
    assert student.label_logprob is not None, "the student was read without labels"
    moves = (labels >= 0) & (student.label_logprob > numerics.LOG_ZERO)
    factor = moves.to(gradient.dtype).mul_(weight).unsqueeze(-1)
    gradient.addcmul_(student.plain, factor)
    gradient.scatter_add_(-1, labels.clamp_min(0).long().unsqueeze(-1), -factor)
