"""Guarantees about the weights themselves and about the noise of weighted gradients."""

from collections.abc import Iterator

from mashbill.guarantees.premises import RANGE, SLOPE, Guarantee, Known
from mashbill.guarantees.variance import largest_deviation, variance_factor
from mashbill.weights.bounds import composed_bounds


def of_weights(known: Known) -> Iterator[Guarantee]:
    """Yield what holds of the weights: range, composition, slope, variance."""
    yield _range(known)
    if len(known.scales) > 1:
        yield _composition(known)
    yield _slope(known)
    yield _variance_fixed(known)
    yield _variance_varying(known)


def _range(known: Known) -> Guarantee:
    low, high, why = known.declared.lowest, known.declared.highest, known.refuted(RANGE)
    if not why and low <= 0:
        why = "the rule declares no lower bound above 0; a guard (bounds) gives it one"
    return Guarantee(
        id="weights.range",
        title="range of the weights",
        status="not inherited" if why else "inherited",
        statement="" if why else f"every weight is between {low:.6g} and {high:.6g}",
        formula="w_min <= w_k <= w_max",
        constants={"w_min": low, "w_max": high, "n_teachers": known.n_teachers},
        unit="probability",
        premise=f"{known.declared.source}; {known.trust(RANGE)}",
        source="arXiv 2601.17910, assumption (A1), with the condition K w_min <= 1 <= K w_max",
        reason=why,
        measured=known.seen("least weight", "largest weight"),
        is_met=known.is_within(low, high, "least weight", "largest weight"),
    )


def _composition(known: Known) -> Guarantee:
    low, high = composed_bounds(known.scales, n_teachers=known.n_teachers)
    least, largest = min(one[0] for one in known.scales), max(one[1] for one in known.scales)
    is_kept = least <= low and high <= largest
    told = ", ".join(f"[{a:.4g}, {b:.4g}]" for a, b in known.scales)
    return Guarantee(
        id="weights.composition",
        title="range of the bare product",
        status="inherited",
        statement=f"scales within {told} multiply to weights within [{low:.6g}, {high:.6g}], no less"
        + ("" if is_kept else ", outside the bounds of the scales: a guard or temperatures must bring them back"),
        formula="exact vertices of prod_s w_s / Z",
        constants={"w_min": low, "w_max": high, "least_scale": float(least), "largest_scale": float(largest)},
        unit="probability",
        premise="the scales keep their bounds; before temperatures, order and guard",
        source="corrects arXiv 2601.17910, Theorem IV.2 (2), which keeps the scales' own bounds",
    )


def _slope(known: Known) -> Guarantee:
    constant, why = known.declared.lipschitz, known.refuted(SLOPE)
    if not why and constant is None:
        why = "the rule declares no Lipschitz constant: it may jump, or be steep without bound"
    return Guarantee(
        id="weights.lipschitz",
        title="slope of the weights",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else f"weights change by at most {constant:.6g} (sup norm) for each unit of {known.declared.metric}",
        formula="|dw|_sup <= L |dx|, with L <= 1/2 sum_s L_s / (T_s w_min,s) for a product",
        constants={} if constant is None else {"lipschitz": constant},
        unit=f"probability per unit of {known.declared.metric}",
        premise=known.trust(SLOPE),
        source="arXiv 2601.17910, assumption (A2), which names no metric; the product's constant is ours",
        reason=why,
    )


def _variance_fixed(known: Known) -> Guarantee:
    high, why = known.declared.highest, known.refuted(RANGE)
    factor = variance_factor(known.n_teachers, high)
    return Guarantee(
        id="variance.fixed",
        title="gradient noise, weights fixed",
        status="not inherited" if why else "conditional",
        statement=""
        if why
        else "the standard deviation is at most sum_k w_k sigma_k, always; if no two teachers' "
        f"gradients are negatively correlated, the variance is at most {factor:.6g} times that of uniform weights",
        formula="sd <= sum_k w_k sigma_k <= max_k sigma_k; C >= 0: Var <= (K w_max)^2 Var_uniform",
        constants={"factor": factor, "w_max": high},
        unit="squared gradient",
        premise="weights that do not depend on the data of a step (task and context weights within one task and "
        "context); the factor needs nonnegative covariances, which are not checked here",
        source="replaces arXiv 2601.17910, Lemma VII.4, whose (w_max/w_min)^2 is refuted by anti-correlated teachers",
        reason=why,
    )


def _variance_varying(known: Known) -> Guarantee:
    low, high, why = known.declared.lowest, known.declared.highest, known.refuted(RANGE)
    deviation = largest_deviation(known.n_teachers, w_min=low, w_max=high)
    return Guarantee(
        id="variance.varying",
        title="gradient noise, weights that vary",
        status="not inherited" if why else "inherited",
        statement=""
        if why
        else f"the standard deviation is at most that of uniform weights plus {deviation:.6g} D, "
        "with D the root mean square of the largest distance of a teacher's gradient from their mean",
        formula="sd <= sd_uniform + R D, R = max_w |w - 1/K|_1",
        constants={"deviation": deviation},
        unit="gradient",
        premise=f"the range of the weights, {known.trust(RANGE)}",
        source="replaces arXiv 2601.17910, Lemma VII.4; R is Remark II.2's trade-off as a number",
        reason=why,
        measured=known.seen("largest deviation", "mean deviation"),
        is_met=known.is_within(0, deviation, "largest deviation", "mean deviation"),
    )
