"""The student at a few positions, in buffers that are used again and again."""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class StudentRows:
    """A student's distribution at ``R`` positions.

    Attributes:
        logprobs: At temperature ``T``, nats, floored at ``LOG_ZERO``.
        probs: Their exponentials.
        plain: Probabilities at temperature 1; None if nobody asked for them and ``T`` is not 1.
        bridge: ``log p_1 / T - log p_T``, one constant a row, nats.
        label_logprob: At temperature 1, nats, floored; None without labels.
        is_floored: Some entry of ``logprobs`` lies at the floor, where the loss no longer moves with its logit.
    """

    logprobs: Float[Tensor, "R V"]
    probs: Float[Tensor, "R V"]
    plain: Float[Tensor, "R V"] | None
    bridge: Float[Tensor, "R 1"]
    label_logprob: Float[Tensor, " R"] | None
    is_floored: bool


def read(
    logits: Float[Tensor, "R V"],
    labels: Int[Tensor, " R"] | None,
    *,
    temperature: float,
    logprobs: Float[Tensor, "R V"],
    probs: Float[Tensor, "R V"],
    plain: Float[Tensor, "R V"] | None,
) -> StudentRows:
    """Normalise logits into the buffers ``logprobs``, ``probs`` and, for ``T`` other than 1, ``plain``.

    ``labels`` needs ``plain`` unless ``T = 1``; ``-100`` means none and reads entry 0.
    """
    peak = logits.amax(dim=-1, keepdim=True).to(logprobs.dtype)
    # Shifted before anything is rounded: the log-sum-exp of large logits would swallow the digits that matter.
    if logits.dtype == logprobs.dtype:
        torch.sub(logits, peak, out=logprobs)
    else:
        logprobs.copy_(logits).sub_(peak)
    slot = None if labels is None else labels.clamp_min(0).long().unsqueeze(-1)
    shifted_label = None if slot is None else logprobs.gather(-1, slot)
    log_plain = None if plain is None or temperature == 1 else _normalise(logprobs, out=plain)
    if temperature != 1:
        logprobs.mul_(1 / temperature)
    log_norm = _normalise(logprobs, out=probs)
    logprobs.sub_(log_norm)
    is_floored = bool(logprobs.amin() < numerics.LOG_ZERO)
    if is_floored:
        logprobs.clamp_min_(numerics.LOG_ZERO)
    if temperature == 1:
        plain, log_plain = probs, log_norm
    label_logprob = None
    if shifted_label is not None and log_plain is not None:
        label_logprob = (shifted_label - log_plain).squeeze(-1).clamp_min(numerics.LOG_ZERO)
    bridge = torch.zeros_like(log_norm) if log_plain is None else log_norm - log_plain / temperature
    return StudentRows(logprobs, probs, plain, bridge, label_logprob, is_floored)


def _normalise(shifted: Tensor, *, out: Tensor) -> Tensor:
    """Fill ``out`` with the softmax of rows whose largest entry is 0, and return the logs of their normalisers."""
    torch.softmax(shifted, dim=-1, out=out)
    out.mul_(out.sum(dim=-1, keepdim=True).reciprocal())  # Its fast exponential errs upwards, all entries alike.
    return -out.amax(dim=-1, keepdim=True).log()  # The largest entry's probability is 1 over the normaliser.
