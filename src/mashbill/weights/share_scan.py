"""The recursion behind :class:`mashbill.weights.FixedShare`, over long sequences, without logs and without underflow.

Unnormalised weights ``v`` follow a linear map, ``v_(t+1) = (p_t v_t) A`` with ``A = (1 - rate) I + (rate/K) 1 1'``:
multiply by the likelihoods, let every teacher give a share away. Two things make it safe in plain float64:

* ``p_t`` may be scaled at each position, because a factor common to all teachers changes no weight: its largest is 1.
* After a share no weight is below ``rate/K`` of the total, so a position shrinks the total to ``rate/K`` at worst. How
  often to renormalise follows from the rate, not from the data.

One position is one product and one small matrix product. Transfer matrices of whole blocks of positions would need
fewer steps, but ``K`` times the arithmetic: on one core no faster at ``K = 8``, and slower at ``K = 64``.
"""

import math
from collections.abc import Sequence

import torch

from mashbill.shapes import Bool, Float, LogWeights, Tensor
from mashbill.weights.shares import Number

_BLOCK = 2**15  # numbers in float64 worked on at once: they stay in a core's cache
LEAST = 1e-30
"""Least rate and least prior: their products stay normal numbers in float64, and they themselves in float32."""


def share_scan(
    label_logprob: Float[Tensor, "K B T"],
    counted: Bool[Tensor, "B T"],
    *,
    prior: Sequence[float],
    rate: Number,
) -> LogWeights:
    """Return the log-weights before each position is seen, ``[K B T]``.

    Args:
        label_logprob: Evidence in nats, finite; 0 where not ``counted``.
        counted: Positions that bring evidence, and after which a share is made; the others leave everything as it is.
        prior: Weights before any evidence, at least ``LEAST`` each, summing to 1.
        rate: Share that is spread over all teachers after each counted position, from ``LEAST`` to 1.

    Returns:
        Normalised; same dtype as the evidence, and differentiable in it.
    """
    n_teachers, n_rows, n_positions = label_logprob.shape
    # A row's counted positions move together to its front, so that its weights do not feel its padding; `place` is how
    # many came before. The others go to one last place, which is never read.
    place = counted.cumsum(dim=1) - counted.long()
    row = torch.arange(n_rows, device=place.device)
    target = torch.where(counted, place, n_positions).T * n_rows + row
    # The shift cancels in the weights, so it needs no gradient.
    shifted = label_logprob - label_logprob.detach().amax(dim=0, keepdim=True)
    evidence = shifted.permute(2, 1, 0).reshape(-1, n_teachers)
    packed = evidence.new_zeros((n_positions + 1) * n_rows, n_teachers).index_copy_(0, target.flatten(), evidence)
    packed = packed.reshape(n_positions + 1, n_rows, n_teachers)[:n_positions]
    log_weights = _scan(packed, prior, float(rate))
    read = log_weights.reshape(-1, n_teachers).index_select(0, (place.T * n_rows + row).flatten())
    return read.reshape(n_positions, n_rows, n_teachers).permute(2, 1, 0)


def accumulator_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype of sums over thousands of positions: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def _scan(evidence: Float[Tensor, "T B K"], prior: Sequence[float], rate: float) -> Float[Tensor, "T B K"]:
    """Return log-weights before each position, a block of positions after the other."""
    _, n_rows, n_teachers = evidence.shape
    dtype = accumulator_dtype(evidence.device)
    state = evidence.new_tensor(prior, dtype=dtype).expand(n_rows, n_teachers)
    mixing = (1 - rate) * torch.eye(n_teachers, dtype=dtype, device=evidence.device) + rate / n_teachers
    step = _differentiable_steps if evidence.requires_grad and torch.is_grad_enabled() else _steps
    n_each, period = max(1, _BLOCK // (n_rows * n_teachers)), _period(dtype, n_teachers, rate)
    parts = []
    for block in evidence.split(n_each):
        states = step(block.to(dtype).exp(), state, mixing, period)
        weights = states / states.sum(dim=-1, keepdim=True)
        state = weights[-1]
        parts.append(weights[:-1].to(evidence.dtype).log())  # cast first: the logarithm costs half in float32
    return torch.cat(parts)


def _steps(
    likelihood: Float[Tensor, "T B K"], start: Float[Tensor, "B K"], mixing: Float[Tensor, "K K"], period: int
) -> Float[Tensor, "N B K"]:
    """Return the ``T + 1`` unnormalised weights before and after each position."""
    states = likelihood.new_empty(len(likelihood) + 1, *start.shape)
    product = torch.empty_like(start, memory_format=torch.contiguous_format)
    state, *following = states.unbind()
    state.copy_(start)
    for t, (seen, after) in enumerate(zip(likelihood.unbind(), following, strict=True)):
        torch.mul(state, seen, out=product)
        torch.mm(product, mixing, out=after)
        if t % period == 0:
            after.div_(after.sum(dim=-1, keepdim=True))
        state = after
    return states


def _differentiable_steps(
    likelihood: Float[Tensor, "T B K"], start: Float[Tensor, "B K"], mixing: Float[Tensor, "K K"], period: int
) -> Float[Tensor, "N B K"]:
    """Do what :func:`_steps` does for autograd, which needs every state as a tensor of its own."""
    states = [start]
    for t, seen in enumerate(likelihood.unbind()):
        after = (states[-1] * seen) @ mixing
        states.append(after / after.sum(dim=-1, keepdim=True) if t % period == 0 else after)
    return torch.stack(states)


def _period(dtype: torch.dtype, n_teachers: int, rate: float) -> int:
    """Return after how many positions to renormalise so that no weight can underflow.

    The first position is always followed by it, since the prior may be smaller than ``rate/K``.
    """
    room = -0.9 * math.log(torch.finfo(dtype).tiny)
    worst = math.log(n_teachers / rate)
    return max(1, int(room / max(worst, 1e-3)) - 1)
