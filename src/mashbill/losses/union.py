"""Several teachers' lists as one small alphabet: the entries that any of them stored, and a bucket for all others.

Everything here is about lists, ``J = K S`` slots a row, and in float64; ``V`` is only a number. One slot speaks for
each entry of the union, whoever else stored it; the others are empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.losses import gradient
from mashbill.losses.objective import Objective
from mashbill.shapes import Bool, Float, Int, Tensor

_DEEPEST = 500.0
# Nats below the largest at which float64 still holds a probability and its quotient by another.


@dataclass(frozen=True)
class Lists:
    """The teachers' lists side by side.

    Attributes:
        ids: Where to read and write; an unused slot points at the row's first used one.
        speaker: The slot itself, or the row's first used one.
        used: Whether a slot holds an entry.
        kept: ``log p / T``, nats; ``-inf`` for entries without mass and in unused slots.
        log_tail: Nats, at temperature 1; ``-inf`` where there is none.
        log_weights: Nats.
    """

    ids: Int[Tensor, "R J"]
    speaker: Int[Tensor, "R J"]
    used: Bool[Tensor, "R J"]
    kept: Float[Tensor, "R K S"]
    log_tail: Float[Tensor, "R K"]
    log_weights: Float[Tensor, "R K"]


@dataclass(frozen=True)
class Union:
    """Who speaks for which entry.

    Attributes:
        place: The slot that speaks for a slot's entry.
        speaks: Whether a slot does.
        sizes: Entries that a slot or the bucket stands for: 1 or 0 for slots.
        missing: 1 in slots that speak for an entry which teacher ``k`` did not store, and in the bucket; else 0.
    """

    place: Int[Tensor, "R J"]
    speaks: Bool[Tensor, "R J"]
    sizes: Float[Tensor, "R C"]
    missing: Float[Tensor, "R K C"]


@dataclass(frozen=True)
class Coarse:
    """The student over ``C = J + 1`` slots, the bucket last, at one temperature.

    Attributes:
        logprobs: Nats, floored at ``LOG_ZERO``, where empty slots lie too.
        probs: Their exponentials.
        log_norm: Log of the sum of exponentials over all ``V``, of logits from which the row's largest was taken.
    """

    logprobs: Float[Tensor, "R C"]
    probs: Float[Tensor, "R C"]
    log_norm: Float[Tensor, "R 1"]


def side_by_side(teachers: Sequence[TopK], log_weights: Float[Tensor, "K R"], *, temperature: float) -> Lists:
    """Line up the lists of all teachers; shorter ones are filled up with unused slots."""
    n_slots = max(1, *(teacher.ids.shape[-1] for teacher in teachers))
    ids = torch.stack([filled(teacher.ids, n_slots, -1) for teacher in teachers], dim=1).long()
    values = torch.stack([filled(teacher.logprobs, n_slots, numerics.LOG_ZERO) for teacher in teachers], dim=1)
    log_tail = torch.stack([teacher.log_tail for teacher in teachers], dim=1).double()
    log_weights = log_weights.T.double()
    is_used = ids >= 0
    # A teacher without weight has no tail: what it would be is infinite where the student left nothing to shape it.
    has_tail = ~(log_tail <= numerics.LOG_ZERO) & (log_weights > -torch.inf)  # NaN has one, and shows
    has_tail &= is_used.sum(dim=-1) < teachers[0].n_entries
    kept = (values.double() / temperature).masked_fill_((values <= numerics.LOG_ZERO) | ~is_used, -torch.inf)
    used = is_used.flatten(1)
    slots = torch.arange(used.shape[1], device=used.device)
    speaker = torch.where(used, slots, used.to(torch.int8).argmax(dim=-1, keepdim=True))
    return Lists(
        ids=ids.flatten(1).gather(-1, speaker).clamp_min_(0),
        speaker=speaker,
        used=used,
        kept=kept,
        log_tail=log_tail.masked_fill_(~has_tail, -torch.inf),
        log_weights=log_weights,
    )


def find(lists: Lists, *, scratch: Float[Tensor, "R V"]) -> Union:
    """Find who stored what, by writing to ``scratch`` where the ids point; nothing is sorted.

    Slots of one entry write over one another; whichever remains speaks for it. Slot numbers are exact in float32.
    """
    scratch.scatter_(-1, lists.ids, lists.speaker.to(scratch.dtype))
    place = scratch.gather(-1, lists.ids).long()
    slots = torch.arange(place.shape[1], device=place.device)
    speaks = lists.used & (place == slots)
    n_rows, n_teachers, n_slots = lists.kept.shape
    each = speaks.double()
    sizes = torch.cat([each, scratch.shape[-1] - each.sum(dim=-1, keepdim=True)], dim=-1)
    missing = functional.pad(each, (0, 1), value=1.0).unsqueeze(1).repeat(1, n_teachers, 1)
    # An unused slot is empty, so that it may deny itself.
    stored = torch.where(lists.used, place, slots).view(n_rows, n_teachers, n_slots)
    return Union(place, speaks, sizes, missing.scatter_(-1, stored, 0.0))


def is_hard(
    lists: Lists, union: Union, picked: Float[Tensor, "R J"], peak: Float[Tensor, "R 1"], objective: Objective
) -> Bool[Tensor, " R"]:
    """Return the rows that float64 cannot do over slots and bucket.

    Args:
        lists: Of the teachers.
        union: Theirs.
        picked: The student's logits of the slots, less the row's largest.
        peak: Its largest logit outside the union, less the row's largest.
        objective: What is to be computed.
    """
    hard = ~lists.used.any(dim=-1)
    has_tail = lists.log_tail != -torch.inf
    deep = _DEEPEST * min(1.0, objective.temperature)
    is_low = has_tail & (peak < -deep)
    if objective.tail == "student" and bool(is_low.any()):
        # Other teachers' entries may still shape the tail.
        others = picked.unsqueeze(1).masked_fill(union.missing[..., :-1] == 0, -torch.inf).amax(dim=-1)
        hard |= (is_low & (others < -deep)).any(dim=-1)
    if gradient.feels_underflow(objective):
        most = _largest_share(lists, union, temperature=objective.temperature)
        # Without any tail the pool outside the union lies at the floor and not in the student's shape.
        hard |= (most[:, -1] <= -_DEEPEST) & (peak > -torch.inf).squeeze(-1)
        # An entry that only zeros reach lies at the floor here as well; one that little reaches does not.
        of_slots = most[:, :-1]
        hard |= ((of_slots > -torch.inf) & (of_slots <= -_DEEPEST)).any(dim=-1)
    return hard


def _largest_share(lists: Lists, union: Union, *, temperature: float) -> Float[Tensor, "R C"]:
    """Return about the log of the largest share that a teacher has in the pool's slots and bucket, nats.

    From what it stored there, or from its tail if it did not. An even share of a tail is as low as ``1/V``, of which
    sharpening takes the power.
    """
    sharpened = max(0.0, 1 / temperature - 1) * union.sizes.sum(dim=-1, keepdim=True).log()
    tails = lists.log_tail / temperature + lists.log_weights - sharpened
    most = tails.unsqueeze(-1).masked_fill(union.missing == 0, -torch.inf).amax(dim=1)
    weighted = (lists.kept + lists.log_weights.unsqueeze(-1)).flatten(1)
    return most.scatter_reduce_(-1, union.place, weighted, "amax")


def coarse(
    union: Union,
    picked: Float[Tensor, "R J"],
    peak: Float[Tensor, "R 1"],
    log_sum: Float[Tensor, "R 1"],
    *,
    temperature: float,
) -> Coarse:
    """Normalise the student over slots and bucket, with ``log_sum`` the log of ``sum exp((z - peak) / T)`` outside."""
    bucket = peak / temperature + log_sum
    scaled = torch.cat([(picked / temperature).masked_fill_(~union.speaks, -torch.inf), bucket], dim=-1)
    log_norm = scaled.logsumexp(dim=-1, keepdim=True)
    logprobs = scaled.sub_(log_norm).clamp_min_(numerics.LOG_ZERO)
    return Coarse(logprobs, logprobs.exp(), log_norm)


def pooled(
    lists: Lists,
    union: Union,
    shape: Float[Tensor, "R C"],
    plain_shape: Float[Tensor, "R C"],
    bridge: Float[Tensor, "R 1"] | float,
    *,
    temperature: float,
) -> Float[Tensor, "R C"]:
    """Return the linear pool of the completed and softened teachers, as probabilities of slots and bucket.

    An entry that teacher ``k`` did not store has ``(m_k / left_k)^(1/T)`` times its softened shape, with ``left_k`` the
    plain shape's mass outside its list.

    Args:
        lists: Of the teachers.
        union: Theirs.
        shape: Of the tails at temperature ``T``.
        plain_shape: Of the tails at temperature 1.
        bridge: ``log plain_shape / T - log shape``, one constant a row, nats.
        temperature: ``T``.
    """
    left = (union.missing @ shape.unsqueeze(-1)).squeeze(-1)
    left_plain = left if plain_shape is shape else (union.missing @ plain_shape.unsqueeze(-1)).squeeze(-1)
    has_none = lists.log_tail == -torch.inf
    log_each = ((lists.log_tail - left_plain.log()) / temperature + bridge).masked_fill_(has_none, -torch.inf)
    log_tail = (log_each + left.log()).masked_fill_(has_none, -torch.inf)
    log_norm = torch.cat([lists.kept, log_tail.unsqueeze(-1)], dim=-1).logsumexp(dim=-1)
    offset = (lists.log_weights - log_norm).masked_fill_(lists.log_weights == -torch.inf, -torch.inf)
    # Summed over those who miss an entry: everyone's tails less those of its owners would cancel.
    q = ((log_each + offset).exp_().unsqueeze(1) @ union.missing).squeeze(1).mul_(shape)
    return q.scatter_add_(-1, union.place, (lists.kept + offset.unsqueeze(-1)).exp_().flatten(1))


def filled(values: Tensor, n_slots: int, value: float) -> Tensor:
    """Return a list's ``[... S]`` with as many slots as the widest one."""
    n_more = n_slots - values.shape[-1]
    return functional.pad(values, (0, n_more), value=value) if n_more else values
