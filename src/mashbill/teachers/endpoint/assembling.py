"""From lists by row and position to one distribution and its statistics a position.

What a list leaves open stays open. The tail is what its entries lack of 1, to the rounding of the engine's numbers and
never 0 where entries are missing; entropy is bounded from both sides; and the row's own log-probability is what the
endpoint says, whether or not it is in the list.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from mashbill import numerics
from mashbill.distributions.statistics import Statistics, measure
from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Float, Tensor
from mashbill.teachers.endpoint.asking import Listed
from mashbill.teachers.endpoint.rounding import Rounding
from mashbill.teachers.positions import spread
from mashbill.teachers.protocol import Inputs, Scored

Answers = Mapping[int, Mapping[int, Listed]]
"""What was said, by row and position."""


def assemble(answers: Answers, inputs: Inputs, *, n_entries: int, refused: Mapping[int, str]) -> Scored:
    """Return distributions and statistics ``[B T]``; positions without an answer are even.

    Args:
        answers: Of the rows that were answered.
        inputs: What was asked.
        n_entries: ``V``.
        refused: Why the other rows were not.
    """
    shape = (inputs.mask.shape[0], inputs.mask.shape[1])
    said = [(row, at, one) for row, each in sorted(answers.items()) for at, one in sorted(each.items())]
    labels = torch.tensor([int(inputs.labels[row, at]) for row, at, _ in said], dtype=torch.long)
    where = torch.tensor([row * shape[1] + at for row, at, _ in said], dtype=torch.long)
    entries = [_entries(one, label) for (_, _, one), label in zip(said, labels.tolist(), strict=True)]
    tops = [dict(one.top) for _, _, one in said]
    each = [one.rounding for _, _, one in said]
    is_top = torch.tensor([one.is_top for _, _, one in said], dtype=torch.bool)
    whole = _topk(entries, [_tail(*pair, n_entries) for pair in zip(entries, each, strict=True)], n_entries)
    flat = Scored(whole, _statistics(whole, labels, *_entropies(entries, tops, each, is_top, n_entries)))
    return replace(spread(flat, where, shape), refused=dict(refused))


def _entries(one: Listed, label: int) -> dict[int, float]:
    return dict(one.top) if one.label is None else {**one.top, label: one.label}


def _topk(each: list[dict[int, float]], tails: Sequence[float], n_entries: int) -> TopK:
    """Return entries and tails; what is more than 1 together, for rounding, is divided out."""
    width = max([1, *map(len, each)])
    ids = [[*one, *[-1] * (width - len(one))] for one in each]
    logprobs = [[*one.values(), *[numerics.LOG_ZERO] * (width - len(one))] for one in each]
    lists = torch.tensor(logprobs, dtype=torch.float64).view(-1, width)
    log_tails = torch.tensor([math.log(tail) if tail > 0 else numerics.LOG_ZERO for tail in tails], dtype=torch.float64)
    over = torch.logaddexp(lists.logsumexp(dim=-1), log_tails).clamp_min(0)
    return TopK(
        torch.tensor(ids, dtype=torch.long).view(-1, width),
        (lists - over.unsqueeze(-1)).clamp_min(numerics.LOG_ZERO).float(),
        (log_tails - over).clamp_min(numerics.LOG_ZERO).float(),
        n_entries,
    )


def _tail(one: dict[int, float], rounding: Rounding, n_entries: int, *, sign: int = 0) -> float:
    """Return the mass outside a list: as it is said, or the least (-1) or the most (1) that it can be."""
    if len(one) >= n_entries:
        return 0.0
    numbers = list(one.values())
    left, off = 1 - math.fsum(map(math.exp, numbers)), rounding.of_mass(numbers)
    return max(left, off) if sign == 0 else max(left + sign * off, 0.0)


def _entropies(
    entries: list[dict[int, float]],
    tops: list[dict[int, float]],
    each: Sequence[Rounding],
    is_top: Bool[Tensor, " P"],
    n_entries: int,
) -> tuple[Float[Tensor, " P"], Float[Tensor, " P"]]:
    """Return the least and the largest entropy; the least is higher where the list is known to be the top."""

    def bounded(lists: list[dict[int, float]], sign: int) -> TopK:
        tails = [_tail(one, rounding, n_entries, sign=sign) for one, rounding in zip(lists, each, strict=True)]
        return _topk(lists, tails, n_entries)

    pairs = zip(entries, each, strict=True)
    off = torch.tensor([rounding.of_entropy(list(one.values())) for one, rounding in pairs], dtype=torch.float32)
    high = measure(bounded(entries, 1)).entropy
    low, top = measure(bounded(entries, -1)).entropy_low, bounded(tops, -1)
    sure = is_top & _has_room(top)
    if bool(sure.any()):
        only = TopK(top.ids[sure], top.logprobs[sure], top.log_tail[sure], n_entries)
        low[sure] = torch.maximum(low[sure], measure(only, is_top=True).entropy_low)
    return (low - off).clamp_min(0), (high + off).clamp_max(math.log(n_entries))


def _statistics(whole: TopK, labels: Tensor, low: Float[Tensor, " P"], high: Float[Tensor, " P"]) -> Statistics:
    found = measure(whole, labels=labels)
    return replace(found, entropy_low=torch.minimum(low, high), entropy=high)


def _has_room(top: TopK) -> Bool[Tensor, " P"]:
    """Say where the tail fits into entries no larger than the least of the list, as that of a top must."""
    least = top.logprobs.masked_fill(top.ids < 0, 0).amin(dim=-1)
    n_unstored = (top.n_entries - top.n_used).clamp_min(1).to(least.dtype)
    return (top.n_used > 0) & (top.log_tail <= least + n_unstored.log())
