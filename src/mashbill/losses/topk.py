"""The loss of captured teachers: ``K`` lists of ids with a tail each, which are never laid out over ``V``.

Let ``U`` be the entries that some teacher stored at a position. Outside ``U`` every completed teacher is a constant
times one shape ``h``: the softened student itself (``tail="student"``) or 1 (``tail="even"``). So the pool outside is
``B`` times the shape, and all of it is *one* entry of a smaller alphabet, ``U`` and a bucket. With the student's mass
``L`` there and its shape ``r = p_S / L``, any ``sum p_S f(q / p_S)`` and its gradient by logits are

    D(q, p_S) = D((q_U, B), (p_U, L)),    g_v = r_v g_bucket    (tail="student": q / p_S is constant outside)
    KL(q || p_S) = KL((q_U, B) || (p_U, L)) + B KL(even || r),  g_v = r_v (g_bucket + B) - B / n    (tail="even")

(the chain rule). Each position costs one softmax over the student's entries outside ``U``, one product for the
gradient, and ``O(K^2 S)`` on lists; those are in float64, so that tails as small as e^-500 keep their shape. The mass
left over by a list is always a sum over what is left: one minus what is kept would be rounding noise. The student is
never normalised over the stored entries, and no entry is ever padded.

**What the value means.** Take ``T = 1``, and let ``m_k`` be a teacher's tail mass, ``t`` the true shape of the tail,
``n`` its entries, ``e`` the even shape, ``r`` the student's. For *one* teacher:

* ``tail="student"`` is the coarse-grained KL of (stored entries, tail as one bucket); a tail bucket as an option of its
  own would be the same. By the chain rule ``KL(p || p_S) - D = m KL(t || r)``: the value is at least 0,
  a lower bound for every completion, exact if the tail is empty or lies as the student's does, and too small by
  ``m ln(1 / min r)`` at most, which a tail on the student's least likely entry attains. It is a lower bound for
  every convex ``f`` as well, by Jensen's inequality in the bucket.
* ``tail="even"`` errs by ``KL(p || p_S) - D = m (KL(t || r) - KL(e || r))``, of either sign: a bound it is not.
* Either completion is off in total variation by ``m TV(t, its shape) <= m``, and so the gradient ``p_S - q`` by twice
  that in l1, all of it on unstored entries.

For *several* teachers the pooled value is at most the weighted mean of their own values, by convexity. With
``tail="student"`` each of those is a lower bound of its own KL, and the pooled value at most ``sum_k w_k KL(p_k ||
p_S)``; with ``tail="even"`` it may be more. With neither it is a lower bound of the true pool's KL: a teacher's tail
may truly lie on what others stored and fill there what the pool lacks. What bounds both from below, with either tail,
is the coarse-grained KL over (entries that all teachers stored, one bucket). In total variation the pool is off by
``d <= sum_k w_k m_k``, in the gradient by ``2 d`` in l1, in the value by ``d (ln(V - 1) + max ln p_S - min ln p_S) +
h(d)`` at most, with ``h`` the binary entropy in nats (Audenaert's inequality and Hoelder's). Up to ``1 - 1/V`` it
grows with ``d``, so that the sum may stand for it.

At other temperatures the smaller alphabet and ``D >= 0`` stay exact, but no value is a lower bound, one teacher's own
neither: the least costly shape is then another one. With ``a_k`` and ``b_k`` the softened tail masses of a teacher's
true and completed distribution, its stored entries are off by ``|a_k - b_k|`` in l1 and its tail by ``a_k + b_k`` at
most, so that the linear pool is off in total variation by ``d <= sum_k w_k max(a_k, b_k)``, and the gradient by
``2 T d`` in l1. For ``T > 1`` the upper ends of :func:`mashbill.distributions.softened_tail_interval` may stand for
both. The bound of the value is the same, with ``p_S`` at ``T``.

Not covered, and done over all of ``V`` instead: log-linear pools, even tails under divergences other than the forward
KL, dense teachers in the same call, and single rows whose numbers are too extreme for this (:class:`Result.hard`).

Source:
    K. M. R. Audenaert, *A sharp continuity estimate for the von Neumann entropy*, J. Phys. A 40, 2007, for the bound.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mashbill import numerics
from mashbill.distributions.topk import TopK
from mashbill.losses import gradient, outside, union
from mashbill.losses.objective import Objective
from mashbill.losses.student import StudentRows
from mashbill.shapes import Float, Int, Tensor

N_CHUNKS = 8
"""How many times as many rows to do at once as elsewhere: the small operations on lists cost by the call."""

_MOST = 2**18  # Numbers in float64: who misses which stored entry.


@dataclass(frozen=True)
class Result:
    """What :func:`chunk` returns beside the gradient.

    Attributes:
        divergence: Nats.
        cross_entropy: Nats; 0 without a label.
        hard: Rows that were not done and whose values, gradient included, are undefined: nothing is stored, or float64
            does not hold their numbers.
        logits: Those rows' logits, which an ``out`` in their place has overwritten.
    """

    divergence: Float[Tensor, " R"]
    cross_entropy: Float[Tensor, " R"]
    hard: Int[Tensor, " H"]
    logits: Float[Tensor, "H V"]


def fits(teachers: Sequence[object], objective: Objective, device: torch.device) -> bool:
    """Return whether :func:`chunk` can do this: the closed forms above, on a device that has float64."""
    has_closed_form = objective.tail == "student" or objective.kind == "forward_kl"
    return (
        has_closed_form
        and objective.pool == "linear"
        and objective.reads_teachers
        and device.type != "mps"
        and all(isinstance(teacher, TopK) for teacher in teachers)
    )


def rows_at_once(teachers: Sequence[object]) -> int:
    """Return how many rows keep what grows with the square of the number of teachers within a few MiB a thread."""
    widest = max(one.ids.shape[-1] for one in teachers if isinstance(one, TopK))
    return max(1, _MOST // (len(teachers) * (len(teachers) * widest + 1)))


def needs_spare(objective: Objective, *, has_labels: bool) -> bool:
    """Return whether :func:`chunk` needs a second buffer: for the student at temperature 1 beside another."""
    return objective.temperature != 1 and (objective.tail == "student" or has_labels)


def chunk(
    logits: Float[Tensor, "R V"],
    teachers: Sequence[TopK],
    log_weights: Float[Tensor, "K R"],
    labels: Int[Tensor, " R"] | None,
    *,
    objective: Objective,
    out: Float[Tensor, "R V"],
    spare: Float[Tensor, "R V"] | None = None,
) -> Result:
    """Return the loss of some rows and leave its gradient by their logits in ``out``.

    Args:
        logits: The student's.
        teachers: The same rows of each teacher, on the same device.
        log_weights: Nats.
        labels: ``-100`` means none.
        objective: One that :func:`fits`.
        out: float32 or float64; overwritten, and may be ``logits`` itself.
        spare: Overwritten; needed if :func:`needs_spare`.
    """
    if not needs_spare(objective, has_labels=labels is not None):
        spare = None
    elif spare is None:
        raise ValueError(
            f"spare=None, but temperature={objective.temperature!r} needs a second buffer; see needs_spare"
        )
    view, hard, originals = _look(logits, teachers, log_weights, labels, objective=objective, out=out)
    n_outside = view.entries.sizes[:, -1:]
    sums = outside.read(out, spare, view.lists.ids, n_outside, peak=view.shift, objective=objective)
    pair = _pair(view, sums, objective)
    value, slope = _divergence(pair, objective, eps=torch.finfo(out.dtype).eps)
    if sums.unevenness is not None:
        value = value + (pair.q[:, -1:] * sums.unevenness).squeeze(-1)
    label_loss, pull = _cross_entropy(view, pair, labels, objective)
    if pull is not None:
        n_alike = slope.shape[-1] - (objective.temperature != 1)
        slope[:, :n_alike].addcmul_(pair.plain.probs[:, :n_alike], pull)
    _write(out, view, sums, pair, slope=slope, objective=objective)
    if pull is not None:
        _add_cross_entropy(out, spare, view, sums, pair, pull=pull)
    return Result(value.to(out.dtype), label_loss.to(out.dtype), hard, originals)


@dataclass(frozen=True)
class _View:
    """What is read of the student before its buffer is overwritten; float64, less the row's largest logit.

    Attributes:
        lists: Of the teachers.
        entries: Their union.
        picked: Logits of the slots.
        peak: Largest logit outside the union.
        shift: The same as it was, in the buffer's dtype.
        label_slot: The label, or entry 0; None without labels.
        label: Its logit.
    """

    lists: union.Lists
    entries: union.Union
    picked: Float[Tensor, "R J"]
    peak: Float[Tensor, "R 1"]
    shift: Float[Tensor, "R 1"]
    label_slot: Int[Tensor, "R 1"] | None
    label: Float[Tensor, "R 1"] | None


@dataclass(frozen=True)
class _Pair:
    """Student and target over slots and bucket.

    Attributes:
        student: At temperature ``T``.
        plain: At temperature 1; the same if nobody needs it.
        q: The pool, as probabilities.
    """

    student: union.Coarse
    plain: union.Coarse
    q: Float[Tensor, "R C"]


def _look(
    logits: Tensor,
    teachers: Sequence[TopK],
    log_weights: Tensor,
    labels: Tensor | None,
    *,
    objective: Objective,
    out: Tensor,
) -> tuple[_View, Int[Tensor, " H"], Float[Tensor, "H V"]]:
    """Read lists, their union and the student's logits there; ``out`` is then the logits with ``-inf`` in the union."""
    lists = union.side_by_side(teachers, log_weights, temperature=objective.temperature)
    picked = logits.gather(-1, lists.ids).double()
    slot = None if labels is None else labels.clamp_min(0).long().unsqueeze(-1)
    label = None if slot is None else logits.gather(-1, slot).double()
    if out.data_ptr() != logits.data_ptr():
        out.copy_(logits)
    lowest = out.amin(dim=-1, keepdim=True) if objective.tail == "even" else None
    entries = union.find(lists, scratch=out)
    out.scatter_(-1, lists.ids, -torch.inf)
    shift = out.amax(dim=-1, keepdim=True)
    # Shifted before anything is rounded: the log-sum-exp of large logits would swallow the digits that matter.
    top = torch.maximum(shift.double(), picked.amax(dim=-1, keepdim=True))
    view = _View(
        lists, entries, picked - top, shift.double() - top, shift, slot, None if label is None else label - top
    )
    is_hard = union.is_hard(lists, entries, view.picked, view.peak, objective)
    if lowest is not None:
        # An even tail has mass where the student has none, and the floor there is no function of a row's sums.
        is_hard |= (lowest - top < objective.temperature * numerics.LOG_ZERO / 2).squeeze(-1)
    hard = is_hard.nonzero().squeeze(1)
    return view, hard, out.index_select(0, hard).scatter_(-1, lists.ids[hard], picked[hard].to(out.dtype))


