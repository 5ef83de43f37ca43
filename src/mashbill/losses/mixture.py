"""The linear pool of teachers at a few positions, summed up in place as probabilities.

One pass over ``V`` for a dense teacher, less for a top-k teacher, and no buffer of its own for any of them.
Probabilities underflow where log-probabilities do not; rows that this can hurt are named, for the caller to do again
in log space.
"""

from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.dense import Dense
from mashbill.distributions.scores import Logits
from mashbill.distributions.topk import TopK
from mashbill.losses.objective import Tail
from mashbill.losses.student import StudentRows
from mashbill.shapes import Bool, Float, Int, Tensor

LEAST_MASS = 1e-30
"""Student mass outside a teacher's stored entries below which its shape is lost to underflow in float32."""

_FLAT = 50.0
# Temperatures above this would give exp(LOG_ZERO / T) mass that is worth hiding.


@dataclass(frozen=True)
class Softened:
    """Probabilities of a dense teacher at temperature ``T``, up to a factor near 1 for each row.

    Attributes:
        probs: Times the factor.
        total: Sum of each row. The fast exponential errs upwards, all entries alike, and this takes it back.
    """

    probs: Float[Tensor, "R V"]
    total: Float[Tensor, "R 1"]

    def add(self, pool: Float[Tensor, "R V"], weight: Float[Tensor, "R #V"]) -> None:
        """Add ``weight`` times the probabilities to ``pool``: one weight for each row, or for each entry of it."""
        pool.addcmul_(self.probs, weight / self.total)


def add_dense(
    pool: Float[Tensor, "R V"],
    teacher: Dense | Logits,
    weight: Float[Tensor, "R #V"],
    *,
    temperature: float,
    work: Float[Tensor, "R V"],
) -> None:
    """Add ``w softmax(z / T)`` to ``pool``; ``work`` is overwritten, and may be what holds ``z``.

    ``weight`` is a probability for each row, or for each entry of it.
    """
    soften(teacher, temperature=temperature, work=work).add(pool, weight)


def soften(teacher: Dense | Logits, *, temperature: float, work: Float[Tensor, "R V"]) -> Softened:
    """Return ``softmax(z / T)`` in ``work``, which may be what holds ``z``."""
    values = teacher.logprobs if isinstance(teacher, Dense) else teacher.values
    if temperature != 1:
        # Shifted before divided: what is rounded then is the distance to the largest entry, not the size of both.
        peak = values.amax(dim=-1, keepdim=True)
        absent = values <= numerics.LOG_ZERO if isinstance(teacher, Dense) and temperature > _FLAT else None
        values = torch.sub(values, peak, out=work) if values.dtype == work.dtype else work.copy_(values).sub_(peak)
        values.mul_(1 / temperature)
        if absent is not None:
            values.masked_fill_(absent, -torch.inf)
    elif values.dtype != work.dtype:
        values = work.copy_(values)
    # One pass over what is in the cache, where exp, sum and division are three.
    torch.softmax(values, dim=-1, out=work)
    return Softened(work, work.sum(dim=-1, keepdim=True))


def add_topk(
    pool: Float[Tensor, "R V"],
    teacher: TopK,
    log_weight: Float[Tensor, " R"],
    student: StudentRows,
    *,
    temperature: float,
    tail: Tail,
) -> Bool[Tensor, " R"]:
    """Add a top-k teacher, softened as a whole, to ``pool``; return the rows where its tail's shape underflowed.

    The tail goes to all entries at once and what it did to the stored ones is taken back by writing them anew:
    exact, where subtracting it again would not be.
    """
    teacher = _with_a_slot(teacher)
    ids, stored = _without_gaps(teacher)
    has_tail = ~(teacher.log_tail <= numerics.LOG_ZERO) & (teacher.n_used < teacher.n_entries)  # NaN has one, and shows
    if tail == "even":
        lost = torch.zeros_like(has_tail)
        log_each = teacher.log_tail_share() / temperature
        log_tail = log_each + (teacher.n_entries - teacher.n_used).clamp_min(1).to(log_each.dtype).log()
    else:
        log_each, log_tail, lost = _shaped_tail(teacher, ids, student, temperature=temperature)
        lost = lost & has_tail
    log_each = log_each.masked_fill(~has_tail, -torch.inf)
    log_tail = log_tail.masked_fill(~has_tail, -torch.inf)
    kept = (stored / temperature).masked_fill(stored <= numerics.LOG_ZERO, -torch.inf)
    used = teacher.ids >= 0
    log_norm = torch.cat([kept.masked_fill(~used, -torch.inf), log_tail.unsqueeze(-1)], dim=-1).logsumexp(dim=-1)
    offset = (log_weight - log_norm).unsqueeze(-1)
    before = pool.gather(-1, ids)
    each = (log_each.unsqueeze(-1) + offset).exp()
    if tail == "even":
        pool.add_(each)
    else:
        pool.addcmul_(student.probs, each)
    after = torch.where(used.any(dim=-1, keepdim=True), before + (kept + offset).exp(), pool.gather(-1, ids))
    pool.scatter_(-1, ids, after)
    return lost


def _with_a_slot(teacher: TopK) -> TopK:
    """Give a teacher without any slot an unused one, to have something to point at."""
    if teacher.ids.shape[-1] > 0:
        return teacher
    ids, logprobs = teacher.ids.new_full((*teacher.ids.shape[:-1], 1), -1), teacher.log_tail.unsqueeze(-1)
    return TopK(ids, torch.full_like(logprobs, numerics.LOG_ZERO), teacher.log_tail, teacher.n_entries)


def _without_gaps(teacher: TopK) -> tuple[Int[Tensor, "R S"], Float[Tensor, "R S"]]:
    """Point unused slots at the first used one, with its value, so that writing them changes nothing."""
    used = teacher.ids >= 0
    first = used.to(torch.int8).argmax(dim=-1, keepdim=True)
    ids = torch.where(used, teacher.ids, teacher.ids.gather(-1, first)).clamp_min(0).long()
    return ids, torch.where(used, teacher.logprobs, teacher.logprobs.gather(-1, first))


def _shaped_tail(
    teacher: TopK, ids: Tensor, student: StudentRows, *, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the factor on the student's probabilities, the tail it makes (logs, not normalised), and lost rows.

    At ``T = 1`` an unstored entry has ``tail / left`` times the student's probability, with ``left`` the student's
    own mass there; softening raises that to ``1/T``.
    """
    any_used = (teacher.ids >= 0).any(dim=-1)
    left = _mass_outside(student.probs, ids, any_used)
    if temperature == 1:
        left_plain = left
    else:
        assert student.plain is not None, "the student was read without its plain probabilities"
        left_plain = _mass_outside(student.plain, ids, any_used)
    lost = (left < LEAST_MASS) | (left_plain < LEAST_MASS)
    log_each = (teacher.log_tail - left_plain.log()) / temperature + student.bridge.squeeze(-1)
    log_each = log_each.masked_fill(lost, -torch.inf)
    return log_each, (log_each + left.log()).masked_fill(lost, -torch.inf), lost


def _mass_outside(probs: Tensor, ids: Tensor, any_used: Tensor) -> Tensor:
    """Sum each row without the given entries: set to 0 for the sum and put back, for 1 - (their sum) would cancel."""
    kept = probs.gather(-1, ids)
    probs.scatter_(-1, ids, torch.where(any_used.unsqueeze(-1), 0, kept))
    mass = probs.sum(dim=-1)
    probs.scatter_(-1, ids, kept)
    return mass
