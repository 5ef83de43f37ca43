"""From lists by row and position to one distribution and its statistics a position.

What a list leaves open stays open: the tail is what its entries lack of 1, entropy is bounded from both sides, and the
row's own log-probability is exact where the endpoint says it, whether or not it is in the list.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from mashbill import numerics
from mashbill.distributions.statistics import Statistics, measure
from mashbill.distributions.topk import TopK
from mashbill.shapes import Bool, Tensor
from mashbill.teachers.endpoint.asking import Listed
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
    whole, top = _topk(entries, n_entries), _topk([dict(one.top) for _, _, one in said], n_entries)
    is_top = torch.tensor([one.is_top for _, _, one in said], dtype=torch.bool)
    flat = Scored(whole, _statistics(whole, top, labels, is_top))
    return replace(spread(flat, where, shape), refused=dict(refused))


def _entries(one: Listed, label: int) -> dict[int, float]:
    return dict(one.top) if one.label is None else {**one.top, label: one.label}


def _topk(each: list[dict[int, float]], n_entries: int) -> TopK:
    width = max([1, *map(len, each)])
    ids = [[*one, *[-1] * (width - len(one))] for one in each]
    logprobs = [[*one.values(), *[numerics.LOG_ZERO] * (width - len(one))] for one in each]
    return TopK(
        torch.tensor(ids, dtype=torch.long).view(-1, width),
        torch.tensor(logprobs, dtype=torch.float32).view(-1, width),
        torch.tensor([_log_tail(one, n_entries) for one in each], dtype=torch.float32),
        n_entries,
    )


def _log_tail(one: dict[int, float], n_entries: int) -> float:
    left = 1 - math.fsum(map(math.exp, one.values()))
    return math.log(left) if left > 0 and len(one) < n_entries else numerics.LOG_ZERO


def _statistics(whole: TopK, top: TopK, labels: Tensor, is_top: Bool[Tensor, " P"]) -> Statistics:
    """Measure all that was said, and raise the least entropy where the list is known to be the top."""
    found = measure(whole, labels=labels)
    sure = is_top & _has_room(top)
    if not bool(sure.any()):
        return found
    only = TopK(top.ids[sure], top.logprobs[sure], top.log_tail[sure], top.n_entries)
    low = found.entropy_low.clone()
    low[sure] = torch.maximum(low[sure], measure(only, is_top=True).entropy_low)
    return replace(found, entropy_low=torch.minimum(low, found.entropy))


def _has_room(top: TopK) -> Bool[Tensor, " P"]:
    """Say where the tail fits into entries no larger than the least of the list, as that of a top must."""
    least = top.logprobs.masked_fill(top.ids < 0, 0).amin(dim=-1)
    n_unstored = (top.n_entries - top.n_used).clamp_min(1).to(least.dtype)
    return (top.n_used > 0) & (top.log_tail <= least + n_unstored.log())