def _pair(view: _View, sums: outside.Sums, objective: Objective) -> _Pair:
    """Gather student and pool over slots and bucket."""
    temperature = objective.temperature
    student = union.coarse(view.entries, view.picked, view.peak, sums.log_sum, temperature=temperature)
    plain = student
    if sums.plain_log_sum is not None:
        plain = union.coarse(view.entries, view.picked, view.peak, sums.plain_log_sum, temperature=1.0)
    if objective.tail == "even":
        sizes = view.entries.sizes
        q = union.pooled(view.lists, view.entries, sizes, sizes, 0.0, temperature=temperature)
    else:
        shape = student.probs
        plain_shape = shape if plain is student else plain.probs
        bridge = student.log_norm - plain.log_norm / temperature
        q = union.pooled(view.lists, view.entries, shape, plain_shape, bridge, temperature=temperature)
    return _Pair(student, plain, q)


def _divergence(pair: _Pair, objective: Objective, *, eps: float) -> tuple[Float[Tensor, " R"], Float[Tensor, "R C"]]:
    """Return the divergence over slots and bucket and its weighted gradient by their logits; ``pair.q`` stays.

    ``eps`` is the relative rounding of the numbers that came in.
    """
    log_q, q = numerics.log_of(pair.q), pair.q.clone()
    more = [torch.empty_like(q) for _ in range(gradient.n_spare(objective))]
    rows = StudentRows(pair.student.logprobs, pair.student.probs, None, pair.student.log_norm, None, is_floored=True)
    value = gradient.of(objective, rows, q, log_q, weight=_weight(objective), more=more, eps=eps)
    return value, log_q


