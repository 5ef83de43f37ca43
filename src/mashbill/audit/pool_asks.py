"""What is asked of a pool, each axiom as a number: by how much a case breaks it.

The pool is known by its contract alone: log-probabilities ``[K *batch V]`` and log-weights ``[K *batch]`` become
log-probabilities ``[*batch V]``. All axioms but normalisation look at the answer divided by its sum, so that one fault
is blamed once. A probability below ``e^-745`` is 0, as it is in float64.
"""

import math
from functools import partial

import numpy as np
import torch

from mashbill import numerics
from mashbill.audit.cases import Cases, full_support
from mashbill.audit.hull import separator
from mashbill.audit.pool_answers import LOG_TINY, answer, entropy, of_case, row, soften
from mashbill.audit.searching import Ask, Operator
from mashbill.shapes import Tensor

_NATS = 1e-5  # what rounding may cost in nats
_MAX_SETS = 2**10


# Normalisation.


def _normalised(pool: Operator, cases: Cases) -> Tensor:
    error = (pool(cases.log_p, cases.log_w).double().exp().sum(dim=-1) - 1).abs()
    return torch.where(error.isnan(), 1.0, error)  # no number is no distribution


def _show_normalised(pool: Operator, cases: Cases) -> tuple[str, str]:
    total = float(pool(cases.log_p, cases.log_w).double().exp().sum())
    told = "the answer has a NaN" if math.isnan(total) else f"the answer sums to {total:.9g}"
    return told, "float((operator(log(p), log(w)).double().exp().sum() - 1).abs().nan_to_num(1.0))"


# Convexity.


def _separators(q: Tensor, p: Tensor) -> Tensor:
    points, rows = q.detach().numpy(), p.detach().numpy()
    left = np.zeros_like(points)
    for n, point in enumerate(points):
        if np.isfinite(point).all():
            left[n] = separator(point, rows[:, n])[1]
    return torch.from_numpy(left / np.maximum(np.linalg.norm(left, axis=-1, keepdims=True), 1e-300))


def _outside_hull(pool: Operator, cases: Cases) -> Tensor:
    """How far along a vector of length 1 the pool lies beyond all its teachers."""
    q, p = of_case(pool, cases).exp(), cases.p
    a = _separators(q, p)
    return (a * q).sum(dim=-1) - (a * p).sum(dim=-1).amax(dim=0)


def _show_hull(pool: Operator, cases: Cases) -> tuple[str, str]:
    q, p = of_case(pool, cases).exp(), cases.p
    a = _separators(q, p)[0].tolist()
    short = ", ".join(f"{x:.4g}" for x in a)
    told = f"q = {row(q[0])}; a = ({short}) has a.q above every a.p_k, so q is no mixture"
    return told, f"float((a := torch.tensor({a}, dtype=torch.float64)) @ q(p, w).exp() - (p @ a).max())"


def _outside_range(pool: Operator, cases: Cases) -> Tensor:
    q, p = of_case(pool, cases).exp(), cases.p
    return torch.maximum(q - p.amax(dim=0), p.amin(dim=0) - q).amax(dim=-1)


def _show_range(pool: Operator, cases: Cases) -> tuple[str, str]:
    q, p = of_case(pool, cases).exp(), cases.p
    v = int(torch.maximum(q - p.amax(dim=0), p.amin(dim=0) - q).argmax())
    told = f"entry {v} gets {float(q[0, v]):.6g}, the teachers give it {row(p[:, 0, v])}"
    return told, "float(torch.maximum(q(p, w).exp() - p.amax(0), p.amin(0) - q(p, w).exp()).max())"


# Positivity. The amount is the probability that is lost.


def _lost(pool: Operator, cases: Cases, *, alone: bool) -> Tensor:
    q, p = of_case(pool, cases), cases.p
    said = (cases.w.unsqueeze(-1) * p).amax(dim=0) if alone else p.amin(dim=0)
    return torch.where((q < LOG_TINY) & (said > 1e-30), said.clamp_min(2e-6), 0.0).amax(dim=-1)


