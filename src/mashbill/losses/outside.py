"""The student outside the entries that teachers stored: the passes over ``V`` behind the loss of lists."""

from dataclasses import dataclass

import torch

from mashbill.losses.objective import Objective
from mashbill.shapes import Float, Int, Tensor


@dataclass(frozen=True)
class Sums:
    """Sums over the entries outside the union.

    Attributes:
        log_sum: Log of ``sum exp((z - peak) / T)``; ``-inf`` if there are none.
        total: What the values normalised by it sum to in the buffer: 1 but for rounding.
        plain_log_sum: The first at temperature 1; None if nobody reads it.
        plain_total: The second, in the spare buffer.
        unevenness: ``KL(even || student)``, nats; None unless tails are even.
    """

    log_sum: Float[Tensor, "R 1"]
    total: Float[Tensor, "R 1"]
    plain_log_sum: Float[Tensor, "R 1"] | None
    plain_total: Float[Tensor, "R 1"] | None
    unevenness: Float[Tensor, "R 1"] | None


def read(
    out: Float[Tensor, "R V"],
    spare: Float[Tensor, "R V"] | None,
    ids: Int[Tensor, "R J"],
    n_outside: Float[Tensor, "R 1"],
    *,
    peak: Float[Tensor, "R 1"],
    objective: Objective,
) -> Sums:
    """Turn logits into the student outside the union, normalised there, with 0 in it.

    Args:
        out: Logits, ``-inf`` in the union; then the student at temperature ``T``.
        spare: Then the student at temperature 1; None if nobody needs it or it is the same.
        ids: The union, however often an id stands there.
        n_outside: Entries outside.
        peak: Largest logit outside; ``-inf`` if there is none.
        objective: Names temperature and tail.
    """
    is_empty = peak == -torch.inf
    if bool(is_empty.any()):
        # Any numbers will do where the bucket weighs nothing, except those that are none.
        out.masked_fill_(is_empty, 0)
    plain_total = plain_log_sum = shifted = unevenness = None
    if objective.temperature != 1 or objective.tail == "even":
        out.sub_(peak.masked_fill(is_empty, 0))
    if spare is not None:
        plain_total, plain_log_sum = _softmax(out, is_empty, out=spare)
    if objective.temperature != 1:
        out.mul_(1 / objective.temperature)
    if objective.tail == "even":
        shifted = out.scatter_(-1, ids, 0).sum(dim=-1, keepdim=True).double()
        out.scatter_(-1, ids, -torch.inf)
    total, log_sum = _softmax(out, is_empty, out=out)
    if shifted is not None:
        unevenness = (log_sum - n_outside.log() - shifted / n_outside).masked_fill_(n_outside == 0, 0)
    return Sums(log_sum, total, plain_log_sum, plain_total, unevenness)


def _softmax(values: Tensor, is_empty: Tensor, *, out: Tensor) -> tuple[Tensor, Tensor]:
    """Write the softmax of rows; return what it sums to, and the log of its denominator."""
    torch.softmax(values, dim=-1, out=out)
    # The kernel's own sum is a plain one, whose rounding grows with V.
    total = out.sum(dim=-1, keepdim=True).double()
    log_sum = (total / out.amax(dim=-1, keepdim=True)).log_()
    return total, log_sum.masked_fill_(is_empty, -torch.inf)