def _weight(objective: Objective) -> float:
    # The chain rule takes one 1/T of the T^2.
    return objective.divergence_weight / objective.temperature


def _cross_entropy(
    view: _View, pair: _Pair, labels: Tensor | None, objective: Objective
) -> tuple[Float[Tensor, " R"], Float[Tensor, "R 1"] | None]:
    """Return the cross-entropy, and the weight of its gradient if it has one."""
    if labels is None or view.label is None:
        return torch.zeros_like(view.peak[:, 0]), None
    logprob = (view.label - pair.plain.log_norm).clamp_min_(numerics.LOG_ZERO)
    has_label = (labels >= 0).unsqueeze(-1)
    pull = None
    if objective.cross_entropy > 0:
        pull = (has_label & (logprob > numerics.LOG_ZERO)).double().mul_(objective.cross_entropy_weight)
    return torch.where(has_label, -logprob, 0).squeeze(-1), pull


def _write(out: Tensor, view: _View, sums: outside.Sums, pair: _Pair, *, slope: Tensor, objective: Objective) -> None:
    """Turn ``out``, the softened student outside the union, into the gradient by all logits."""
    factor, offset = slope[:, -1:], None
    if objective.tail == "even":
        pushed = pair.q[:, -1:] * _weight(objective)
        factor, offset = factor + pushed, pushed / view.entries.sizes[:, -1:].clamp_min(1)
    out.mul_((factor / sums.total).to(out.dtype))
    if offset is not None:
        out.sub_(offset.to(out.dtype))
    out.scatter_(-1, view.lists.ids, slope.gather(-1, view.entries.place).to(out.dtype))


def _add_cross_entropy(
    out: Tensor, spare: Tensor | None, view: _View, sums: outside.Sums, pair: _Pair, *, pull: Float[Tensor, "R 1"]
) -> None:
    """Add what ``slope`` did not bring: the label, and at ``T`` other than 1 the plain student outside the union."""
    if spare is not None and sums.plain_total is not None:
        out.addcmul_(spare, (pair.plain.probs[:, -1:] * pull / sums.plain_total).to(out.dtype))
    if view.label_slot is not None:
        out.scatter_add_(-1, view.label_slot, -pull.to(out.dtype))