def _show_lost(pool: Operator, cases: Cases, *, alone: bool) -> tuple[str, str]:
    q, p = of_case(pool, cases), cases.p
    said = (cases.w.unsqueeze(-1) * p).amax(dim=0) if alone else p.amin(dim=0)
    v = int(torch.where(q < LOG_TINY, said, 0.0).argmax())
    who = "one teacher with weight" if alone else "every teacher"
    told = f"entry {v} gets 0, though {who} holds it possible: {row(p[:, 0, v])}"
    given = "(w[:, None] * p).amax(0)" if alone else "p.amin(0)"
    return told, f"float((({given}).clamp_min(2e-6) * (q(p, w) < -745) * ({given} > 1e-30)).max())"


# Monotonicity. ``share`` of the second teacher's weight, or of all others', goes to the first.


def _transferred(cases: Cases) -> Tensor:
    if len(cases.log_w) < 2:
        return cases.log_w
    share = cases.extras["share"]
    moved = cases.w[1] * share
    return numerics.log_of(torch.cat([(cases.w[0] + moved)[None], (cases.w[1] - moved)[None], cases.w[2:]]))


def _falls(pool: Operator, cases: Cases) -> Tensor:
    if len(cases.log_w) < 2:
        return cases.log_w[0] * torch.nan
    fall = of_case(pool, cases).exp() - answer(pool, cases.log_p, _transferred(cases)).exp()
    return torch.where(cases.log_p[0] >= cases.log_p[1], fall, 0.0).amax(dim=-1)


def _show_falls(pool: Operator, cases: Cases) -> tuple[str, str]:
    moved = _transferred(cases)
    before, after = of_case(pool, cases).exp()[0], answer(pool, cases.log_p, moved).exp()[0]
    v = int(torch.where(cases.log_p[0, 0] >= cases.log_p[1, 0], before - after, -1.0).argmax())
    told = (
        f"with weights {row(moved[:, 0].exp())} entry {v} falls from {float(before[v]):.6g} to {float(after[v]):.6g}, "
        "though the teacher that gained gives it no less than the one that lost"
    )
    return told, f"float((q(p, w).exp() - q(p, torch.tensor({_exact(moved)}, dtype=torch.float64)).exp())[{v}])"


def _raised(cases: Cases) -> Tensor:
    share = cases.extras["share"]
    return numerics.log_of(torch.cat([(cases.w[0] + share * (1 - cases.w[0]))[None], (1 - share) * cases.w[1:]]))


def _divergence(p: Tensor, log_p: Tensor, log_q: Tensor) -> Tensor:
    return (p * (log_p - log_q).masked_fill(p == 0, 0.0)).sum(dim=-1)


def _recedes(pool: Operator, cases: Cases) -> Tensor:
    if len(cases.log_w) < 2:
        return cases.log_w[0] * torch.nan
    p, log_p = cases.p[0], cases.log_p[0]
    before = _divergence(p, log_p, of_case(pool, cases))
    after = _divergence(p, log_p, answer(pool, cases.log_p, _raised(cases)))
    # Two infinite divergences are no comparison, and what is nearly infinite is rounding.
    return torch.where(before < -LOG_TINY / 10, after.clamp_max(-LOG_TINY) - before, -torch.inf)


def _show_recedes(pool: Operator, cases: Cases) -> tuple[str, str]:
    raised = _raised(cases)
    p, log_p = cases.p[0], cases.log_p[0]
    before = float(_divergence(p, log_p, of_case(pool, cases)))
    after = float(_divergence(p, log_p, answer(pool, cases.log_p, raised)))
    told = f"with weights {row(raised[:, 0].exp())} KL(p_0 || q) rises from {before:.6g} to {after:.6g} nats"
    weights = f"torch.tensor({_exact(raised)}, dtype=torch.float64)"
    return told, f"float((p[0] * (q(p, w) - q(p, {weights})).masked_fill(p[0] == 0, 0)).sum().clamp_max(745))"


# Temperature.


