"""Guarantees about the pooled target: as a prediction, and under noise in the weights."""

import math
from collections.abc import Iterator

from mashbill.guarantees.perturbation import excess_loss_bound, parameter_shift_bound, shift_bound
from mashbill.guarantees.premises import RANGE, SUMS, Guarantee, Known
from mashbill.guarantees.targets import regret_constant

_LINEAR_ONLY = "the log-linear pool does not keep it: an entry that one teacher rules out is ruled out"


def of_targets(known: Known) -> Iterator[Guarantee]:
    """Yield what holds of the target: log-loss, regret, unsafe mass, disagreement, noise."""
    yield _log_loss(known)
    yield _disagreement(known)
    yield _regret(known)
    yield _unsafe(known)
    yield _noise(known)
    yield _noise_loss(known)
    yield _noise_student(known)


def _log_loss(known: Known) -> Guarantee:
    why = known.refuted(SUMS)
    return Guarantee(
        id="target.log_loss",
        title="log-loss of the target",
        status="not inherited" if why else "inherited",
        statement="" if why else "on every label the target loses no more than the weighted mean of its teachers",
        formula="-log q(y) <= sum_k w_k (-log p_k(y))",
        constants={},
        unit="nats",
        premise=f"a linear or log-linear pool; weights that sum to 1, {known.trust(SUMS)}",
        source="Jensen; power means of order 0 to 1, not of others",
        reason=why,
    )


def _disagreement(known: Known) -> Guarantee:
    why, largest = known.refuted(SUMS), math.log(known.n_teachers)
    return Guarantee(
        id="target.disagreement",
        title="disagreement of the teachers",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else f"sum_k w_k KL(p_k || linear pool) is between 0 and ln K = {largest:.6g}: what "
        "distilling each teacher costs more than distilling their pool, whoever the student is",
        formula="0 <= sum_k w_k KL(p_k || q) <= sum_k w_k log 1/w_k <= ln K",
        constants={"largest": largest},
        unit="nats",
        premise="the linear pool of the same weights",
        source="arXiv 2601.17910, Remark VI.8: the constant between the two losses",
        reason=why,
        measured=known.seen("disagreement"),
        is_met=known.is_within(0, largest, "disagreement"),
    )


def _regret(known: Known) -> Guarantee:
    low = known.declared.lowest
    why = known.refuted((*RANGE, *SUMS))
    if not why and known.pool != "linear":
        why = _LINEAR_ONLY
    if not why and low <= 0:
        why = "no lower bound of the weights above 0 is declared"
    constant = regret_constant(max(low, 0.0))
    is_met = None if why else known.is_within(-math.inf, constant, "regret on ")
    return Guarantee(
        id="target.regret",
        title="regret against the best teacher",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else f"the target's log-loss exceeds the best teacher's by at most {constant:.6g} nats, on "
        "every label and so on average",
        formula="-log q(y) <= min_k (-log p_k(y)) + log 1/w_min",
        constants={"regret": constant} if math.isfinite(constant) else {},
        unit="nats",
        premise=f"the linear pool; the range of the weights, {known.trust(RANGE)}",
        source="q >= w_k p_k",
        reason=why,
        measured=known.seen("regret on "),
        is_met=is_met,
    )


def _unsafe(known: Known) -> Guarantee:
    high = known.declared.highest
    why = known.refuted((*RANGE, *SUMS))
    if not why and known.pool != "linear":
        why = "the log-linear pool can give a set of entries more mass than any of its teachers"
    return Guarantee(
        id="target.unsafe",
        title="mass on unsafe entries",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else f"the target gives a set at most {high:.6g} of what its worst teacher gives it, plus "
        f"{1 - high:.6g} of what the second worst does",
        formula="q(U) <= w_max p_j(U) + (1 - w_max) max_(k != j) p_k(U) <= max_k p_k(U)",
        constants={"w_max": high},
        unit="probability",
        premise=f"the linear pool; the range of the weights, {known.trust(RANGE)}",
        source="arXiv 2601.17910, section VIII, of the target and not of the student",
        reason=why,
    )


def _noise(known: Known) -> Guarantee:
    per_unit = shift_bound(1.0, n_teachers=known.n_teachers)
    why = "" if known.pool == "linear" else "the bound is of the linear pool; log-probabilities are unbounded"
    return Guarantee(
        id="noise.target",
        title="noise in the weights, target",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else f"noise of at most delta in each weight moves the target by at most {per_unit:g} delta "
        "D_TV in l1, with D_TV <= 1 the largest total variation between two teachers; attained",
        formula="|q~ - q|_1 <= |eps|_1 D_TV <= 2 floor(K/2) delta D_TV",
        constants={"per_delta": per_unit},
        unit="l1 of probabilities",
        premise="noise that keeps the sum of the weights",
        source="corrects arXiv 2601.17910, Remark VI.4, whose L is 0 for constant weights",
        reason=why,
    )


def _noise_loss(known: Known) -> Guarantee:
    low = known.declared.lowest
    why = known.refuted(RANGE)
    if not why and known.pool != "linear":
        why = "the bound is of the linear pool"
    if not why and low <= 0:
        why = "no lower bound of the weights above 0 is declared"
    per_square = excess_loss_bound(1.0, n_teachers=known.n_teachers, w_min=low) if low > 0 else math.inf
    return Guarantee(
        id="noise.loss",
        title="noise in the weights, loss",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else f"a student that learns the noisy target exactly loses at most {per_square:.6g} delta^2 "
        "D_TV nats: quadratic, not linear, in the noise",
        formula="KL(q || q~) <= 2 floor(K/2) delta^2 D_TV / w_min",
        constants={"per_delta_squared": per_square} if math.isfinite(per_square) else {},
        unit="nats",
        premise=f"the noisy weights keep w_min too; {known.trust(RANGE)}",
        source="corrects arXiv 2601.17910, Remark VI.4",
        reason=why,
    )


def _noise_student(known: Known) -> Guarantee:
    training = known.training
    why = "" if known.pool == "linear" else "the bound is of the linear pool"
    if not why and (training.curvature is None or training.score is None):
        why = (
            "needs a strongly convex loss: give its curvature and the bound of the student's score; networks have none"
        )
    constant = None
    if training.curvature is not None and training.score is not None:
        constant = parameter_shift_bound(
            1.0, n_teachers=known.n_teachers, curvature=training.curvature, score=training.score
        )
    return Guarantee(
        id="noise.student",
        title="noise in the weights, student",
        status="not inherited" if why else "conditional",
        statement="" if why else f"the best student moves by at most {constant:.6g} delta D_TV",
        formula="|theta~ - theta| <= (G / mu) 2 floor(K/2) delta D_TV",
        constants={} if constant is None else {"per_delta": constant},
        unit="norm of the parameters",
        premise="the loss is mu-strongly convex, and every score of the student is at most G",
        source="arXiv 2601.17910, Theorem VII.2, with its constant",
        reason=why,
    )