def _incoherent(pool: Operator, cases: Cases) -> Tensor:
    temperature = cases.extras["temperature"]
    after = soften(of_case(pool, cases), temperature)
    before = answer(pool, soften(cases.log_p, temperature), cases.log_w)
    return (after.exp() - before.exp()).abs().amax(dim=-1)


def _show_incoherent(pool: Operator, cases: Cases) -> tuple[str, str]:
    temperature = cases.extras["temperature"]
    after = soften(of_case(pool, cases), temperature).exp()[0]
    before = answer(pool, soften(cases.log_p, temperature), cases.log_w).exp()[0]
    t = float(temperature)
    told = f"softened by T = {t:g} after pooling {row(after)}, before pooling {row(before)}"
    return told, f"float(((q(p, w) / {t}).softmax(-1) - q((log(p) / {t}).softmax(-1), w).exp()).abs().max())"


def _entropies(pool: Operator, cases: Cases) -> tuple[Tensor, Tensor]:
    low = cases.extras["temperature"]
    high = low * cases.extras["factor"]
    return (
        entropy(answer(pool, soften(cases.log_p, low), cases.log_w)),
        entropy(answer(pool, soften(cases.log_p, high), cases.log_w)),
    )


def _sharpens(pool: Operator, cases: Cases) -> Tensor:
    cooler, warmer = _entropies(pool, cases)
    return cooler - warmer


def _show_sharpens(pool: Operator, cases: Cases) -> tuple[str, str]:
    cooler, warmer = _entropies(pool, cases)
    low = float(cases.extras["temperature"])
    high = low * float(cases.extras["factor"])
    told = f"teachers at T = {low:g} pool to {float(cooler):.6g} nats, at T = {high:g} to {float(warmer):.6g}"
    each = [f"torch.special.entr(q((log(p) / {t}).softmax(-1), w).exp()).sum()" for t in (low, high)]
    return told, f"float({each[0]} - {each[1]})"


_HOT = 1e7


def _not_uniform(pool: Operator, cases: Cases) -> Tensor:
    hot = torch.full_like(cases.log_w[0], _HOT)
    q = answer(pool, soften(cases.log_p, hot), cases.log_w).exp()
    return (q - 1 / q.shape[-1]).abs().amax(dim=-1) - 1e-3


def _show_not_uniform(pool: Operator, cases: Cases) -> tuple[str, str]:
    hot = torch.full_like(cases.log_w[0], _HOT)
    told = f"teachers at T = {_HOT:g} pool to {row(answer(pool, soften(cases.log_p, hot), cases.log_w).exp()[0])}"
    return told, f"float((q((log(p) / {_HOT}).softmax(-1), w).exp() - 1 / p.shape[-1]).abs().max() - 1e-3)"


# Losses.


def _above_mean_loss(pool: Operator, cases: Cases) -> Tensor:
    log_q, log_p, w = of_case(pool, cases).clamp_min(LOG_TINY), cases.log_p, cases.w.unsqueeze(-1)
    mean = (w * log_p).sum(dim=0)
    is_infinite = ((log_p < LOG_TINY) & (w > 0)).any(dim=0)
    return (mean - log_q).masked_fill(is_infinite, -torch.inf).amax(dim=-1)


def _show_mean_loss(pool: Operator, cases: Cases) -> tuple[str, str]:
    log_q, log_p, w = of_case(pool, cases).clamp_min(LOG_TINY), cases.log_p, cases.w.unsqueeze(-1)
    mean = (w * log_p).sum(dim=0)
    v = int((mean - log_q).masked_fill(((log_p < LOG_TINY) & (w > 0)).any(dim=0), -torch.inf).argmax())
    told = f"entry {v} costs the pool {-float(log_q[0, v]):.6g} nats, its teachers {-float(mean[0, v]):.6g} on average"
    return told, f"float(w @ log(p)[:, {v}] - q(p, w)[{v}].clamp_min(-745))"


def _regret(pool: Operator, cases: Cases) -> Tensor:
    log_q = of_case(pool, cases).clamp_min(LOG_TINY)
    return ((cases.log_p + cases.log_w.unsqueeze(-1)).amax(dim=0) - log_q).amax(dim=-1)


def _show_regret(pool: Operator, cases: Cases) -> tuple[str, str]:
    log_q, each = of_case(pool, cases).clamp_min(LOG_TINY), cases.log_p + cases.log_w.unsqueeze(-1)
    v = int((each.amax(dim=0) - log_q).argmax())
    k = int(each[:, 0, v].argmax())
    told = (
        f"entry {v} costs the pool {-float(log_q[0, v]):.6g} nats, more than teacher {k} with the price of its weight, "
        f"{-float(each[k, 0, v]):.6g}"
    )
    return told, f"float((log(p)[:, {v}] + log(w)).max() - q(p, w)[{v}].clamp_min(-745))"


# Unsafe mass.


def _excess(pool: Operator, cases: Cases) -> tuple[Tensor, Tensor]:
    """Return the largest excess of each case, and its set of entries."""
    q, p = of_case(pool, cases).exp(), cases.p
    sets = _sets(q.shape[-1])
    excess = q @ sets.T - (p @ sets.T).amax(dim=0)
    best = excess.max(dim=-1)
    return best.values, sets[best.indices]


def _sets(n_entries: int) -> Tensor:
    """Return all sets of entries but the empty and the full one, as rows of 0 and 1; at most 1,024."""
    codes = torch.arange(1, min(2**n_entries - 1, _MAX_SETS))
    return ((codes[:, None] >> torch.arange(n_entries)) & 1).double()


def _unsafe(pool: Operator, cases: Cases) -> Tensor:
    return _excess(pool, cases)[0]


def _show_unsafe(pool: Operator, cases: Cases) -> tuple[str, str]:
    q, p, inside = of_case(pool, cases).exp(), cases.p, _excess(pool, cases)[1][0]
    entries = inside.nonzero().flatten().tolist()
    given, worst = float(q[0] @ inside), float((p[:, 0] @ inside).max())
    told = f"entries {entries} get {given:.6g} together, no teacher gives them more than {worst:.6g}"
    return told, f"float(q(p, w).exp()[{entries}].sum() - p[:, {entries}].sum(-1).max())"


def _exact(log_w: Tensor) -> list[float]:
    return torch.where(log_w[:, 0] <= numerics.LOG_ZERO, 0.0, log_w[:, 0].exp()).tolist()


_SHARES = {"share": (0.05, 0.5, 1.0, 0.01)}
_TEMPERATURES = {"temperature": (2.0, 1.5, 4.0, 0.5, 20.0)}
_PAIRS = {"temperature": (1.0, 2.0, 4.0, 1.3), "factor": (2.0, 1.5, 1.1)}

ASKS: tuple[Ask, ...] = (
    Ask("pool.normalised", _normalised, _show_normalised),
    Ask("pool.convexity.strong", _outside_hull, _show_hull),
    Ask("pool.convexity.weak", _outside_range, _show_range),
    Ask("pool.positivity.strong", partial(_lost, alone=True), partial(_show_lost, alone=True), climbs=False),
    Ask("pool.positivity.weak", partial(_lost, alone=False), partial(_show_lost, alone=False), climbs=False),
    Ask("pool.monotonicity.coordinate", _falls, _show_falls, extras=_SHARES),
    Ask("pool.monotonicity.divergence", _recedes, _show_recedes, tolerance=_NATS, extras=_SHARES),
    Ask("pool.temperature.strong", _incoherent, _show_incoherent, extras=_TEMPERATURES, prepare=full_support),
    Ask("pool.temperature.entropy", _sharpens, _show_sharpens, _NATS, extras=_PAIRS, prepare=full_support),
    Ask("pool.temperature.weak", _not_uniform, _show_not_uniform, prepare=full_support, climbs=False),
    Ask("pool.logloss", _above_mean_loss, _show_mean_loss, tolerance=_NATS),
    Ask("pool.regret", _regret, _show_regret, tolerance=_NATS),
    Ask("pool.unsafe", _unsafe, _show_unsafe),
)
"""All but continuity, in the order in which they are reported."""
